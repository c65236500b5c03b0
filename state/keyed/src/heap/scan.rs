//! Walks over a table in bounded steps.

#![expect(unsafe_code, reason = "live ids are read without a second check")]

use super::{Bits, HeapTable};
use tidemill_base::{Key, Record};

/// Where a walk stands. Entries that are there from its beginning to its end are met once;
/// entries added or removed meanwhile may be met or not. Where a compact table is added to or
/// removed from meanwhile, other entries may change their place: they may be met twice or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// Ids in steps of 64.
    word: usize,
    /// Of those of the word, the ids below have been met.
    bit: u32,
}

impl Cursor {
    /// Of the live ids of the word at hand, those that have not been met.
    #[inline(always)]
    fn rest(&self, live: u64) -> Bits {
        Bits(live & (u64::MAX << self.bit))
    }

    #[inline(always)]
    fn next_word(&mut self) {
        (self.word, self.bit) = (self.word + 1, 0);
    }
}

/// Index partitions that one drain step empties; each is at most 512 KiB.
const CLEAR_PARTS: usize = 2;

impl<K: Key, V: Record> HeapTable<K, V> {
    /// Calls `f` with the ids of at most `max` entries (at least one); true at the end.
    /// Liveness is read for 64 ids at a time; an empty word counts as an entry.
    #[inline(always)]
    fn walk(&mut self, cursor: &mut Cursor, max: usize, mut f: impl FnMut(&mut Self, u32)) -> bool {
        let mut left = max.max(1);
        while left > 0 {
            let Some(&live) = self.store.live().get(cursor.word) else { return true };
            for bit in cursor.rest(live) {
                if left == 0 {
                    cursor.bit = bit;
                    return false;
                }
                f(self, cursor.word as u32 * 64 + bit);
                left -= 1;
            }
            cursor.next_word();
            left = left.saturating_sub(1);
        }
        cursor.word >= self.store.live().len()
    }

    /// Shows at most `max_entries` further entries to `f`; true when all have been shown.
    pub fn scan(
        &mut self,
        cursor: &mut Cursor,
        max_entries: usize,
        mut f: impl FnMut(K::View<'_>, &mut V),
    ) -> bool {
        self.walk(cursor, max_entries, |table, id| {
            if table.snapshot.is_some() {
                table.save(id);
            }
            // SAFETY: `walk` gives live ids; nothing is removed between them.
            let entry = unsafe { table.store.get_mut(id) };
            f(K::load(&entry.key, &table.keys), &mut entry.value);
        })
    }

    /// Like [`HeapTable::scan`], for reading; `f` gets the hash, too.
    pub fn scan_ref(
        &self,
        cursor: &mut Cursor,
        max_entries: usize,
        mut f: impl FnMut(u64, K::View<'_>, &V),
    ) -> bool {
        self.scan_ids(cursor, max_entries, |_, key, value| {
            f(self.table_hash(K::shorten(key)), key, value);
        })
    }

    /// Like [`HeapTable::scan_ref`]; `f` gets the entry's id first.
    #[inline(always)]
    pub(crate) fn scan_ids(
        &self,
        cursor: &mut Cursor,
        max_entries: usize,
        mut f: impl FnMut(u32, K::View<'_>, &V),
    ) -> bool {
        let mut left = max_entries.max(1);
        while left > 0 {
            let Some(&live) = self.store.live().get(cursor.word) else { return true };
            for bit in cursor.rest(live) {
                if left == 0 {
                    cursor.bit = bit;
                    return false;
                }
                let id = cursor.word as u32 * 64 + bit;
                // SAFETY: the bit says that the entry is live.
                let entry = unsafe { self.store.get(id) };
                f(id, K::load(&entry.key, &self.keys), &entry.value);
                left -= 1;
            }
            cursor.next_word();
            left = left.saturating_sub(1);
        }
        cursor.word >= self.store.live().len()
    }

    /// Like [`HeapTable::scan`]; entries for which `keep` is false are removed.
    pub fn retain_scan(
        &mut self,
        cursor: &mut Cursor,
        max_entries: usize,
        mut keep: impl FnMut(K::View<'_>, &V) -> bool,
    ) -> bool {
        self.edit_scan(cursor, max_entries, |key, value| !keep(key, value), |_| false)
    }

    /// Like [`HeapTable::scan`]; entries that `concerns` picks are changed by `edit`, and removed
    /// where that returns false.
    pub(crate) fn edit_scan(
        &mut self,
        cursor: &mut Cursor,
        max_entries: usize,
        mut concerns: impl FnMut(K::View<'_>, &V) -> bool,
        mut edit: impl FnMut(&mut V) -> bool,
    ) -> bool {
        let mut left = max_entries.max(1);
        while left > 0 {
            let Some(&live) = self.store.live().get(cursor.word) else { return true };
            left -= 1;
            let Some(bit) = cursor.rest(live).next() else {
                cursor.next_word();
                continue;
            };
            let id = cursor.word as u32 * 64 + bit;
            // SAFETY: the bit says that the entry is live.
            let entry = unsafe { self.store.get(id) };
            let removed =
                concerns(K::load(&entry.key, &self.keys), &entry.value) && !edit(self.change(id));
            if removed {
                self.remove_id(id);
            }
            // In a removed entry's place there may be another one now, which is next.
            cursor.bit = bit + u32::from(!(removed && self.store.is_live(id)));
            if cursor.bit == 64 {
                cursor.next_word();
            }
        }
        cursor.word >= self.store.live().len()
    }

    /// Takes at most `max_entries` entries out of the table; true when it is empty and clear, its
    /// memory ready for reuse. From the first call to the last, only `drain_scan`, `len` and
    /// snapshot calls are allowed: the index is emptied at the end, in steps, not entry by entry.
    pub fn drain_scan(
        &mut self,
        cursor: &mut Cursor,
        max_entries: usize,
        mut f: impl FnMut(K::View<'_>, V),
    ) -> bool {
        let drained = self.walk(cursor, max_entries, |table, id| {
            if table.snapshot.is_some() {
                table.save(id);
            }
            let entry = table.store.drain(id);
            f(K::load(&entry.key, &table.keys), entry.value);
        });
        drained && self.clear_step(CLEAR_PARTS)
    }

    /// Forgets all entries and keeps the memory, in bounded steps (unless values own memory);
    /// true when done. From the first call to the last, the table may not be used otherwise.
    pub(crate) fn clear_step(&mut self, parts: usize) -> bool {
        self.save_all();
        self.store.clear();
        self.keys.clear();
        self.store.clear_step(parts)
    }
}
