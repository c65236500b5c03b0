//! A table in RocksDB with a write-back cache.
//!
//! The cache is a heap table of values that are present or known to be absent. Reads go through
//! it; changes stay in it until eviction (a clock over its entries) or a snapshot writes them.
//! [`DiskTable::prepare`] loads what a batch of records lacks by one batched read.
//!
//! Invariants
//!   R1  An entry whose `dirty` bit is not set equals what the database holds, `writes` applied.
//!   R2  `writes` is handed over before the database is read.
//!   R3  While a flush is under way (snapshot.rs), `pending` has the bits of entries that were
//!       dirty when it began and have not been written; such an entry is written before it is
//!       changed. Entries changed since are not written at all until it has ended.
//!   R4  Entries of retired groups are evicted unwritten; when the last one has left the cache, the
//!       group's range is deleted from the database, though not before a flush has ended.
//!   R5  `owned` is what the cached values own outside of the table, all of them measured since they
//!       were changed but for the one that was changed last.
//!
//! A read or write that fails outside of `prepare` panics with the database's message: callers
//! are in user code, where the task turns panics into failures of the attempt.

use super::cached::Cached;
use super::codec::{Scratch, TablePrefix, head};
use super::database::{Database, WRITE_BYTES};
use super::groups::Groups;
use super::layout::{Layout, Plain, View};
use super::retain::Walk;
use super::retire::Retired;
use super::snapshot::Progress;
use crate::heap::{Cursor, Hashes, HeapTable};
use rocksdb::{ColumnFamilyRef, DEFAULT_COLUMN_FAMILY_NAME, WriteBatch};
use std::ops::Range;
use tidemill_base::hash::hash_bytes;
use tidemill_base::key::KeyHeap;
use tidemill_base::{Error, Key, Record, Result};

/// Entries that are evicted at once, at least.
const EVICT_MIN: usize = 64;

/// A cache that a flush keeps full is searched again when it has grown by one of so many parts.
const STUCK_SHARE: usize = 16;

/// Values may own one of so many parts of the memory of their table, however large that is.
const OWNED_SHARE_MIN: usize = 4;

/// A table in RocksDB with one entry for each key.
pub type RocksTable<K, V> = DiskTable<Plain<K>, V>;

/// A table in RocksDB, its keys laid out by `L`. Hashes in calls are [`Layout::hash`].
pub struct DiskTable<L: Layout, V: Record> {
    pub(super) db: Database,
    pub(super) prefix: TablePrefix,
    pub(super) cache: HeapTable<L::Key, Cached<V>>,
    /// By id in the cache: the database does not know the value yet.
    pub(super) dirty: Vec<u64>,
    pub(super) groups: Groups,
    pub(super) retired: Retired,
    /// Entries that the cache may have, as far as its size has shown.
    most: usize,
    /// R5.
    pub(super) owned: usize,
    /// The entry that was changed last, not measured since.
    changed: Option<u32>,
    /// Whether values have come to own too much.
    crowded: bool,
    stuck: Stuck,
    hand: Cursor,
    victims: Vec<u32>,
    pub(super) writes: WriteBatch,
    pub(super) key_scratch: Scratch,
    pub(super) value_scratch: Scratch,
    key_bytes: Vec<u8>,
    wanted: Wanted<L::Key>,
    pub(super) snapshot: Option<Progress<L, V>>,
    pub(super) walk: Walk,
}

/// Up to which size the cache is not searched again, because a search under a flush (R3) has found
/// too little to evict.
#[derive(Default)]
struct Stuck {
    entries: usize,
    owned: usize,
}

/// Keys to be loaded.
struct Wanted<K: Key> {
    misses: Vec<Miss<K>>,
    /// The keys as the database has them.
    bytes: Vec<u8>,
    heap: KeyHeap,
}

struct Miss<K: Key> {
    hash: u64,
    slot: K::Slot,
    /// Where in `bytes`.
    bytes: Range<usize>,
}

impl<K: Key> Default for Wanted<K> {
    fn default() -> Self {
        Wanted { misses: Vec::new(), bytes: Vec::new(), heap: KeyHeap::default() }
    }
}

impl<K: Key> Wanted<K> {
    fn clear(&mut self) {
        self.misses.clear();
        self.bytes.clear();
        self.heap.clear();
    }
}

/// Fails where no error can be returned (see the module).
#[cold]
pub(crate) fn fail(error: Error) -> ! {
    panic!("{error}")
}

pub(crate) fn get_bit(bits: &[u64], id: u32) -> bool {
    bits.get(id as usize / 64).is_some_and(|w| w >> (id % 64) & 1 == 1)
}

/// Clears a bit; whether it was set.
pub(crate) fn take_bit(bits: &mut [u64], id: u32) -> bool {
    let Some(word) = bits.get_mut(id as usize / 64) else { return false };
    let set = *word >> (id % 64) & 1 == 1;
    *word &= !(1 << (id % 64));
    set
}

pub(crate) fn set_bit(bits: &mut Vec<u64>, id: u32) {
    let word = id as usize / 64;
    if word >= bits.len() {
        bits.resize(word + 1, 0);
    }
    bits[word] |= 1 << (id % 64);
}

impl<L: Layout, V: Record> DiskTable<L, V> {
    /// The table `name` (unique in the database; part of the checkpoint). Fails if the name was
    /// opened before.
    pub fn open(db: &Database, name: &str) -> Result<Self> {
        let prefix = claim(db, name)?;
        db.memory().open_table();
        Ok(DiskTable {
            db: db.clone(),
            prefix,
            cache: cache::<L, V>(),
            dirty: Vec::new(),
            groups: Groups::new(L::SEEN),
            retired: Retired::default(),
            most: usize::MAX,
            owned: 0,
            changed: None,
            crowded: false,
            stuck: Stuck::default(),
            hand: Cursor::default(),
            victims: Vec::new(),
            writes: WriteBatch::default(),
            key_scratch: Scratch::new(),
            value_scratch: Scratch::new(),
            key_bytes: Vec::new(),
            wanted: Wanted::default(),
            snapshot: None,
            walk: Walk::default(),
        })
    }

    /// The value of a key.
    pub fn get(&mut self, hash: u64, key: View<'_, L>) -> Option<&V> {
        let id = self.find(hash, key)?;
        self.cache.entry(id).1.value.as_ref()
    }

    /// The value of a key, if it is in the cache.
    pub fn peek(&self, hash: u64, key: View<'_, L>) -> Option<&V> {
        self.cache.get(hash, key)?.value.as_ref()
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, hash: u64, key: View<'_, L>) -> Option<&mut V> {
        let id = self.find(hash, key)?;
        self.cache.entry(id).1.value.as_ref()?;
        self.change(id).as_mut()
    }

    /// The value of a key, to be changed; `init` makes it if there is none.
    pub fn upsert(&mut self, hash: u64, key: View<'_, L>, init: impl FnOnce() -> V) -> &mut V {
        let id = self.touch(hash, key);
        let first = match self.cache.entry(id).1.value {
            Some(_) => None,
            None => Some(init()),
        };
        let value = self.change(id);
        if let Some(first) = first {
            *value = Some(first);
        }
        match value {
            Some(value) => value,
            None => unreachable!("the value was there or has just been set"),
        }
    }

    /// Sets the value of a key; returns the one before.
    pub fn insert(&mut self, hash: u64, key: View<'_, L>, value: V) -> Option<V> {
        let id = self.touch(hash, key);
        self.change(id).replace(value)
    }

    /// Sets the value of a key, or removes it, without reading the one before.
    pub fn put(&mut self, hash: u64, key: View<'_, L>, value: Option<V>) {
        match self.cache.find(hash, shorten::<L>(key)) {
            Some(id) => *self.change(id) = value,
            None => {
                self.make_room(1).unwrap_or_else(|e| fail(e));
                let id = self.add(hash, key, value);
                set_bit(&mut self.dirty, id);
            }
        }
    }

    /// Removes a key; returns its value.
    pub fn remove(&mut self, hash: u64, key: View<'_, L>) -> Option<V> {
        let id = self.find(hash, key)?;
        match self.cache.entry(id).1.value {
            Some(_) => self.change(id).take(),
            None => None,
        }
    }

    /// See [`HeapTable::fold_batch`]; what the batch lacks is read first, at once.
    pub fn fold_batch<'k>(
        &mut self,
        n: usize,
        record: impl Fn(usize) -> (u64, View<'k, L>),
        mut f: impl FnMut(usize, Option<&mut V>) -> Option<V>,
    ) -> Result<()> {
        self.prepare(n, &record)?;
        for i in 0..n {
            let (hash, key) = record(i);
            let id = self.touch(hash, key);
            if self.cache.entry(id).1.value.is_some() {
                f(i, self.change(id).as_mut());
            } else if let Some(value) = f(i, None) {
                *self.change(id) = Some(value);
            }
        }
        Ok(())
    }

    /// Number of entries in the cache.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Number of entries in the cache that the database does not know yet.
    pub fn dirty(&self) -> usize {
        self.dirty.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Bytes of the cache, with what its values own.
    pub fn bytes(&self) -> usize {
        self.cache.bytes()
            + self.owned
            + self.dirty.capacity() * 8
            + self.groups.bytes()
            + self.writes.size_in_bytes()
    }

    /// An estimate of the number of entries in the whole database.
    pub fn len_estimate(&self) -> usize {
        let keys = self.db.db().property_int_value("rocksdb.estimate-num-keys");
        keys.ok().flatten().map_or(0, |n| n as usize)
    }

    /// The cached entry of a key, loaded if it was not there.
    pub(super) fn touch(&mut self, hash: u64, key: View<'_, L>) -> u32 {
        if self.crowded {
            self.uncrowd().unwrap_or_else(|e| fail(e));
        }
        match self.cache.find(hash, shorten::<L>(key)) {
            Some(id) => {
                self.cache.entry(id).1.hot.set(true);
                id
            }
            None => self.load(hash, key).unwrap_or_else(|e| fail(e)),
        }
    }

    /// Like `touch`; `None` if the key is known to have no value.
    fn find(&mut self, hash: u64, key: View<'_, L>) -> Option<u32> {
        if self.crowded {
            self.uncrowd().unwrap_or_else(|e| fail(e));
        }
        match self.cache.find(hash, shorten::<L>(key)) {
            Some(id) => {
                self.cache.entry(id).1.hot.set(true);
                Some(id)
            }
            None if self.is_absent(shorten::<L>(key)) => None,
            None => Some(self.load(hash, key).unwrap_or_else(|e| fail(e))),
        }
    }

    /// Whether a key has no value unless it is in the cache (G2).
    #[inline]
    fn is_absent(&self, key: View<'_, L>) -> bool {
        L::SEEN && self.groups.get(L::group(key)).whole
    }

    #[cold]
    fn load(&mut self, hash: u64, key: View<'_, L>) -> Result<u32> {
        self.make_room(1)?;
        if self.is_absent(shorten::<L>(key)) {
            return Ok(self.add(hash, key, None));
        }
        self.key_bytes.clear();
        append_key::<L>(
            self.prefix,
            hash,
            shorten::<L>(key),
            &mut self.key_scratch,
            &mut self.key_bytes,
        )?;
        let found = self.db.db().get_pinned(&self.key_bytes);
        let value = match found.map_err(|e| self.db.failed("reading", e))? {
            Some(bytes) => Some(self.value_scratch.decode::<V, V>(&bytes, V::from_view)?),
            None => None,
        };
        Ok(self.add(hash, key, value))
    }

    /// Adds a key that is not in the cache to it (G1).
    fn add(&mut self, hash: u64, key: View<'_, L>, value: Option<V>) -> u32 {
        let group = if L::GROUPED { L::group(shorten::<L>(key)) } else { 0 };
        let cached = Cached::new(value);
        self.owned += cached.owned();
        let id = self.cache.add(hash, key, cached);
        if L::GROUPED {
            self.groups.link(group, id);
        }
        id
    }

    /// Takes an entry out of the cache (G1); its bits are gone already.
    pub(super) fn discard(&mut self, id: u32) {
        if L::GROUPED {
            self.groups.unlink(L::group(self.cache.entry(id).0), id);
        }
        self.changed.take_if(|changed| *changed == id);
        self.owned -= self.cache.remove_id(id).owned();
    }

    /// Measures the value that was changed last (R5).
    #[inline]
    pub(super) fn settle(&mut self) {
        if let Some(id) = self.changed.take() {
            let (before, now) = self.cache.entry(id).1.measure();
            self.owned = self.owned + now - before;
            self.crowded |= now > before && self.owned > self.owned_max().max(self.stuck.owned);
        }
    }

    /// Evicts what grown values have no room for. Ids of other entries stay.
    #[cold]
    fn uncrowd(&mut self) -> Result<()> {
        self.crowded = false;
        self.make_room(0)
    }

    /// Loads the keys of a batch that are not in the cache, by one read.
    pub fn prepare<'k>(
        &mut self,
        n: usize,
        record: impl Fn(usize) -> (u64, View<'k, L>),
    ) -> Result<()> {
        for i in 0..n {
            let (hash, key) = record(i);
            self.want(hash, key)?;
        }
        self.fetch()
    }

    /// Takes note of a key that is needed soon; [`DiskTable::fetch`] loads what is missing.
    #[inline]
    pub fn want(&mut self, hash: u64, key: View<'_, L>) -> Result<()> {
        // Of a whole group nothing has to be read, whether the key is there or not.
        if self.is_absent(shorten::<L>(key)) {
            return Ok(());
        }
        match self.cache.find(hash, shorten::<L>(key)) {
            Some(id) => {
                self.cache.entry(id).1.hot.set(true);
                Ok(())
            }
            None => self.miss(hash, key),
        }
    }

    fn miss(&mut self, hash: u64, key: View<'_, L>) -> Result<()> {
        let start = self.wanted.bytes.len();
        append_key::<L>(
            self.prefix,
            hash,
            shorten::<L>(key),
            &mut self.key_scratch,
            &mut self.wanted.bytes,
        )?;
        let slot = L::Key::store(key, &mut self.wanted.heap);
        self.wanted.misses.push(Miss { hash, slot, bytes: start..self.wanted.bytes.len() });
        Ok(())
    }

    /// Loads the keys noted since the last call, by one read.
    pub fn fetch(&mut self) -> Result<()> {
        if self.wanted.misses.is_empty() {
            return Ok(());
        }
        let mut wanted = std::mem::take(&mut self.wanted);
        let done = self.load_all(&mut wanted);
        wanted.clear();
        self.wanted = wanted;
        done
    }

    fn load_all(&mut self, wanted: &mut Wanted<L::Key>) -> Result<()> {
        let Wanted { misses, bytes, heap } = wanted;
        misses.sort_unstable_by(|a, b| bytes[a.bytes.clone()].cmp(&bytes[b.bytes.clone()]));
        misses.dedup_by(|a, b| bytes[a.bytes.clone()] == bytes[b.bytes.clone()]);
        self.make_room(misses.len())?;
        let db = self.db.db().clone();
        let family = default_family(&db, &self.db)?;
        let keys = misses.iter().map(|m| &bytes[m.bytes.clone()]);
        let found = db.batched_multi_get_cf(&family, keys, true);
        for (miss, found) in misses.iter().zip(found) {
            let value = match found.map_err(|e| self.db.failed("reading", e))? {
                Some(bytes) => Some(self.value_scratch.decode::<V, V>(&bytes, V::from_view)?),
                None => None,
            };
            self.add(miss.hash, L::Key::load(&miss.slot, heap), value);
        }
        Ok(())
    }

    /// The value of a cached entry, to be changed: R3, and dirty from now on.
    pub(super) fn change(&mut self, id: u32) -> &mut Option<V> {
        if self.takes_pending(id) {
            self.write(id).unwrap_or_else(|e| fail(e));
        }
        set_bit(&mut self.dirty, id);
        if !V::PLAIN {
            self.settle();
            self.changed = Some(id);
        }
        &mut self.cache.unsaved_mut(id).value
    }

    /// Appends a cached entry to the writes.
    pub(super) fn write(&mut self, id: u32) -> Result<()> {
        let (key, cached) = self.cache.entry(id);
        let hash = L::hash(shorten::<L>(key));
        if L::SEEN {
            self.groups.change(L::group(shorten::<L>(key)), |group| group.stored = true);
        }
        self.key_bytes.clear();
        append_key::<L>(self.prefix, hash, key, &mut self.key_scratch, &mut self.key_bytes)?;
        match &cached.value {
            Some(value) => {
                let bytes = self.value_scratch.encode::<V>(value.view())?;
                self.writes.put(&self.key_bytes, bytes);
            }
            None => self.writes.delete(&self.key_bytes),
        }
        if self.writes.size_in_bytes() >= WRITE_BYTES { self.hand_over() } else { Ok(()) }
    }

    /// Hands the writes to the database.
    pub(super) fn hand_over(&mut self) -> Result<()> {
        self.db.write(&mut self.writes)
    }

    /// Entries that the cache may have, by its share of the memory.
    pub(super) fn capacity(&self) -> usize {
        // An entry, its index slots at load 0.25 to 0.5, its bits, its links.
        let links = if L::GROUPED { 8 } else { 0 };
        let entry = size_of::<(<L::Key as Key>::Slot, Cached<V>)>() + 24 + links;
        let by_size = self.db.memory().cache_share() / entry;
        by_size.min(self.most).max(self.db.memory().entries_min())
    }

    /// Bytes that the cached values may own: what the table leaves of its share, but a part of it at
    /// least, as a table that has grown does not get smaller again.
    fn owned_max(&self) -> usize {
        match self.db.memory().cache_share() {
            // Entries are counted then, see `RocksOptions`.
            0 => usize::MAX,
            share => share.saturating_sub(self.cache.bytes()).max(share / OWNED_SHARE_MIN),
        }
    }

    /// Evicts entries until `n` more fit (and some besides), as far as R3 lets it.
    fn make_room(&mut self, n: usize) -> Result<()> {
        self.settle();
        if self.cache.bytes() > self.db.memory().cache_share() {
            // Keys that do not fit their slots take more than was thought.
            self.most = self.most.min(self.cache.len());
        }
        let (capacity, owned_max) = (self.capacity(), self.owned_max());
        if self.cache.len() + n <= capacity && self.owned <= owned_max {
            return self.hand_over();
        }
        let held = self.is_held();
        if held && self.cache.len() + n <= self.stuck.entries && self.owned <= self.stuck.owned {
            return self.hand_over();
        }
        let mut limit = self.cache.len();
        if limit + n > capacity {
            limit = capacity.saturating_sub(n.max(EVICT_MIN.min(capacity / 4)));
        }
        let mut victims = std::mem::take(&mut self.victims);
        let mut hand = self.hand;
        // Two rounds: the first may find all entries hot.
        let mut budget = 2 * self.cache.len() + 128;
        while (self.cache.len() > limit || self.owned > owned_max) && budget > 0 {
            let mut entries = self.cache.len().saturating_sub(limit);
            let mut owned = self.owned.saturating_sub(owned_max);
            victims.clear();
            let mut looked = 1;
            let done = self.cache.scan_ids(&mut hand, 64, |id, _, cached| {
                looked += 1;
                let kept = held && get_bit(&self.dirty, id) && !self.is_pending(id);
                let helps = entries > 0 || owned > 0 && cached.owned() > 0;
                if !cached.hot.replace(false) && !kept && helps {
                    victims.push(id);
                    entries = entries.saturating_sub(1);
                    owned = owned.saturating_sub(cached.owned());
                }
            });
            if done {
                hand = Cursor::default();
            }
            budget = budget.saturating_sub(looked);
            for &id in &victims {
                self.evict(id)?;
            }
        }
        self.hand = hand;
        self.victims = victims;
        self.stuck = Stuck::default();
        if held && (self.cache.len() > limit || self.owned > owned_max) {
            let (entries, share) = (self.cache.len() + n, self.db.memory().cache_share());
            self.stuck.entries = entries + entries / STUCK_SHARE + EVICT_MIN;
            self.stuck.owned = self.owned + share / STUCK_SHARE;
        }
        self.hand_over()
    }

    fn evict(&mut self, id: u32) -> Result<()> {
        let mut retired = false;
        if L::SEEN {
            let group = L::group(self.cache.entry(id).0);
            self.groups.change(group, |group| {
                group.whole = false;
                retired = group.retired;
            });
        }
        let pending = self.takes_pending(id);
        if take_bit(&mut self.dirty, id) && (pending || !retired) {
            self.write(id)?;
        }
        self.discard(id);
        Ok(())
    }
}

impl<L: Layout, V: Record> Drop for DiskTable<L, V> {
    fn drop(&mut self) {
        self.db.memory().close_table();
    }
}

/// The default column family.
pub(super) fn default_family<'d>(
    db: &'d rocksdb::DB,
    database: &Database,
) -> Result<ColumnFamilyRef<'d>> {
    db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME)
        .ok_or_else(|| Error::attempt(format!("{database:?} has no default column family")))
}

/// Appends the bytes of a key, which has this hash.
pub(super) fn append_key<L: Layout>(
    table: TablePrefix,
    hash: u64,
    key: View<'_, L>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<()> {
    let (route, namespace) = (L::route(hash, shorten::<L>(key)), L::namespace(shorten::<L>(key)));
    let archive = scratch.encode::<L::Key>(key)?;
    out.extend_from_slice(&head(table, namespace, route));
    out.extend_from_slice(archive);
    Ok(())
}

/// An empty cache.
fn cache<L: Layout, V: Record>() -> HeapTable<L::Key, Cached<V>> {
    if L::PLAIN {
        return HeapTable::new();
    }
    HeapTable::with_hashes(Hashes {
        table: |key| L::hash(key),
        route: |key| L::route(L::hash(shorten::<L>(key)), key),
    })
}

/// A view of a key with a shorter life.
#[inline(always)]
pub(super) fn shorten<'short, 'long: 'short, L: Layout>(key: View<'long, L>) -> View<'short, L> {
    <L::Key as Record>::shorten(key)
}

/// Takes a table's name; what its keys begin with.
pub(crate) fn claim(db: &Database, name: &str) -> Result<TablePrefix> {
    let table = hash_bytes(name.as_bytes());
    if !db.claim(table) {
        return Err(Error::job(format!(
            "state {name:?} is open in {db:?} already: give each state its own name"
        )));
    }
    Ok(table.to_be_bytes())
}
