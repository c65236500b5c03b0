//! Memory for the big parts of a table: zeroed pieces carved out of large mappings that ask for
//! huge pages. Pieces live until the arena is dropped.
//!
//! A mapping is address space only: the kernel backs what is touched, 2 MiB at a time. So the
//! longest pause that taking memory can cause is the zeroing of one huge page.

#![expect(unsafe_code, reason = "maps memory")]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

/// Size of a huge page, and the alignment of a mapping.
const HUGE: usize = 2 << 20;

/// Address space taken at once.
const MAPPING: usize = 32 << 20;

/// Takes `bytes` of memory from the kernel in huge pages and gives it back. Where the kernel itself
/// runs on a hypervisor, the first touch of a page by any process costs the host's fault besides
/// (5 ms for 2 MiB were measured); who cannot afford such pauses while tables grow pays once, when
/// it starts. Without effect if the memory is not to be had.
pub fn prefault(bytes: usize) {
    let Some(mapping) = Mapping::new(bytes) else { return };
    // SAFETY: advice on an own mapping, whose contents nobody has.
    unsafe { libc::madvise(mapping.at.as_ptr().cast(), mapping.len, libc::MADV_POPULATE_WRITE) };
}

/// Address space that asks for huge pages.
#[derive(Debug)]
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// At least `bytes` from the first multiple of [`HUGE`] on.
    fn new(bytes: usize) -> Option<Mapping> {
        let len = bytes.checked_next_multiple_of(HUGE)?.checked_add(HUGE)?;
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
        let mapping = Mapping { at: NonNull::new(base.cast())?, len };
        // SAFETY: advice on the mapping just made; a refusal costs speed only.
        unsafe { libc::madvise(base, len, libc::MADV_HUGEPAGE) };
        Some(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping with this length, and its pieces are not used after the
        // arena (the duty of who carves).
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// Zeroed memory for one table.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    mappings: Vec<Mapping>,
    next: usize,
    end: usize,
    carved: usize,
}

impl Arena {
    /// A zeroed piece, valid until the arena is dropped.
    pub(crate) fn carve(&mut self, layout: Layout) -> NonNull<u8> {
        let mut at = self.next.next_multiple_of(layout.align());
        if self.next == 0 || at + layout.size() > self.end {
            self.map(layout);
            at = self.next.next_multiple_of(layout.align());
        }
        self.next = at + layout.size();
        self.carved += layout.size();
        NonNull::new(at as *mut u8).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// Bytes carved so far.
    pub(crate) fn bytes(&self) -> usize {
        self.carved
    }

    #[cold]
    fn map(&mut self, layout: Layout) {
        let useful = layout.size().max(MAPPING).next_multiple_of(HUGE);
        let mapping = Mapping::new(useful).unwrap_or_else(|| handle_alloc_error(layout));
        self.next = (mapping.at.as_ptr() as usize).next_multiple_of(HUGE);
        self.end = self.next + useful;
        self.mappings.push(mapping);
    }
}
