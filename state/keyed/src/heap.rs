//! The table of one operator state (or of one window slice) on the heap.
//!
//! An index of hash bits (`index.rs`) points into a slab of entries (`slab.rs`); entries keep their
//! id for life. A snapshot runs beside updates: see `heap/snapshot.rs`.
//!
//! Invariants
//!   H1  The index holds exactly the live ids, each under its key's hash (not while draining).
//!   H2  While a snapshot runs, `pending` has the bit of each entry that was live when it began
//!       and has not been written yet; such an entry is written before it is changed or removed.

#![expect(unsafe_code, reason = "ids from the index are live (H1)")]

mod batch;
mod index;
mod scan;
mod slab;
mod snapshot;
#[cfg(test)]
mod tests;

pub use batch::{Aim, Found, Vacant};
pub use scan::Cursor;
pub(crate) use snapshot::for_each_saved;

use index::Index;
use slab::{Entry, Slab};
use snapshot::Snapshot;
use tidemill_base::key::KeyHeap;
use tidemill_base::{Key, Record};

/// The hashes of a table whose key is more than the key that partitions the state.
pub(crate) struct Hashes<K: Key> {
    /// The hash that entries are found by.
    pub(crate) table: fn(K::View<'_>) -> u64,
    /// The hash that partitions the state; snapshots hold it.
    pub(crate) route: fn(K::View<'_>) -> u64,
}

impl<K: Key> Clone for Hashes<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K: Key> Copy for Hashes<K> {}

/// A hash table from keys to values.
///
/// Every lookup takes the key's hash beside the key: it was computed once, when the record was
/// partitioned. It must be `K::hash(key)`; entries under another hash are not found, and removing
/// them panics.
pub struct HeapTable<K: Key, V: Record> {
    index: Index,
    slab: Slab<K::Slot, V>,
    keys: KeyHeap,
    snapshot: Option<Box<Snapshot<K, V>>>,
    /// The bitmap of the last snapshot, kept for the next.
    spare: Vec<u64>,
    /// `None`: both are `K::hash`.
    hashes: Option<Hashes<K>>,
}

impl<K: Key, V: Record> Default for HeapTable<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, V: Record> std::fmt::Debug for HeapTable<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeapTable")
            .field("len", &self.len())
            .field("bytes", &self.bytes())
            .field("snapshotting", &self.is_snapshotting())
            .finish()
    }
}

impl<K: Key, V: Record> HeapTable<K, V> {
    /// An empty table of about 200 bytes.
    pub fn new() -> Self {
        HeapTable {
            index: Index::new(),
            slab: Slab::new(),
            keys: KeyHeap::default(),
            snapshot: None,
            spare: Vec::new(),
            hashes: None,
        }
    }

    /// A table with hashes of its own.
    pub(crate) fn with_hashes(hashes: Hashes<K>) -> Self {
        HeapTable { hashes: Some(hashes), ..Self::new() }
    }

    #[inline(always)]
    fn table_hash(&self, key: K::View<'_>) -> u64 {
        match self.hashes {
            Some(hashes) => (hashes.table)(key),
            None => K::hash(key),
        }
    }

    /// Number of entries.
    #[inline]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is no entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held by index, entries and keys; what values own elsewhere is not counted.
    pub fn bytes(&self) -> usize {
        self.index.bytes() + self.slab.bytes() + self.keys.bytes() + self.spare.capacity() * 8
    }

    /// The id of a key's entry.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, key: K::View<'_>) -> Option<u32> {
        self.index.find(hash, |id| {
            // SAFETY: H1.
            K::matches(unsafe { &self.slab.get(id).key }, K::shorten(key), &self.keys)
        })
    }

    /// The value of a key.
    #[inline(always)]
    pub fn get(&self, hash: u64, key: K::View<'_>) -> Option<&V> {
        let id = self.find(hash, key)?;
        // SAFETY: H1.
        Some(unsafe { &self.slab.get(id).value })
    }

    /// The value of a key, to be changed.
    #[inline(always)]
    pub fn get_mut(&mut self, hash: u64, key: K::View<'_>) -> Option<&mut V> {
        let id = self.find(hash, key)?;
        Some(self.change(id))
    }

    /// The value of a key, to be changed; `init` makes it if there is none.
    #[inline(always)]
    pub fn upsert(&mut self, hash: u64, key: K::View<'_>, init: impl FnOnce() -> V) -> &mut V {
        let id = match self.find(hash, K::shorten(key)) {
            Some(id) => return self.change(id),
            None => {
                let value = init();
                self.add(hash, key, value)
            }
        };
        // SAFETY: H1, just added.
        unsafe { &mut self.slab.get_mut(id).value }
    }

    /// Sets the value of a key; returns the one before.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: K::View<'_>, value: V) -> Option<V> {
        match self.get_mut(hash, K::shorten(key)) {
            Some(old) => Some(std::mem::replace(old, value)),
            None => {
                self.add(hash, key, value);
                None
            }
        }
    }

    /// Removes a key; returns its value.
    pub fn remove(&mut self, hash: u64, key: K::View<'_>) -> Option<V> {
        let id = self.find(hash, key)?;
        Some(self.remove_id(id))
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (K::View<'_>, &V)> {
        let words = self.slab.live().iter().enumerate();
        words.flat_map(move |(word, &bits)| {
            Bits(bits).map(move |bit| self.entry(word as u32 * 64 + bit))
        })
    }

    /// Asks the CPU for the index slots of a hash: first step for the records of a batch.
    #[inline(always)]
    pub fn prefetch_index(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Asks the CPU for the entry of a hash: second step, when the index slots have arrived.
    #[inline(always)]
    pub fn prefetch_entry(&self, hash: u64) {
        if let Some(id) = self.index.guess(hash) {
            self.prefetch_id(id);
        }
    }

    #[inline(always)]
    fn prefetch_id(&self, id: u32) {
        let entry = self.slab.at(id);
        crate::prefetch(entry);
        let bytes = size_of::<Entry<K::Slot, V>>();
        if !bytes.is_power_of_two() || bytes > 64 {
            crate::prefetch(entry.wrapping_byte_add(bytes.saturating_sub(1)));
        }
    }

    /// Forgets all entries and keeps the memory. Takes time in proportion to the index; drained
    /// tables are clear already (see [`HeapTable::drain_scan`]). What a running snapshot still
    /// lacks is saved first: to fire a large table under a snapshot, keep it aside instead.
    pub fn clear(&mut self) {
        self.save_all();
        self.slab.clear();
        self.keys.clear();
        self.index.clear_step(usize::MAX);
    }

    // By id: for structures that link entries. Ids are checked, so these are safe to misuse.

    /// A live entry's key and value.
    #[inline]
    pub(crate) fn entry(&self, id: u32) -> (K::View<'_>, &V) {
        assert!(self.slab.is_live(id), "entry {id} is not live");
        // SAFETY: asserted.
        let entry = unsafe { self.slab.get(id) };
        (K::load(&entry.key, &self.keys), &entry.value)
    }

    /// A live entry's value, for changes of what snapshots do not hold (links, positions).
    #[inline]
    pub(crate) fn unsaved_mut(&mut self, id: u32) -> &mut V {
        assert!(self.slab.is_live(id), "entry {id} is not live");
        // SAFETY: asserted.
        unsafe { &mut self.slab.get_mut(id).value }
    }

    /// A live entry's value, to be changed.
    #[inline(always)]
    pub(crate) fn change(&mut self, id: u32) -> &mut V {
        if self.snapshot.is_some() {
            self.save(id);
        }
        debug_assert!(self.slab.is_live(id));
        // SAFETY: callers have `id` from the index, H1.
        unsafe { &mut self.slab.get_mut(id).value }
    }

    /// Adds a key that is not there; returns its id.
    #[inline(never)]
    pub(crate) fn add(&mut self, hash: u64, key: K::View<'_>, value: V) -> u32 {
        let key = K::store(key, &mut self.keys);
        let id = self.slab.insert(Entry { key, value });
        self.index.insert(hash, id);
        id
    }

    /// Removes a live entry.
    pub(crate) fn remove_id(&mut self, id: u32) -> V {
        if self.snapshot.is_some() {
            self.save(id);
        }
        let entry = self.slab.remove(id);
        let hash = self.table_hash(K::load(&entry.key, &self.keys));
        self.index.remove(hash, id);
        K::free(&entry.key, &mut self.keys);
        entry.value
    }
}

/// The positions of the ones of a word.
pub(crate) struct Bits(pub(crate) u64);

impl Iterator for Bits {
    type Item = u32;
    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        (self.0 != 0).then(|| {
            let bit = self.0.trailing_zeros();
            self.0 &= self.0 - 1;
            bit
        })
    }
}
