//! A table in RocksDB with a write-back cache.
//!
//! The cache is a heap table of values that are present or known to be absent. Reads go through
//! it; changes stay in it until eviction (a clock over its entries) or a snapshot writes them.
//! [`RocksTable::prepare`] loads what a batch of records lacks by one batched read.
//!
//! Invariants
//!   R1  An entry whose `dirty` bit is not set equals what the database holds, `writes` applied.
//!   R2  `writes` is handed over before the database is read.
//!   R3  While a flush is under way (snapshot.rs), `pending` has the bits of entries that were
//!       dirty when it began and have not been written; such an entry is written before it is
//!       changed. Entries changed since are not written at all until it has ended.
//!
//! A read or write that fails outside of `prepare` panics with the database's message: callers
//! are in user code, where the task turns panics into failures of the attempt.

use super::cached::Cached;
use super::codec::{KEY_HEAD, PREFIX, Scratch, prefix};
use super::database::{Database, WRITE_BYTES};
use super::retain::Walk;
use super::snapshot::Progress;
use crate::heap::{Cursor, HeapTable};
use rocksdb::{ColumnFamilyRef, DEFAULT_COLUMN_FAMILY_NAME, WriteBatch};
use std::ops::Range;
use tidemill_base::hash::hash_bytes;
use tidemill_base::key::KeyHeap;
use tidemill_base::{Error, Key, Record, Result};

/// Least number of cached entries.
const CAPACITY_MIN: usize = if cfg!(test) { 8 } else { 1024 };

/// Entries that are evicted at once, at least.
const EVICT_MIN: usize = if cfg!(test) { 2 } else { 64 };

/// A table in RocksDB.
pub struct RocksTable<K: Key, V: Record> {
    pub(super) db: Database,
    pub(super) prefix: [u8; PREFIX],
    pub(super) cache: HeapTable<K, Cached<V>>,
    /// By id in the cache: the database does not know the value yet.
    pub(super) dirty: Vec<u64>,
    hand: Cursor,
    victims: Vec<u32>,
    pub(super) writes: WriteBatch,
    pub(super) key_scratch: Scratch,
    pub(super) value_scratch: Scratch,
    key_bytes: Vec<u8>,
    wanted: Wanted<K>,
    pub(super) snapshot: Option<Progress<K, V>>,
    pub(super) walk: Walk<K>,
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
fn fail(error: Error) -> ! {
    panic!("{error}")
}

pub(super) fn get_bit(bits: &[u64], id: u32) -> bool {
    bits.get(id as usize / 64).is_some_and(|w| w >> (id % 64) & 1 == 1)
}

/// Clears a bit; whether it was set.
pub(super) fn take_bit(bits: &mut [u64], id: u32) -> bool {
    let Some(word) = bits.get_mut(id as usize / 64) else { return false };
    let set = *word >> (id % 64) & 1 == 1;
    *word &= !(1 << (id % 64));
    set
}

fn set_bit(bits: &mut Vec<u64>, id: u32) {
    let word = id as usize / 64;
    if word >= bits.len() {
        bits.resize(word + 1, 0);
    }
    bits[word] |= 1 << (id % 64);
}

impl<K: Key, V: Record> RocksTable<K, V> {
    /// The table `name` (unique in the database; part of the checkpoint) in `namespace`. Fails if
    /// the name was opened before.
    pub fn open(db: &Database, name: &str, namespace: i64) -> Result<Self> {
        let table = hash_bytes(name.as_bytes());
        if !db.claim(table) {
            return Err(Error::job(format!(
                "state {name:?} is open in {db:?} already: give each state its own name"
            )));
        }
        db.memory().open_table();
        Ok(RocksTable {
            db: db.clone(),
            prefix: prefix(table, namespace),
            cache: HeapTable::linked(),
            dirty: Vec::new(),
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
    pub fn get(&mut self, hash: u64, key: K::View<'_>) -> Option<&V> {
        let id = self.touch(hash, key);
        self.cache.entry(id).1.value.as_ref()
    }

    /// The value of a key, if it is in the cache.
    pub fn peek(&self, hash: u64, key: K::View<'_>) -> Option<&V> {
        self.cache.get(hash, key)?.value.as_ref()
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, hash: u64, key: K::View<'_>) -> Option<&mut V> {
        let id = self.touch(hash, key);
        self.cache.entry(id).1.value.as_ref()?;
        self.change(id).as_mut()
    }

    /// The value of a key, to be changed; `init` makes it if there is none.
    pub fn upsert(&mut self, hash: u64, key: K::View<'_>, init: impl FnOnce() -> V) -> &mut V {
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
    pub fn insert(&mut self, hash: u64, key: K::View<'_>, value: V) -> Option<V> {
        let id = self.touch(hash, key);
        self.change(id).replace(value)
    }

    /// Removes a key; returns its value.
    pub fn remove(&mut self, hash: u64, key: K::View<'_>) -> Option<V> {
        let id = self.touch(hash, key);
        match self.cache.entry(id).1.value {
            Some(_) => self.change(id).take(),
            None => None,
        }
    }

    /// See [`HeapTable::fold_batch`]; what the batch lacks is read first, at once.
    pub fn fold_batch<'k>(
        &mut self,
        n: usize,
        record: impl Fn(usize) -> (u64, K::View<'k>),
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

    /// Bytes of the cache.
    pub fn bytes(&self) -> usize {
        self.cache.bytes() + self.dirty.capacity() * 8 + self.writes.size_in_bytes()
    }

    /// An estimate of the number of entries in the whole database.
    pub fn len_estimate(&self) -> usize {
        let keys = self.db.db().property_int_value("rocksdb.estimate-num-keys");
        keys.ok().flatten().map_or(0, |n| n as usize)
    }

    /// The cached entry of a key, loaded if it was not there.
    pub(super) fn touch(&mut self, hash: u64, key: K::View<'_>) -> u32 {
        match self.cache.find(hash, K::shorten(key)) {
            Some(id) => {
                self.cache.entry(id).1.hot.set(true);
                id
            }
            None => self.load(hash, key).unwrap_or_else(|e| fail(e)),
        }
    }

    #[cold]
    fn load(&mut self, hash: u64, key: K::View<'_>) -> Result<u32> {
        self.make_room(1)?;
        self.key_bytes.clear();
        append_key::<K>(
            &self.prefix,
            hash,
            K::shorten(key),
            &mut self.key_scratch,
            &mut self.key_bytes,
        )?;
        let found = self.db.db().get_pinned(&self.key_bytes);
        let value = match found.map_err(|e| self.db.failed("reading", e))? {
            Some(bytes) => Some(self.value_scratch.decode::<V, V>(&bytes, V::from_view)?),
            None => None,
        };
        Ok(self.cache.add(hash, key, Cached::new(value)))
    }

    /// Loads the keys of a batch that are not in the cache, by one read.
    pub fn prepare<'k>(
        &mut self,
        n: usize,
        record: impl Fn(usize) -> (u64, K::View<'k>),
    ) -> Result<()> {
        for i in 0..n {
            let (hash, key) = record(i);
            self.want(hash, key)?;
        }
        self.fetch()
    }

    /// Takes note of a key that is needed soon; [`RocksTable::fetch`] loads what is missing.
    #[inline]
    pub fn want(&mut self, hash: u64, key: K::View<'_>) -> Result<()> {
        match self.cache.find(hash, K::shorten(key)) {
            Some(id) => {
                self.cache.entry(id).1.hot.set(true);
                Ok(())
            }
            None => self.miss(hash, key),
        }
    }

    fn miss(&mut self, hash: u64, key: K::View<'_>) -> Result<()> {
        let start = self.wanted.bytes.len();
        append_key::<K>(
            &self.prefix,
            hash,
            K::shorten(key),
            &mut self.key_scratch,
            &mut self.wanted.bytes,
        )?;
        let slot = K::store(key, &mut self.wanted.heap);
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

    fn load_all(&mut self, wanted: &mut Wanted<K>) -> Result<()> {
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
            self.cache.add(miss.hash, K::load(&miss.slot, heap), Cached::new(value));
        }
        Ok(())
    }

    /// The value of a cached entry, to be changed: R3, and dirty from now on.
    pub(super) fn change(&mut self, id: u32) -> &mut Option<V> {
        if self.takes_pending(id) {
            self.write(id).unwrap_or_else(|e| fail(e));
        }
        set_bit(&mut self.dirty, id);
        &mut self.cache.unsaved_mut(id).value
    }

    /// Appends a cached entry to the writes.
    pub(super) fn write(&mut self, id: u32) -> Result<()> {
        let (key, cached) = self.cache.entry(id);
        let hash = K::hash(K::shorten(key));
        self.key_bytes.clear();
        append_key::<K>(&self.prefix, hash, key, &mut self.key_scratch, &mut self.key_bytes)?;
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
    fn capacity(&self) -> usize {
        // An entry, its index slots at load 0.25 to 0.5, its bits.
        let entry = size_of::<(K::Slot, Cached<V>)>() + 24;
        (self.db.memory().cache_share() / entry).max(CAPACITY_MIN)
    }

    /// Evicts entries until `n` more fit (and some besides), as far as R3 lets it.
    fn make_room(&mut self, n: usize) -> Result<()> {
        let capacity = self.capacity();
        if self.cache.len() + n <= capacity {
            return self.hand_over();
        }
        let limit = capacity.saturating_sub(n.max(EVICT_MIN));
        let held = self.is_held();
        let mut victims = std::mem::take(&mut self.victims);
        let mut hand = self.hand;
        // Two rounds: the first may find all entries hot.
        let mut budget = 2 * self.cache.len() + 128;
        while self.cache.len() > limit && budget > 0 {
            let excess = self.cache.len() - limit;
            victims.clear();
            let mut looked = 1;
            let done = self.cache.scan_ids(&mut hand, 64, |id, _, cached| {
                looked += 1;
                let kept = held && get_bit(&self.dirty, id) && !self.is_pending(id);
                if !cached.hot.replace(false) && !kept && victims.len() < excess {
                    victims.push(id);
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
        self.hand_over()
    }

    fn evict(&mut self, id: u32) -> Result<()> {
        self.takes_pending(id);
        if take_bit(&mut self.dirty, id) {
            self.write(id)?;
        }
        self.cache.remove_id(id);
        Ok(())
    }
}

impl<K: Key, V: Record> Drop for RocksTable<K, V> {
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

/// Appends the bytes of a key.
pub(super) fn append_key<K: Key>(
    prefix: &[u8; PREFIX],
    hash: u64,
    key: K::View<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<()> {
    const { assert!(KEY_HEAD == PREFIX + 8) };
    let archive = scratch.encode::<K>(key)?;
    out.extend_from_slice(prefix);
    out.extend_from_slice(&hash.to_be_bytes());
    out.extend_from_slice(archive);
    Ok(())
}
