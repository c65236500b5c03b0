//! Growth of a flat table: a small partition doubles, one of full size splits by the next directory
//! bit. Either moves the entries of one partition, so the pause is bounded however large the table.

#![expect(unsafe_code, reason = "entries are moved as bytes")]

use super::{DEPTH_MAX, FIRST_ID, Flat, PART_BITS, PART_SLOTS, Page, Part, layout, vacate};
use crate::heap::slab::Entry;
use std::alloc::{alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use tidemill_base::Key;
use tidemill_base::key::KeyHeap;

/// Pages that ids of 32 bits can name.
const PAGES_MAX: usize = (u32::MAX as usize - FIRST_ID) >> PART_BITS;

impl<K: Key, V> Flat<K, V> {
    /// Makes room in the partition of `hash`, a step at a time: repeat while it is full. The ids of
    /// its entries change.
    #[cold]
    #[inline(never)]
    pub(crate) fn grow(&mut self, hash: u64, keys: &KeyHeap) {
        let part = self.part(hash);
        let depth = self.pages[part.page as usize].depth;
        if part.len() == PART_SLOTS && depth < DEPTH_MAX {
            self.split(part, depth, keys);
        } else {
            self.double(part, depth, keys);
        }
    }

    /// A new partition, all of it vacant, on pages of its own. Nothing refers to it yet.
    pub(super) fn add_pages(&mut self, len: usize, depth: u32) -> Part<K::Slot, V> {
        let page = self.pages.len();
        let pages = len.div_ceil(PART_SLOTS);
        assert!(page + pages <= PAGES_MAX, "a table has more than 2^32 places");
        let places = self.allocate(len);
        for i in 0..pages {
            // SAFETY: it lies in the memory just made.
            let places = unsafe { places.add(i << PART_BITS) };
            let len = if i == 0 { len } else { 0 };
            self.pages.push(Page { places, len, used: 0, depth });
        }
        let words = (FIRST_ID + (page << PART_BITS) + len).div_ceil(64);
        self.live.resize(words, 0);
        Part { places, mask: (len - 1) as u32, page: page as u32 }
    }

    /// Vacant places.
    fn allocate(&mut self, len: usize) -> NonNull<Entry<K::Slot, V>> {
        let layout = layout::<K::Slot, V>(len);
        let places: NonNull<Entry<K::Slot, V>> = if len < PART_SLOTS {
            // SAFETY: entries of a flat table have a size (`FITS`), and there is at least one.
            NonNull::new(unsafe { alloc(layout) })
                .unwrap_or_else(|| handle_alloc_error(layout))
                .cast()
        } else {
            self.arena.carve(layout).cast()
        };
        // SAFETY: the memory was just made for so many.
        unsafe { vacate(places, len) };
        places
    }

    /// Frees the small partition, if there is one: it came from the allocator.
    pub(super) fn release_small(&self) {
        if let [Page { places, len, .. }, ..] = self.pages[..]
            && (1..PART_SLOTS).contains(&len)
        {
            // SAFETY: `allocate` took so few places from the allocator, with this layout; only the
            // first page can have them.
            unsafe { dealloc(places.as_ptr().cast(), layout::<K::Slot, V>(len)) };
        }
    }

    fn double(&mut self, old: Part<K::Slot, V>, depth: u32, keys: &KeyHeap) {
        let len = 2 * old.len();
        if len == PART_SLOTS / 4 {
            self.arena.expect(layout::<K::Slot, V>(PART_SLOTS).size());
        }
        let new = if len > PART_SLOTS {
            self.add_pages(len, depth)
        } else {
            let places = self.allocate(len);
            let words = (old.id(0) as usize + len).div_ceil(64);
            self.live.resize(words, 0);
            Part { places, mask: (len - 1) as u32, page: old.page }
        };
        // All are unmarked before any is marked: small partitions keep their page, and so its ids.
        for at in 0..old.len() {
            self.unmark(old.id(at));
        }
        let mut used = 0;
        for at in 0..old.len() {
            if !Self::is_vacant(old.key(at), keys) {
                self.carry(old, at, new, Self::hash(old.key(at), keys), keys);
                used += 1;
            }
        }
        for p in self.directory.iter_mut().filter(|p| p.page == old.page) {
            *p = new;
        }
        if old.len() < PART_SLOTS {
            self.release_small();
        }
        (self.pages[old.page as usize].len, self.pages[old.page as usize].used) = (0, 0);
        let page = &mut self.pages[new.page as usize];
        (page.places, page.len, page.used) = (new.places, len, used);
    }

    /// What stays is placed anew in the same memory, front to back from a vacant place on: it can
    /// only move towards its home.
    fn split(&mut self, low: Part<K::Slot, V>, depth: u32, keys: &KeyHeap) {
        if depth == self.depth {
            self.directory.extend_from_within(..);
            self.depth += 1;
        }
        let high = self.add_pages(PART_SLOTS, depth + 1);
        let bit = 1u64 << (PART_BITS + depth);
        let start = (0..low.len()).find(|&at| Self::is_vacant(low.key(at), keys)).unwrap_or(0);
        let mut moved = 0;
        for step in 1..low.len() {
            let at = (start + step) & low.mask as usize;
            if Self::is_vacant(low.key(at), keys) {
                continue;
            }
            let hash = Self::hash(low.key(at), keys);
            self.unmark(low.id(at));
            let to = if hash & bit == 0 { low } else { high };
            moved += usize::from(hash & bit != 0);
            self.carry(low, at, to, hash, keys);
        }
        let page = &mut self.pages[low.page as usize];
        page.used -= moved;
        page.depth = depth + 1;
        self.pages[high.page as usize].used = moved;
        for (i, p) in self.directory.iter_mut().enumerate() {
            if p.page == low.page && i >> depth & 1 == 1 {
                *p = high;
            }
        }
    }

    /// Moves an entry that has been unmarked to the first vacant place of `to`.
    fn carry(
        &mut self,
        from: Part<K::Slot, V>,
        at: usize,
        to: Part<K::Slot, V>,
        hash: u64,
        keys: &KeyHeap,
    ) {
        // SAFETY: F3: it was live until it was unmarked, and its place is vacated.
        let entry = unsafe { from.place(at).read() };
        from.vacate(at);
        let place = to.free::<K>(hash, keys);
        // SAFETY: F2; the place is vacant, so not live.
        unsafe { to.place(place).write(entry) };
        self.mark(to.id(place));
    }
}
