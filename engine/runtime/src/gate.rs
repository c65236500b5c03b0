//! The consumer's side: all channels of one task, read in turn, with alignment and watermarks.
//!
//! Invariants
//!   G1  Batches restored as channel state come before anything that arrives.
//!   G2  A channel's elements are delivered in order; an overtaking barrier is taken out of the
//!       queue, and every batch before it is recorded in the channel state and still delivered.
//!   G3  The delivered watermark never decreases.
//!   G4  Where a channel is ordered (a one-to-one edge), no barrier overtakes: such a task always
//!       aligns, and has no channel state.

use crate::align::{Action, Alignment};
use crate::channel::ChannelReceiver;
use crate::watermark::WatermarkMerger;
use std::collections::VecDeque;
use tidemill_base::{Barrier, Batch, Element, Micros, Status, Timestamp};

/// What the task has to handle next.
#[derive(Debug)]
pub enum Delivery {
    /// Records of an input; give the buffer back with [`Gate::recycle`].
    Batch {
        /// Where the buffer goes back to.
        channel: ChannelId,
        /// The operator's input.
        input: usize,
        /// The records.
        batch: Batch,
    },
    /// The merged watermark has advanced.
    Watermark(Timestamp),
    /// All channels are idle, or one is active again.
    Status(Status),
    /// Snapshot now and send the barrier on.
    Snapshot(Barrier),
    /// One batch of channel state of an input, encoded.
    Recorded {
        /// Checkpoint.
        epoch: u64,
        /// The operator's input.
        input: usize,
        /// The encoded batch.
        payload: Vec<u8>,
        /// Number of records.
        records: u64,
    },
    /// The snapshot with all its channel state is complete.
    Sealed(Barrier),
    /// All channels have ended.
    End,
    /// Nothing to deliver.
    Empty,
}

/// A channel of a gate; `None` for restored batches, which have no channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelId(Option<usize>);

struct Input {
    receiver: ChannelReceiver,
    inbox: VecDeque<Element>,
    input: usize,
    ended: bool,
}

/// All input channels of one task.
pub struct Gate {
    channels: Vec<Input>,
    alignment: Alignment,
    watermarks: WatermarkMerger,
    next: usize,
    idle: bool,
    ended: bool,
    /// G4.
    ordered: bool,
    restored: VecDeque<(usize, Batch)>,
    /// Deliveries that an event caused beyond the first.
    pending: VecDeque<Delivery>,
}

impl Gate {
    /// A gate over channels, each with the operator's input it feeds. Epochs up to `epoch` are
    /// over; `restored` is channel state to deliver first.
    pub fn new(
        channels: Vec<(usize, ChannelReceiver)>,
        epoch: u64,
        restored: Vec<(usize, Batch)>,
    ) -> Self {
        let n = channels.len();
        let ordered = channels.iter().any(|(_, receiver)| receiver.is_ordered());
        let channels = channels
            .into_iter()
            .map(|(input, receiver)| Input {
                receiver,
                inbox: VecDeque::new(),
                input,
                ended: false,
            })
            .collect();
        Gate {
            channels,
            alignment: Alignment::new(n, epoch),
            watermarks: WatermarkMerger::new(n),
            next: 0,
            idle: false,
            ended: n == 0,
            ordered,
            restored: restored.into(),
            pending: VecDeque::new(),
        }
    }

    /// The merged watermark.
    pub fn watermark(&self) -> Timestamp {
        self.watermarks.get()
    }

    /// Microseconds that the latest alignment took.
    pub fn alignment_us(&self) -> Micros {
        self.alignment.last_us()
    }

    /// When the gate has something to do even if nothing arrives.
    pub fn deadline(&self) -> Option<Micros> {
        if self.ordered {
            return None;
        }
        let queued = self.channels.iter().flat_map(|c| &c.inbox).filter_map(|e| match e {
            Element::Barrier(barrier) => self.alignment.due(*barrier),
            _ => None,
        });
        queued.chain(self.alignment.deadline()).min()
    }

    /// The coordinator has given up the epoch.
    pub fn abort(&mut self, epoch: u64) {
        self.alignment.abort(epoch);
        // A4: also of what is decided but not delivered yet.
        self.pending.retain(|delivery| match delivery {
            Delivery::Snapshot(b) | Delivery::Sealed(b) => b.epoch > epoch,
            Delivery::Recorded { epoch: e, .. } => *e > epoch,
            _ => true,
        });
    }

    /// Takes in what has arrived and handles barriers that may overtake. Must be called also
    /// while outputs are not writable: unaligned barriers do not wait.
    pub fn poll_control(&mut self, now: Micros) -> Option<Delivery> {
        for channel in 0..self.channels.len() {
            self.drain(channel, now);
        }
        if self.pending.is_empty() && !self.ordered {
            self.overtake(now);
        }
        self.pending.pop_front()
    }

    /// The next delivery. Call [`Gate::poll_control`] until it returns `None` first.
    pub fn poll(&mut self, now: Micros) -> Delivery {
        if let Some(delivery) = self.pending.pop_front() {
            return delivery;
        }
        if let Some((input, batch)) = self.restored.pop_front() {
            return Delivery::Batch { channel: ChannelId(None), input, batch };
        }
        let n = self.channels.len();
        for turn in 0..n {
            let channel = (self.next + turn) % n;
            while !self.alignment.blocked(channel) {
                let Some(element) = self.channels[channel].inbox.pop_front() else { break };
                if let Some(delivery) = self.deliver(channel, element, now) {
                    self.next = if matches!(delivery, Delivery::Batch { .. }) {
                        (channel + 1) % n
                    } else {
                        channel
                    };
                    return delivery;
                }
            }
        }
        if self.alignment.all_ended() && !self.ended {
            self.ended = true;
            return Delivery::End;
        }
        Delivery::Empty
    }

    /// Gives a delivered batch's buffer back to its channel.
    pub fn recycle(&mut self, channel: ChannelId, batch: Batch) {
        if let Some(channel) = channel.0 {
            self.channels[channel].receiver.recycle(batch);
        }
    }

    /// Moves arrivals to the inbox; while recording, writes them to the channel state.
    fn drain(&mut self, channel: usize, now: Micros) {
        let input = &mut self.channels[channel];
        let from = input.inbox.len();
        if input.receiver.drain_into(&mut input.inbox) > 0
            && self.alignment.recording(channel).is_some()
        {
            self.record(channel, from, now);
        }
    }

    /// Records the batches of the inbox from index `from` up to the barrier, and takes it out.
    fn record(&mut self, channel: usize, from: usize, now: Micros) {
        let Some(epoch) = self.alignment.recording(channel) else { return };
        let mut at = from;
        while at < self.channels[channel].inbox.len() {
            match &self.channels[channel].inbox[at] {
                Element::Batch(batch) => {
                    let mut payload = Vec::new();
                    batch.encode(&mut payload);
                    let (input, records) = (self.channels[channel].input, batch.len() as u64);
                    self.pending.push_back(Delivery::Recorded { epoch, input, payload, records });
                }
                Element::Barrier(b) if b.epoch == epoch => {
                    let barrier = *b;
                    self.channels[channel].inbox.remove(at);
                    let action = self.alignment.barrier(channel, barrier, now);
                    self.act(action, now);
                    return;
                }
                Element::End => {
                    // Everything before the end is recorded: the channel has nothing more to add.
                    let action = self.alignment.exhausted(channel, now);
                    self.act(action, now);
                    return;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Lets the newest due barrier overtake, wherever it is queued.
    fn overtake(&mut self, now: Micros) {
        let newest = self
            .channels
            .iter()
            .flat_map(|c| &c.inbox)
            .filter_map(|e| if let Element::Barrier(b) = e { Some(*b) } else { None })
            .max_by_key(|b| b.epoch);
        let aligning = match self.alignment.state() {
            crate::align::State::Aligning(b) => Some(b),
            _ => None,
        };
        if let Some(barrier) = newest.into_iter().chain(aligning).max_by_key(|b| b.epoch) {
            let action = self.alignment.overtake(barrier, now);
            self.act(action, now);
        }
    }

    fn act(&mut self, action: Action, now: Micros) {
        match action {
            Action::None => {}
            Action::Snapshot(barrier) => {
                self.pending.push_back(Delivery::Snapshot(barrier));
                self.pending.push_back(Delivery::Sealed(barrier));
            }
            Action::SnapshotAndRecord(barrier) => {
                self.pending.push_back(Delivery::Snapshot(barrier));
                self.record_restored(barrier.epoch);
                for channel in 0..self.channels.len() {
                    self.record(channel, 0, now);
                }
            }
            Action::Seal(barrier) => self.pending.push_back(Delivery::Sealed(barrier)),
        }
    }

    fn record_restored(&mut self, epoch: u64) {
        for (input, batch) in &self.restored {
            let mut payload = Vec::new();
            batch.encode(&mut payload);
            let records = batch.len() as u64;
            self.pending.push_back(Delivery::Recorded { epoch, input: *input, payload, records });
        }
    }

    fn deliver(&mut self, channel: usize, element: Element, now: Micros) -> Option<Delivery> {
        match element {
            Element::Batch(batch) => Some(Delivery::Batch {
                channel: ChannelId(Some(channel)),
                input: self.channels[channel].input,
                batch,
            }),
            Element::Watermark(w) => self.watermarks.advance(channel, w).map(Delivery::Watermark),
            Element::Status(status) => {
                let advanced = self.watermarks.set_idle(channel, status == Status::Idle);
                let idle = self.watermarks.all_idle();
                if idle != self.idle {
                    self.idle = idle;
                    let status = if idle { Status::Idle } else { Status::Active };
                    self.pending.push_back(Delivery::Status(status));
                }
                if let Some(w) = advanced {
                    self.pending.push_front(Delivery::Watermark(w));
                }
                self.pending.pop_front()
            }
            Element::Barrier(barrier) => {
                let action = self.alignment.barrier(channel, barrier, now);
                self.act(action, now);
                self.pending.pop_front()
            }
            Element::End => {
                self.channels[channel].ended = true;
                if let Some(w) = self.watermarks.end(channel) {
                    self.pending.push_back(Delivery::Watermark(w));
                }
                let action = self.alignment.ended(channel, now);
                self.act(action, now);
                self.pending.pop_front()
            }
        }
    }
}

#[cfg(test)]
mod tests;
