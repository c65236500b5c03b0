//! Timers of one time domain, ordered by time.
//!
//! A table of `(time, key)` removes duplicates and is what snapshots write; a 4-ary heap of
//! `(time, hash, id)` orders them. Each table entry knows its place in the heap, so deleting
//! leaves nothing behind and no operation takes longer than the height of the heap. Snapshots
//! are incremental, as those of any table.
//!
//! Invariants
//!   T1  `order[entry(id).place].id == id` for each entry, and there are no other elements.
//!   T2  No element of `order` is less than its parent.

#[cfg(feature = "rocksdb")]
mod disk;
mod place;
mod queue;
#[cfg(test)]
mod tests;

#[cfg(feature = "rocksdb")]
pub use disk::DiskTimers;
pub use queue::TimerQueue;

use crate::heap::{Hashes, HeapTable, for_each_saved};
use crate::snapshot::SnapshotSink;
use place::Place;
use tidemill_base::hash::{combine, hash_u64};
use tidemill_base::record::shape_of;
use tidemill_base::{Batch, Key, Result, Timestamp};

const ARITY: usize = 4;

/// An element of the order: by time, then by hash (the same after a restore), then by id (only
/// where two keys have the same hash).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    time: Timestamp,
    hash: u64,
    id: u32,
}

/// Timers keyed by (time, key). Snapshot records are `((time, key), ())`.
pub struct Timers<K: Key> {
    table: HeapTable<(i64, K), Place>,
    order: Vec<Due>,
}

impl<K: Key> Default for Timers<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// The table hash of a timer.
#[inline(always)]
fn timer_hash(time: Timestamp, hash: u64) -> u64 {
    combine(hash, hash_u64(time as u64))
}

impl<K: Key> Timers<K> {
    /// No timers.
    pub fn new() -> Self {
        let hashes = Hashes::<(i64, K)> {
            table: |key| timer_hash(key.0, K::hash(key.1)),
            route: |key| K::hash(key.1),
        };
        Timers { table: HeapTable::with_hashes(hashes), order: Vec::new() }
    }

    /// Number of timers.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no timer.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.order.capacity() * size_of::<Due>()
    }

    /// The earliest time.
    #[inline]
    pub fn next_time(&self) -> Option<Timestamp> {
        self.order.first().map(|d| d.time)
    }

    /// Adds a timer; false if it was there.
    pub fn register(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) -> bool {
        if self.find(time, hash, K::shorten(key)).is_some() {
            return false;
        }
        self.add(time, hash, key);
        true
    }

    fn find(&self, time: Timestamp, hash: u64, key: K::View<'_>) -> Option<u32> {
        self.table.find(timer_hash(time, hash), (time, key))
    }

    /// Adds a timer that is not there; returns its id.
    fn add(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) -> u32 {
        let id = self.table.add(timer_hash(time, hash), (time, key), Place(0));
        let due = Due { time, hash, id };
        self.order.push(due);
        self.up(self.order.len() - 1, due);
        id
    }

    /// Removes a timer; false if it was not there.
    pub fn delete(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) -> bool {
        let Some(id) = self.find(time, hash, key) else { return false };
        self.remove(id);
        true
    }

    /// If the earliest timer is due at `now`, shows it (time, hash, key) to `f` and removes it.
    /// In `f` the operator sets its current key; user code runs after, and may register timers.
    pub fn pop_due<R>(
        &mut self,
        now: Timestamp,
        f: impl FnOnce(Timestamp, u64, K::View<'_>) -> R,
    ) -> Option<R> {
        let due = *self.order.first().filter(|d| d.time <= now)?;
        let ((_, key), _) = self.table.entry(due.id);
        let result = f(due.time, due.hash, key);
        self.remove(due.id);
        Some(result)
    }

    fn remove(&mut self, id: u32) {
        let place = self.table.remove_id(id).0 as usize;
        let Some(last) = self.order.pop() else { return };
        if place < self.order.len() {
            if place > 0 && last < self.order[(place - 1) / ARITY] {
                self.up(place, last);
            } else {
                self.down(place, last);
            }
        }
    }

    #[inline(always)]
    fn put(&mut self, place: usize, due: Due) {
        self.order[place] = due;
        self.table.unsaved_mut(due.id).0 = place as u32;
    }

    /// Moves `due` from the hole at `place` towards the root.
    fn up(&mut self, mut place: usize, due: Due) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.order[parent] <= due {
                break;
            }
            self.put(place, self.order[parent]);
            place = parent;
        }
        self.put(place, due);
    }

    /// Moves `due` from the hole at `place` towards the leaves.
    fn down(&mut self, mut place: usize, due: Due) {
        loop {
            let first = place * ARITY + 1;
            let children = first..(first + ARITY).min(self.order.len());
            let Some(least) = children.min_by_key(|&c| self.order[c]) else { break };
            if due <= self.order[least] {
                break;
            }
            self.put(place, self.order[least]);
            place = least;
        }
        self.put(place, due);
    }

    /// Shape of the key.
    pub fn key_shape(&self) -> String {
        shape_of::<(i64, K)>()
    }

    /// Begins a snapshot of the timers as they are now. Panics if one is running.
    pub fn begin_snapshot(&mut self, epoch: u64, namespace: i64) {
        self.table.begin_snapshot(epoch, namespace);
    }

    /// Whether a snapshot has begun and is not finished.
    pub fn is_snapshotting(&self) -> bool {
        self.table.is_snapshotting()
    }

    /// Writes about `budget` further timers; true when the snapshot is complete (or none runs).
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        self.table.snapshot_step(budget, out)
    }

    /// Forgets the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        self.table.abort_snapshot();
    }

    /// Registers the timers of a batch of a snapshot for which `keep(hash of the key)` holds.
    pub fn restore_batch(&mut self, batch: &Batch, keep: impl Fn(u64) -> bool) -> Result<()> {
        for_each_saved::<(i64, K), ()>(batch, keep, |(time, key), (), _| {
            self.register(time, K::hash(K::shorten(key)), key);
            Ok(())
        })
    }
}
