//! A table on the heap or in RocksDB, chosen at run time.
//!
//! Without the feature `rocksdb` there is one variant and the choice costs nothing; with it, a
//! branch that always goes the same way.

use crate::heap::{Cursor, HeapTable};
#[cfg(feature = "rocksdb")]
use crate::rocks::{Database, DiskSlices, LazyDatabase, RocksTable};
use crate::slices::Slices;
use crate::snapshot::SnapshotSink;
#[cfg(feature = "rocksdb")]
use crate::timers::DiskTimers;
use crate::timers::TimerQueue;
use tidemill_base::{Batch, Key, Record, Result};

/// Where state is kept.
#[derive(Clone, Debug, Default)]
pub enum Backend {
    /// In memory.
    #[default]
    Heap,
    /// In a database, with a cache in memory.
    #[cfg(feature = "rocksdb")]
    Rocks(LazyDatabase),
}

impl Backend {
    /// An empty table on the heap, or the database's table `name` with what it holds. Fails if
    /// the name is open in the database.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "names are on disk"))]
    pub fn table<K: Key, V: Record>(&self, name: &str) -> Result<Table<K, V>> {
        match self {
            Backend::Heap => Ok(Table::Heap(HeapTable::compact())),
            #[cfg(feature = "rocksdb")]
            Backend::Rocks(database) => {
                Ok(Table::Rocks(Box::new(RocksTable::open(database.get()?, name)?)))
            }
        }
    }

    /// No timers on the heap, or the database's timers `name`. Fails as [`Backend::table`] does.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "names are on disk"))]
    pub fn timers<K: Key>(&self, name: &str) -> Result<TimerQueue<K>> {
        match self {
            Backend::Heap => Ok(TimerQueue::default()),
            #[cfg(feature = "rocksdb")]
            Backend::Rocks(database) => {
                Ok(TimerQueue::Rocks(Box::new(DiskTimers::open(database.get()?, name)?)))
            }
        }
    }

    /// No slices on the heap, or the database's slices `name`. Fails as [`Backend::table`] does.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "names are on disk"))]
    pub fn slices<K: Key, V: Record>(&self, name: &str) -> Result<Slices<K, V>> {
        match self {
            Backend::Heap => Ok(Slices::default()),
            #[cfg(feature = "rocksdb")]
            Backend::Rocks(database) => {
                Ok(Slices::Rocks(Box::new(DiskSlices::open(database.get()?, name)?)))
            }
        }
    }
}

/// A table of one of the backends. Methods do what those of [`HeapTable`] do.
///
/// In RocksDB, access to keys outside of [`Table::prepare`] and [`Table::fold_batch`] panics if
/// the database fails: it happens in user code, where panics fail the attempt.
#[cfg_attr(
    feature = "rocksdb",
    expect(clippy::large_enum_variant, reason = "no indirection on the heap's path")
)]
pub enum Table<K: Key, V: Record> {
    /// On the heap.
    Heap(HeapTable<K, V>),
    /// In RocksDB.
    #[cfg(feature = "rocksdb")]
    Rocks(Box<RocksTable<K, V>>),
}

impl<K: Key, V: Record> Default for Table<K, V> {
    fn default() -> Self {
        Table::Heap(HeapTable::compact())
    }
}

macro_rules! either {
    ($self:ident, $table:ident => $call:expr) => {
        match $self {
            Table::Heap($table) => $call,
            #[cfg(feature = "rocksdb")]
            Table::Rocks($table) => $call,
        }
    };
}

impl<K: Key, V: Record> Table<K, V> {
    /// Whether entries may have to be loaded.
    pub fn is_on_disk(&self) -> bool {
        !matches!(self, Table::Heap(_))
    }

    /// The table, if it is on the heap.
    #[inline(always)]
    pub fn heap_mut(&mut self) -> Option<&mut HeapTable<K, V>> {
        match self {
            Table::Heap(t) => Some(t),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(_) => None,
        }
    }

    /// Brings a key's entry into memory, for [`Table::peek`]. On the heap it is there already.
    #[inline(always)]
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "heap: nothing to do"))]
    pub fn load(&mut self, hash: u64, key: K::View<'_>) {
        match self {
            Table::Heap(_) => (),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => {
                t.get(hash, key);
            }
        }
    }

    /// The value of a key, if it is in memory (see [`Table::load`]).
    #[inline(always)]
    pub fn peek(&self, hash: u64, key: K::View<'_>) -> Option<&V> {
        match self {
            Table::Heap(t) => t.get(hash, key),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.peek(hash, key),
        }
    }

    /// The value of a key.
    #[inline(always)]
    pub fn get(&mut self, hash: u64, key: K::View<'_>) -> Option<&V> {
        either!(self, t => t.get(hash, key))
    }

    /// The value of a key, to be changed.
    #[inline(always)]
    pub fn get_mut(&mut self, hash: u64, key: K::View<'_>) -> Option<&mut V> {
        either!(self, t => t.get_mut(hash, key))
    }

    /// The value of a key, to be changed; `init` makes it if there is none.
    #[inline(always)]
    pub fn upsert(&mut self, hash: u64, key: K::View<'_>, init: impl FnOnce() -> V) -> &mut V {
        either!(self, t => t.upsert(hash, key, init))
    }

    /// Sets the value of a key; returns the one before.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: K::View<'_>, value: V) -> Option<V> {
        either!(self, t => t.insert(hash, key, value))
    }

    /// Sets the value of a key. In RocksDB the one before is not read.
    #[inline]
    pub fn put(&mut self, hash: u64, key: K::View<'_>, value: V) {
        match self {
            Table::Heap(t) => drop(t.insert(hash, key, value)),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.put(hash, key, Some(value)),
        }
    }

    /// Removes a key; returns its value.
    pub fn remove(&mut self, hash: u64, key: K::View<'_>) -> Option<V> {
        either!(self, t => t.remove(hash, key))
    }

    /// See [`HeapTable::fold_batch`]. In RocksDB, what the batch lacks is read at once, first.
    #[inline(always)]
    pub fn fold_batch<'k>(
        &mut self,
        n: usize,
        record: impl Fn(usize) -> (u64, K::View<'k>),
        f: impl FnMut(usize, Option<&mut V>) -> Option<V>,
    ) -> Result<()> {
        match self {
            Table::Heap(t) => {
                t.fold_batch(n, record, f);
                Ok(())
            }
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.fold_batch(n, record, f),
        }
    }

    /// Gets ready for accesses to the keys of a batch: asks for memory, or reads from disk.
    #[inline]
    pub fn prepare<'k>(
        &mut self,
        n: usize,
        record: impl Fn(usize) -> (u64, K::View<'k>),
    ) -> Result<()> {
        match self {
            Table::Heap(t) => {
                if t.is_large() {
                    (0..n).for_each(|i| t.prefetch_index(record(i).0));
                    (0..n).for_each(|i| t.prefetch_entry(record(i).0));
                }
                Ok(())
            }
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.prepare(n, record),
        }
    }

    /// Takes note of a key that is needed soon; [`Table::fetch`] reads what is missing. On the
    /// heap nothing is.
    #[inline(always)]
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "heap: nothing to do"))]
    pub fn want(&mut self, hash: u64, key: K::View<'_>) -> Result<()> {
        match self {
            Table::Heap(_) => Ok(()),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.want(hash, key),
        }
    }

    /// Reads what the keys noted by [`Table::want`] lack, at once.
    #[inline]
    pub fn fetch(&mut self) -> Result<()> {
        match self {
            Table::Heap(_) => Ok(()),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.fetch(),
        }
    }

    /// Asks the CPU for the index slots of a hash (heap only).
    #[inline(always)]
    pub fn prefetch_index(&self, hash: u64) {
        match self {
            Table::Heap(t) => t.prefetch_index(hash),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(_) => (),
        }
    }

    /// Asks the CPU for the entry of a hash, once the slots have arrived (heap only).
    #[inline(always)]
    pub fn prefetch_entry(&self, hash: u64) {
        match self {
            Table::Heap(t) => t.prefetch_entry(hash),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(_) => (),
        }
    }

    /// Looks at about `budget` further entries. Those that `concerns` picks are changed by
    /// `edit`, and removed where that returns false; true at the end of a round. RocksDB keeps
    /// its own cursor and goes round for ever.
    pub fn edit_step(
        &mut self,
        cursor: &mut Cursor,
        budget: usize,
        concerns: impl FnMut(K::View<'_>, &V) -> bool,
        edit: impl FnMut(&mut V) -> bool,
    ) -> Result<bool> {
        match self {
            Table::Heap(t) => {
                let done = t.edit_scan(cursor, budget, concerns, edit);
                if done {
                    *cursor = Cursor::default();
                }
                Ok(done)
            }
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.edit_step(budget, concerns, edit),
        }
    }

    /// Number of entries; with RocksDB an estimate, and of all tables of the database.
    pub fn len(&self) -> usize {
        match self {
            Table::Heap(t) => t.len(),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.len_estimate(),
        }
    }

    /// Whether there is no entry (by [`Table::len`]).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        either!(self, t => t.bytes())
    }

    /// Begins a snapshot of the entries as they are now. Panics if one is running.
    pub fn begin_snapshot(&mut self, epoch: u64, namespace: i64) {
        either!(self, t => t.begin_snapshot(epoch, namespace));
    }

    /// Makes the database hold the state of the snapshot's beginning, in steps of about `budget`
    /// entries; true when it does. [`Table::end_flush`] then ends the snapshot. Nothing to do on
    /// the heap.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "heap: nothing to do"))]
    pub fn flush_step(&mut self, budget: usize) -> Result<bool> {
        match self {
            Table::Heap(_) => Ok(true),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.flush_step(budget),
        }
    }

    /// The database's files of the snapshot are safe: it ends.
    pub fn end_flush(&mut self) {
        match self {
            Table::Heap(_) => (),
            #[cfg(feature = "rocksdb")]
            Table::Rocks(t) => t.end_flush(),
        }
    }

    /// Adds the entries of the table `name` of another database for which `keep(hash of the key)`
    /// holds.
    #[cfg(feature = "rocksdb")]
    pub fn restore_from(
        &mut self,
        database: &Database,
        name: &str,
        keep: &dyn Fn(u64) -> bool,
    ) -> Result<()> {
        RocksTable::<K, V>::read(database, name, |batch| self.restore_batch(batch, keep))
    }

    /// Whether a snapshot has begun and is not finished.
    pub fn is_snapshotting(&self) -> bool {
        either!(self, t => t.is_snapshotting())
    }

    /// Writes about `budget` further entries; true when the snapshot is complete (or none runs).
    /// A failure aborts it.
    pub fn snapshot_step(&mut self, budget: usize, out: &mut dyn SnapshotSink) -> Result<bool> {
        either!(self, t => t.snapshot_step(budget, out))
    }

    /// Forgets the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        either!(self, t => t.abort_snapshot());
    }

    /// Adds the entries of a batch of a snapshot for which `keep(hash of the key)` holds.
    pub fn restore_batch(&mut self, batch: &Batch, keep: impl Fn(u64) -> bool) -> Result<()> {
        either!(self, t => t.restore_batch(batch, keep))
    }
}
