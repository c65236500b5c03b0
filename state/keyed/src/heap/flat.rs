//! Entries of up to 16 bytes inside the index: an update costs one cache miss.
//!
//! An extendible hash, as in `index.rs`, whose linear-probing partitions hold keys and values
//! themselves. A place is vacant while its key is the default one; the entry whose key that really
//! is stands aside. Nothing else marks a place. Homes are cache lines: probing begins at the first of
//! a line's four places, and few entries are in another line than their home.
//!
//! ```text
//!  hash  63 ........ 32 31 .......... 14 13 .......... 0
//!        key group      directory        home in a partition (bits 1, 0: none)
//!  id    0: the entry aside      64 + page * 2^14 + place: the others
//! ```
//! An id names a place: it is the entry's until the next insertion or removal. A partition of full
//! size is a page of ids; larger ones, which only floods of one hash make, take several.
//!
//! Invariants
//!   F1  `directory.len() == 1 << depth`; entry `i` refers to the partition that holds the hashes
//!       whose directory bits end in `i`.
//!   F2  A partition has `mask + 1` places, a power of two. All keys in them are initialised.
//!   F3  Bit `id` of `live` is set iff that entry is initialised, value included. The key of a
//!       live place is not vacant, that of another is (not while draining or clearing).
//!   F4  Every partition has a vacant place, so probing ends.
//!   F5  Between the home of an entry, a line of places, and its place there is no vacant one.
//!   F6  Pages point to memory that lives as long as the table.
//!
//! Not here: who must write moving entries to a snapshot first (`heap.rs`).

#![expect(unsafe_code, reason = "places are read without bounds checks")]

mod grow;
#[cfg(test)]
mod tests;

use super::slab::Entry;
use crate::arena::Arena;
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use tidemill_base::Key;
use tidemill_base::key::KeyHeap;

/// The largest entry that is kept here: four share a cache line.
const ENTRY_BYTES_MAX: usize = 16;

/// Places of a home. Of entries of 16 bytes, a cache line.
const LINE: usize = 4;
const LINE_BYTES: usize = 64;

const FIRST_SLOTS: usize = 8;
/// log2 of the places of a partition of full size, and of the ids of a page.
const PART_BITS: u32 = if cfg!(test) { 6 } else { 14 };
const PART_SLOTS: usize = 1 << PART_BITS;
/// Beyond this the directory bits run into the key-group bits.
const DEPTH_MAX: u32 = if cfg!(test) { 4 } else { 32 - PART_BITS };

/// The id of the entry whose key marks vacant places.
const ASIDE: u32 = 0;
/// Ids of pages begin here: the entry aside has a word of `live` to itself.
const FIRST_ID: usize = 64;

const _: () = assert!(PART_SLOTS.is_multiple_of(64) && FIRST_SLOTS <= PART_SLOTS);
const _: () = assert!(LINE.is_power_of_two() && FIRST_SLOTS.is_multiple_of(LINE));

/// How a lookup finds a partition.
struct Part<S, V> {
    places: NonNull<Entry<S, V>>,
    mask: u32,
    /// Its first page.
    page: u32,
}

impl<S, V> Clone for Part<S, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, V> Copy for Part<S, V> {}

/// Ids of 2^14 places, or of fewer while there is one small partition.
struct Page<S, V> {
    /// F6.
    places: NonNull<Entry<S, V>>,
    /// Places of the partition that begins with this page; 0 for its other pages, and for pages
    /// that are not used any more.
    len: usize,
    /// Entries of that partition.
    used: usize,
    /// Directory bits that they share.
    depth: u32,
}

/// A found entry.
pub(crate) struct Spot<S, V> {
    pub(crate) id: u32,
    pub(crate) entry: NonNull<Entry<S, V>>,
}

/// Keys and values by hash.
pub(crate) struct Flat<K: Key, V> {
    directory: Vec<Part<K::Slot, V>>,
    depth: u32,
    pages: Vec<Page<K::Slot, V>>,
    /// Initialised iff bit 0 of `live` is set.
    aside: UnsafeCell<MaybeUninit<Entry<K::Slot, V>>>,
    live: Vec<u64>,
    len: usize,
    arena: Arena,
    /// Pages below this are known to be vacant while the table is being cleared.
    cleared: usize,
}

impl<K: Key, V> Flat<K, V> {
    /// Whether entries of these types are kept here.
    pub(crate) const FITS: bool = {
        let bytes = size_of::<Entry<K::Slot, V>>();
        bytes > 0 && bytes <= ENTRY_BYTES_MAX
    };

    pub(crate) fn new() -> Self {
        let mut flat = Flat {
            directory: Vec::new(),
            depth: 0,
            pages: Vec::new(),
            aside: UnsafeCell::new(MaybeUninit::uninit()),
            live: Vec::new(),
            len: 0,
            arena: Arena::default(),
            cleared: 0,
        };
        let part = flat.add_pages(FIRST_SLOTS, 0);
        flat.directory.push(part);
        flat
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

    fn mark(&mut self, id: u32) {
        self.live[id as usize / 64] |= 1 << (id % 64);
    }

    fn unmark(&mut self, id: u32) {
        self.live[id as usize / 64] &= !(1 << (id % 64));
    }

    /// Whether a place with this key is vacant.
    #[inline(always)]
    fn is_vacant(key: &K::Slot, keys: &KeyHeap) -> bool {
        let none = K::Slot::default();
        K::matches(key, K::load(&none, keys), keys)
    }

    #[inline(always)]
    fn hash(key: &K::Slot, keys: &KeyHeap) -> u64 {
        K::hash(K::load(key, keys))
    }

    #[inline(always)]
    fn part(&self, hash: u64) -> Part<K::Slot, V> {
        let i = (hash as u32 >> PART_BITS) as usize & (self.directory.len() - 1);
        // SAFETY: F1, the length is a power of two and `i` is masked by it.
        unsafe { *self.directory.get_unchecked(i) }
    }

    /// Asks the CPU for the place where the key of `hash` most likely is.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u64) {
        let part = self.part(hash);
        crate::prefetch(part.place(part.home(hash)));
    }

    /// The entry of a key. Which place of its home it has cannot be predicted, so all are compared.
    #[inline(always)]
    pub(crate) fn find(
        &self,
        hash: u64,
        key: K::View<'_>,
        keys: &KeyHeap,
    ) -> Option<Spot<K::Slot, V>> {
        if K::matches(&K::Slot::default(), K::shorten(key), keys) {
            return self.find_aside();
        }
        let part = self.part(hash);
        let mut line = part.home(hash);
        loop {
            let mut found = 0;
            for i in 0..LINE {
                let here = K::matches(part.key(line + i), K::shorten(key), keys);
                found |= u32::from(here) << i;
            }
            if found != 0 {
                return Some(part.spot(line + found.trailing_zeros() as usize));
            }
            if (0..LINE).any(|i| Self::is_vacant(part.key(line + i), keys)) {
                return None;
            }
            line = (line + LINE) & part.mask as usize;
        }
    }

    #[cold]
    fn find_aside(&self) -> Option<Spot<K::Slot, V>> {
        self.is_live(ASIDE).then(|| Spot { id: ASIDE, entry: self.at(ASIDE) })
    }

    /// The memory of an entry. `id` is one of the table's.
    #[inline(always)]
    pub(crate) fn at(&self, id: u32) -> NonNull<Entry<K::Slot, V>> {
        let Some(i) = (id as usize).checked_sub(FIRST_ID) else {
            // SAFETY: the address of a field is not null.
            return unsafe { NonNull::new_unchecked(self.aside.get().cast()) };
        };
        let page = &self.pages[i >> PART_BITS];
        // SAFETY: F6 for ids of places, which callers have from `find` or `live`.
        unsafe { page.places.add(i & (PART_SLOTS - 1)) }
    }

    /// The entry `id`.
    ///
    /// # Safety
    /// `id` is live.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, id: u32) -> &Entry<K::Slot, V> {
        debug_assert!(self.is_live(id));
        // SAFETY: F3.
        unsafe { self.at(id).as_ref() }
    }

    /// Whether the partition of `hash` must grow before it takes another entry.
    #[inline(always)]
    pub(crate) fn is_full(&self, hash: u64) -> bool {
        let page = self.part(hash).page as usize;
        let Page { used, len, .. } = self.pages[page];
        used >= limit(len, page) && self.must_grow(used, len)
    }

    /// A partition that should grow waits for its memory to be touched, as long as it can.
    #[cold]
    fn must_grow(&self, used: usize, len: usize) -> bool {
        let from_arena = 2 * len >= PART_SLOTS;
        !from_arena || used >= len / 8 * 7 || self.arena.is_ready(layout::<K::Slot, V>(PART_SLOTS))
    }

    /// The ids of the partition of `hash`: those that change when it grows.
    pub(crate) fn ids(&self, hash: u64) -> std::ops::Range<u32> {
        let part = self.part(hash);
        let first = part.id(0);
        first..first + part.len() as u32
    }

    /// Adds a key that is not there. Its partition is not full; returns its id.
    pub(crate) fn insert(&mut self, hash: u64, entry: Entry<K::Slot, V>, keys: &KeyHeap) -> u32 {
        self.len += 1;
        self.cleared = 0;
        let id = if Self::is_vacant(&entry.key, keys) {
            self.aside.get_mut().write(entry);
            ASIDE
        } else {
            let part = self.part(hash);
            self.pages[part.page as usize].used += 1;
            let at = part.free::<K>(hash, keys);
            // SAFETY: F2; the place is vacant and so not live (F3): nothing is overwritten that
            // would have to be dropped.
            unsafe { part.place(at).write(entry) };
            part.id(at)
        };
        debug_assert!(!self.is_live(id));
        self.mark(id);
        id
    }

    /// Takes the entry `id` out; what stands behind it moves up, and `moving` is told the id of
    /// each entry before it moves. Panics if `id` is not live, or not in its key's partition.
    pub(crate) fn remove(
        &mut self,
        id: u32,
        keys: &KeyHeap,
        mut moving: impl FnMut(&Self, u32),
    ) -> Entry<K::Slot, V> {
        let removed = self.drain(id);
        if id == ASIDE {
            return removed;
        }
        let part = self.part(Self::hash(&removed.key, keys));
        let mut hole = id.wrapping_sub(part.id(0)) as usize;
        assert!(hole < part.len(), "entry {id} was added under another hash than its key's");
        self.pages[part.page as usize].used -= 1;
        let mut at = hole;
        loop {
            at = (at + 1) & part.mask as usize;
            let key = part.key(at);
            if at == hole || Self::is_vacant(key, keys) {
                break;
            }
            // F5: it moves into the hole unless its home is behind that.
            let home = part.home(Self::hash(key, keys));
            let mask = part.mask as usize;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                moving(self, part.id(at));
                // SAFETY: F2; two places, of which `hole` is not live. The value moves with the
                // entry, and only the new place is marked as live.
                unsafe { part.place(hole).copy_from_nonoverlapping(part.place(at), 1) };
                self.mark(part.id(hole));
                self.unmark(part.id(at));
                hole = at;
            }
        }
        part.vacate(hole);
        removed
    }

    /// Takes the entry `id` out and leaves its place as it is: until the table has been cleared
    /// nothing may be looked up, added or removed. Panics if `id` is not live.
    pub(crate) fn drain(&mut self, id: u32) -> Entry<K::Slot, V> {
        assert!(self.is_live(id), "entry {id} is not live");
        self.unmark(id);
        self.len -= 1;
        // SAFETY: F3, it was live until now and is not any more.
        unsafe { self.at(id).read() }
    }

    /// Drops all values.
    pub(crate) fn clear(&mut self) {
        self.drop_values();
        self.live.fill(0);
        self.len = 0;
    }

    /// Vacates the places of up to `parts` partitions; true when all are vacant. Between
    /// [`Flat::clear`] and then nothing may be looked up or added.
    pub(crate) fn clear_step(&mut self, parts: usize) -> bool {
        let end = self.cleared.saturating_add(parts).min(self.pages.len());
        for page in &mut self.pages[self.cleared..end] {
            if page.used > 0 {
                page.used = 0;
                // SAFETY: F6: `len` places begin here.
                unsafe { vacate(page.places, page.len) };
            }
        }
        self.cleared = end;
        end == self.pages.len()
    }

    fn drop_values(&mut self) {
        if !std::mem::needs_drop::<V>() {
            return;
        }
        for word in 0..self.live.len() {
            for bit in super::Bits(std::mem::take(&mut self.live[word])) {
                let entry = self.at((word * 64) as u32 + bit).as_ptr();
                // SAFETY: F3; the word was taken out of `live` before, so nothing drops twice.
                unsafe { std::ptr::drop_in_place(&raw mut (*entry).value) };
            }
        }
    }

    /// Bytes of places, bits and directory.
    pub(crate) fn bytes(&self) -> usize {
        let small: usize = self.pages.iter().map(|p| p.len).filter(|&n| n < PART_SLOTS).sum();
        small * size_of::<Entry<K::Slot, V>>()
            + self.arena.bytes()
            + self.live.capacity() * 8
            + self.directory.len() * size_of::<Part<K::Slot, V>>()
    }
}

impl<S: Copy + Default, V> Part<S, V> {
    fn len(self) -> usize {
        self.mask as usize + 1
    }

    /// Where probing for a hash begins.
    #[inline(always)]
    fn home(self, hash: u64) -> usize {
        hash as usize & self.mask as usize & !(LINE - 1)
    }

    #[inline(always)]
    fn id(self, at: usize) -> u32 {
        (FIRST_ID + ((self.page as usize) << PART_BITS) + at) as u32
    }

    #[inline(always)]
    fn place(self, at: usize) -> *mut Entry<S, V> {
        debug_assert!(at < self.len());
        // SAFETY: F2, callers mask `at`.
        unsafe { self.places.as_ptr().add(at) }
    }

    #[inline(always)]
    fn key<'a>(self, at: usize) -> &'a S {
        // SAFETY: F2: keys are initialised. Nobody writes to the place while the reference, which
        // does not leave the callers in this file and `grow.rs`, is in use.
        unsafe { &(*self.place(at)).key }
    }

    #[inline(always)]
    fn spot(self, at: usize) -> Spot<S, V> {
        // SAFETY: places are not null.
        Spot { id: self.id(at), entry: unsafe { NonNull::new_unchecked(self.place(at)) } }
    }

    fn vacate(self, at: usize) {
        // SAFETY: F2; a key is plain data, and the place is not live.
        unsafe { (&raw mut (*self.place(at)).key).write(S::default()) };
    }
}

impl<S: Copy + Default, V> Part<S, V> {
    /// The first vacant place from the home of `hash` on.
    fn free<K: Key<Slot = S>>(self, hash: u64, keys: &KeyHeap) -> usize {
        let mut at = self.home(hash);
        while !Flat::<K, V>::is_vacant(self.key(at), keys) {
            at = (at + 1) & self.mask as usize;
        }
        at
    }
}

/// Writes the vacant key into `len` places.
///
/// # Safety
/// The memory is that of `len` places, none of them live.
unsafe fn vacate<S: Default, V>(places: NonNull<Entry<S, V>>, len: usize) {
    for at in 0..len {
        // SAFETY: as the caller promises.
        unsafe { (&raw mut (*places.as_ptr().add(at)).key).write(S::default()) };
    }
}

/// How many entries a partition of `len` places takes. Those of full size grow at loads from 1/2
/// to 3/4, so that the partitions of a table do not all grow at the same time.
#[inline(always)]
fn limit(len: usize, page: usize) -> usize {
    if len == PART_SLOTS {
        len / 2 + (((page as u32).wrapping_mul(0x9E37_79B9) >> (32 - PART_BITS)) as usize) / 4
    } else {
        len / 2 + len / 8
    }
}

fn layout<S, V>(places: usize) -> Layout {
    let array = Layout::array::<Entry<S, V>>(places);
    match array.and_then(|layout| layout.align_to(LINE_BYTES)) {
        Ok(layout) => layout,
        Err(_) => panic!("{places} places of a table are too large for the address space"),
    }
}

impl<K: Key, V> Drop for Flat<K, V> {
    fn drop(&mut self) {
        self.drop_values();
        self.release_small();
    }
}
