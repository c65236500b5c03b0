//! Entries of a table, addressed by dense ids.
//!
//! The first segment grows by doubling (and moves); once it has its full size of 1 to 2 MiB,
//! further segments of that size are added and nothing moves any more. Hashes are not kept: for
//! small keys an entry of 16 bytes never straddles cache lines, and hashing anew is cheap where
//! a hash is needed (removing by id, walking).
//!
//! Invariants
//!   S1  Bit `id` of `live` is set iff entry `id` is initialised; ids are below `used`.
//!   S2  `used <= capacity`, and ids below `capacity` lie in an allocated segment.

#![expect(unsafe_code, reason = "entries are initialised and read in raw segments")]

use crate::arena::Arena;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::{NonNull, copy_nonoverlapping, drop_in_place};

/// A key and its value.
pub(crate) struct Entry<S, V> {
    pub(crate) key: S,
    pub(crate) value: V,
}

const FIRST_ENTRIES: usize = 8;
const SEGMENT_BYTES_MAX: usize = 2 << 20;

/// Entries by id.
pub(crate) struct Slab<S: Copy, V> {
    segments: Vec<NonNull<Entry<S, V>>>,
    capacity: usize,
    used: usize,
    len: usize,
    /// Ids below `used` that are not live.
    free: Vec<u32>,
    live: Vec<u64>,
    arena: Arena,
}

impl<S: Copy, V> Slab<S, V> {
    /// log2 of the entries of a full segment.
    const SHIFT: u32 = {
        let n = SEGMENT_BYTES_MAX / Self::layout(1).size();
        if n < FIRST_ENTRIES { FIRST_ENTRIES.ilog2() } else { n.ilog2() }
    };
    const SEGMENT: usize = 1 << Self::SHIFT;

    pub(crate) fn new() -> Self {
        Slab {
            segments: Vec::new(),
            capacity: 0,
            used: 0,
            len: 0,
            free: Vec::new(),
            live: Vec::new(),
            arena: Arena::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One bit for each id: whether it is initialised.
    pub(crate) fn live(&self) -> &[u64] {
        &self.live
    }

    #[inline(always)]
    pub(crate) fn is_live(&self, id: u32) -> bool {
        self.live.get(id as usize / 64).is_some_and(|w| w >> (id % 64) & 1 == 1)
    }

    #[inline(always)]
    pub(crate) fn at(&self, id: u32) -> *mut Entry<S, V> {
        debug_assert!((id as usize) < self.capacity);
        // SAFETY: ids are below `used`, so S2 puts the entry into an allocated segment.
        unsafe {
            let segment = self.segments.get_unchecked(id as usize >> Self::SHIFT);
            segment.as_ptr().add(id as usize & (Self::SEGMENT - 1))
        }
    }

    /// The entry `id`.
    ///
    /// # Safety
    /// `id` is live.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, id: u32) -> &Entry<S, V> {
        debug_assert!(self.is_live(id));
        // SAFETY: S1.
        unsafe { &*self.at(id) }
    }

    /// The entry `id`, writable.
    ///
    /// # Safety
    /// `id` is live.
    #[inline(always)]
    pub(crate) unsafe fn get_mut(&mut self, id: u32) -> &mut Entry<S, V> {
        debug_assert!(self.is_live(id));
        // SAFETY: S1.
        unsafe { &mut *self.at(id) }
    }

    pub(crate) fn insert(&mut self, entry: Entry<S, V>) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            if self.used == self.capacity {
                self.grow();
            }
            self.used += 1;
            (self.used - 1) as u32
        });
        // SAFETY: S2; the place is not live, so nothing is overwritten without its drop.
        unsafe { self.at(id).write(entry) };
        let word = id as usize / 64;
        if word == self.live.len() {
            self.live.push(0);
        }
        self.live[word] |= 1 << (id % 64);
        self.len += 1;
        id
    }

    /// Takes the entry `id` out. Panics if it is not live.
    pub(crate) fn remove(&mut self, id: u32) -> Entry<S, V> {
        let entry = self.drain(id);
        self.free.push(id);
        entry
    }

    /// Takes the entry `id` out for good: the id is free again after `clear` only. Panics if it
    /// is not live.
    pub(crate) fn drain(&mut self, id: u32) -> Entry<S, V> {
        assert!(self.is_live(id), "entry {id} is not live");
        self.live[id as usize / 64] &= !(1 << (id % 64));
        self.len -= 1;
        // SAFETY: S1, it was live until now and is not any more.
        unsafe { self.at(id).read() }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        assert!(self.capacity < u32::MAX as usize - Self::SEGMENT, "more than 2^32 entries");
        if self.capacity >= Self::SEGMENT {
            let segment = self.arena.carve(Self::layout(Self::SEGMENT));
            self.segments.push(segment.cast());
            self.capacity += Self::SEGMENT;
            return;
        }
        let capacity = (self.capacity * 2).max(FIRST_ENTRIES);
        let layout = Self::layout(capacity);
        let new: NonNull<Entry<S, V>> = if capacity == Self::SEGMENT {
            self.arena.carve(layout).cast()
        } else {
            // SAFETY: the layout has a size.
            NonNull::new(unsafe { alloc(layout) })
                .unwrap_or_else(|| handle_alloc_error(layout))
                .cast()
        };
        if let Some(old) = self.segments.pop() {
            // SAFETY: both hold at least `self.capacity` entries and are distinct; the old one
            // came from the allocator with this layout, as it is smaller than a segment.
            unsafe {
                copy_nonoverlapping(old.as_ptr(), new.as_ptr(), self.capacity);
                dealloc(old.as_ptr().cast(), Self::layout(self.capacity));
            }
        }
        self.segments.push(new);
        self.capacity = capacity;
    }

    /// Layout of a segment, of at least a byte.
    const fn layout(entries: usize) -> Layout {
        let size = size_of::<Entry<S, V>>().saturating_mul(entries);
        let size = if size == 0 { entries } else { size };
        match Layout::from_size_align(size, align_of::<Entry<S, V>>()) {
            Ok(layout) => layout,
            Err(_) => panic!("entries of a table are too large for the address space"),
        }
    }

    fn drop_values(&mut self) {
        if !std::mem::needs_drop::<V>() {
            return;
        }
        for word in 0..self.live.len() {
            let mut bits = std::mem::take(&mut self.live[word]);
            while bits != 0 {
                let id = (word * 64) as u32 + bits.trailing_zeros();
                bits &= bits - 1;
                // SAFETY: S1; the word was taken out of `live` before, so nothing drops twice.
                unsafe { drop_in_place(&raw mut (*self.at(id)).value) };
            }
        }
    }

    /// Drops all values, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.drop_values();
        self.live.clear();
        self.used = 0;
        self.len = 0;
        self.free.clear();
    }

    /// Bytes of segments and bits.
    pub(crate) fn bytes(&self) -> usize {
        self.capacity * size_of::<Entry<S, V>>()
            + self.live.capacity() * 8
            + self.free.capacity() * 4
    }
}

impl<S: Copy, V> Drop for Slab<S, V> {
    fn drop(&mut self) {
        self.drop_values();
        if self.capacity < Self::SEGMENT {
            for segment in &self.segments {
                // SAFETY: a segment below full size came from the allocator with this layout.
                unsafe { dealloc(segment.as_ptr().cast(), Self::layout(self.capacity)) };
            }
        }
    }
}
