//! Sources: connectors implement [`Source`] and [`SourceReader`]; the engine wraps a reader into
//! a task that emits, keeps watermarks per split, and snapshots positions.
//!
//! Invariants
//!   S1  A split's position in a snapshot is exactly behind the last record emitted before the
//!       barrier: readers emit only inside `poll`, snapshots happen between polls.
//!   S2  The source's watermark is the minimum over its active splits, and never decreases.
//!   S3  While the task waits (for a buffer, or for slower sources) it does not poll, and no split
//!       goes idle for that; nor does one that is passed over because it is ahead (skew.rs).

use crate::context::{Context, SectionId, SectionKind, TaskEvent};
use crate::skew::SkewSeat;
use crate::stage::{Control, Stage};
use crate::task::{Pace, Progress, Settling, Task};
use crate::watermark::WatermarkMerger;
use std::marker::PhantomData;
use tidemill_base::{
    Barrier, Error, Micros, Record, Result, Status, Timestamp, WATERMARK_MAX, WATERMARK_MIN,
};

/// A connector that reads. Cloned for every subtask; opened on the subtask's core.
pub trait Source: Clone + Send + 'static {
    /// What it emits.
    type Item: Record;
    /// Its reader.
    type Reader: SourceReader<Item = Self::Item>;

    /// Opens the reader of one subtask. With `cx.restored`, exactly those splits are read on from
    /// their positions; without, the subtask takes its share of all splits.
    fn open(&self, cx: &SourceContext) -> Result<Self::Reader>;

    /// For job graphs and messages, e.g. `file(/data/in.txt)`.
    fn name(&self) -> String;
}

/// What a reader knows when it is opened.
#[derive(Clone, Debug)]
pub struct SourceContext {
    /// Index of the subtask.
    pub subtask: u32,
    /// Number of subtasks.
    pub parallelism: u32,
    /// The splits to go on with, as `snapshot` gave them; `None` on a fresh start.
    pub restored: Option<Vec<Vec<u8>>>,
    /// The subtask's context (time, metrics).
    pub context: Context,
    /// The source's id in the checkpoint.
    pub operator_id: u64,
}

impl SourceContext {
    /// The splits of all subtasks in the checkpoint that the job starts from; entry `i` has been
    /// dealt to subtask `i % parallelism`. For sources that find new splits while they run.
    pub fn all_restored(&self) -> Vec<&[u8]> {
        let entries = self.context.restored.as_ref().map(|r| r.entries(section(self.operator_id)));
        entries.unwrap_or_default().iter().map(|(_, bytes)| bytes.as_slice()).collect()
    }
}

/// What a poll achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Poll again.
    More,
    /// Nothing now; poll again at `until` or at the latest after 10 ms.
    Idle {
        /// On the engine's clock.
        until: Option<Micros>,
    },
    /// All splits have ended, for ever.
    End,
}

/// Reads the splits of one subtask.
pub trait SourceReader: 'static {
    /// What it emits.
    type Item: Record;

    /// Emits records while `out.remaining() > 0`; never waits.
    fn poll<O: Emit<Self::Item>>(&mut self, out: &mut O) -> Result<Polled>;

    /// The position of every split of this subtask, one entry a split. Finished ones may be left
    /// out, as long as the subtask leaves at least one entry: a source without any is taken for
    /// one that the checkpoint does not know, and starts fresh.
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>>;

    /// A checkpoint is complete.
    fn committed(&mut self, _epoch: u64) -> Result<()> {
        Ok(())
    }
}

/// Where a reader emits.
pub trait Emit<T: Record> {
    /// Emits a record of the current split with its own timestamp, which a watermark strategy with
    /// a timestamp function replaces.
    fn emit(&mut self, view: T::View<'_>, timestamp: Timestamp);
    /// What follows is of this split (its number in this subtask, from 0).
    fn split(&mut self, split: usize);
    /// The split knows its watermark: no later record of it has a smaller timestamp.
    fn watermark(&mut self, split: usize, watermark: Timestamp);
    /// The split has records that the reader has not come to yet (others are in turn, or its rate
    /// is limited): it does not go idle.
    fn active(&mut self, split: usize);
    /// Whether the split is so far ahead of the slowest one, of this or another source that its
    /// records meet, that it has to wait (`max_skew`). A reader that can choose passes over it, and is
    /// idle if it could read nothing else: it is polled again soon. Such a split does not go idle.
    fn is_ahead(&mut self, _split: usize) -> bool {
        false
    }
    /// The split has ended.
    fn split_ended(&mut self, split: usize);
    /// Records that the reader may still emit in this poll. Ask before each: it drops to 0 once
    /// large records have filled the outputs.
    fn remaining(&self) -> usize;
    /// Whether large records have not filled the outputs: for a reader that counts what it emits, and
    /// emits no more than [`Emit::remaining`] was when it began.
    fn has_room(&self) -> bool {
        self.remaining() > 0
    }
    /// Microseconds on the engine's clock.
    fn now(&self) -> Micros;
}

/// Timestamps and watermarks of a source.
pub trait Assigner<T: Record>: Clone + Send + 'static {
    /// Whether it needs each split's greatest timestamp, for watermarks of its own.
    const TRACKS_TIME: bool = true;

    /// The record's event time; `native` is what the connector says.
    fn timestamp(&mut self, view: T::View<'_>, native: Timestamp) -> Timestamp;
    /// How far records may be behind the greatest timestamp; `None`: only the connector's own
    /// watermarks.
    fn lateness(&self) -> Option<i64>;
    /// After how many records a watermark is sent, at most [`POLL_RECORDS`].
    fn watermark_every(&self) -> usize {
        POLL_RECORDS
    }
    /// A split without records for as long as this, in microseconds, is idle.
    fn idle_after(&self) -> Option<Micros> {
        Some(10_000_000)
    }
    /// How far ahead of the slowest source it may be, in milliseconds of event time; `None`: as the
    /// job says.
    fn max_skew(&self) -> Option<i64> {
        None
    }
}

/// The connector's own timestamps and watermarks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl<T: Record> Assigner<T> for Native {
    const TRACKS_TIME: bool = false;

    #[inline(always)]
    fn timestamp(&mut self, _: T::View<'_>, native: Timestamp) -> Timestamp {
        native
    }
    fn lateness(&self) -> Option<i64> {
        None
    }
}

/// Timestamps by a function, watermarks behind the greatest one.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<F> {
    /// Event time of a record.
    pub function: F,
    /// How far records may be behind, in milliseconds.
    pub lateness: i64,
    /// Idleness, in microseconds.
    pub idle_after: Option<Micros>,
    /// Records between watermarks.
    pub watermark_every: usize,
    /// How far ahead of the slowest source it may be, in milliseconds of event time.
    pub max_skew: Option<i64>,
}

impl<T, F> Assigner<T> for Bounded<F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>) -> Timestamp + Clone + Send + 'static,
{
    #[inline(always)]
    fn timestamp(&mut self, view: T::View<'_>, _: Timestamp) -> Timestamp {
        (self.function)(view)
    }
    fn lateness(&self) -> Option<i64> {
        Some(self.lateness)
    }
    fn watermark_every(&self) -> usize {
        self.watermark_every
    }
    fn idle_after(&self) -> Option<Micros> {
        self.idle_after
    }
    fn max_skew(&self) -> Option<i64> {
        self.max_skew
    }
}

#[derive(Clone, Copy, Debug)]
struct Split {
    max: Timestamp,
    last_at: Micros,
    idle: bool,
    ended: bool,
}

/// Watermarks of the splits of one subtask.
struct Splits {
    splits: Vec<Split>,
    merger: WatermarkMerger,
}

impl Splits {
    fn at(&mut self, split: usize, now: Micros) -> &mut Split {
        while self.splits.len() <= split {
            let fresh = Split { max: WATERMARK_MIN, last_at: now, idle: false, ended: false };
            self.splits.push(fresh);
            self.merger.add();
        }
        &mut self.splits[split]
    }
}

/// Records emitted in one poll, and the most records between two watermarks.
pub const POLL_RECORDS: usize = 1024;

/// Polls of an idle reader are at most this far apart.
const IDLE_POLL_US: Micros = 10_000;

/// A source that is ahead looks so often for the slower ones.
const SKEW_POLL_US: Micros = 1_000;

struct Output<'a, T, S, A> {
    chain: &'a mut S,
    assigner: &'a mut A,
    splits: &'a mut Splits,
    current: usize,
    max: Timestamp,
    emitted: usize,
    /// Of those, how many `settle` has seen.
    settled: usize,
    budget: usize,
    now: Micros,
    /// Splits beyond are ahead.
    limit: Timestamp,
    /// One was, and has been passed over.
    passed_over: bool,
    record: PhantomData<fn(T)>,
}

impl<T: Record, S, A> Output<'_, T, S, A> {
    /// Carries the current split's maximum over to its entry.
    fn settle(&mut self) {
        let (current, max, now) = (self.current, self.max, self.now);
        if self.emitted > self.settled {
            self.settled = self.emitted;
            let split = self.splits.at(current, now);
            split.max = split.max.max(max);
            split.last_at = now;
            if split.idle {
                split.idle = false;
                self.splits.merger.set_idle(current, false);
            }
        }
        self.max = WATERMARK_MIN;
    }
}

impl<T: Record, S: Stage<T>, A: Assigner<T>> Emit<T> for Output<'_, T, S, A> {
    #[inline(always)]
    fn emit(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        let timestamp = self.assigner.timestamp(view, timestamp);
        if A::TRACKS_TIME {
            self.max = self.max.max(timestamp);
        }
        self.emitted += 1;
        self.chain.push(view, timestamp);
    }
    fn split(&mut self, split: usize) {
        if split != self.current {
            self.settle();
            self.current = split;
        }
        self.splits.at(split, self.now);
    }
    fn watermark(&mut self, split: usize, watermark: Timestamp) {
        let split_now = self.now;
        self.splits.at(split, split_now);
        self.splits.merger.advance(split, watermark);
    }
    fn active(&mut self, split: usize) {
        let now = self.now;
        let entry = self.splits.at(split, now);
        entry.last_at = now;
        if entry.idle {
            entry.idle = false;
            self.splits.merger.set_idle(split, false);
        }
    }
    fn is_ahead(&mut self, split: usize) -> bool {
        if self.limit == WATERMARK_MAX {
            return false;
        }
        self.settle();
        let max = self.splits.at(split, self.now).max;
        let own = self.assigner.lateness().map_or(WATERMARK_MIN, |l| max.saturating_sub(l));
        let ahead = own.max(self.splits.merger.of(split)) > self.limit;
        if ahead {
            self.active(split);
            self.passed_over = true;
        }
        ahead
    }
    fn split_ended(&mut self, split: usize) {
        self.settle();
        let split_now = self.now;
        self.splits.at(split, split_now).ended = true;
        self.splits.merger.end(split);
    }
    #[inline(always)]
    fn remaining(&self) -> usize {
        if self.chain.room() { self.budget.saturating_sub(self.emitted) } else { 0 }
    }
    #[inline(always)]
    fn has_room(&self) -> bool {
        self.chain.room()
    }
    fn now(&self) -> Micros {
        self.now
    }
}

/// What a poll works on. It is moved to the stack for the length of the poll, so that what a fused
/// chain counts stays in registers.
struct Running<R, A, S> {
    reader: R,
    assigner: A,
    chain: S,
}

/// The task of a source.
pub struct SourceTask<R: SourceReader, A, S> {
    /// `None` only during a poll, and after one that panicked.
    running: Option<Running<R, A, S>>,
    context: Context,
    operator_id: u64,
    splits: Splits,
    sent: Timestamp,
    idle: bool,
    poll_at: Micros,
    /// Since when it has not polled although it would have (S3).
    waiting_since: Option<Micros>,
    skew: Option<SkewSeat>,
    pace: Pace,
    settling: Settling,
    /// Records until the next watermark, where slow user code has cut a poll short; 0 otherwise.
    left: usize,
    finished: bool,
}

impl<R: SourceReader, A: Assigner<R::Item>, S: Stage<R::Item>> SourceTask<R, A, S> {
    /// Assembles the task.
    pub fn new(reader: R, assigner: A, chain: S, context: Context, operator_id: u64) -> Self {
        let skew = context.skew.clone().map(|seat| seat.with_limit(assigner.max_skew()));
        if let Some(seat) = &skew {
            seat.report(assigner.lateness().map(|_| WATERMARK_MIN));
        }
        SourceTask {
            running: Some(Running { reader, assigner, chain }),
            context,
            operator_id,
            splits: Splits { splits: Vec::new(), merger: WatermarkMerger::new(0) },
            sent: WATERMARK_MIN,
            idle: false,
            poll_at: 0,
            waiting_since: None,
            skew,
            pace: Pace::new(POLL_RECORDS),
            settling: Settling::default(),
            left: 0,
            finished: false,
        }
    }

    fn running(&mut self) -> Result<&mut Running<R, A, S>> {
        self.running.as_mut().ok_or_else(|| Error::attempt("the source has panicked before"))
    }

    fn control(&mut self, control: Control) -> Result<()> {
        self.running()?.chain.control(control)
    }

    fn send_watermark(&mut self) -> Result<()> {
        let now = self.context.time.now();
        let Running { assigner, .. } = self.running()?;
        let (lateness, idle_after) = (assigner.lateness(), assigner.idle_after());
        if let Some(lateness) = lateness {
            for i in 0..self.splits.splits.len() {
                let split = self.splits.splits[i];
                if split.max > WATERMARK_MIN && !split.ended {
                    self.splits.merger.advance(i, split.max.saturating_sub(lateness));
                }
            }
        }
        if let Some(idle_after) = idle_after {
            for i in 0..self.splits.splits.len() {
                let split = self.splits.splits[i];
                if !split.idle && !split.ended && now >= split.last_at + idle_after {
                    self.splits.splits[i].idle = true;
                    self.splits.merger.set_idle(i, true);
                }
            }
        }
        // A subtask without a split (it may find one later) holds nobody's watermark back.
        let idle = self.splits.splits.iter().all(|s| s.idle || s.ended);
        if idle != self.idle {
            self.idle = idle;
            let status = if idle { Status::Idle } else { Status::Active };
            self.control(Control::Status(status))?;
        }
        let merged = self.splits.merger.get();
        if let Some(seat) = &self.skew {
            // Before its first watermark, only a source that will make some holds others back.
            let counts = !idle && (lateness.is_some() || merged > WATERMARK_MIN);
            seat.report(counts.then_some(merged));
        }
        if merged > self.sent && merged != WATERMARK_MAX {
            self.sent = merged;
            self.context.metrics.watermark.set(merged);
            self.control(Control::Watermark(merged))?;
        }
        Ok(())
    }

    fn is_ahead(&self) -> bool {
        self.skew.as_ref().is_some_and(|seat| seat.is_ahead(self.splits.merger.get()))
    }

    /// It cannot poll now: time stands still for its splits (S3).
    fn wait(&mut self, now: Micros) -> Result<()> {
        self.waiting_since.get_or_insert(now);
        self.control(Control::Flush)
    }

    fn poll(&mut self) -> Result<Polled> {
        let now = self.context.time.now();
        if let Some(since) = self.waiting_since.take() {
            self.splits.splits.iter_mut().for_each(|s| s.last_at += now - since);
        }
        let Some(mut running) = self.running.take() else {
            return Err(Error::attempt("the source has panicked before"));
        };
        let every = running.assigner.watermark_every().clamp(1, POLL_RECORDS);
        let left = if self.left == 0 { every } else { self.left };
        let budget = left.min(self.pace.records());
        let began = self.context.time.read();
        let mut out = Output {
            chain: &mut running.chain,
            assigner: &mut running.assigner,
            splits: &mut self.splits,
            current: 0,
            max: WATERMARK_MIN,
            emitted: 0,
            settled: 0,
            budget,
            now,
            limit: self.skew.as_ref().map_or(WATERMARK_MAX, SkewSeat::limit),
            passed_over: false,
            record: PhantomData,
        };
        let polled = running.reader.poll(&mut out);
        out.settle();
        let (emitted, passed_over) = (out.emitted, out.passed_over);
        running.chain.end_run();
        self.running = Some(running);
        let polled = match polled? {
            // The slower ones ring no bell.
            Polled::Idle { until } if passed_over => {
                let soon = now + SKEW_POLL_US;
                Polled::Idle { until: Some(until.map_or(soon, |u| u.min(soon))) }
            }
            polled => polled,
        };
        self.context.failure.check()?;
        self.context.metrics.records_in.add(emitted as u64);
        self.pace.took(emitted, self.context.time.read().saturating_sub(began));
        // A watermark stands where it would stand if user code were fast.
        if polled == Polled::More && emitted >= budget && budget < left {
            self.left = left - emitted;
        } else {
            self.left = 0;
            self.send_watermark()?;
        }
        self.context.failure.check()?;
        Ok(polled)
    }

    fn snapshot(&mut self, barrier: Barrier) -> Result<()> {
        let epoch = barrier.epoch;
        for split in self.running()?.reader.snapshot()? {
            self.context.entry(epoch, section(self.operator_id), split, 1);
        }
        self.control(Control::Barrier(barrier))?;
        self.context.failure.check()?;
        self.settling.whole(barrier);
        self.settle()
    }

    /// Acknowledges and confirms what waits for the sinks, if they have settled.
    fn settle(&mut self) -> Result<()> {
        if self.settling.waits() && self.running()?.chain.settled()? {
            self.settling.settled(&self.context);
        }
        Ok(())
    }

    /// The same progress, but no later than the sinks are to be asked.
    fn at_the_latest(&self, progress: Progress) -> Progress {
        let soon = self.settling.until(self.context.time.now());
        let earlier = |until: Option<Micros>| [until, soon].into_iter().flatten().min();
        match progress {
            Progress::Worked => Progress::Worked,
            Progress::Idle { until } => Progress::Idle { until: earlier(until) },
            Progress::Blocked { until } => Progress::Blocked { until: earlier(until) },
            Progress::Finished if soon.is_some() => Progress::Idle { until: soon },
            Progress::Finished => Progress::Finished,
        }
    }

    fn advance(&mut self) -> Result<Progress> {
        if self.finished {
            return Ok(Progress::Finished);
        }
        let now = self.context.time.now();
        if !self.running()?.chain.writable() {
            // What waits for other lanes need not wait for this one.
            self.wait(now)?;
            return Ok(Progress::Blocked { until: None });
        }
        if now < self.poll_at {
            return Ok(Progress::Idle { until: Some(self.poll_at) });
        }
        if self.is_ahead() {
            self.wait(now)?;
            return Ok(Progress::Idle { until: Some(now + SKEW_POLL_US) });
        }
        match self.poll()? {
            Polled::More => Ok(Progress::Worked),
            Polled::Idle { until } => {
                self.control(Control::Flush)?;
                let latest = now + IDLE_POLL_US;
                self.poll_at = until.unwrap_or(latest).clamp(now, latest);
                Ok(Progress::Idle { until: Some(self.poll_at) })
            }
            Polled::End => {
                self.finish()?;
                Ok(Progress::Worked)
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.finished = true;
        self.control(Control::Watermark(WATERMARK_MAX))?;
        self.control(Control::End)?;
        self.context.failure.check()?;
        self.context.metrics.watermark.set(WATERMARK_MAX);
        if let Some(seat) = &self.skew {
            seat.report(None);
        }
        self.context.outbox.push(TaskEvent::Finished);
        Ok(())
    }
}

/// Opens the source's splits for a subtask: those of the restored checkpoint, dealt out in
/// turn, or a fresh share.
pub fn open_context(context: &Context, operator_id: u64, name: &str) -> SourceContext {
    let (subtask, parallelism) = (context.info.subtask, context.info.parallelism);
    let section = section(operator_id);
    let entries = context.declare(section, name, String::from("splits"));
    let known = context.restored.as_ref().filter(|_| !entries.is_empty());
    let restored = known.map(|_| {
        let mine = |(i, _): &(usize, &(u32, Vec<u8>))| *i as u32 % parallelism == subtask;
        entries.iter().enumerate().filter(mine).map(|(_, e)| e.1.clone()).collect()
    });
    SourceContext { subtask, parallelism, restored, context: context.clone(), operator_id }
}

fn section(operator: u64) -> SectionId {
    SectionId { operator, kind: SectionKind::Source, state: 0 }
}

impl<R: SourceReader, A: Assigner<R::Item>, S: Stage<R::Item>> Task for SourceTask<R, A, S> {
    fn step(&mut self) -> Result<Progress> {
        self.settle()?;
        let progress = self.advance()?;
        Ok(self.at_the_latest(progress))
    }

    fn trigger(&mut self, barrier: Barrier) -> Result<()> {
        self.snapshot(barrier)
    }

    fn outcome(&mut self, outcome: Control) -> Result<()> {
        match outcome {
            Control::Commit(epoch) => self.running()?.reader.committed(epoch)?,
            Control::Abort(epoch) => self.settling.abandon(epoch),
            _ => {}
        }
        self.control(outcome)?;
        self.context.failure.check()?;
        if let Control::Commit(epoch) = outcome {
            self.settling.committed(epoch);
        }
        self.settle()
    }
}

#[cfg(test)]
mod tests;
