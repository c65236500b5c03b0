//! Metrics of one subtask. Each value has one writer, the subtask's core, and is read by other
//! threads only when metrics are scraped: an update is a plain load and store, never a locked
//! instruction.

use crate::time::{Timestamp, WATERMARK_MIN};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

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

/// What one subtask measures.
#[derive(Debug)]
pub struct TaskMetrics {
    /// Records read from channels, or emitted by the source.
    pub records_in: Counter,
    /// Records written to channels or sinks.
    pub records_out: Counter,
    /// Bytes of batches read.
    pub bytes_in: Counter,
    /// Bytes of batches written.
    pub bytes_out: Counter,
    /// Records dropped because their window had closed.
    pub late_dropped: Counter,
    /// Records skipped by a source's or a format's error policy.
    pub malformed_skipped: Counter,
    /// Time spent in steps that made progress, in microseconds.
    pub busy_us: Counter,
    /// Time without input, in microseconds.
    pub idle_us: Counter,
    /// Time without free output buffers, in microseconds.
    pub backpressured_us: Counter,
    /// Current watermark; [`WATERMARK_MIN`] before the first.
    pub watermark: Gauge,
    /// Checkpoints acknowledged.
    pub checkpoints: Counter,
    /// Last checkpoint: from the trigger to the acknowledgement, in microseconds.
    pub checkpoint_us: Gauge,
    /// Last checkpoint: bytes written by this subtask.
    pub checkpoint_bytes: Gauge,
    /// Last checkpoint: from the first barrier to the last, in microseconds.
    pub alignment_us: Gauge,
    /// From the writing of a batch's first record upstream to its processing here.
    pub latency: Histogram,
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
            watermark: Gauge::default(),
            checkpoints: Counter::default(),
            checkpoint_us: Gauge::default(),
            checkpoint_bytes: Gauge::default(),
            alignment_us: Gauge::default(),
            latency: Histogram::default(),
        };
        metrics.watermark.set(WATERMARK_MIN);
        metrics
    }
}

impl TaskMetrics {
    /// The current watermark.
    pub fn watermark(&self) -> Timestamp {
        self.watermark.get()
    }
}
