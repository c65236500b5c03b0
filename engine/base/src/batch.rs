//! Records in a buffer: archives from the front, their metadata from the back.
//!
//! ```text
//!  0                                                             len
//!  | archive 0 | archive 1 | ... | free ... | meta 1 | meta 0 |
//!  even:    meta = timestamp i64 | key hash u64                                     (16 bytes)
//!  uneven:  meta = timestamp i64 | key hash u64 | end of the archive u32 | 0 u32    (24 bytes)
//! ```
//! A batch of plain records, whose archives are their roots and no more, is *even*: archive *i*
//! occupies `stride * i..stride * (i + 1)`. In any other, archive *i* occupies `end(i-1)..end(i)`,
//! and its root ends at `end(i)`. Encoded for a file: `count u32 | data bytes u32 | stride u32 |
//! data | meta 0 | meta 1 | ...`, all little-endian, the stride 0 where there is none.
//!
//! Invariants
//!   C1  `data_len + meta_bytes * count <= buffer.len()`; ends increase and the last is `data_len`;
//!       in an even batch `data_len == stride * count`.
//!   C2  Records of one batch have one type: an edge is typed at both ends by the API. Batches of
//!       plain records are even, and no others.
//!   C3  Bytes that came from outside are checked (`decode`, then `check`) before `get`.

use crate::buffer::{ALIGN, BUFFER_BYTES, Buffer};
use crate::error::{Error, Result};
use crate::record::{Encoder, Record};
use crate::time::{Micros, Timestamp};
use rkyv::Place;
use std::marker::PhantomData;

/// Bytes of metadata of a record whose archive may have any length.
pub const META: usize = 24;

/// Bytes of metadata of a record in an even batch.
pub const META_EVEN: usize = 16;

/// Bytes from one record of an even batch to the next; 0 of types whose batches are not even.
const fn stride_of<T: Record>() -> usize {
    if T::PLAIN { size_of::<T::Archived>() } else { 0 }
}

/// Bytes of metadata a record, by the stride of its batch.
#[inline(always)]
const fn meta_bytes(stride: usize) -> usize {
    if stride == 0 { META } else { META_EVEN }
}

/// Bytes before the archives of an encoded batch.
const ENCODED_HEAD: usize = 12;

/// What so many bytes in a dedicated buffer count for against a channel's credits.
pub const fn credits(bytes: usize) -> usize {
    bytes.div_ceil(BUFFER_BYTES)
}

/// The record does not fit into what is left of the buffer; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A sealed batch: read in place.
#[derive(Debug)]
pub struct Batch {
    buffer: Buffer,
    data_len: u32,
    count: u32,
    /// 0 unless even.
    stride: u32,
    born_at: Micros,
}

/// A batch being written.
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: Buffer,
    data_len: usize,
    /// Where the metadata begins: what lies between it and `data_len` is free.
    metas_at: usize,
    /// Of the records that are in it; 0 unless they are plain.
    stride: usize,
    born_at: Micros,
}

/// One record of a batch, still as bytes.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// Archive with its leading padding.
    bytes: &'a [u8],
    /// Position of `bytes` in its buffer.
    start: usize,
    /// Of its batch.
    stride: usize,
    /// Event time.
    pub timestamp: Timestamp,
    /// Key hash, 0 on edges without key.
    pub hash: u64,
}

impl BatchBuilder {
    /// Starts an empty batch in `buffer`.
    pub fn new(buffer: Buffer) -> Self {
        Self::born_at(buffer, 0)
    }

    /// Starts an empty batch that remembers when its first record was written.
    pub fn born_at(buffer: Buffer, now: Micros) -> Self {
        let metas_at = buffer.len();
        BatchBuilder { buffer, data_len: 0, metas_at, stride: 0, born_at: now }
    }

    /// Number of records.
    #[inline]
    pub fn len(&self) -> usize {
        (self.buffer.len() - self.metas_at) / meta_bytes(self.stride)
    }

    /// Whether there is no record yet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.metas_at == self.buffer.len()
    }

    /// Bytes used by archives and metadata.
    pub fn bytes_used(&self) -> usize {
        self.data_len + self.buffer.len() - self.metas_at
    }

    /// Archives a record at the end of the batch.
    #[inline(always)]
    pub fn push<T: Record>(
        &mut self,
        view: T::View<'_>,
        timestamp: Timestamp,
        hash: u64,
    ) -> Result<(), Full> {
        let stride = const { stride_of::<T>() };
        self.expect_stride(stride);
        let room = self.metas_at - self.data_len;
        if room < stride + const { meta_bytes(stride_of::<T>()) } {
            return Err(Full);
        }
        if stride > 0 {
            return self.push_plain::<T>(view, timestamp, hash);
        }
        let limit = self.metas_at - META;
        let mut encoder = Encoder::new(&mut self.buffer.bytes_mut()[..limit], self.data_len);
        encoder.encode::<T>(view).map_err(|_| Full)?;
        let end = encoder.position();
        self.finish_uneven(end, timestamp, hash);
        Ok(())
    }

    /// [`BatchBuilder::push`] of a plain record for which there is room.
    #[inline(always)]
    #[expect(unsafe_code, reason = "one check instead of eight on the way of every record")]
    fn push_plain<T: Record>(
        &mut self,
        view: T::View<'_>,
        timestamp: Timestamp,
        hash: u64,
    ) -> Result<(), Full> {
        let size = size_of::<T::Archived>();
        debug_assert!(self.data_len + size + META_EVEN <= self.metas_at);
        debug_assert!(self.metas_at <= self.buffer.len() && self.data_len.is_multiple_of(size));
        // The root is all there is: what wanted to write beside it would find no room.
        let mut nothing = Encoder::new(&mut self.buffer.bytes_mut()[..0], 0);
        let resolver = T::serialize_view(view, &mut nothing).map_err(|_| Full)?;
        let (end, metas_at) = (self.data_len + size, self.metas_at - META_EVEN);
        let bytes = self.buffer.bytes_mut().as_mut_ptr();
        // SAFETY: the caller has looked that `size + META_EVEN` bytes are free between `data_len` and
        // `metas_at`, which lie in the buffer; all its bytes are initialised (B2). The root is aligned:
        // its position is a multiple of its size, and the buffer of 16 (B1).
        unsafe {
            let root = bytes.add(self.data_len).cast::<T::Archived>();
            if T::WRITTEN < size {
                root.write_bytes(0, 1);
            }
            T::resolve_view(view, resolver, Place::new_unchecked(self.data_len, root));
            let meta = [(timestamp as u64).to_le_bytes(), hash.to_le_bytes()];
            bytes.add(metas_at).cast::<[[u8; 8]; 2]>().write(meta);
        }
        (self.data_len, self.metas_at) = (end, metas_at);
        Ok(())
    }

    /// Copies a record of another batch, as bytes: relative pointers inside it stay valid because
    /// its position keeps its remainder modulo [`ALIGN`]; one of an even batch has none.
    #[inline]
    pub fn push_raw(&mut self, record: RawRecord<'_>) -> Result<(), Full> {
        self.expect_stride(record.stride);
        let even = record.stride > 0;
        let shift = if even { 0 } else { record.start.wrapping_sub(self.data_len) & (ALIGN - 1) };
        let start = self.data_len + shift;
        let end = start + record.bytes.len();
        if end + meta_bytes(record.stride) > self.metas_at {
            return Err(Full);
        }
        self.buffer.bytes_mut()[self.data_len..start].fill(0);
        self.buffer.bytes_mut()[start..end].copy_from_slice(record.bytes);
        if even {
            self.finish_even(end, record.timestamp, record.hash);
        } else {
            self.finish_uneven(end, record.timestamp, record.hash);
        }
        Ok(())
    }

    /// The first record decides what the batch is (C2).
    #[inline(always)]
    fn expect_stride(&mut self, stride: usize) {
        if self.stride != stride {
            self.begin_stride(stride);
        }
    }

    #[cold]
    fn begin_stride(&mut self, stride: usize) {
        assert!(self.is_empty(), "records of {stride} and {} bytes in one batch", self.stride);
        self.stride = stride;
    }

    fn finish_even(&mut self, end: usize, timestamp: Timestamp, hash: u64) {
        let at = self.metas_at - META_EVEN;
        let meta = &mut self.buffer.bytes_mut()[at..at + META_EVEN];
        meta[..8].copy_from_slice(&timestamp.to_le_bytes());
        meta[8..].copy_from_slice(&hash.to_le_bytes());
        (self.data_len, self.metas_at) = (end, at);
    }

    #[inline(always)]
    fn finish_uneven(&mut self, end: usize, timestamp: Timestamp, hash: u64) {
        let at = self.metas_at - META;
        let meta = &mut self.buffer.bytes_mut()[at..at + META];
        meta[..8].copy_from_slice(&timestamp.to_le_bytes());
        meta[8..16].copy_from_slice(&hash.to_le_bytes());
        meta[16..].copy_from_slice(&u64::from(end as u32).to_le_bytes());
        (self.data_len, self.metas_at) = (end, at);
    }

    /// Ends the batch.
    pub fn seal(self) -> Batch {
        Batch {
            count: self.len() as u32,
            buffer: self.buffer,
            data_len: self.data_len as u32,
            stride: self.stride as u32,
            born_at: self.born_at,
        }
    }
}

impl Batch {
    /// A batch whose `count` records were laid out in `buffer` as drawn above, by whoever received
    /// them: `data_len` bytes of archives at the front, the metadata at the back. `stride` as in
    /// [`Batch::stride`], `born_at` as in [`Batch::born_at`].
    ///
    /// # Errors
    /// Where C1 does not hold; the records themselves are not looked at (C3).
    pub fn assemble(
        buffer: Buffer,
        data_len: u32,
        count: u32,
        stride: u32,
        born_at: Micros,
    ) -> Result<Batch> {
        let (data, n) = (data_len as usize, count as usize);
        let used = n.checked_mul(meta_bytes(stride as usize)).and_then(|m| m.checked_add(data));
        if used.is_none_or(|used| used > buffer.len()) {
            let room = buffer.len();
            return Err(damaged(format!("{count} records, {data} data bytes in {room} bytes")));
        }
        let batch = Batch { buffer, data_len, count, stride, born_at };
        if stride > 0 {
            if u64::from(stride) * u64::from(count) != u64::from(data_len) {
                return Err(damaged(format!("{count} records of {stride} bytes in {data}")));
            }
            return Ok(batch);
        }
        let mut last = 0;
        for meta in batch.metas().rchunks_exact(META) {
            let end = u32::from_le_bytes([meta[16], meta[17], meta[18], meta[19]]);
            if end < last || end > data_len {
                return Err(damaged(format!("a record ends at {end}, after {last} of {data}")));
            }
            last = end;
        }
        if last != data_len {
            return Err(damaged(format!("{data} data bytes, the last record ends at {last}")));
        }
        Ok(batch)
    }

    /// The archives: `data_len` bytes.
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.buffer.bytes()[..self.data_len as usize]
    }

    /// The metadata as it lies in the buffer: `meta_bytes * len` bytes, the last record's first.
    #[inline]
    pub fn metas(&self) -> &[u8] {
        &self.buffer.bytes()[self.buffer.len() - self.meta_bytes() * self.len()..]
    }

    /// Bytes from one record to the next in an even batch; 0 where it is not.
    #[inline]
    pub fn stride(&self) -> u32 {
        self.stride
    }

    /// Bytes of metadata a record: [`META_EVEN`] in an even batch, otherwise [`META`].
    #[inline]
    pub fn meta_bytes(&self) -> usize {
        meta_bytes(self.stride as usize)
    }

    /// Number of records.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// When its first record was written, on the engine's clock; 0 if nobody said.
    #[inline]
    pub fn born_at(&self) -> Micros {
        self.born_at
    }

    /// What it counts for against a channel's credits: 1 in a pooled buffer, in a dedicated one as
    /// many as its bytes would fill.
    #[inline]
    pub fn credits(&self) -> usize {
        if self.buffer.is_pooled() { 1 } else { credits(self.bytes_used()) }
    }

    /// Gives the buffer back for reuse.
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// Bytes of archives and metadata.
    pub fn bytes_used(&self) -> usize {
        self.data_len as usize + self.meta_bytes() * self.len()
    }

    /// Timestamp and key hash of record `i`, whose metadata has `bytes` bytes. Panics if
    /// `i >= len`.
    #[inline(always)]
    #[expect(unsafe_code, reason = "one check instead of four on the way of every record")]
    fn meta(&self, i: usize, bytes: usize) -> (Timestamp, u64) {
        assert!(i < self.len(), "record {i} of a batch of {}", self.len());
        let at = self.buffer.len() - bytes * (i + 1);
        // SAFETY: C1: the metadata of `count` records lies inside the buffer, `i` is below it, and
        // all bytes are initialised (B2); a byte array has no alignment. At least 16 bytes each.
        let meta = unsafe { self.buffer.bytes().as_ptr().add(at).cast::<[[u8; 8]; 2]>().read() };
        let [timestamp, hash] = meta.map(u64::from_le_bytes);
        (timestamp as i64, hash)
    }

    /// Where the archive of record `i` ends, in a batch that is not even. Panics if `i >= len`.
    #[inline(always)]
    #[expect(unsafe_code, reason = "one check instead of four on the way of every record")]
    fn uneven_end(&self, i: usize) -> usize {
        assert!(i < self.len(), "record {i} of a batch of {}", self.len());
        let at = self.buffer.len() - META * (i + 1) + 16;
        // SAFETY: as in `meta`: a batch that is not even has 24 bytes of metadata a record.
        let end = unsafe { self.buffer.bytes().as_ptr().add(at).cast::<[u8; 4]>().read() };
        u32::from_le_bytes(end) as usize
    }

    /// The bytes of record `i` with its leading padding. Panics if `i >= len`.
    #[inline]
    fn extent(&self, i: usize) -> std::ops::Range<usize> {
        match self.stride as usize {
            0 if i == 0 => 0..self.uneven_end(0),
            0 => self.uneven_end(i - 1)..self.uneven_end(i),
            stride => stride * i..stride * (i + 1),
        }
    }

    /// Event time of record `i`. Panics if `i >= len`.
    #[inline(always)]
    pub fn timestamp(&self, i: usize) -> Timestamp {
        self.meta(i, self.meta_bytes()).0
    }

    /// Key hash of record `i`. Panics if `i >= len`.
    #[inline(always)]
    pub fn hash(&self, i: usize) -> u64 {
        self.meta(i, self.meta_bytes()).1
    }

    /// Record `i` read in place, with its timestamp and key hash. Panics if `i >= len`.
    ///
    /// `T` must be the type that was pushed (C2), and the bytes must have been checked if they
    /// came from outside (C3).
    #[inline(always)]
    #[expect(unsafe_code, reason = "the archive is accessed in place")]
    pub fn get<T: Record>(&self, i: usize) -> (T::View<'_>, Timestamp, u64) {
        let stride = const { stride_of::<T>() };
        // Once more, since a peer may have said otherwise: it decides where the metadata is.
        assert!(stride == self.stride as usize, "C2: a batch of another type");
        let (timestamp, hash) = self.meta(i, const { meta_bytes(stride_of::<T>()) });
        let root = match stride {
            0 => self.uneven_end(i) - size_of::<T::Archived>(),
            stride => stride * i,
        };
        debug_assert!(root.is_multiple_of(align_of::<T::Archived>()));
        debug_assert!(root + size_of::<T::Archived>() <= self.data_len as usize);
        // SAFETY: C1 puts the root inside the buffer, B1 and the encoder's alignment (in an even
        // batch: a size is a multiple of the alignment) make it aligned, C2 and C3 make it a valid
        // `T::Archived`, and the batch even or not as `T` wants it.
        let archived = unsafe { &*self.buffer.bytes().as_ptr().add(root).cast::<T::Archived>() };
        (T::view_archived(archived), timestamp, hash)
    }

    /// Record `i` as bytes. Panics if `i >= len`.
    #[inline]
    pub fn raw(&self, i: usize) -> RawRecord<'_> {
        let (timestamp, hash) = self.meta(i, self.meta_bytes());
        let (extent, stride) = (self.extent(i), self.stride as usize);
        let start = extent.start;
        RawRecord { bytes: &self.buffer.bytes()[extent], start, stride, timestamp, hash }
    }

    /// A batch of the chosen records only; `None` if there are none.
    pub fn select(&self, records: impl Iterator<Item = usize>) -> Result<Option<Batch>> {
        let mut builder = BatchBuilder::new(Buffer::with_bytes(self.bytes_used() + ALIGN));
        for i in records {
            // Left-out records shift the others, each shift rounds up to the alignment.
            if builder.push_raw(self.raw(i)).is_err() {
                let mut larger = BatchBuilder::new(Buffer::with_bytes(2 * self.bytes_used() + 64));
                let sealed = builder.seal();
                for j in 0..sealed.len() {
                    larger
                        .push_raw(sealed.raw(j))
                        .map_err(|Full| damaged(format!("record {j}")))?;
                }
                larger.push_raw(self.raw(i)).map_err(|Full| damaged(format!("record {i}")))?;
                builder = larger;
            }
        }
        Ok((!builder.is_empty()).then(|| builder.seal()))
    }

    /// All records in order.
    pub fn iter<T: Record>(&self) -> Iter<'_, T> {
        Iter { batch: self, next: 0, record: PhantomData }
    }

    /// Appends the encoded batch to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(ENCODED_HEAD + self.bytes_used());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.data_len.to_le_bytes());
        out.extend_from_slice(&self.stride.to_le_bytes());
        out.extend_from_slice(self.data());
        for meta in self.metas().rchunks_exact(self.meta_bytes()) {
            out.extend_from_slice(meta);
        }
    }

    /// Reads one encoded batch from the front of `bytes`; returns it and the bytes consumed.
    /// The records are not checked yet: see [`Batch::check`].
    pub fn decode(bytes: &[u8]) -> Result<(Batch, usize)> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let (Some(count), Some(data_len), Some(stride)) = (word(0), word(4), word(8)) else {
            return Err(damaged(format!("{} bytes, shorter than its header", bytes.len())));
        };
        let (n, data, meta_bytes) =
            (count as usize, data_len as usize, meta_bytes(stride as usize));
        let total = n.checked_mul(meta_bytes).and_then(|m| m.checked_add(data + ENCODED_HEAD));
        let total = total.filter(|&t| t <= bytes.len()).ok_or_else(|| {
            damaged(format!(
                "{count} records, {data_len} data bytes announced, {} there",
                bytes.len()
            ))
        })?;
        let mut buffer = Buffer::with_bytes(data.next_multiple_of(ALIGN) + n * meta_bytes);
        let len = buffer.len();
        let out = buffer.bytes_mut();
        let (from, metas) = bytes[ENCODED_HEAD..total].split_at(data);
        out[..data].copy_from_slice(from);
        let to = out[len - n * meta_bytes..].rchunks_exact_mut(meta_bytes);
        for (to, from) in to.zip(metas.chunks_exact(meta_bytes)) {
            to.copy_from_slice(from);
        }
        let batch = Batch::assemble(buffer, data_len, count, stride, 0)?;
        Ok((batch, total))
    }

    /// Validates every record as an archive of `T`.
    pub fn check<T: Record>(&self) -> Result<()> {
        if self.stride as usize != stride_of::<T>() && !self.is_empty() {
            let (there, wanted) = (self.stride, stride_of::<T>());
            return Err(damaged(format!("records {there} bytes apart, not {wanted}")));
        }
        for i in 0..self.len() {
            let std::ops::Range { start, end } = self.extent(i);
            let root = end.checked_sub(size_of::<T::Archived>()).filter(|&r| r >= start);
            let Some(root) = root else {
                return Err(damaged(format!("record {i} has {} bytes", end - start)));
            };
            // Nothing before `start`: a copy (`push_raw`) would not take it along. The validator
            // checks alignment by address, so the window need not start aligned.
            rkyv::api::high::access_pos::<T::Archived, rkyv::rancor::Error>(
                &self.buffer.bytes()[start..end],
                root - start,
            )
            .map_err(|e| damaged(format!("record {i}: {e}")))?;
        }
        Ok(())
    }
}

fn damaged(what: String) -> Error {
    Error::attempt(format!("damaged batch: {what}"))
}

/// Iterator over a batch: `(view, timestamp, key hash)`.
pub struct Iter<'a, T> {
    batch: &'a Batch,
    next: usize,
    record: PhantomData<fn() -> T>,
}

impl<'a, T: Record> Iterator for Iter<'a, T> {
    type Item = (T::View<'a>, Timestamp, u64);
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.batch.len()).then(|| {
            let item = self.batch.get::<T>(self.next);
            self.next += 1;
            item
        })
    }
}
