//! Updates for the records of a batch, with the memory that they need asked for ahead.
//!
//! Three stages: ask for the index slots; read them and ask for the entry; update. The last stage
//! trusts the id that the second one found if its key matches, and looks the key up otherwise.
//! [`HeapTable::each`] runs them a block of records at a time, and its caller makes the key only
//! in the last stage; [`HeapTable::fold_batch`] runs them at a distance.

#![expect(unsafe_code, reason = "ids from the index are live (H1)")]

use super::HeapTable;
use std::ops::Range;
use tidemill_base::{Key, Record};

/// Records between two stages.
const DISTANCE: usize = 16;
const RING: usize = 32;
const _: () = assert!(RING >= 2 * DISTANCE && RING.is_power_of_two());

/// Smaller tables live in the CPU's caches: asking ahead would cost more than it saves.
const CACHED_BYTES: usize = if cfg!(test) { 2_000 } else { 1 << 20 };

/// No guess.
const NONE: u32 = u32::MAX;

/// Records of [`HeapTable::each`] whose entries are asked for at once.
const BLOCK: usize = 64;

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
            Some(id) => Some(id),
            None => table.find(hash, key),
        };
        match found {
            Some(id) => Found::Value(table.change(id)),
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
        self.slab.len() * (size_of::<K::Slot>() + size_of::<V>() + 16) > CACHED_BYTES
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
        let mut guesses = [NONE; BLOCK];
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + BLOCK);
            if far {
                for i in start..end {
                    self.prefetch_index(hash(i));
                }
            }
            for (guess, i) in guesses.iter_mut().zip(start..end) {
                *guess = self.ask(hash(i));
            }
            for (&guess, i) in guesses.iter().zip(start..end) {
                if !f(i, Aim { table: self, hash: hash(i), guess }) {
                    return i + 1;
                }
            }
            start = end;
        }
        start
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
        if !self.is_large() {
            for i in 0..n {
                let (hash, key) = record(i);
                let found = self.find(hash, K::shorten(key));
                self.fold(found, hash, key, |value| f(i, value));
            }
            return;
        }
        let mut guesses = [NONE; RING];
        for i in 0..n.min(2 * DISTANCE) {
            self.prefetch_index(record(i).0);
        }
        for i in 0..n.min(DISTANCE) {
            guesses[i % RING] = self.ask(record(i).0);
        }
        for i in 0..n {
            if i + 2 * DISTANCE < n {
                self.prefetch_index(record(i + 2 * DISTANCE).0);
            }
            if i + DISTANCE < n {
                guesses[(i + DISTANCE) % RING] = self.ask(record(i + DISTANCE).0);
            }
            let (hash, key) = record(i);
            let found = match self.confirm(guesses[i % RING], K::shorten(key)) {
                Some(id) => Some(id),
                None => self.find(hash, K::shorten(key)),
            };
            self.fold(found, hash, key, |value| f(i, value));
        }
    }

    #[inline(always)]
    fn fold(
        &mut self,
        found: Option<u32>,
        hash: u64,
        key: K::View<'_>,
        f: impl FnOnce(Option<&mut V>) -> Option<V>,
    ) {
        match found {
            Some(id) => {
                f(Some(self.change(id)));
            }
            None => {
                if let Some(value) = f(None) {
                    self.add(hash, key, value);
                }
            }
        }
    }

    /// The entry that probably has this hash, its memory asked for.
    #[inline(always)]
    fn ask(&self, hash: u64) -> u32 {
        match self.index.guess(hash) {
            Some(id) => {
                self.prefetch_id(id);
                id
            }
            None => NONE,
        }
    }

    /// The guess, if it is the entry of `key`. Nothing has been removed since it was made.
    #[inline(always)]
    fn confirm(&self, guess: u32, key: K::View<'_>) -> Option<u32> {
        if guess == NONE {
            return None;
        }
        // SAFETY: H1, the guess came from the index, and only updates and inserts have happened
        // since (an `Aim` can do nothing else): entries stay.
        K::matches(unsafe { &self.slab.get(guess).key }, key, &self.keys).then_some(guess)
    }
}
