//! Tables by slice on the heap or in RocksDB, chosen at run time.
//!
//! Operators have a path for each: that of the heap borrows tables ([`Slices::heap_mut`]), that of
//! RocksDB asks for entries.

use super::SliceTables;
use crate::heap::Cursor;
#[cfg(feature = "rocksdb")]
use crate::rocks::layout::BySlice;
#[cfg(feature = "rocksdb")]
use crate::rocks::{Database, DiskSlices, DiskTable, GroupWalk};
use crate::snapshot::SnapshotSink;
use std::ops::RangeInclusive;
use tidemill_base::{Batch, Key, Record, Result};

/// A map from slice and key to value, in one of the backends.
pub enum Slices<K: Key, V: Record> {
    /// On the heap: a table for each slice.
    Heap(SliceTables<K, V>),
    /// In RocksDB: a range of one table for each slice.
    #[cfg(feature = "rocksdb")]
    Rocks(Box<DiskSlices<K, V>>),
}

impl<K: Key, V: Record> Default for Slices<K, V> {
    fn default() -> Self {
        Slices::Heap(SliceTables::new())
    }
}

/// Where a walk over a slice stands.
#[derive(Debug, Default)]
pub struct SliceWalk {
    heap: Cursor,
    #[cfg(feature = "rocksdb")]
    disk: GroupWalk,
}

macro_rules! either {
    ($self:ident, $slices:ident => $heap:expr, $disk:expr) => {
        match $self {
            Slices::Heap($slices) => $heap,
            #[cfg(feature = "rocksdb")]
            Slices::Rocks($slices) => $disk,
        }
    };
}

impl<K: Key, V: Record> Slices<K, V> {
    /// Whether slices are in a database.
    pub fn is_on_disk(&self) -> bool {
        !matches!(self, Slices::Heap(_))
    }

    /// The tables, if they are on the heap.
    #[inline(always)]
    pub fn heap_mut(&mut self) -> Option<&mut SliceTables<K, V>> {
        either!(self, s => Some(s), { let _ = s; None })
    }

    /// The first slice at or after one.
    pub fn next_from(&self, slice: i64) -> Option<i64> {
        either!(self, s => s.range(slice, i64::MAX).next().map(|(slice, _)| slice), s.next_from(slice))
    }

    /// The first slice.
    pub fn first(&self) -> Option<i64> {
        either!(self, s => s.first(), s.next_from(i64::MIN))
    }

    /// The first slice in `from..to`.
    pub fn next_in(&self, from: i64, to: i64) -> Option<i64> {
        self.next_from(from).filter(|&slice| slice < to)
    }

    /// Number of entries; in RocksDB of those that are in the cache.
    pub fn len(&self) -> usize {
        either!(self, s => s.len(), s.cached())
    }

    /// Whether there is no slice.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        either!(self, s => s.bytes(), s.bytes())
    }

    /// How many entries a caller may hold in memory beside the slices.
    pub fn merge_entries(&self) -> usize {
        either!(self, s => { let _ = s; usize::MAX }, s.merge_entries())
    }

    /// Takes note of an entry that is needed soon; [`Slices::fetch`] reads what is missing. On the
    /// heap nothing is.
    #[inline]
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "heap: nothing to do"))]
    pub fn want(&mut self, slice: i64, hash: u64, key: K::View<'_>) -> Result<()> {
        either!(self, _s => Ok(()), _s.want(slice, hash, key))
    }

    /// Reads what the entries noted lack, at once.
    pub fn fetch(&mut self) -> Result<()> {
        either!(self, _s => Ok(()), _s.fetch())
    }

    /// The value of a key in a slice.
    pub fn get(&mut self, slice: i64, hash: u64, key: K::View<'_>) -> Option<&V> {
        either!(self, s => s.get(slice)?.get(hash, key), s.get(slice, hash, key))
    }

    /// The value of a key in a slice, to be changed; `init` makes it if there is none.
    pub fn upsert(
        &mut self,
        slice: i64,
        hash: u64,
        key: K::View<'_>,
        init: impl FnOnce() -> V,
    ) -> &mut V {
        either!(self, s => s.table_mut(slice).upsert(hash, key, init), s.upsert(slice, hash, key, init))
    }

    /// Shows about `budget` further entries of a slice, those with a hash in `hashes`, to `f`, in no
    /// particular order; true at the end. While a walk is under way, slices may only be walked,
    /// and be part of a snapshot.
    pub fn walk(
        &mut self,
        slice: i64,
        hashes: &RangeInclusive<u64>,
        walk: &mut SliceWalk,
        budget: usize,
        mut f: impl FnMut(u64, K::View<'_>, &V),
    ) -> Result<bool> {
        either!(self, s => {
            let Some(table) = s.get(slice) else { return Ok(true) };
            Ok(table.scan_ref(&mut walk.heap, budget, |hash, key, value| {
                if hashes.contains(&hash) {
                    f(hash, key, value);
                }
            }))
        }, s.walk(slice, hashes, &mut walk.disk, budget, f))
    }

    /// Ends a slice, which in RocksDB is not opened again. A running snapshot still gets its
    /// entries.
    pub fn retire(&mut self, slice: i64) {
        either!(self, s => s.retire(slice), s.retire(slice));
    }

    /// Drops retired slices, a bounded piece at a time.
    ///
    /// # Errors
    /// If the database fails.
    #[inline]
    pub fn step(&mut self) -> Result<()> {
        either!(self, s => { s.step(); Ok(()) }, s.step())
    }

    /// Begins a snapshot of all slices as they are now. Panics if one is running.
    pub fn begin_snapshot(&mut self, epoch: u64) {
        either!(self, s => s.begin_snapshot(epoch), s.begin_snapshot(epoch));
    }

    /// Whether a snapshot has begun and is not finished.
    pub fn is_snapshotting(&self) -> bool {
        either!(self, s => s.is_snapshotting(), s.is_snapshotting())
    }

    /// Writes about `budget` further entries; true when the snapshot is complete (or none runs).
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        either!(self, s => s.snapshot_step(budget, out), s.snapshot_step(budget, out))
    }

    /// Forgets the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        either!(self, s => s.abort_snapshot(), s.abort_snapshot());
    }

    /// See [`Table::flush_step`](crate::Table::flush_step).
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "heap: nothing to do"))]
    pub fn flush_step(&mut self, budget: usize) -> Result<bool> {
        either!(self, _s => Ok(true), _s.flush_step(budget))
    }

    /// See [`Table::end_flush`](crate::Table::end_flush).
    pub fn end_flush(&mut self) {
        either!(self, _s => (), _s.end_flush());
    }

    /// Adds the entries of a batch of a snapshot for which `keep(hash of the key)` holds, to the
    /// slice that the batch was written with.
    pub fn restore_batch(&mut self, batch: &Batch, keep: impl Fn(u64) -> bool) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        either!(self, s => s.restore_batch(batch.timestamp(0), batch, keep), s.restore_batch(batch, keep))
    }

    /// Adds the entries of the slices `name` of a database for which `keep(hash of the key)` holds.
    #[cfg(feature = "rocksdb")]
    pub fn restore_from(
        &mut self,
        database: &Database,
        name: &str,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        type Rows<K, V> = DiskTable<BySlice<K>, V>;
        Rows::<K, V>::read(database, name, |batch| self.restore_batch(batch, keep))
    }
}
