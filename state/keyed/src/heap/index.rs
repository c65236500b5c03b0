//! The index of a table: an extendible hash from 32 hash bits to entry ids.
//!
//! ```text
//!  hash   63 ........ 32 31 ............ 16 15 ............ 0
//!         key group      directory          home in a partition
//!  slot   63 ........ 32 31 ........ 0
//!         hash bits 31-0 entry id + 1        (0 = empty)
//! ```
//! A partition is a linear-probing array of at most 2^16 slots, at most half full. A small table
//! is one partition that doubles; a full-sized one splits by the next directory bit, so that
//! growing never moves more than one partition, and never looks at entries: a slot carries the
//! hash bits that it needs. Both ways keep the order of homes, so they run front to back.
//!
//! Invariants
//!   I1  `directory.len() == 1 << depth`; entry `i` refers to the partition that holds the hashes
//!       whose directory bits end in `i`, and copies its address and mask.
//!   I2  A partition's slots are `mask + 1` initialised words, a power of two.
//!   I3  Every partition has an empty slot, so probing ends.
//!   I4  Between the home of a slot and the slot there is no empty slot.

#![expect(unsafe_code, reason = "slots are read without bounds checks")]

use crate::arena::Arena;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::hint::select_unpredictable;
use std::ptr::NonNull;

const FIRST_SLOTS: usize = 16;
const PART_BITS: u32 = 16;
const PART_SLOTS: usize = 1 << PART_BITS;
/// Beyond this the directory bits run into the key-group bits.
const DEPTH_MAX: u32 = 32 - PART_BITS;

/// How a lookup finds a partition.
#[derive(Clone, Copy, Debug)]
struct Part {
    slots: NonNull<u64>,
    mask: u32,
    id: u32,
}

/// What growing needs to know about a partition.
#[derive(Debug)]
struct Meta {
    part: Part,
    used: usize,
    depth: u32,
}

/// Hash bits to entry ids.
#[derive(Debug)]
pub(crate) struct Index {
    directory: Vec<Part>,
    depth: u32,
    parts: Vec<Meta>,
    arena: Arena,
    /// Partitions below this are known to be empty while the index is being cleared.
    cleared: usize,
}

#[inline(always)]
fn pack(hash: u64, id: u32) -> u64 {
    (hash << 32) | (u64::from(id) + 1)
}

#[inline(always)]
fn id_of(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

fn small(slots: usize) -> Layout {
    Layout::array::<u64>(slots).unwrap_or(Layout::new::<u64>())
}

impl Part {
    /// The slot at `at`, wrapped around.
    #[inline(always)]
    fn get(&self, at: usize) -> u64 {
        // SAFETY: I2, the position is masked.
        unsafe { *self.slots.as_ptr().add(at & self.mask as usize) }
    }

    #[inline(always)]
    fn set(&mut self, at: usize, slot: u64) {
        // SAFETY: I2, the position is masked; the index is borrowed exclusively by all callers.
        unsafe { *self.slots.as_ptr().add(at & self.mask as usize) = slot };
    }

    fn len(&self) -> usize {
        self.mask as usize + 1
    }

    /// Puts a slot into the first free place from its home on.
    fn place(&mut self, slot: u64) {
        let mut at = (slot >> 32) as usize;
        while self.get(at) != 0 {
            at += 1;
        }
        self.set(at, slot);
    }

    fn wipe(&mut self) {
        // SAFETY: I2.
        unsafe { self.slots.as_ptr().write_bytes(0, self.len()) };
    }
}

impl Index {
    pub(crate) fn new() -> Self {
        let mut index = Index {
            directory: Vec::new(),
            depth: 0,
            parts: Vec::new(),
            arena: Arena::default(),
            cleared: 0,
        };
        let part = index.allocate(FIRST_SLOTS, 0);
        index.parts.push(Meta { part, used: 0, depth: 0 });
        index.directory.push(part);
        index
    }

    /// Zeroed slots for partition `id`.
    fn allocate(&mut self, slots: usize, id: u32) -> Part {
        let layout = small(slots);
        let at = if slots < PART_SLOTS {
            // SAFETY: the layout has a size (slots > 0).
            NonNull::new(unsafe { alloc_zeroed(layout) })
                .unwrap_or_else(|| handle_alloc_error(layout))
        } else {
            self.arena.carve(layout)
        };
        Part { slots: at.cast(), mask: (slots - 1) as u32, id }
    }

    fn release(part: Part) {
        if part.len() < PART_SLOTS {
            // SAFETY: `allocate` took partitions of this size from the allocator with the same
            // layout; larger ones belong to the arena.
            unsafe { dealloc(part.slots.as_ptr().cast(), small(part.len())) };
        }
    }

    #[inline(always)]
    fn part(&self, hash: u64) -> &Part {
        let i = (hash as u32 >> PART_BITS) as usize & (self.directory.len() - 1);
        // SAFETY: I1, the length is a power of two and `i` is masked by it.
        unsafe { self.directory.get_unchecked(i) }
    }

    /// The entry with these hash bits for which `is` holds.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let part = *self.part(hash);
        let mut at = hash as usize;
        loop {
            let slot = part.get(at);
            if (slot >> 32) as u32 == hash as u32 && slot != 0 && is(id_of(slot)) {
                return Some(id_of(slot));
            }
            if slot == 0 {
                return None;
            }
            at += 1;
        }
    }

    /// Asks the CPU for the slots of `hash`.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u64) {
        let part = self.part(hash);
        // SAFETY: I2, the position is masked (and prefetching reads nothing).
        let at = unsafe { part.slots.as_ptr().add(hash as usize & part.mask as usize) };
        crate::prefetch(at);
    }

    /// The entry that probably belongs to `hash`, without looking at it. Which of the first two
    /// slots it is cannot be predicted; that it is one of them can.
    #[inline(always)]
    pub(crate) fn guess(&self, hash: u64) -> Option<u32> {
        let part = *self.part(hash);
        let mut at = hash as usize;
        let (first, second) = (part.get(at), part.get(at + 1));
        let here = (first >> 32) as u32 == hash as u32;
        let mut slot = select_unpredictable(here, first, second);
        while (slot >> 32) as u32 != hash as u32 {
            if slot == 0 {
                return None;
            }
            slot = part.get(at + 2);
            at += 1;
        }
        (slot != 0).then(|| id_of(slot))
    }

    /// Adds an entry that is not there.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, id: u32) {
        let mut part = *self.part(hash);
        let meta = &mut self.parts[part.id as usize];
        if meta.used * 2 >= part.len() {
            self.make_room(hash);
            part = *self.part(hash);
        }
        self.parts[part.id as usize].used += 1;
        part.place(pack(hash, id));
        self.cleared = 0;
    }

    /// Removes the entry `id` of `hash`, which must be there.
    pub(crate) fn remove(&mut self, hash: u64, id: u32) {
        let mut part = *self.part(hash);
        let wanted = pack(hash, id);
        let mut hole = hash as usize;
        while part.get(hole) != wanted {
            assert!(part.get(hole) != 0, "entry {id} is missing from the index");
            hole += 1;
        }
        self.parts[part.id as usize].used -= 1;
        // Backward shift keeps I4: a later slot moves into the hole unless its home is past it.
        let mask = part.mask as usize;
        let mut at = hole + 1;
        loop {
            let slot = part.get(at);
            if slot == 0 {
                break;
            }
            let home = (slot >> 32) as usize;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                part.set(hole, slot);
                hole = at;
            }
            at += 1;
        }
        part.set(hole, 0);
    }

    /// Doubles or splits the partition of `hash` until it is less than half full.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, hash: u64) {
        loop {
            let part = *self.part(hash);
            let meta = &self.parts[part.id as usize];
            if meta.used * 2 < part.len() {
                return;
            }
            if part.len() < PART_SLOTS || meta.depth == DEPTH_MAX {
                self.double(part.id);
            } else {
                self.split(part.id);
            }
        }
    }

    fn double(&mut self, id: u32) {
        let old = self.parts[id as usize].part;
        let mut new = self.allocate(old.len() * 2, id);
        for at in 0..old.len() {
            let slot = old.get(at);
            if slot != 0 {
                new.place(slot);
            }
        }
        self.parts[id as usize].part = new;
        for p in self.directory.iter_mut().filter(|p| p.id == id) {
            *p = new;
        }
        Self::release(old);
    }

    /// Splits a full-sized partition by its next directory bit. What stays is placed anew in the
    /// same array, front to back from an empty slot on: its place can only move towards its home.
    fn split(&mut self, id: u32) {
        let depth = self.parts[id as usize].depth;
        if depth == self.depth {
            self.directory.extend_from_within(..);
            self.depth += 1;
        }
        let mut low = self.parts[id as usize].part;
        let mut high = self.allocate(low.len(), self.parts.len() as u32);
        let bit = 1u64 << (32 + PART_BITS + depth);
        let start = (0..low.len()).find(|&at| low.get(at) == 0).unwrap_or(0);
        let mut moved = 0;
        for at in start + 1..start + low.len() {
            let slot = low.get(at);
            if slot == 0 {
                continue;
            }
            low.set(at, 0);
            if slot & bit == 0 {
                low.place(slot);
            } else {
                high.place(slot);
                moved += 1;
            }
        }
        let meta = &mut self.parts[id as usize];
        meta.used -= moved;
        meta.depth = depth + 1;
        self.parts.push(Meta { part: high, used: moved, depth: depth + 1 });
        for (i, p) in self.directory.iter_mut().enumerate() {
            if p.id == id && i >> depth & 1 == 1 {
                *p = high;
            }
        }
    }

    /// Empties up to `parts` partitions; true when all are empty. Between a first call and the
    /// last nothing may be looked up or inserted.
    pub(crate) fn clear_step(&mut self, parts: usize) -> bool {
        let end = self.cleared.saturating_add(parts).min(self.parts.len());
        for meta in &mut self.parts[self.cleared..end] {
            if meta.used > 0 {
                meta.part.wipe();
                meta.used = 0;
            }
        }
        self.cleared = end;
        end == self.parts.len()
    }

    /// Bytes of slots and directory.
    pub(crate) fn bytes(&self) -> usize {
        let small: usize =
            self.parts.iter().map(|m| m.part.len()).filter(|&n| n < PART_SLOTS).sum();
        small * 8 + self.arena.bytes() + self.directory.len() * size_of::<Part>()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        for meta in &self.parts {
            Self::release(meta.part);
        }
    }
}
