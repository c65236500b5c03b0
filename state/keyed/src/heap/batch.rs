//! Updates for the records of a batch, with the memory that they need asked for ahead.
//!
//! Where entries lie inside the index, [`HeapTable::each`] asks for the place of a record's key some
//! records ahead. Elsewhere it goes over a block of records three times: ask for the index slots;
//! read them and ask for the entries; update. The last walk trusts the id that the second one found
//! if its key matches, and looks the key up otherwise. Callers make a key only for the update.

#![expect(unsafe_code, reason = "ids from the index are live (H1)")]

use super::HeapTable;
use super::flat::Spot;
use super::slab::Entry;
use super::store::Store;
use std::ops::Range;
use tidemill_base::{Key, Record};

/// Smaller tables live in a cache that is near the CPU, whatever else a slot does: asking ahead would
/// cost more than it saves. (w2 with 400 KiB: 8% of its time saved.)
const CACHED_BYTES: usize = if cfg!(test) { 2_000 } else { 128 << 10 };

/// No guess.
const NONE: u32 = u32::MAX;

/// Records whose entries are asked for at once.
const BLOCK: usize = 64;

/// How many records ahead the places in a flat table are asked for.
const AHEAD: usize = 24;

/// Where the key of a record probably is: see [`HeapTable::each`].
pub struct Aim<'t, K: Key, V: Record> {
    table: &'t mut HeapTable<K, V>,
    hash: u64,
    guess: u32,
}

/// What there is for a key.
pub enum Found<'t, K: Key, V: Record> {
    /// Its value, to be changed.
    Value(&'t mut V),
    /// Nothing.
    Vacant(Vacant<'t, K, V>),
}

/// A key that has no value yet.
pub struct Vacant<'t, K: Key, V: Record> {
    table: &'t mut HeapTable<K, V>,
    hash: u64,
}

impl<'t, K: Key, V: Record> Aim<'t, K, V> {
    /// The value of `key`, whose hash is the one that was given for this record.
    #[inline(always)]
    pub fn find(self, key: K::View<'_>) -> Found<'t, K, V> {
        let Aim { table, hash, guess } = self;
        let found = match table.confirm(guess, K::shorten(key)) {
            Some(spot) => Some(spot),
            None => table.spot(hash, key),
        };
        match found {
            Some(spot) => Found::Value(table.change_spot(spot)),
            None => Found::Vacant(Vacant { table, hash }),
        }
    }
}

impl<'t, K: Key, V: Record> Vacant<'t, K, V> {
    /// Gives the key, the one that was looked for, a value.
    #[inline]
    pub fn insert(self, key: K::View<'_>, value: V) -> &'t mut V {
        let id = self.table.add(self.hash, key, value);
        self.table.change(id)
    }
}

impl<K: Key, V: Record> HeapTable<K, V> {
    /// Whether the table is so large that asking for memory ahead pays.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.len() * (size_of::<K::Slot>() + size_of::<V>() + 16) > CACHED_BYTES
    }

    /// For each `i` of `range`, in order: calls `f(i, aim)`, where `hash(i)` is the hash of its key,
    /// and the aim finds the key's value. Stops behind an `i` for which `f` says false; returns
    /// where it stopped, or the end of the range.
    #[inline(always)]
    pub fn each(
        &mut self,
        range: Range<usize>,
        hash: impl Fn(usize) -> u64,
        mut f: impl FnMut(usize, Aim<'_, K, V>) -> bool,
    ) -> usize {
        let far = self.is_large();
        let flat = self.store.is_flat();
        if flat && far {
            range.clone().take(AHEAD).for_each(|i| self.prefetch_index(hash(i)));
        }
        let mut guesses = [NONE; BLOCK];
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + BLOCK);
            if !flat {
                self.aim(start..end, far, &hash, &mut guesses);
            }
            for (&guess, i) in guesses.iter().zip(start..end) {
                if flat && far && i + AHEAD < range.end {
                    self.prefetch_index(hash(i + AHEAD));
                }
                if !f(i, Aim { table: self, hash: hash(i), guess }) {
                    return i + 1;
                }
            }
            start = end;
        }
        start
    }

    /// Finds what the records of a block most likely need.
    #[inline(always)]
    fn aim(
        &self,
        block: Range<usize>,
        far: bool,
        hash: &impl Fn(usize) -> u64,
        guesses: &mut [u32; BLOCK],
    ) {
        if far {
            block.clone().for_each(|i| self.prefetch_index(hash(i)));
        }
        for (guess, i) in guesses.iter_mut().zip(block) {
            *guess = self.ask(hash(i));
        }
    }

    /// For each `i` in `0..n`: `update(i, value of the key)`, where `record(i)` gives hash and
    /// key, and `init(i)` the value of a new key. In order.
    #[inline(always)]
    pub fn for_batch<'k>(
        &mut self,
        n: usize,
        record: impl Fn(usize) -> (u64, K::View<'k>),
        mut init: impl FnMut(usize) -> V,
        mut update: impl FnMut(usize, &mut V),
    ) {
        self.fold_batch(n, record, |i, value| match value {
            Some(value) => {
                update(i, value);
                None
            }
            None => {
                let mut value = init(i);
                update(i, &mut value);
                Some(value)
            }
        });
    }

    /// For each `i` in `0..n`: calls `f(i, value of the key if there is one)`, where `record(i)`
    /// gives hash and key. What `f` returns for a key without value becomes its value; for others
    /// it is dropped. In order.
    #[inline(always)]
    pub fn fold_batch<'k>(
        &mut self,
        n: usize,
        record: impl Fn(usize) -> (u64, K::View<'k>),
        mut f: impl FnMut(usize, Option<&mut V>) -> Option<V>,
    ) {
        let hash = |i| record(i).0;
        self.each(0..n, hash, |i, aim| {
            let (_, key) = record(i);
            match aim.find(K::shorten(key)) {
                Found::Value(value) => {
                    f(i, Some(value));
                }
                Found::Vacant(place) => {
                    if let Some(value) = f(i, None) {
                        place.insert(K::shorten(key), value);
                    }
                }
            }
            true
        });
    }

    /// The entry that probably has this hash, its memory asked for; none in a flat table.
    #[inline(always)]
    pub(super) fn ask(&self, hash: u64) -> u32 {
        let Store::Linked(index, slab) = &self.store else { return NONE };
        match index.guess(hash) {
            Some(id) => {
                let entry = slab.at(id);
                crate::prefetch(entry);
                let bytes = size_of::<Entry<K::Slot, V>>();
                if !bytes.is_power_of_two() || bytes > 64 {
                    crate::prefetch(entry.wrapping_byte_add(bytes.saturating_sub(1)));
                }
                id
            }
            None => NONE,
        }
    }

    /// The guess, if it is the entry of `key`. Nothing has been removed since it was made.
    #[inline(always)]
    fn confirm(&self, guess: u32, key: K::View<'_>) -> Option<Spot<K::Slot, V>> {
        let Store::Linked(_, slab) = &self.store else { return None };
        if guess == NONE {
            return None;
        }
        // SAFETY: H1, the guess came from the index, and only updates and inserts have happened
        // since (an `Aim` can do nothing else): entries stay.
        let found = K::matches(unsafe { &slab.get(guess).key }, key, &self.keys);
        found.then(|| Store::<K, V>::spot(slab, guess))
    }
}
