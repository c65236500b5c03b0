//! Tables by window slice in one table of RocksDB, which has one cache for all of them.
//!
//! A slice is a range of the database's keys: it is read in order where it does not fit the cache,
//! and deleted at once. What is known of a slice that is in the cache as a whole needs no reading:
//! neither for a key that is not there, nor for a walk.

#[cfg(test)]
mod tests;

use super::database::Database;
use super::layout::BySlice;
use super::scan::GroupWalk;
use super::table::DiskTable;
use crate::snapshot::SnapshotSink;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use tidemill_base::{Batch, Key, Record, Result};

/// Cached entries of retired slices that one step drops.
const RETIRE_ENTRIES: usize = 1024;

/// The share of the cache that a caller may merge slices in: one of so many.
const MERGE_SHARE: usize = 8;

/// And at least so many entries.
const MERGE_MIN: usize = 4;

/// A map from slice and key to value.
pub struct DiskSlices<K: Key, V: Record> {
    table: DiskTable<BySlice<K>, V>,
    live: BTreeSet<i64>,
}

impl<K: Key, V: Record> DiskSlices<K, V> {
    /// The slices `name` of a database, with what it holds. Fails if the name is open.
    pub fn open(db: &Database, name: &str) -> Result<Self> {
        let mut table = DiskTable::open(db, name)?;
        let live: BTreeSet<i64> = table.namespaces()?.into_iter().collect();
        for &slice in &live {
            table.groups.change(slice as u64, |group| {
                (group.whole, group.stored) = (false, true);
            });
        }
        Ok(DiskSlices { table, live })
    }

    /// The first slice at or after one.
    pub fn next_from(&self, slice: i64) -> Option<i64> {
        self.live.range(slice..).next().copied()
    }

    /// Number of slices.
    pub fn slices(&self) -> usize {
        self.live.len()
    }

    /// Number of entries in the cache.
    pub fn cached(&self) -> usize {
        self.table.cached()
    }

    /// Bytes of the cache.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// How many entries a caller may hold in memory beside the cache.
    pub fn merge_entries(&self) -> usize {
        (self.table.capacity() / MERGE_SHARE).max(MERGE_MIN)
    }

    /// Takes note of an entry that is needed soon; [`DiskSlices::fetch`] reads what is missing.
    #[inline]
    pub fn want(&mut self, slice: i64, hash: u64, key: K::View<'_>) -> Result<()> {
        self.table.want(BySlice::<K>::entry(slice, hash), (slice, key))
    }

    /// Reads what the entries noted lack, at once.
    pub fn fetch(&mut self) -> Result<()> {
        self.table.fetch()
    }

    /// The value of a key in a slice.
    pub fn get(&mut self, slice: i64, hash: u64, key: K::View<'_>) -> Option<&V> {
        self.table.get(BySlice::<K>::entry(slice, hash), (slice, key))
    }

    /// The value of a key in a slice, to be changed; `init` makes it if there is none.
    pub fn upsert(
        &mut self,
        slice: i64,
        hash: u64,
        key: K::View<'_>,
        init: impl FnOnce() -> V,
    ) -> &mut V {
        if self.live.last() != Some(&slice) {
            self.live.insert(slice);
        }
        self.table.upsert(BySlice::<K>::entry(slice, hash), (slice, key), init)
    }

    /// Shows about `budget` further entries of a slice, those with a hash in `hashes`, to `f`, in no
    /// particular order; true at the end. While a walk is under way, slices may only be walked,
    /// and be part of a snapshot.
    pub fn walk(
        &mut self,
        slice: i64,
        hashes: &RangeInclusive<u64>,
        walk: &mut GroupWalk,
        budget: usize,
        mut f: impl FnMut(u64, K::View<'_>, &V),
    ) -> Result<bool> {
        self.table.walk_namespace(slice, hashes, walk, budget, |hash, (_, key), value| {
            f(hash, key, value);
        })
    }

    /// Ends a slice, which is not opened again. A running snapshot still gets its entries.
    pub fn retire(&mut self, slice: i64) {
        if self.live.remove(&slice) {
            self.table.retire(slice);
        }
    }

    /// Drops retired slices, a bounded piece at a time.
    ///
    /// # Errors
    /// If the database fails.
    pub fn step(&mut self) -> Result<()> {
        self.table.retire_step(RETIRE_ENTRIES)
    }

    /// Begins a snapshot of all slices as they are now. Panics if one is running.
    pub fn begin_snapshot(&mut self, epoch: u64) {
        self.table.begin_snapshot(epoch, 0);
    }

    /// Whether a snapshot has begun and is not finished.
    pub fn is_snapshotting(&self) -> bool {
        self.table.is_snapshotting()
    }

    /// See [`DiskTable::snapshot_step`].
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        self.table.snapshot_step(budget, out)
    }

    /// See [`DiskTable::flush_step`].
    pub fn flush_step(&mut self, budget: usize) -> Result<bool> {
        self.table.flush_step(budget)
    }

    /// See [`DiskTable::end_flush`].
    pub fn end_flush(&mut self) {
        self.table.end_flush();
    }

    /// Forgets the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        self.table.abort_snapshot();
    }

    /// Adds the entries of a batch of a snapshot for which `keep(hash of the key)` holds, to the
    /// slice that the batch was written with.
    pub fn restore_batch(&mut self, batch: &Batch, keep: impl Fn(u64) -> bool) -> Result<()> {
        let kept = Cell::new(false);
        let mine = |hash| {
            let keep = keep(hash);
            kept.set(kept.get() || keep);
            keep
        };
        let restored = self.table.restore_batch(batch, mine);
        if kept.get() {
            self.live.insert(batch.timestamp(0));
        }
        restored
    }
}
