//! The task of an operator that reads channels.

use super::{OUTBOX_MAX, Pace, Progress, RUN_RECORDS, SNAPSHOT_STEP_US, STEP_US, Settling, Task};
use crate::context::{Context, SectionId, SectionKind, TaskEvent};
use crate::gate::{ChannelId, Delivery, Gate};
use crate::operator::{Flow, Operator};
use crate::stage::{Control, Stage};
use tidemill_base::{Barrier, BarrierKind, Batch, BatchBuilder, Buffer, Micros, Result, Timestamp};

/// A batch being worked on.
struct Held {
    channel: ChannelId,
    input: usize,
    batch: Batch,
    next: usize,
}

/// A watermark (or the end) on its way through the operator.
#[derive(Clone, Copy)]
enum Firing {
    Watermark(Timestamp),
    Tick,
}

/// How far a step has come with a firing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fired {
    /// To its end, or there was none.
    Whole,
    /// As far as the outputs allow.
    Full,
    /// As far as its time allows (T6).
    Part,
}

/// The snapshot in progress.
struct Pending {
    barrier: Barrier,
    /// The operator's state is wholly in the outbox.
    state_done: bool,
    /// No more channel state will come.
    sealed: bool,
}

/// Gate, operator and chain of one subtask.
pub struct OperatorTask<O: Operator, S> {
    gate: Gate,
    operator: O,
    chain: S,
    context: Context,
    operator_id: u64,
    held: Option<Held>,
    firing: Option<Firing>,
    started: bool,
    pace: Pace,
    pending: Option<Pending>,
    settling: Settling,
    triggered: Option<Barrier>,
    /// The last epoch whose snapshot is whole, but for what sinks have begun.
    whole: u64,
    finished: bool,
    #[cfg(any(debug_assertions, feature = "check"))]
    checker: crate::check::WatermarkChecker,
}

impl<O: Operator, S: Stage<O::Out>> OperatorTask<O, S> {
    /// Assembles the task. `operator_id` is the head's, for its sections.
    pub fn new(gate: Gate, operator: O, chain: S, context: Context, operator_id: u64) -> Self {
        OperatorTask {
            gate,
            operator,
            chain,
            context,
            operator_id,
            held: None,
            firing: None,
            started: false,
            pace: Pace::new(RUN_RECORDS),
            pending: None,
            settling: Settling::default(),
            triggered: None,
            whole: 0,
            finished: false,
            #[cfg(any(debug_assertions, feature = "check"))]
            checker: Default::default(),
        }
    }

    fn writable(&mut self) -> bool {
        self.chain.writable() && self.operator.side_writable()
    }

    fn control(&mut self, control: Control) -> Result<()> {
        self.operator.side_control(control)?;
        self.chain.control(control)?;
        self.context.failure.check()
    }

    /// Runs the current firing as far as outputs and time allow.
    fn fire(&mut self) -> Result<Fired> {
        while let Some(firing) = self.firing {
            if !self.writable() {
                return Ok(Fired::Full);
            }
            let began = self.context.time.read();
            let flow = match (self.started, firing) {
                (false, Firing::Watermark(w)) => self.operator.watermark(w, &mut self.chain)?,
                (false, Firing::Tick) => {
                    self.operator.tick(self.context.time.wall_ms(), &mut self.chain)?
                }
                (true, _) => self.operator.resume(&mut self.chain)?,
            };
            self.chain.end_run();
            self.operator.side_end_run();
            self.context.failure.check()?;
            self.started = true;
            if flow == Flow::Done {
                self.firing = None;
                if let Firing::Watermark(w) = firing {
                    self.context.metrics.watermark.set(w);
                    self.control(Control::Watermark(w))?;
                }
            } else if self.context.time.read().saturating_sub(began) > STEP_US {
                return Ok(Fired::Part);
            }
        }
        Ok(Fired::Whole)
    }

    fn start_firing(&mut self, firing: Firing) {
        debug_assert!(self.firing.is_none());
        #[cfg(any(debug_assertions, feature = "check"))]
        if let Firing::Watermark(w) = firing {
            self.checker.advance(w);
        }
        self.firing = Some(firing);
        self.started = false;
    }

    /// Works on the held batch while outputs are writable and time allows (T6); true if it worked at all.
    fn run_held(&mut self) -> Result<bool> {
        let mut worked = false;
        let mut began = self.context.time.read();
        while let Some(held) = &self.held {
            if !self.chain.writable() || !self.operator.side_writable() {
                return Ok(worked);
            }
            let start = held.next;
            let end = held.batch.len().min(start + self.pace.records());
            let range = start..end;
            let next = self.operator.records(held.input, &held.batch, range, &mut self.chain)?;
            debug_assert!((held.next + 1..=end).contains(&next), "T5: {next} of {end}");
            self.chain.end_run();
            self.operator.side_end_run();
            self.context.failure.check()?;
            worked = true;
            if let Some(held) = &mut self.held {
                held.next = next;
            }
            if let Some(held) = self.held.take_if(|h| h.next == h.batch.len()) {
                let latency = self.context.time.now().saturating_sub(held.batch.born_at());
                self.context.metrics.latency.observe(latency, held.batch.len() as u64);
                self.gate.recycle(held.channel, held.batch);
            }
            let now = self.context.time.read();
            if self.pace.took(next - start, now.saturating_sub(began)) {
                break;
            }
            began = now;
        }
        Ok(worked)
    }

    fn handle(&mut self, delivery: Delivery) -> Result<Option<Progress>> {
        match delivery {
            Delivery::Batch { channel, input, batch } => {
                self.context.metrics.records_in.add(batch.len() as u64);
                self.context.metrics.bytes_in.add(batch.bytes_used() as u64);
                self.held = Some(Held { channel, input, batch, next: 0 });
                self.run_held()?;
            }
            Delivery::Watermark(w) => {
                self.start_firing(Firing::Watermark(w));
                self.fire()?;
            }
            Delivery::Status(s) => self.control(Control::Status(s))?,
            Delivery::Snapshot(barrier) => self.snapshot(barrier)?,
            Delivery::Recorded { epoch, input, payload, records } => {
                self.record(epoch, input, payload, records);
            }
            Delivery::Sealed(barrier) => {
                if let Some(p) = self.pending.as_mut().filter(|p| p.barrier == barrier) {
                    p.sealed = true;
                }
                self.context.metrics.alignment_us.set(self.gate.alignment_us() as i64);
                self.advance_snapshot()?;
            }
            Delivery::End => self.finish()?,
            Delivery::Empty => return Ok(None),
        }
        Ok(Some(Progress::Worked))
    }

    fn record(&mut self, epoch: u64, input: usize, payload: Vec<u8>, records: u64) {
        let section = SectionId {
            operator: self.operator_id,
            kind: SectionKind::ChannelState,
            state: input as u16,
        };
        self.context.entry(epoch, section, payload, records);
    }

    fn snapshot(&mut self, barrier: Barrier) -> Result<()> {
        self.abandon_snapshot();
        // What is left of the batch in hand was overtaken too.
        if let Some(held) = &self.held {
            let mut rest = BatchBuilder::new(Buffer::with_bytes(held.batch.bytes_used() + 64));
            for i in held.next..held.batch.len() {
                if rest.push_raw(held.batch.raw(i)).is_err() {
                    return Err(tidemill_base::Error::attempt("channel state: batch too large"));
                }
            }
            let (input, records) = (held.input, rest.len() as u64);
            let mut payload = Vec::new();
            rest.seal().encode(&mut payload);
            if records > 0 {
                self.record(barrier.epoch, input, payload, records);
            }
        }
        self.context.whole.set(barrier.kind == BarrierKind::Savepoint);
        self.operator.snapshot(barrier.epoch)?;
        self.control(Control::Barrier(barrier))?;
        self.pending = Some(Pending { barrier, state_done: false, sealed: false });
        Ok(())
    }

    fn abandon_snapshot(&mut self) {
        self.settling.abandon(u64::MAX);
        if let Some(p) = self.pending.take() {
            self.operator.abort_snapshot(p.barrier.epoch);
        }
    }

    /// A bounded step of the pending snapshot; true if there is more to do.
    fn advance_snapshot(&mut self) -> Result<bool> {
        let Some(p) = &mut self.pending else { return Ok(false) };
        let epoch = p.barrier.epoch;
        if !p.state_done {
            if self.context.outbox.len() >= OUTBOX_MAX {
                return Ok(true);
            }
            let until = self.context.time.now() + SNAPSHOT_STEP_US;
            p.state_done = self.operator.snapshot_step(epoch, until)?;
        }
        if !(p.state_done && p.sealed) {
            return Ok(!p.state_done);
        }
        self.settling.whole(p.barrier);
        self.whole = epoch;
        self.pending = None;
        self.settle()?;
        Ok(false)
    }

    /// Acknowledges and confirms what waits for the sinks, if they have settled (T7).
    fn settle(&mut self) -> Result<()> {
        if self.settling.waits() && self.operator.side_settled()? && self.chain.settled()? {
            self.settling.settled(&self.context);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.operator.end(&mut self.chain)?;
        self.context.failure.check()?;
        self.finished = true;
        if let Some(barrier) = self.triggered.take_if(|b| b.epoch > self.whole)
            && self.pending.as_ref().is_none_or(|p| p.barrier.epoch < barrier.epoch)
        {
            self.snapshot_finished(barrier)?;
        }
        self.control(Control::End)?;
        self.context.outbox.push(TaskEvent::Finished);
        Ok(())
    }

    fn snapshot_finished(&mut self, barrier: Barrier) -> Result<()> {
        self.snapshot(barrier)?;
        if let Some(p) = &mut self.pending {
            p.sealed = true;
        }
        self.advance_snapshot()?;
        Ok(())
    }

    fn until(&self) -> Option<Micros> {
        let now = self.context.time.now();
        let timer = self.operator.deadline().map(|at| {
            let ms = at.saturating_sub(self.context.time.wall_ms()).max(0) as u64;
            now + ms.saturating_mul(1000)
        });
        let gate = self.gate.deadline().map(|d| d.max(now + 100));
        [gate, timer, self.settling.until(now)].into_iter().flatten().min()
    }
}

impl<O: Operator, S: Stage<O::Out>> Task for OperatorTask<O, S> {
    fn step(&mut self) -> Result<Progress> {
        let snapshotting = self.advance_snapshot()?;
        self.settle()?;
        if self.finished {
            let until = self.settling.until(self.context.time.now());
            return Ok(match until {
                _ if snapshotting => Progress::Worked,
                Some(_) => Progress::Idle { until },
                None => Progress::Finished,
            });
        }
        match self.fire()? {
            Fired::Whole => {}
            Fired::Part => return Ok(Progress::Worked),
            Fired::Full => {
                self.control(Control::Flush)?;
                return Ok(Progress::Blocked { until: self.until() });
            }
        }
        let now = self.context.time.now();
        let mut worked = snapshotting;
        while let Some(delivery) = self.gate.poll_control(now) {
            self.handle(delivery)?;
            worked = true;
            if self.finished || self.firing.is_some() {
                return Ok(Progress::Worked);
            }
        }
        worked |= self.run_held()?;
        if self.held.is_some() || !self.writable() {
            if worked {
                return Ok(Progress::Worked);
            }
            // What waits for other lanes need not wait for the one without a buffer.
            self.control(Control::Flush)?;
            return Ok(Progress::Blocked { until: self.until() });
        }
        if self.operator.deadline().is_some_and(|at| at <= self.context.time.wall_ms()) {
            self.start_firing(Firing::Tick);
            self.fire()?;
            return Ok(Progress::Worked);
        }
        let delivery = self.gate.poll(now);
        if let Some(progress) = self.handle(delivery)? {
            return Ok(progress);
        }
        if worked {
            return Ok(Progress::Worked);
        }
        self.control(Control::Flush)?;
        Ok(Progress::Idle { until: self.until() })
    }

    fn trigger(&mut self, barrier: Barrier) -> Result<()> {
        let pending = self.pending.as_ref().map_or(0, |p| p.barrier.epoch);
        if barrier.epoch <= pending.max(self.whole) {
            // The barrier in the channels was faster.
            return Ok(());
        }
        if self.finished {
            return self.snapshot_finished(barrier);
        }
        self.triggered = Some(barrier);
        Ok(())
    }

    fn outcome(&mut self, outcome: Control) -> Result<()> {
        if let Control::Abort(epoch) = outcome {
            self.gate.abort(epoch);
            self.settling.abandon(epoch);
            if self.pending.as_ref().is_some_and(|p| p.barrier.epoch <= epoch) {
                self.abandon_snapshot();
            }
            self.triggered.take_if(|b| b.epoch <= epoch);
        }
        self.control(outcome)?;
        if let Control::Commit(epoch) = outcome {
            self.context.committed(epoch);
            self.settling.committed(epoch);
            self.settle()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
