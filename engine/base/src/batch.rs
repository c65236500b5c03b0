//! Records in a buffer: archives from the front, their metadata from the back.
//!
//! ```text
//!  0                                                             len
//!  | archive 0 | archive 1 | ... | free ... | meta 1 | meta 0 |
//!  meta = timestamp i64 | key hash u64 | end of the archive u32 | 0 u32     (24 bytes, native)
//! ```
//! Archive *i* occupies `end(i-1)..end(i)`, its root value ends at `end(i)`. Encoded for a file
//! or a connection: `count u32 | data bytes u32 | data | meta 0 | meta 1 | ...`, all little-endian.
//!
//! Invariants
//!   C1  `data_len + META * count <= buffer.len()`; ends increase and the last is `data_len`.
//!   C2  Records of one batch have one type: an edge is typed at both ends by the API.
//!   C3  Bytes that came from outside are checked (`decode`, then `check`) before `get`.

use crate::buffer::{ALIGN, BUFFER_BYTES, Buffer};
use crate::error::{Error, Result};
use crate::record::{Encoder, Record};
use crate::time::{Micros, Timestamp};
use std::marker::PhantomData;

/// Bytes of metadata per record.
pub const META: usize = 24;

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
    born_at: Micros,
}

/// A batch being written.
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: Buffer,
    data_len: usize,
    count: usize,
    born_at: Micros,
}

/// One record of a batch, still as bytes.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// Archive with its leading padding.
    bytes: &'a [u8],
    /// Position of `bytes` in its buffer.
    start: usize,
    /// Event time.
    pub timestamp: Timestamp,
    /// Key hash, 0 on edges without key.
    pub hash: u64,
}

impl BatchBuilder {
    /// Starts an empty batch in `buffer`.
    pub fn new(buffer: Buffer) -> Self {
        BatchBuilder { buffer, data_len: 0, count: 0, born_at: 0 }
    }

    /// Starts an empty batch that remembers when its first record was written.
    pub fn born_at(buffer: Buffer, now: Micros) -> Self {
        BatchBuilder { buffer, data_len: 0, count: 0, born_at: now }
    }

    /// Number of records.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no record yet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes used by archives and metadata.
    pub fn bytes_used(&self) -> usize {
        self.data_len + META * self.count
    }

    /// Archives a record at the end of the batch.
    #[inline(always)]
    pub fn push<T: Record>(
        &mut self,
        view: T::View<'_>,
        timestamp: Timestamp,
        hash: u64,
    ) -> Result<(), Full> {
        let meta = META * (self.count + 1);
        if self.data_len + meta > self.buffer.len() {
            return Err(Full);
        }
        let limit = self.buffer.len() - meta;
        let mut encoder = Encoder::new(&mut self.buffer.bytes_mut()[..limit], self.data_len);
        encoder.encode::<T>(view).map_err(|_| Full)?;
        let end = encoder.position();
        self.finish_record(end, timestamp, hash);
        Ok(())
    }

    /// Copies a record of another batch, as bytes: relative pointers inside it stay valid because
    /// its position keeps its remainder modulo [`ALIGN`].
    #[inline]
    pub fn push_raw(&mut self, record: RawRecord<'_>) -> Result<(), Full> {
        let shift = (record.start.wrapping_sub(self.data_len)) & (ALIGN - 1);
        let start = self.data_len + shift;
        let end = start + record.bytes.len();
        if end + META * (self.count + 1) > self.buffer.len() {
            return Err(Full);
        }
        self.buffer.bytes_mut()[self.data_len..start].fill(0);
        self.buffer.bytes_mut()[start..end].copy_from_slice(record.bytes);
        self.finish_record(end, record.timestamp, record.hash);
        Ok(())
    }

    #[inline(always)]
    fn finish_record(&mut self, end: usize, timestamp: Timestamp, hash: u64) {
        let at = self.buffer.len() - META * (self.count + 1);
        let meta = &mut self.buffer.bytes_mut()[at..at + META];
        meta[..8].copy_from_slice(&timestamp.to_le_bytes());
        meta[8..16].copy_from_slice(&hash.to_le_bytes());
        meta[16..].copy_from_slice(&u64::from(end as u32).to_le_bytes());
        self.data_len = end;
        self.count += 1;
    }

    /// Ends the batch.
    pub fn seal(self) -> Batch {
        Batch {
            buffer: self.buffer,
            data_len: self.data_len as u32,
            count: self.count as u32,
            born_at: self.born_at,
        }
    }
}

impl Batch {
    /// A batch whose `count` records were laid out in `buffer` as drawn above, by whoever received
    /// them: `data_len` bytes of archives at the front, the metadata at the back. `born_at` as in
    /// [`Batch::born_at`].
    ///
    /// # Errors
    /// Where C1 does not hold; the records themselves are not looked at (C3).
    pub fn assemble(buffer: Buffer, data_len: u32, count: u32, born_at: Micros) -> Result<Batch> {
        let data = data_len as usize;
        let used = (count as usize).checked_mul(META).and_then(|m| m.checked_add(data));
        if used.is_none_or(|used| used > buffer.len()) {
            let room = buffer.len();
            return Err(damaged(format!("{count} records, {data} data bytes in {room} bytes")));
        }
        let batch = Batch { buffer, data_len, count, born_at };
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

    /// The metadata as it lies in the buffer: `META * len` bytes, the last record's first.
    #[inline]
    pub fn metas(&self) -> &[u8] {
        &self.buffer.bytes()[self.buffer.len() - META * self.len()..]
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
        self.data_len as usize + META * self.len()
    }

    /// Timestamp, key hash and end of record `i`. Panics if `i >= len`.
    #[inline(always)]
    #[expect(unsafe_code, reason = "one check instead of four on the way of every record")]
    fn meta(&self, i: usize) -> (Timestamp, u64, usize) {
        assert!(i < self.len(), "record {i} of a batch of {}", self.len());
        let at = self.buffer.len() - META * (i + 1);
        // SAFETY: C1: the metadata of `count` records lies inside the buffer, `i` is below it, and
        // all bytes are initialised (B2); a byte array has no alignment.
        let meta = unsafe { self.buffer.bytes().as_ptr().add(at).cast::<[[u8; 8]; 3]>().read() };
        let [timestamp, hash, end] = meta.map(u64::from_le_bytes);
        (timestamp as i64, hash, end as u32 as usize)
    }

    /// Event time of record `i`. Panics if `i >= len`.
    #[inline(always)]
    pub fn timestamp(&self, i: usize) -> Timestamp {
        self.meta(i).0
    }

    /// Key hash of record `i`. Panics if `i >= len`.
    #[inline(always)]
    pub fn hash(&self, i: usize) -> u64 {
        self.meta(i).1
    }

    /// Record `i` read in place, with its timestamp and key hash. Panics if `i >= len`.
    ///
    /// `T` must be the type that was pushed (C2), and the bytes must have been checked if they
    /// came from outside (C3).
    #[inline(always)]
    #[expect(unsafe_code, reason = "the archive is accessed in place")]
    pub fn get<T: Record>(&self, i: usize) -> (T::View<'_>, Timestamp, u64) {
        assert!(i < self.len(), "record {i} of a batch of {}", self.len());
        let (timestamp, hash, end) = self.meta(i);
        let root = end - size_of::<T::Archived>();
        debug_assert!(root.is_multiple_of(align_of::<T::Archived>()) && end <= self.buffer.len());
        // SAFETY: C1 puts the root inside the buffer, B1 and the encoder's alignment make it
        // aligned, C2 and C3 make it a valid `T::Archived`.
        let archived = unsafe { &*self.buffer.bytes().as_ptr().add(root).cast::<T::Archived>() };
        (T::view_archived(archived), timestamp, hash)
    }

    /// Record `i` as bytes. Panics if `i >= len`.
    #[inline]
    pub fn raw(&self, i: usize) -> RawRecord<'_> {
        assert!(i < self.len(), "record {i} of a batch of {}", self.len());
        let (timestamp, hash, end) = self.meta(i);
        let start = if i == 0 { 0 } else { self.meta(i - 1).2 };
        RawRecord { bytes: &self.buffer.bytes()[start..end], start, timestamp, hash }
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
        out.reserve(8 + self.bytes_used());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.data_len.to_le_bytes());
        out.extend_from_slice(&self.buffer.bytes()[..self.data_len as usize]);
        for i in 0..self.len() {
            let at = self.buffer.len() - META * (i + 1);
            out.extend_from_slice(&self.buffer.bytes()[at..at + META]);
        }
    }

    /// Reads one encoded batch from the front of `bytes`; returns it and the bytes consumed.
    /// The records are not checked yet: see [`Batch::check`].
    pub fn decode(bytes: &[u8]) -> Result<(Batch, usize)> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let (Some(count), Some(data_len)) = (word(0), word(4)) else {
            return Err(damaged(format!("{} bytes, shorter than its header", bytes.len())));
        };
        let (n, data) = (count as usize, data_len as usize);
        let total = n.checked_mul(META).and_then(|m| m.checked_add(data)?.checked_add(8));
        let total = total.filter(|&t| t <= bytes.len()).ok_or_else(|| {
            damaged(format!(
                "{count} records, {data_len} data bytes announced, {} there",
                bytes.len()
            ))
        })?;
        let mut buffer = Buffer::with_bytes((data.next_multiple_of(ALIGN)) + n * META);
        let len = buffer.len();
        let out = buffer.bytes_mut();
        out[..data].copy_from_slice(&bytes[8..8 + data]);
        for i in 0..n {
            let from = 8 + data + META * i;
            out[len - META * (i + 1)..len - META * i].copy_from_slice(&bytes[from..from + META]);
        }
        let batch = Batch::assemble(buffer, data_len, count, 0)?;
        Ok((batch, total))
    }

    /// Validates every record as an archive of `T`.
    pub fn check<T: Record>(&self) -> Result<()> {
        for i in 0..self.len() {
            let end = self.meta(i).2;
            let start = if i == 0 { 0 } else { self.meta(i - 1).2 };
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
