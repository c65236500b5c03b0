//! Fixed memory for records: 16-byte aligned, allocated once, written by one task and read in
//! place by one other.
//!
//! Invariants
//!   B1  A buffer's address is 16-byte aligned, so an archive may have any alignment up to 16.
//!   B2  All its bytes are initialised at any time (zeroed when allocated).

/// Size of a pooled buffer. A record that does not fit travels in a dedicated, larger one.
pub const BUFFER_BYTES: usize = 32 * 1024;

/// The strongest alignment of an archive.
pub const ALIGN: usize = 16;

/// Sixteen bytes. An integer, because zeros of that come from the system.
type Block = u128;

const _: () = assert!(size_of::<Block>() == ALIGN && align_of::<Block>() == ALIGN);
const _: () = assert!(BUFFER_BYTES.is_multiple_of(ALIGN));

/// Aligned, initialised bytes of a fixed length.
pub struct Buffer {
    blocks: Box<[Block]>,
}

impl Buffer {
    /// A pooled buffer of [`BUFFER_BYTES`].
    pub fn pooled() -> Self {
        Self::with_bytes(BUFFER_BYTES)
    }

    /// A buffer of at least `bytes`, rounded up to [`ALIGN`]. Of a large one, only what is written
    /// to takes memory: its zeros come from the system.
    pub fn with_bytes(bytes: usize) -> Self {
        Buffer { blocks: vec![0; bytes.div_ceil(ALIGN)].into_boxed_slice() }
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.blocks.len() * ALIGN
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether it has the size that channels recycle.
    #[inline]
    pub fn is_pooled(&self) -> bool {
        self.len() == BUFFER_BYTES
    }

    /// The bytes.
    #[inline(always)]
    #[expect(unsafe_code, reason = "a block is bytes, viewed as such")]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: B2; `Block` is 16 bytes without padding, and the slice lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.blocks.as_ptr().cast(), self.len()) }
    }

    /// The bytes, writable.
    #[inline(always)]
    #[expect(unsafe_code, reason = "a block is bytes, viewed as such")]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: B2; `Block` is 16 bytes without padding, `self` is borrowed exclusively, and
        // any byte value is valid in it.
        unsafe { std::slice::from_raw_parts_mut(self.blocks.as_mut_ptr().cast(), len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} B)", self.len())
    }
}
