//! A batch as a payload: its metadata packed by columns, its archives as they are.
//!
//! ```text
//!  head   count u32 | data bytes u32 | age u32 us | hashes u8 | times u8 | ends u8 | 0 u8 |
//!         first time i64 | stride u32 | first hash's upper half: 0 u32                 (32 bytes)
//!  hashes 0: u64 each    1: none, all are 0
//!  times  0: i64 each    1: u32 each, added to the first time   2: u16 each, likewise   3: none, all alike
//!  ends   0: u32 each    1: none, record i ends at stride * (i + 1)   2: likewise, and the batch is even
//!  data   the archives
//! ```
//! Of the 16 or 24 bytes of metadata that a record has in its buffer, 10 remain for keyed records of one
//! size with times close to each other: what crosses a connection is copied twice by the kernel.
//!
//! Invariants
//!   P1  unpack(pack(b)) has the records of b, with their times, hashes and ends.
//!   P2  Whatever bytes come in, unpacking writes only inside the buffer that it was given, and what it
//!       accepts satisfies C1 of the batch.

use super::{damaged, word};
use crate::error::Broken;
use tidemill_base::batch::{META, META_EVEN};
use tidemill_base::{Batch, Buffer, Micros};

/// Bytes of the head.
pub const HEAD: usize = 32;

/// The age of a batch that nobody dated.
const UNDATED: u32 = u32::MAX;

/// The form of the ends of an even batch.
const EVEN: u8 = 2;

/// What the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    count: u32,
    data: u32,
    age: u32,
    hashes: u8,
    times: u8,
    ends: u8,
    first: i64,
    stride: u32,
}

impl Head {
    fn encode(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..4].copy_from_slice(&self.count.to_le_bytes());
        out[4..8].copy_from_slice(&self.data.to_le_bytes());
        out[8..12].copy_from_slice(&self.age.to_le_bytes());
        out[12..15].copy_from_slice(&[self.hashes, self.times, self.ends]);
        out[16..24].copy_from_slice(&self.first.to_le_bytes());
        out[24..28].copy_from_slice(&self.stride.to_le_bytes());
        out
    }

    /// The head, and the bytes of each column; `None` for a form that there is not.
    fn decode(bytes: &[u8; HEAD]) -> Option<(Head, [usize; 3])> {
        let head = Head {
            count: word(bytes, 0),
            data: word(bytes, 4),
            age: word(bytes, 8),
            hashes: bytes[12],
            times: bytes[13],
            ends: bytes[14],
            first: (u64::from(word(bytes, 16)) | u64::from(word(bytes, 20)) << 32) as i64,
            stride: word(bytes, 24),
        };
        let n = head.count as usize;
        let hashes = [8, 0].get(usize::from(head.hashes))?;
        let times = [8, 4, 2, 0].get(usize::from(head.times))?;
        let ends = [4, 0, 0].get(usize::from(head.ends))?;
        let padding = bytes[15] != 0 || word(bytes, 28) != 0;
        let even = head.ends == EVEN && head.stride == 0;
        (!padding && !even).then_some((head, [n * hashes, n * times, n * ends]))
    }
}

#[inline(always)]
fn time_of(meta: &[u8]) -> i64 {
    i64::from_le_bytes([meta[0], meta[1], meta[2], meta[3], meta[4], meta[5], meta[6], meta[7]])
}

/// Chooses the forms of a batch's columns.
fn survey(batch: &Batch, now: Micros) -> Head {
    let metas = || batch.metas().rchunks_exact(batch.meta_bytes());
    let (mut least, mut most) = (i64::MAX, i64::MIN);
    let mut any_hash = 0;
    for meta in metas() {
        let time = time_of(meta);
        least = least.min(time);
        most = most.max(time);
        any_hash |= word(meta, 8) | word(meta, 12);
    }
    let times = match most.checked_sub(least) {
        Some(0) => 3,
        Some(span) if span <= i64::from(u16::MAX) => 2,
        Some(span) if span <= i64::from(u32::MAX) => 1,
        _ => 0,
    };
    let (ends, stride) = match batch.stride() {
        0 => {
            let stride = metas().next().map_or(0, |meta| word(meta, 16));
            let by_stride =
                std::iter::successors(Some(stride), |end| Some(end.wrapping_add(stride)));
            let alike = metas().map(|meta| word(meta, 16)).zip(by_stride).all(|(a, b)| a == b);
            (u8::from(alike), stride)
        }
        stride => (EVEN, stride),
    };
    Head {
        count: batch.len() as u32,
        data: batch.data().len() as u32,
        age: age(batch, now),
        hashes: u8::from(any_hash == 0),
        times,
        ends,
        first: least,
        stride,
    }
}

/// Appends head and packed metadata of a batch to `out`; the archives are to follow.
pub fn pack(batch: &Batch, now: Micros, out: &mut Vec<u8>) {
    if !pack_usual(batch, now, out) {
        pack_any(batch, now, out);
    }
}

/// What most batches are, in one pass: even and hashed, with times close to each other. False, and nothing
/// appended, for any other.
fn pack_usual(batch: &Batch, now: Micros, out: &mut Vec<u8>) -> bool {
    let (metas, n) = (batch.metas(), batch.len());
    let Some(first) = metas.rchunks_exact(META_EVEN).next().filter(|_| batch.stride() > 0) else {
        return false;
    };
    let base = time_of(first).wrapping_sub(1 << 15);
    if (word(first, 8) | word(first, 12)) == 0 {
        return false;
    }
    let from = out.len();
    out.resize(from + HEAD + 10 * n, 0);
    let (hashes, times) = out[from + HEAD..].split_at_mut(8 * n);
    let (hashes, times) = (hashes.as_chunks_mut::<8>().0, times.as_chunks_mut::<2>().0);
    let mut far = 0u64;
    let metas = metas.as_chunks::<META_EVEN>().0.iter().rev();
    for ((meta, hash), time) in metas.zip(hashes).zip(times) {
        let offset = time_of(meta).wrapping_sub(base) as u64;
        far |= offset >> 16;
        hash.copy_from_slice(&meta[8..]);
        *time = (offset as u16).to_le_bytes();
    }
    if far != 0 {
        out.truncate(from);
        return false;
    }
    let head = Head {
        count: n as u32,
        data: batch.data().len() as u32,
        age: age(batch, now),
        hashes: 0,
        times: 2,
        ends: EVEN,
        first: base,
        stride: batch.stride(),
    };
    out[from..from + HEAD].copy_from_slice(&head.encode());
    true
}

fn age(batch: &Batch, now: Micros) -> u32 {
    match batch.born_at() {
        0 => UNDATED,
        born => now.saturating_sub(born).min(u64::from(UNDATED - 1)) as u32,
    }
}

fn pack_any(batch: &Batch, now: Micros, out: &mut Vec<u8>) {
    let head = survey(batch, now);
    out.extend_from_slice(&head.encode());
    let metas = || batch.metas().rchunks_exact(batch.meta_bytes());
    if head.hashes == 0 {
        column::<8>(out, batch.len(), metas(), |m| {
            [m[8], m[9], m[10], m[11], m[12], m[13], m[14], m[15]]
        });
    }
    let offset = |m: &[u8]| time_of(m).wrapping_sub(head.first) as u64;
    match head.times {
        0 => column::<8>(out, batch.len(), metas(), |m| time_of(m).to_le_bytes()),
        1 => column::<4>(out, batch.len(), metas(), |m| (offset(m) as u32).to_le_bytes()),
        2 => column::<2>(out, batch.len(), metas(), |m| (offset(m) as u16).to_le_bytes()),
        _ => {}
    }
    if head.ends == 0 {
        column::<4>(out, batch.len(), metas(), |m| [m[16], m[17], m[18], m[19]]);
    }
}

#[inline(always)]
fn column<'a, const N: usize>(
    out: &mut Vec<u8>,
    count: usize,
    metas: impl Iterator<Item = &'a [u8]>,
    value: impl Fn(&[u8]) -> [u8; N],
) {
    let from = out.len();
    out.resize(from + count * N, 0);
    let (cells, _) = out[from..].as_chunks_mut::<N>();
    for (cell, meta) in cells.iter_mut().zip(metas) {
        *cell = value(meta);
    }
}

/// A payload whose head has been read and whose lengths agree.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    head: Head,
    hashes: &'a [u8],
    times: &'a [u8],
    ends: &'a [u8],
    data: &'a [u8],
}

impl<'a> Packed<'a> {
    /// Splits a payload.
    ///
    /// # Errors
    /// [`Broken::Damaged`] where the parts that its head announces are not what is there.
    pub fn new(payload: &'a [u8]) -> Result<Self, Broken> {
        let there = payload.len();
        let (head, rest) = payload
            .split_first_chunk::<HEAD>()
            .ok_or_else(|| damaged(format!("a batch of {there} bytes, shorter than its head")))?;
        let (head, columns) =
            Head::decode(head).ok_or_else(|| damaged("a batch in an unknown form".into()))?;
        let announced = columns.iter().sum::<usize>() + head.data as usize;
        if announced != rest.len() || head.count == 0 {
            let (count, got) = (head.count, rest.len());
            return Err(damaged(format!(
                "a batch of {count} records and {announced} bytes in {got} bytes"
            )));
        }
        let (hashes, rest) = rest.split_at(columns[0]);
        let (times, rest) = rest.split_at(columns[1]);
        let (ends, data) = rest.split_at(columns[2]);
        Ok(Packed { head, hashes, times, ends, data })
    }

    /// Bytes that the batch takes in a buffer.
    pub fn bytes(&self) -> usize {
        self.data.len() + self.meta_bytes() * self.head.count as usize
    }

    fn meta_bytes(&self) -> usize {
        if self.head.ends == EVEN { META_EVEN } else { META }
    }

    /// Lays the batch out in `buffer`, dated on the clock that says `now`.
    ///
    /// # Errors
    /// [`Broken::Damaged`] where the buffer is too small or the ends are not in order (P2).
    pub fn unpack(&self, mut buffer: Buffer, now: Micros) -> Result<Batch, Broken> {
        let (n, room) = (self.head.count as usize, buffer.len());
        let need = self.bytes();
        if need > room {
            return Err(damaged(format!("a batch of {need} bytes for a buffer of {room}")));
        }
        let bytes = buffer.bytes_mut();
        bytes[..self.data.len()].copy_from_slice(self.data);
        let tail = &mut bytes[room - self.meta_bytes() * n..];
        let first = self.head.first;
        match self.head.times {
            0 => self
                .fill(tail, self.times.as_chunks::<8>().0.iter().map(|t| i64::from_le_bytes(*t))),
            1 => self.fill(
                tail,
                self.times
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|t| first.wrapping_add(i64::from(u32::from_le_bytes(*t)))),
            ),
            2 => self.fill(
                tail,
                self.times
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|t| first.wrapping_add(i64::from(u16::from_le_bytes(*t)))),
            ),
            _ => self.fill(tail, std::iter::repeat(first)),
        }
        let born_at = match self.head.age {
            UNDATED => 0,
            age => now.saturating_sub(u64::from(age)).max(1),
        };
        let stride = if self.head.ends == EVEN { self.head.stride } else { 0 };
        Batch::assemble(buffer, self.head.data, self.head.count, stride, born_at)
            .map_err(|e| damaged(e.to_string()))
    }

    #[inline(always)]
    fn fill(&self, tail: &mut [u8], times: impl Iterator<Item = i64>) {
        if self.head.hashes == 0 {
            self.fill_hashed(tail, times, self.hashes.as_chunks::<8>().0.iter().copied());
        } else {
            self.fill_hashed(tail, times, std::iter::repeat([0; 8]));
        }
    }

    #[inline(always)]
    fn fill_hashed(
        &self,
        tail: &mut [u8],
        times: impl Iterator<Item = i64>,
        hashes: impl Iterator<Item = [u8; 8]>,
    ) {
        let stride = self.head.stride;
        if self.head.ends == EVEN {
            write_even(tail, times, hashes);
        } else if self.head.ends == 0 {
            let ends = self.ends.as_chunks::<4>().0.iter().map(|e| u32::from_le_bytes(*e));
            write_metas(tail, times, hashes, ends);
        } else {
            let mut end = 0u32;
            let ends = std::iter::repeat_with(|| {
                end = end.wrapping_add(stride);
                end
            });
            write_metas(tail, times, hashes, ends);
        }
    }
}

#[inline(always)]
fn write_even(
    tail: &mut [u8],
    times: impl Iterator<Item = i64>,
    hashes: impl Iterator<Item = [u8; 8]>,
) {
    let (cells, _) = tail.as_chunks_mut::<META_EVEN>();
    for ((meta, time), hash) in cells.iter_mut().rev().zip(times).zip(hashes) {
        meta[..8].copy_from_slice(&time.to_le_bytes());
        meta[8..].copy_from_slice(&hash);
    }
}

#[inline(always)]
fn write_metas(
    tail: &mut [u8],
    times: impl Iterator<Item = i64>,
    hashes: impl Iterator<Item = [u8; 8]>,
    ends: impl Iterator<Item = u32>,
) {
    let (cells, _) = tail.as_chunks_mut::<META>();
    for (((meta, time), hash), end) in cells.iter_mut().rev().zip(times).zip(hashes).zip(ends) {
        meta[..8].copy_from_slice(&time.to_le_bytes());
        meta[8..16].copy_from_slice(&hash);
        meta[16..20].copy_from_slice(&end.to_le_bytes());
        meta[20..].fill(0);
    }
}
