//! Counts rows and adds up digests over all subtasks of a sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows and checksum of a run; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    total: Arc<(AtomicU64, AtomicU64)>,
}

/// One subtask's part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// Rows so far.
    pub rows: u64,
    /// Wrapping sum of digests so far.
    pub sum: u64,
}

impl Part {
    /// Counts a row.
    #[inline(always)]
    pub fn add(&mut self, digest: u64) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(digest);
    }
}

impl Tally {
    /// Takes in a subtask's part.
    pub fn merge(&self, part: &Part) {
        self.total.0.fetch_add(part.rows, Ordering::Relaxed);
        self.total.1.fetch_add(part.sum, Ordering::Relaxed);
    }
    /// Rows and checksum.
    pub fn get(&self) -> (u64, u64) {
        (self.total.0.load(Ordering::Relaxed), self.total.1.load(Ordering::Relaxed))
    }
}
