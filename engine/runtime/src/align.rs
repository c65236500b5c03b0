//! Barrier alignment for one task. Pure: time and what is queued arrive as arguments.
//!
//! ```text
//!   Idle --first barrier--> Aligning --last barrier / snapshot--> Idle
//!     |                        | timeout / snapshot now, record channels
//!     |                        v
//!     +--unaligned barrier--> Draining --last barrier / seal channel state--> Idle
//! ```
//!
//! Invariants
//!   A1  While Aligning, a channel past its barrier delivers nothing.
//!   A2  At most one epoch is in alignment; a newer one replaces it, an older one is ignored.
//!   A3  An ended channel counts as arrived.
//!   A4  Each epoch makes at most one snapshot, and an aborted one makes none afterwards.
//!
//! Not here: reading channels (gate.rs), writing snapshots (task.rs).

use tidemill_base::{Barrier, BarrierKind, Micros};

/// Where the task stands between two checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No barrier is pending.
    Idle,
    /// Some channels are past the barrier and wait for the others.
    Aligning(Barrier),
    /// The snapshot is taken; what arrives before the missing barriers is channel state.
    Draining(Barrier),
}

/// What the gate must do after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Every channel has arrived: snapshot, send the barrier on, unblock.
    Snapshot(Barrier),
    /// Snapshot and send the barrier on at once, unblock, record the channels not arrived.
    SnapshotAndRecord(Barrier),
    /// Every channel has arrived: the channel state is complete.
    Seal(Barrier),
}

/// Alignment of one task's channels.
#[derive(Debug)]
pub struct Alignment {
    state: State,
    arrived: Vec<bool>,
    ended: Vec<bool>,
    /// Epochs up to here are over: done, aborted or replaced.
    over: u64,
    started_at: Micros,
    /// How long the last alignment took.
    last_us: Micros,
}

impl Alignment {
    /// For `channels` channels; epochs up to `over` are ignored.
    pub fn new(channels: usize, over: u64) -> Self {
        Alignment {
            state: State::Idle,
            arrived: vec![false; channels],
            ended: vec![false; channels],
            over,
            started_at: 0,
            last_us: 0,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Microseconds from the first barrier to the last of the latest checkpoint.
    pub fn last_us(&self) -> Micros {
        self.last_us
    }

    /// Whether the channel must not deliver now (A1).
    #[inline]
    pub fn blocked(&self, channel: usize) -> bool {
        matches!(self.state, State::Aligning(_)) && self.arrived[channel]
    }

    /// Whether what the channel delivers now belongs to the channel state.
    #[inline]
    pub fn recording(&self, channel: usize) -> Option<u64> {
        match self.state {
            State::Draining(b) if !self.arrived[channel] && !self.ended[channel] => Some(b.epoch),
            _ => None,
        }
    }

    /// Whether every channel has ended.
    pub fn all_ended(&self) -> bool {
        self.ended.iter().all(|&e| e)
    }

    /// The channel's barrier is at the front of its queue, or has been taken out of the queue.
    pub fn barrier(&mut self, channel: usize, barrier: Barrier, now: Micros) -> Action {
        if barrier.epoch <= self.over {
            return Action::None;
        }
        match self.state {
            State::Aligning(b) | State::Draining(b) if barrier.epoch < b.epoch => {
                return Action::None;
            }
            State::Aligning(b) | State::Draining(b) if barrier.epoch == b.epoch => {}
            _ => self.start(State::Aligning(barrier), now),
        }
        self.arrived[channel] = true;
        self.complete(now)
    }

    /// A barrier is queued somewhere and may overtake, or time has passed: turns the epoch
    /// unaligned if it is due.
    pub fn overtake(&mut self, barrier: Barrier, now: Micros) -> Action {
        if barrier.epoch <= self.over || !is_due(barrier, now) {
            return Action::None;
        }
        match self.state {
            State::Draining(b) if barrier.epoch <= b.epoch => return Action::None,
            State::Aligning(b) if barrier.epoch < b.epoch => return Action::None,
            State::Aligning(b) if barrier.epoch == b.epoch => self.state = State::Draining(barrier),
            _ => self.start(State::Draining(barrier), now),
        }
        Action::SnapshotAndRecord(barrier)
    }

    /// The channel has ended (A3).
    pub fn ended(&mut self, channel: usize, now: Micros) -> Action {
        self.ended[channel] = true;
        self.complete(now)
    }

    /// The channel has ended, but what is queued before its end is still to be delivered: nothing
    /// more is to be recorded for the epoch, while A3 does not hold yet.
    pub fn exhausted(&mut self, channel: usize, now: Micros) -> Action {
        self.arrived[channel] = true;
        self.complete(now)
    }

    /// The coordinator has given the epoch up (A4).
    pub fn abort(&mut self, epoch: u64) {
        self.over = self.over.max(epoch);
        if let State::Aligning(b) | State::Draining(b) = self.state
            && b.epoch <= epoch
        {
            self.state = State::Idle;
        }
    }

    /// When a queued barrier may overtake; `None` for one that never may, or whose epoch is over.
    pub fn due(&self, barrier: Barrier) -> Option<Micros> {
        match barrier.kind {
            BarrierKind::Aligned { timeout: Some(t) } if barrier.epoch > self.over => {
                Some(barrier.triggered_at + t)
            }
            _ => None,
        }
    }

    /// When [`Alignment::overtake`] is worth another call for the epoch in alignment.
    pub fn deadline(&self) -> Option<Micros> {
        match self.state {
            State::Aligning(Barrier {
                kind: BarrierKind::Aligned { timeout: Some(t) },
                triggered_at,
                ..
            }) => Some(triggered_at + t),
            _ => None,
        }
    }

    fn start(&mut self, state: State, now: Micros) {
        self.state = state;
        self.started_at = now;
        self.arrived.fill(false);
    }

    fn complete(&mut self, now: Micros) -> Action {
        let all = self.arrived.iter().zip(&self.ended).all(|(&a, &e)| a || e);
        let action = match self.state {
            _ if !all => return Action::None,
            State::Idle => return Action::None,
            State::Aligning(b) => Action::Snapshot(b),
            State::Draining(b) => Action::Seal(b),
        };
        if let State::Aligning(b) | State::Draining(b) = self.state {
            self.over = b.epoch;
        }
        self.last_us = now.saturating_sub(self.started_at);
        self.state = State::Idle;
        action
    }
}

fn is_due(barrier: Barrier, now: Micros) -> bool {
    match barrier.kind {
        BarrierKind::Unaligned => true,
        BarrierKind::Aligned { timeout: Some(t) } => now >= barrier.triggered_at + t,
        BarrierKind::Aligned { timeout: None } | BarrierKind::Savepoint => false,
    }
}
