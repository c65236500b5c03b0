//! Metrics of one subtask. Each value has one writer, the subtask's core, and is read by other
//! threads only when metrics are scraped: an update is a plain load and store, never a locked
//! instruction.
//!
//! Invariants
//!   M1  Every microsecond since the first [`TaskMetrics::enter`] is counted in one activity, once,
//!       also the open interval of a subtask that nobody steps: a reader sees the totals and the
//!       start of the open interval of the same moment.
//!   M2  The size of a checkpoint is published when it is acknowledged, whole.

use crate::time::{Micros, Timestamp, WATERMARK_MIN};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};

#[cfg(test)]
mod tests;

/// A count that only grows. One writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    /// The count.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down. One writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Replaces the value.
    #[inline(always)]
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// The value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the latency buckets, in microseconds: 10 us to 10 s.
pub const LATENCY_BOUNDS_US: [u64; 19] = [
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
    500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
];

/// A histogram of microseconds with fixed buckets. One writer.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; LATENCY_BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts `n` observations of `micros`.
    #[inline]
    pub fn observe(&self, micros: u64, n: u64) {
        let at = LATENCY_BOUNDS_US.partition_point(|&b| b < micros);
        self.buckets[at].add(n);
        self.sum_us.add(micros.saturating_mul(n));
    }
    /// Counts by bucket, the last one without bound.
    pub fn buckets(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(Counter::get)
    }
    /// Sum of the observations, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

/// What a subtask is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Not stepped yet.
    #[default]
    Starting = 0,
    /// In a step that works.
    Busy = 1,
    /// Without input.
    Idle = 2,
    /// Without free output buffers.
    Backpressured = 3,
    /// With work, while the slot steps other tasks.
    Ready = 4,
    /// All input is processed.
    Finished = 5,
}

/// Time by activity up to a moment, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivityTimes {
    /// In steps that worked.
    pub busy_us: u64,
    /// Without input.
    pub idle_us: u64,
    /// Without free output buffers.
    pub backpressured_us: u64,
    /// With work, while the slot stepped other tasks.
    pub ready_us: u64,
}

/// An open interval: the activity in the lowest bits, its start above them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Open(u64);

impl Open {
    const BITS: u32 = 3;
    const MASK: u64 = (1 << Self::BITS) - 1;
    /// The totals are being changed.
    const CHANGING: Open = Open(Self::MASK);

    fn new(activity: Activity, since: Micros) -> Self {
        Open(since << Self::BITS | activity as u64)
    }
    fn since(self) -> Micros {
        self.0 >> Self::BITS
    }
    fn is(self, activity: Activity) -> bool {
        self.0 & Self::MASK == activity as u64
    }
}

/// What one subtask measures.
#[derive(Debug)]
pub struct TaskMetrics {
    /// Records read from channels, or emitted by the source.
    pub records_in: Counter,
    /// Records written to channels, and by sinks.
    pub records_out: Counter,
    /// Bytes of batches read.
    pub bytes_in: Counter,
    /// Bytes of batches written, and of what sinks write that count them.
    pub bytes_out: Counter,
    /// Records dropped because their window had closed.
    pub late_dropped: Counter,
    /// Records skipped by a source's or a format's error policy.
    pub malformed_skipped: Counter,
    /// Time in steps that worked, in microseconds, up to the latest [`TaskMetrics::enter`].
    pub busy_us: Counter,
    /// Time without input, likewise.
    pub idle_us: Counter,
    /// Time without free output buffers, likewise.
    pub backpressured_us: Counter,
    /// Time with work while the slot stepped other tasks, likewise.
    pub ready_us: Counter,
    open: AtomicU64,
    /// Current watermark; [`WATERMARK_MIN`] before the first.
    pub watermark: Gauge,
    /// Checkpoints acknowledged.
    pub checkpoints: Counter,
    /// Last checkpoint: from the trigger to the acknowledgement, in microseconds.
    pub checkpoint_us: Gauge,
    /// Last checkpoint: bytes written by this subtask.
    pub checkpoint_bytes: Gauge,
    pending_epoch: Gauge,
    pending_bytes: Gauge,
    /// Last checkpoint: from the first barrier to the last, in microseconds.
    pub alignment_us: Gauge,
    /// From the writing of a batch's first record upstream to its processing here.
    pub latency: Histogram,
    /// Length of steps: while one lasts, no other task of the slot runs.
    pub steps: Histogram,
    /// The longest step, in microseconds.
    pub step_max_us: Gauge,
}

impl Default for TaskMetrics {
    fn default() -> Self {
        let metrics = TaskMetrics {
            records_in: Counter::default(),
            records_out: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            late_dropped: Counter::default(),
            malformed_skipped: Counter::default(),
            busy_us: Counter::default(),
            idle_us: Counter::default(),
            backpressured_us: Counter::default(),
            ready_us: Counter::default(),
            open: AtomicU64::default(),
            watermark: Gauge::default(),
            checkpoints: Counter::default(),
            checkpoint_us: Gauge::default(),
            checkpoint_bytes: Gauge::default(),
            pending_epoch: Gauge::default(),
            pending_bytes: Gauge::default(),
            alignment_us: Gauge::default(),
            latency: Histogram::default(),
            steps: Histogram::default(),
            step_max_us: Gauge::default(),
        };
        metrics.watermark.set(WATERMARK_MIN);
        metrics
    }
}

impl TaskMetrics {
    /// A step took this long.
    #[inline]
    pub fn stepped(&self, micros: Micros) {
        self.steps.observe(micros, 1);
        if micros as i64 > self.step_max_us.get() {
            self.step_max_us.set(micros as i64);
        }
    }

    /// The current watermark.
    pub fn watermark(&self) -> Timestamp {
        self.watermark.get()
    }

    /// From `now` on the subtask is in this activity; what it did until now is counted. Only for
    /// the subtask's own thread, and for others once that has ended.
    #[inline]
    pub fn enter(&self, activity: Activity, now: Micros) {
        let open = Open(self.open.load(Ordering::Relaxed));
        let entered = Open::new(activity, now);
        if open == entered {
            return;
        }
        // A seqlock with one writer (M1): readers that see `CHANGING`, or another interval after
        // the totals than before them, look again.
        self.open.store(Open::CHANGING.0, Ordering::Relaxed);
        fence(Ordering::Release);
        let past = now.saturating_sub(open.since());
        if open.is(Activity::Busy) {
            self.busy_us.add(past);
        } else if open.is(Activity::Idle) {
            self.idle_us.add(past);
        } else if open.is(Activity::Backpressured) {
            self.backpressured_us.add(past);
        } else if open.is(Activity::Ready) {
            self.ready_us.add(past);
        }
        self.open.store(entered.0, Ordering::Release);
    }

    /// Time by activity up to `now`, the open interval included (M1). For any thread.
    pub fn times(&self, now: Micros) -> ActivityTimes {
        loop {
            let open = Open(self.open.load(Ordering::Acquire));
            let mut times = ActivityTimes {
                busy_us: self.busy_us.get(),
                idle_us: self.idle_us.get(),
                backpressured_us: self.backpressured_us.get(),
                ready_us: self.ready_us.get(),
            };
            fence(Ordering::Acquire);
            if open == Open::CHANGING || Open(self.open.load(Ordering::Relaxed)) != open {
                // A change is a few stores: at worst its thread waits for the CPU.
                std::thread::yield_now();
                continue;
            }
            let past = now.saturating_sub(open.since());
            if open.is(Activity::Busy) {
                times.busy_us += past;
            } else if open.is(Activity::Idle) {
                times.idle_us += past;
            } else if open.is(Activity::Backpressured) {
                times.backpressured_us += past;
            } else if open.is(Activity::Ready) {
                times.ready_us += past;
            }
            return times;
        }
    }

    /// An entry of the snapshot of `epoch` has been written, this many bytes.
    pub fn checkpoint_entry(&self, epoch: u64, bytes: u64) {
        let before =
            if self.pending_epoch.get() == epoch as i64 { self.pending_bytes.get() } else { 0 };
        self.pending_epoch.set(epoch as i64);
        self.pending_bytes.set(before.saturating_add_unsigned(bytes));
    }

    /// The snapshot of `epoch` is wholly written, `took` microseconds after the trigger (M2).
    pub fn checkpoint_acknowledged(&self, epoch: u64, took: Micros) {
        let written = self.pending_epoch.get() == epoch as i64;
        self.checkpoint_bytes.set(if written { self.pending_bytes.get() } else { 0 });
        self.checkpoint_us.set(took.min(i64::MAX as u64) as i64);
        self.checkpoints.add(1);
    }
}
