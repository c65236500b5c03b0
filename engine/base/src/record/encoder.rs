//! Writes archives into a fixed byte window.

use super::Record;
use crate::buffer::ALIGN;
use crate::short;
use rkyv::Place;
use rkyv::rancor::{Failure, Fallible};
use rkyv::ser::{Positional, Writer};

/// Writer of archives into a fixed window of bytes. It fails, and what it wrote is to be
/// forgotten, when the window is full.
///
/// The window's address must be 16-byte aligned, so that aligned positions are aligned addresses.
pub struct Encoder<'b> {
    bytes: &'b mut [u8],
    position: usize,
}

impl<'b> Encoder<'b> {
    /// Writes from `position` on; what is before stays.
    #[inline(always)]
    pub fn new(bytes: &'b mut [u8], position: usize) -> Self {
        debug_assert!((bytes.as_ptr() as usize).is_multiple_of(crate::buffer::ALIGN));
        Encoder { bytes, position }
    }

    /// Where the next byte goes.
    #[inline(always)]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Archives `view` whole; its root ends at the position afterwards.
    #[inline(always)]
    pub fn encode<T: Record>(&mut self, view: T::View<'_>) -> Result<(), Failure> {
        T::encode_view(view, self)
    }

    /// Archives `view` by the two halves of [`Record`].
    #[inline(always)]
    pub fn encode_in_halves<T: Record>(&mut self, view: T::View<'_>) -> Result<(), Failure> {
        let resolver = T::serialize_view(view, self)?;
        let at = self.reserve_root::<T>()?;
        self.resolve_at::<T>(view, resolver, at);
        Ok(())
    }

    /// As `reserve(1)`, its length known to the compiler, and what is written whole not zeroed.
    #[inline(always)]
    fn reserve_root<T: Record>(&mut self) -> Result<usize, Failure> {
        let size = size_of::<T::Archived>();
        let at = self.position.next_multiple_of(align_of::<T::Archived>());
        if T::PLAIN {
            // Roots only: they are aligned by their size.
            if at != self.position {
                pad(self.bytes, self.position, at)?;
            }
        } else {
            // How much padding there is cannot be predicted: the most there can be, if it fits.
            match self.bytes.get_mut(self.position..self.position + ALIGN) {
                Some(padding) => padding.fill(0),
                None => pad(self.bytes, self.position, at)?,
            }
        }
        let root = self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..size));
        let root = root.ok_or(Failure)?;
        if T::WRITTEN < size {
            root.fill(0);
        }
        self.position = at + size;
        Ok(at)
    }

    /// Writes 16 bytes, of which the first `n` stay; returns where. `None`, and nothing is written,
    /// if there is no room for all 16.
    #[inline(always)]
    pub(crate) fn write_pair(&mut self, pair: (u64, u64), n: usize) -> Option<usize> {
        let at = self.position;
        let window = self.bytes.get_mut(at..at + 16)?;
        window[..8].copy_from_slice(&pair.0.to_le_bytes());
        window[8..].copy_from_slice(&pair.1.to_le_bytes());
        self.position = at + n.min(16);
        Some(at)
    }

    /// The next `N` bytes, for the caller to write the first ones of and then to `advance` by as
    /// many; `None` if there are no so many left.
    #[inline(always)]
    pub(crate) fn window<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(self.position..)?.first_chunk_mut()
    }

    /// The next `n` bytes, at most those of the last window, are written.
    #[inline(always)]
    pub(crate) fn advance(&mut self, n: usize) {
        self.position += n;
    }

    /// Aligns for `U` and reserves room for `n` of them, zeroed; returns where they start.
    #[inline(always)]
    pub fn reserve<U>(&mut self, n: usize) -> Result<usize, Failure> {
        let at = self.position.next_multiple_of(align_of::<U>());
        let end = size_of::<U>().checked_mul(n).and_then(|len| at.checked_add(len));
        let Some(window) = end.and_then(|end| self.bytes.get_mut(self.position..end)) else {
            return Err(Failure);
        };
        window.fill(0);
        self.position = at + size_of::<U>() * n;
        Ok(at)
    }

    /// Writes the root of `view` at `at`, which [`Encoder::reserve`] gave for `T::Archived`.
    /// Panics if the place is outside of what has been reserved.
    #[inline(always)]
    #[expect(unsafe_code, reason = "rkyv resolves archives in place")]
    pub fn resolve_at<T: Record>(&mut self, view: T::View<'_>, resolver: T::Resolver, at: usize) {
        assert!(
            at + size_of::<T::Archived>() <= self.position && self.position <= self.bytes.len()
        );
        debug_assert!(at.is_multiple_of(align_of::<T::Archived>()));
        // SAFETY: the place is inside the window (asserted), initialised bytes, and aligned
        // because `reserve` aligned the position and the window is 16-byte aligned.
        unsafe {
            let root = self.bytes.as_mut_ptr().add(at).cast::<T::Archived>();
            T::resolve_view(view, resolver, Place::new_unchecked(at, root));
        }
    }
}

/// Zeroes `from..to`. Apart, since the compiler would make one call of all ways to pad; not a method,
/// so that the encoder stays in registers.
#[cold]
#[inline(never)]
fn pad(bytes: &mut [u8], from: usize, to: usize) -> Result<(), Failure> {
    bytes.get_mut(from..to).ok_or(Failure)?.fill(0);
    Ok(())
}

impl Fallible for Encoder<'_> {
    type Error = Failure;
}

impl Positional for Encoder<'_> {
    #[inline(always)]
    fn pos(&self) -> usize {
        self.position
    }
}

impl Writer for Encoder<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let end = self.position + bytes.len();
        let Some(window) = self.bytes.get_mut(self.position..end) else {
            return Err(Failure);
        };
        short::copy(window, bytes);
        self.position = end;
        Ok(())
    }
}
