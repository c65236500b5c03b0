//! Memory for the big parts of a table: zeroed pieces carved out of large mappings that ask for
//! huge pages. Pieces live until the arena is dropped.
//!
//! A mapping is address space only: the kernel backs what is touched, 2 MiB at a time. Where the
//! kernel itself runs on a hypervisor, the first touch of a page by any process costs the host's
//! fault besides (5 ms for 2 MiB were measured). So that a growing table need not pay that between
//! two records, its arena says ahead what it will carve next, and a thread of the shell's, the
//! [`Pager`], touches it. Without that thread, or where it is late, the table touches its pages
//! itself.
//!
//! Touching is an access, not advice (`MADV_POPULATE_WRITE`): an access holds the lock of one
//! mapping while the page is made, advice that of the whole address space, for which every other
//! thread that allocates or maps memory would wait as long.
//!
//! Invariants
//!   P1  Pieces lie in mappings that live as long as the arena, and do not overlap.
//!   P2  What is asked for ahead lies in a mapping that lives until it has been touched. Touching
//!       changes no byte.
//!   P3  At most [`AHEAD_MAX`] bytes beyond the pieces carved are asked for, and not more than have
//!       been carved, each rounded up to whole pages.
//!   P4  Between the huge pages of two mappings lies at least one small page. So the kernel never
//!       makes one mapping of them, for which it would have to wait until a page in either is made.

#![expect(unsafe_code, reason = "maps memory")]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

/// Size of a huge page, and the alignment of a mapping.
const HUGE: usize = 2 << 20;

/// Size of the smallest page of any of the machines.
const SMALL: usize = 4 << 10;

/// Address space taken at once, at least.
const MAPPING_MIN: usize = 32 << 20;

/// Address space taken at once, at most (unless a piece is larger).
const MAPPING_MAX: usize = 1 << 30;

/// P3.
const AHEAD_MAX: usize = 16 << 20;

/// Requests that wait for the pager. One that finds no room is forgotten.
const REQUESTS_MAX: usize = 64;

static REQUESTS: OnceLock<SyncSender<Ahead>> = OnceLock::new();

/// Touches memory that tables will need, on the thread that runs it.
#[derive(Debug)]
pub struct Pager {
    requests: Receiver<Ahead>,
}

impl Pager {
    /// The pager of this process; `None` if it has been taken before.
    pub fn take() -> Option<Pager> {
        let (sender, requests) = sync_channel(REQUESTS_MAX);
        REQUESTS.set(sender).ok().map(|()| Pager { requests })
    }

    /// Serves requests for ever. Not on a thread that is pinned to the CPU of a slot.
    pub fn run(self) {
        for request in self.requests {
            request.touch();
        }
    }
}

/// Pages that will be needed.
#[derive(Debug)]
struct Ahead {
    mapping: Arc<Mapping>,
    from: usize,
    to: usize,
}

impl Ahead {
    /// Page by page, so that it ends early if nobody needs them any more.
    fn touch(self) {
        let mut at = self.from;
        while at < self.to && Arc::strong_count(&self.mapping) > 1 {
            // The first access makes a huge page, or a small one where the kernel has no huge ones.
            for page in (at..at + HUGE).step_by(SMALL) {
                // SAFETY: P2; it lies in our own mapping.
                unsafe { touch_page(page as *mut u8) };
            }
            at += HUGE;
            self.mapping.ready.store(at, Ordering::Relaxed);
        }
    }
}

/// Has the kernel back a page. Changes no byte, also if another thread writes there at that moment.
///
/// # Safety
/// The address lies in a mapping that can be written.
#[cfg(target_arch = "x86_64")]
unsafe fn touch_page(at: *mut u8) {
    // SAFETY: one atomic instruction that writes back what is there. In assembly because the compiler
    // may turn an atomic operation that changes nothing into a load, for which the kernel makes no page.
    unsafe { std::arch::asm!("lock or byte ptr [{}], 0", in(reg) at, options(nostack)) };
}

/// Has the kernel back a page. Changes no byte, also if another thread writes there at that moment.
///
/// # Safety
/// The address lies in a mapping that can be written.
#[cfg(target_arch = "aarch64")]
unsafe fn touch_page(at: *mut u8) {
    // SAFETY: an exclusive store of what was loaded; it fails, and is repeated, if another thread
    // has written between the two.
    unsafe {
        std::arch::asm!(
            "2: ldxrb {byte:w}, [{at}]",
            "stxrb {failed:w}, {byte:w}, [{at}]",
            "cbnz {failed:w}, 2b",
            at = in(reg) at,
            byte = out(reg) _,
            failed = out(reg) _,
            options(nostack)
        );
    }
}

/// Has the kernel back a page. Changes no byte.
///
/// # Safety
/// The address lies in a mapping that can be written.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn touch_page(at: *mut u8) {
    // SAFETY: advice that changes no contents. A refusal costs speed only.
    unsafe { libc::madvise(at.cast(), SMALL, libc::MADV_POPULATE_WRITE) };
}

/// Address space whose middle asks for huge pages.
#[derive(Debug)]
struct Mapping {
    at: NonNull<u8>,
    len: usize,
    /// The first multiple of [`HUGE`] in it.
    first: usize,
    /// Below this address, what was asked for has been touched.
    ready: AtomicUsize,
}

impl Mapping {
    /// So many bytes, a multiple of [`HUGE`], from the first multiple of that on.
    fn new(bytes: usize) -> Option<Mapping> {
        let len = bytes.checked_add(HUGE)?;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // memory of ours; its result is checked.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return None;
        }
        let at: NonNull<u8> = NonNull::new(base.cast())?;
        let first = (at.as_ptr() as usize).next_multiple_of(HUGE);
        let mapping = Mapping { at, len, first, ready: AtomicUsize::new(0) };
        // P4: what is behind the huge pages is not advised, and is a page at least.
        // SAFETY: advice on a part of the mapping just made; a refusal costs speed only.
        unsafe { libc::madvise(first as *mut _, bytes, libc::MADV_HUGEPAGE) };
        Some(mapping)
    }
}

// SAFETY: it is the name of a range of addresses; who reads and writes there is the arena's affair.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping with this length, and its pieces are not used after the
        // arena (the duty of who carves).
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// Where pieces are carved from: `next..end` is free.
#[derive(Debug)]
struct Space {
    mapping: Arc<Mapping>,
    next: usize,
    end: usize,
    /// Below this, pages are in use or asked for.
    asked: usize,
}

impl Space {
    fn new(bytes: usize) -> Option<Space> {
        let bytes = bytes.checked_next_multiple_of(HUGE)?;
        let mapping = Arc::new(Mapping::new(bytes)?);
        let next = mapping.first;
        Some(Space { mapping, next, end: next + bytes, asked: next })
    }

    /// Where a piece would begin, if it fits.
    fn place(&self, layout: Layout) -> Option<usize> {
        let at = self.next.next_multiple_of(layout.align());
        (at + layout.size() <= self.end).then_some(at)
    }

    /// Asks for the pages of the next `bytes`; returns how many of these lie behind the end.
    fn ask(&mut self, bytes: usize) -> usize {
        let to = (self.next + bytes).next_multiple_of(HUGE).min(self.end);
        if to > self.asked {
            let request = Ahead { mapping: self.mapping.clone(), from: self.asked, to };
            // Where the pager is behind, later pieces ask again.
            if REQUESTS.get().is_some_and(|requests| requests.try_send(request).is_ok()) {
                self.asked = to;
            }
        }
        (self.next + bytes).saturating_sub(self.end)
    }

    /// Whether the pages of a piece at `at` have been touched.
    fn is_ready(&self, at: usize, bytes: usize) -> bool {
        let in_use = self.next.next_multiple_of(HUGE);
        at + bytes <= in_use.max(self.mapping.ready.load(Ordering::Relaxed))
    }
}

/// Zeroed memory for one table.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// Those that are full (P1).
    full: Vec<Arc<Mapping>>,
    space: Option<Space>,
    /// Follows `space`, when that is nearly full.
    following: Option<Space>,
    carved: usize,
}

impl Arena {
    /// A zeroed piece, valid until the arena is dropped.
    pub(crate) fn carve(&mut self, layout: Layout) -> NonNull<u8> {
        let at = match self.space.as_ref().and_then(|s| s.place(layout)) {
            Some(at) => at,
            None => self.next_space(layout),
        };
        self.carved += layout.size();
        if let Some(space) = &mut self.space {
            space.next = at + layout.size();
            space.asked = space.asked.max(space.next.next_multiple_of(HUGE));
        }
        self.expect(AHEAD_MAX.min(self.carved));
        NonNull::new(at as *mut u8).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// So many bytes will be carved soon: their pages are asked for ahead.
    pub(crate) fn expect(&mut self, bytes: usize) {
        if REQUESTS.get().is_none() {
            return;
        }
        if self.space.is_none() {
            self.space = Space::new(MAPPING_MIN);
        }
        let behind = self.space.as_mut().map_or(0, |s| s.ask(bytes));
        if behind > 0 {
            if self.following.is_none() {
                self.following = Space::new(self.mapping_bytes());
            }
            if let Some(following) = &mut self.following {
                following.ask(behind);
            }
        }
    }

    /// Whether the next piece lies in pages that have been touched. Who can wait for that should, if
    /// [`Arena::expect`] has been told; without a pager nobody need wait.
    pub(crate) fn is_ready(&self, layout: Layout) -> bool {
        let ready_in = |space: &Option<Space>| {
            let space = space.as_ref()?;
            Some(space.is_ready(space.place(layout)?, layout.size()))
        };
        let ready = ready_in(&self.space).or_else(|| ready_in(&self.following));
        REQUESTS.get().is_none() || ready.unwrap_or(false)
    }

    /// Bytes carved so far.
    pub(crate) fn bytes(&self) -> usize {
        self.carved
    }

    fn mapping_bytes(&self) -> usize {
        self.carved.clamp(MAPPING_MIN, MAPPING_MAX)
    }

    /// Goes on in other address space, in which a piece fits; returns where.
    #[cold]
    fn next_space(&mut self, layout: Layout) -> usize {
        let following = self.following.take().filter(|s| s.place(layout).is_some());
        let bytes = layout.size().max(self.mapping_bytes());
        let space = following.or_else(|| Space::new(bytes));
        let space = space.unwrap_or_else(|| handle_alloc_error(layout));
        let at = space.place(layout).unwrap_or_else(|| handle_alloc_error(layout));
        self.full.extend(self.space.replace(space).map(|s| s.mapping));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Layout = match Layout::from_size_align(1 << 18, 64) {
        Ok(layout) => layout,
        Err(_) => panic!("a layout"),
    };

    fn carve(arena: &mut Arena) -> &mut [u8] {
        let piece = arena.carve(PIECE);
        // SAFETY: P1; the piece is zeroed, and borrowed for as long as the arena.
        unsafe { std::slice::from_raw_parts_mut(piece.as_ptr(), PIECE.size()) }
    }

    /// Serves what was asked for, also by the tables of other tests, until the next piece is ready.
    fn serve(pager: &Pager, arena: &mut Arena) {
        for _ in 0..1_000 {
            if arena.is_ready(PIECE) {
                return;
            }
            arena.expect(1);
            pager.requests.try_iter().for_each(Ahead::touch);
        }
        panic!("the next piece does not become ready");
    }

    /// The pager is one of the process: one test for what needs it and what does not.
    #[test]
    fn pieces_are_ready_once_the_pager_has_touched_them() {
        let mut arena = Arena::default();
        assert!(arena.is_ready(PIECE), "without a pager nobody waits");
        let pager = Pager::take().unwrap();
        assert!(Pager::take().is_none());
        assert!(!arena.is_ready(PIECE));
        serve(&pager, &mut arena);
        let (mut pieces, mut waits) = (0, 0);
        while arena.bytes() < 2 * MAPPING_MIN + HUGE {
            let piece = carve(&mut arena);
            assert!(piece.iter().all(|&byte| byte == 0));
            piece.fill(0xA5);
            pieces += 1;
            waits += usize::from(!arena.is_ready(PIECE));
            serve(&pager, &mut arena);
        }
        assert!(!arena.full.is_empty());
        // Asked for ahead, a page at least, and at most as much again as there is.
        assert!(waits <= pieces / 8, "{waits} of {pieces} pieces");
        // A request keeps its mapping; pages that nobody else has are not touched.
        let mapping = Arc::new(Mapping::new(HUGE).unwrap());
        let from = mapping.first;
        let request = |mapping| Ahead { mapping, from, to: from + HUGE };
        request(mapping.clone()).touch();
        assert_eq!(mapping.ready.load(Ordering::Relaxed), from + HUGE);
        request(mapping).touch();
    }

    /// Whether each small page of a mapping's first huge page is in memory.
    fn resident(mapping: &Mapping) -> Vec<bool> {
        let mut pages = [0u8; HUGE / SMALL];
        // SAFETY: the kernel writes one byte for each page of the range.
        let result =
            unsafe { libc::mincore(mapping.first as *mut _, HUGE, pages.as_mut_ptr().cast()) };
        assert_eq!(result, 0);
        pages.iter().map(|page| page & 1 == 1).collect()
    }

    #[test]
    fn touching_makes_pages_and_changes_no_byte() {
        let mapping = Arc::new(Mapping::new(HUGE).unwrap());
        assert!(!resident(&mapping).contains(&true));
        let end = mapping.at.as_ptr() as usize + mapping.len;
        assert!(mapping.first + HUGE < end, "P4");
        let (from, to) = (mapping.first, mapping.first + HUGE);
        let touch = || Ahead { mapping: mapping.clone(), from, to }.touch();
        touch();
        assert!(!resident(&mapping).contains(&false));
        // SAFETY: the mapping's first huge page, which nobody else uses but for touching.
        let bytes = unsafe { std::slice::from_raw_parts_mut(from as *mut u8, HUGE) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(0xA5);
        touch();
        assert!(bytes.iter().all(|&byte| byte == 0xA5));
    }
}
