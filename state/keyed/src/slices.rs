//! Tables by window slice: a record updates one slice, a window reads several.
//!
//! Life of a slice's table:
//! ```text
//!  pool --table_mut--> live --retire--> dirty --step--> pool
//!                        |  (snapshot running)            ^
//!                        +--retire--> frozen --saved------+ (through dirty)
//!                        +--take--> the caller --recycle--+ (through dirty or frozen)
//! ```
//!
//! Invariants
//!   L1  `live` is sorted by slice, each slice once.
//!   L2  While a snapshot runs, each table that was live when it began and is not yet saved is
//!       in `live` or `frozen`, or counted in `lent`.
//!   L3  Tables in the pool are empty.

mod either;
#[cfg(test)]
mod tests;

pub use either::{SliceWalk, Slices};

use crate::heap::HeapTable;
use crate::snapshot::SnapshotSink;
use tidemill_base::{Batch, Key, Record, Result};

/// Empty tables kept for reuse.
const POOL_MAX: usize = 16;

/// Index partitions that one step empties; each is at most 512 KiB.
const CLEAR_PARTS: usize = 2;

/// An ordered map from slice (its start, or any number) to table. Tables move between the lists and
/// are reused boxed.
pub struct SliceTables<K: Key, V: Record> {
    live: Vec<(i64, Box<HeapTable<K, V>>)>,
    /// Where the last slice was found.
    last: usize,
    frozen: Vec<Box<HeapTable<K, V>>>,
    dirty: Vec<Box<HeapTable<K, V>>>,
    pool: Vec<Box<HeapTable<K, V>>>,
    epoch: Option<u64>,
    /// Tables that the running snapshot needs and a caller has.
    lent: usize,
}

impl<K: Key, V: Record> Default for SliceTables<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, V: Record> SliceTables<K, V> {
    /// No slices.
    pub fn new() -> Self {
        SliceTables {
            live: Vec::new(),
            last: 0,
            frozen: Vec::new(),
            dirty: Vec::new(),
            pool: Vec::new(),
            epoch: None,
            lent: 0,
        }
    }

    /// The table of a slice, made if there is none.
    #[inline(always)]
    pub fn table_mut(&mut self, slice: i64) -> &mut HeapTable<K, V> {
        if self.live.get(self.last).is_none_or(|l| l.0 != slice) {
            self.last = self.open(slice);
        }
        &mut self.live[self.last].1
    }

    #[inline(never)]
    fn open(&mut self, slice: i64) -> usize {
        self.live.binary_search_by_key(&slice, |l| l.0).unwrap_or_else(|at| {
            let table = self.pool.pop().unwrap_or_default();
            self.live.insert(at, (slice, table));
            at
        })
    }

    fn position(&self, slice: i64) -> Option<usize> {
        self.live.binary_search_by_key(&slice, |l| l.0).ok()
    }

    /// The table of a slice, if there is one.
    pub fn get(&self, slice: i64) -> Option<&HeapTable<K, V>> {
        self.position(slice).map(|at| &*self.live[at].1)
    }

    /// The table of a slice, to be changed, if there is one.
    pub fn get_mut(&mut self, slice: i64) -> Option<&mut HeapTable<K, V>> {
        self.position(slice).map(|at| &mut *self.live[at].1)
    }

    /// The first slice.
    pub fn first(&self) -> Option<i64> {
        self.live.first().map(|l| l.0)
    }

    /// The slices and their tables, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (i64, &HeapTable<K, V>)> {
        self.live.iter().map(|(slice, table)| (*slice, &**table))
    }

    /// The slices in `from..to` and their tables, in order.
    pub fn range(
        &self,
        from: i64,
        to: i64,
    ) -> impl DoubleEndedIterator<Item = (i64, &HeapTable<K, V>)> {
        let start = self.live.partition_point(|l| l.0 < from);
        let end = self.live.partition_point(|l| l.0 < to).max(start);
        self.live[start..end].iter().map(|(slice, table)| (*slice, &**table))
    }

    /// Number of slices.
    pub fn slices(&self) -> usize {
        self.live.len()
    }

    /// Number of entries in all slices.
    pub fn len(&self) -> usize {
        self.live.iter().map(|l| l.1.len()).sum()
    }

    /// Whether no slice has an entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, the pool's included.
    pub fn bytes(&self) -> usize {
        let live = self.live.iter().map(|l| &l.1);
        let rest = self.frozen.iter().chain(&self.dirty).chain(&self.pool);
        live.chain(rest).map(|t| t.bytes()).sum()
    }

    /// Ends a slice. A running snapshot still gets its entries; the memory is reused.
    pub fn retire(&mut self, slice: i64) {
        if let Some(at) = self.position(slice) {
            let (_, table) = self.live.remove(at);
            self.put_away(table);
        }
    }

    /// Takes a slice's table out, to be drained while late records may open the slice anew. Give
    /// it back by [`SliceTables::recycle`]: a running snapshot completes only after that.
    pub fn take(&mut self, slice: i64) -> Option<Box<HeapTable<K, V>>> {
        let at = self.position(slice)?;
        let (_, table) = self.live.remove(at);
        self.lent += usize::from(table.is_snapshotting());
        Some(table)
    }

    /// Gives back a table that was taken, empty or not.
    pub fn recycle(&mut self, mut table: Box<HeapTable<K, V>>) {
        if table.is_snapshotting() && table.snapshot_epoch() == self.epoch {
            self.lent -= 1;
        } else {
            table.abort_snapshot();
        }
        self.put_away(table);
    }

    fn put_away(&mut self, table: Box<HeapTable<K, V>>) {
        if table.is_snapshotting() {
            self.frozen.push(table);
        } else {
            self.dirty.push(table);
            self.step();
        }
    }

    /// Empties retired tables, a bounded piece at a time; true when there is no such work.
    /// `retire` and `snapshot_step` call it too.
    pub fn step(&mut self) -> bool {
        if let Some(table) = self.dirty.last_mut()
            && table.clear_step(CLEAR_PARTS)
        {
            let table = self.dirty.pop();
            if self.pool.len() < POOL_MAX {
                self.pool.extend(table);
            }
        }
        self.dirty.is_empty()
    }

    /// Begins a snapshot of all slices as they are now. Panics if one is running.
    pub fn begin_snapshot(&mut self, epoch: u64) {
        assert!(self.epoch.is_none(), "snapshot {epoch} begins while {:?} runs", self.epoch);
        for (slice, table) in &mut self.live {
            table.begin_snapshot(epoch, *slice);
        }
        self.epoch = Some(epoch);
    }

    /// Whether a snapshot has begun and is not finished.
    pub fn is_snapshotting(&self) -> bool {
        self.epoch.is_some()
    }

    /// Writes about `budget` further entries; true when the snapshot is complete (or none runs).
    /// Fails if an entry cannot be written; the snapshot is then aborted.
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        self.step();
        if self.epoch.is_none() {
            return Ok(true);
        }
        let next = match self.frozen.last_mut() {
            Some(table) => Some(table),
            None => self.live.iter_mut().map(|l| &mut l.1).find(|t| t.is_snapshotting()),
        };
        let Some(table) = next else {
            if self.lent == 0 {
                self.epoch = None;
            }
            return Ok(self.lent == 0);
        };
        match table.snapshot_step(budget, out) {
            Ok(true) => {
                if let Some(table) = self.frozen.pop() {
                    self.dirty.push(table);
                }
                Ok(false)
            }
            Ok(false) => Ok(false),
            Err(error) => {
                self.abort_snapshot();
                Err(error)
            }
        }
    }

    /// Forgets the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        for (_, table) in &mut self.live {
            table.abort_snapshot();
        }
        for mut table in self.frozen.drain(..) {
            table.abort_snapshot();
            self.dirty.push(table);
        }
        self.epoch = None;
        self.lent = 0;
    }

    /// Adds the entries of a batch of a snapshot for which `keep(hash of the key)` holds, to the
    /// slice `namespace` that the batch was written with.
    pub fn restore_batch(
        &mut self,
        namespace: i64,
        batch: &Batch,
        keep: impl Fn(u64) -> bool,
    ) -> Result<()> {
        let table = self.table_mut(namespace);
        table.restore_batch(batch, keep)?;
        if table.is_empty() {
            self.retire(namespace);
        }
        Ok(())
    }
}
