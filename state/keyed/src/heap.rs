//! The table of one operator state (or of one window slice) on the heap.
//!
//! An index of hash bits (`index.rs`) points into a slab (`slab.rs`), where entries keep their id
//! for life. In compact tables, entries of up to 16 bytes lie inside the index (`flat.rs`). A
//! snapshot runs beside updates: see `heap/snapshot.rs`.
//!
//! Invariants
//!   H1  The index holds exactly the live ids, each under its key's hash (not while draining).
//!   H2  While a snapshot runs, `pending` has the bit of each entry that was live when it began
//!       and has not been written yet; such an entry is written before it is changed, removed, or
//!       given another id.

#![expect(unsafe_code, reason = "ids from the index are live (H1)")]

mod batch;
mod flat;
mod index;
mod scan;
mod slab;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

pub use batch::{Aim, Found, Vacant};
pub use scan::Cursor;
pub(crate) use snapshot::for_each_saved;

use flat::{Flat, Spot};
use slab::Entry;
use snapshot::Snapshot;
use store::{Store, layout};
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
    store: Store<K, V>,
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
    /// An empty table of about 200 bytes, whose entries keep their ids for life.
    pub fn new() -> Self {
        Self::with_store(Store::linked(), None)
    }

    /// An empty table for many keys: small entries lie inside the index. It takes memory by huge
    /// pages from some ten thousand keys on, which is too much for tables that come and go.
    pub fn compact() -> Self {
        Self::with_store(Store::compact(), None)
    }

    /// A table with hashes of its own, whose entries keep their ids for life.
    pub(crate) fn with_hashes(hashes: Hashes<K>) -> Self {
        Self::with_store(Store::linked(), Some(hashes))
    }

    fn with_store(store: Store<K, V>, hashes: Option<Hashes<K>>) -> Self {
        HeapTable { store, keys: KeyHeap::default(), snapshot: None, spare: Vec::new(), hashes }
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
        self.store.len()
    }

    /// Whether there is no entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held by index, entries and keys; what values own elsewhere is not counted.
    pub fn bytes(&self) -> usize {
        self.store.bytes() + self.keys.bytes() + self.spare.capacity() * 8
    }

    #[inline(always)]
    fn spot(&self, hash: u64, key: K::View<'_>) -> Option<Spot<K::Slot, V>> {
        self.store.find(hash, K::shorten(key), &self.keys)
    }

    /// The id of a key's entry.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, key: K::View<'_>) -> Option<u32> {
        Some(self.spot(hash, key)?.id)
    }

    /// The value of a key.
    #[inline(always)]
    pub fn get(&self, hash: u64, key: K::View<'_>) -> Option<&V> {
        let spot = self.spot(hash, key)?;
        // SAFETY: H1: what is found is live.
        Some(unsafe { &spot.entry.as_ref().value })
    }

    /// The value of a key, to be changed.
    #[inline(always)]
    pub fn get_mut(&mut self, hash: u64, key: K::View<'_>) -> Option<&mut V> {
        let spot = self.spot(hash, key)?;
        Some(self.change_spot(spot))
    }

    /// The value of a key, to be changed; `init` makes it if there is none.
    #[inline(always)]
    pub fn upsert(&mut self, hash: u64, key: K::View<'_>, init: impl FnOnce() -> V) -> &mut V {
        let id = match self.spot(hash, K::shorten(key)) {
            Some(spot) => return self.change_spot(spot),
            None => {
                let value = init();
                self.add(hash, key, value)
            }
        };
        // SAFETY: H1, just added.
        unsafe { &mut self.store.get_mut(id).value }
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
        let words = self.store.live().iter().enumerate();
        words.flat_map(move |(word, &bits)| {
            Bits(bits).map(move |bit| self.entry(word as u32 * 64 + bit))
        })
    }

    /// Asks the CPU for the index slots of a hash: first step for the records of a batch.
    #[inline(always)]
    pub fn prefetch_index(&self, hash: u64) {
        layout!(&self.store, (index, _) => index.prefetch(hash), flat => flat.prefetch(hash));
    }

    /// Asks the CPU for the entry of a hash: second step, when the index slots have arrived. There
    /// is none where entries lie inside the index.
    #[inline(always)]
    pub fn prefetch_entry(&self, hash: u64) {
        self.ask(hash);
    }

    /// Forgets all entries and keeps the memory. Takes time in proportion to the index; drained
    /// tables are clear already (see [`HeapTable::drain_scan`]). What a running snapshot still
    /// lacks is saved first: to fire a large table under a snapshot, keep it aside instead.
    pub fn clear(&mut self) {
        self.clear_step(usize::MAX);
    }

    // By id: for structures that link entries. Ids are checked, so these are safe to misuse.

    /// A live entry's key and value.
    #[inline]
    pub(crate) fn entry(&self, id: u32) -> (K::View<'_>, &V) {
        assert!(self.store.is_live(id), "entry {id} is not live");
        // SAFETY: asserted.
        let entry = unsafe { self.store.get(id) };
        (K::load(&entry.key, &self.keys), &entry.value)
    }

    /// A live entry's value, for changes of what snapshots do not hold (links, positions).
    #[inline]
    pub(crate) fn unsaved_mut(&mut self, id: u32) -> &mut V {
        assert!(self.store.is_live(id), "entry {id} is not live");
        // SAFETY: asserted.
        unsafe { &mut self.store.get_mut(id).value }
    }

    /// The value of an entry that was just found, to be changed.
    #[inline(always)]
    fn change_spot(&mut self, mut spot: Spot<K::Slot, V>) -> &mut V {
        if self.snapshot.is_some() {
            self.save(spot.id);
        }
        debug_assert!(self.store.is_live(spot.id));
        // SAFETY: H1: what is found is live, and stays where it is while it is saved. The table is
        // borrowed exclusively for as long as the value.
        unsafe { &mut spot.entry.as_mut().value }
    }

    /// A live entry's value, to be changed.
    #[inline(always)]
    pub(crate) fn change(&mut self, id: u32) -> &mut V {
        if self.snapshot.is_some() {
            self.save(id);
        }
        debug_assert!(self.store.is_live(id));
        // SAFETY: callers have `id` from the index or from `live`, H1.
        unsafe { &mut self.store.get_mut(id).value }
    }

    /// Adds a key that is not there; returns its id.
    #[inline(never)]
    pub(crate) fn add(&mut self, hash: u64, key: K::View<'_>, value: V) -> u32 {
        if self.store.is_flat() {
            self.make_room(hash);
        }
        let key = K::store(key, &mut self.keys);
        let entry = Entry { key, value };
        layout!(&mut self.store, (index, slab) => {
            let id = slab.insert(entry);
            index.insert(hash, id);
            id
        }, flat => flat.insert(hash, entry, &self.keys))
    }

    /// Grows the partition of `hash` of a flat table if it is full. Entries that move and that the
    /// running snapshot still needs are written first (H2).
    #[inline(always)]
    fn make_room(&mut self, hash: u64) {
        while let Store::Flat(flat) = &self.store
            && flat.is_full(hash)
        {
            self.grow(hash);
        }
    }

    #[cold]
    fn grow(&mut self, hash: u64) {
        if let Store::Flat(flat) = &self.store {
            let ids = flat.ids(hash);
            self.save_range(ids);
        }
        if let Store::Flat(flat) = &mut self.store {
            flat.grow(hash, &self.keys);
            // So that the bits of the next snapshot need no fresh memory when it begins.
            let bits = self.snapshot.as_mut().map_or(&mut self.spare, |s| s.pending());
            bits.resize(flat.live().len(), 0);
        }
    }

    /// Removes a live entry. Flat tables then give another entry the id, or none.
    pub(crate) fn remove_id(&mut self, id: u32) -> V {
        if self.snapshot.is_some() {
            self.save(id);
        }
        let entry = if let Store::Flat(flat) = &mut self.store {
            let (keys, snapshot) = (&self.keys, &mut self.snapshot);
            flat.remove(id, keys, |flat: &Flat<K, V>, moving| {
                if let Some(snapshot) = snapshot
                    && snapshot.take(moving)
                {
                    // SAFETY: only live entries move.
                    snapshot.write(unsafe { flat.get(moving) }, keys, None);
                }
            })
        } else {
            self.unlink(id)
        };
        K::free(&entry.key, &mut self.keys);
        entry.value
    }

    fn unlink(&mut self, id: u32) -> Entry<K::Slot, V> {
        let hash_of = self.hashes;
        layout!(&mut self.store, (index, slab) => {
            let entry = slab.remove(id);
            let key = K::load(&entry.key, &self.keys);
            let hash = hash_of.map_or_else(|| K::hash(K::shorten(key)), |h| (h.table)(K::shorten(key)));
            index.remove(hash, id);
            entry
        }, flat => flat.drain(id))
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
