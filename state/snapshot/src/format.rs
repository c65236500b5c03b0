//! The data object: everything one worker contributes to one checkpoint, as bytes. Pure.
//!
//! ```text
//! object := header chunk*                       all integers little endian
//!
//! header, 16 bytes                              chunk, 24 bytes and the payload
//! +----+---------+---+------------------+       +----+----------+---+-----------------------+
//! |  0 | magic   | 8 | "TIDESNAP"       |       |  0 | operator | 8 | operator id           |
//! |  8 | version | 2 | OBJECT_VERSION   |       |  8 | subtask  | 4 | subtask index         |
//! | 10 | zero    | 2 |                  |       | 12 | kind     | 2 | SectionKind           |
//! | 12 | crc32   | 4 | of bytes 0..12   |       | 14 | state    | 2 | state index           |
//! +----+---------+---+------------------+       | 16 | length   | 4 | payload bytes         |
//!                                               | 20 | crc32    | 4 | of 0..20 and payload  |
//!                                               | 24 | payload  |   | length bytes          |
//!                                               +----+----------+---+-----------------------+
//! ```
//!
//! Invariants
//!   F1  Every byte of an object is covered by the header's or by one chunk's crc32.
//!   F2  `decode(encode(h)) == h`; bytes that no encoder writes are an error, never a guess.

use serde::{Deserialize, Serialize};

/// First eight bytes of every data object.
pub const OBJECT_MAGIC: [u8; 8] = *b"TIDESNAP";
/// The version of the object format that this build writes and reads.
pub const OBJECT_VERSION: u16 = 2;
/// Bytes of the object header.
pub const OBJECT_HEADER_BYTES: usize = 16;
/// Bytes of a chunk header.
pub const CHUNK_HEADER_BYTES: usize = 24;
/// Longest payload of one chunk, in bytes; longer state travels as several chunks.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;

const _: () = assert!(PAYLOAD_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(CHUNK_HEADER_BYTES == 8 + 4 + 2 + 2 + 4 + 4);
const _: () = assert!(OBJECT_HEADER_BYTES == 8 + 2 + 2 + 4);

/// What a chunk's payload is, as far as routing it at restore needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
pub enum SectionKind {
    /// State by key, tagged by key group.
    KeyedState = 1,
    /// State of a subtask as a whole.
    OperatorState = 2,
    /// Timers, tagged by key group.
    Timers = 3,
    /// Batches that were in flight when an unaligned barrier overtook them.
    ChannelState = 4,
    /// Positions of a source.
    Source = 5,
    /// Prepared but uncommitted output of a sink.
    Sink = 6,
}

impl SectionKind {
    /// Every kind, in the order of the numbers on disk.
    pub const ALL: [SectionKind; 6] = [
        SectionKind::KeyedState,
        SectionKind::OperatorState,
        SectionKind::Timers,
        SectionKind::ChannelState,
        SectionKind::Source,
        SectionKind::Sink,
    ];

    fn from_disk(value: u16) -> Result<Self, FormatError> {
        let found = Self::ALL.into_iter().find(|kind| *kind as u16 == value);
        found.ok_or(FormatError::Kind(value))
    }
}

/// Whose bytes a chunk holds. Chunks with equal keys form a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// Operator id (stable hash of the operator's uid).
    pub operator: u64,
    /// Index of the subtask, from 0.
    pub subtask: u32,
    /// What the payload is.
    pub kind: SectionKind,
    /// Which of the operator's states, as an index into its declared states.
    pub state: u16,
}

/// A decoded chunk header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Whose bytes follow.
    pub key: ChunkKey,
    /// Payload bytes.
    pub length: u32,
    /// crc32 of the header's first 20 bytes and the payload.
    pub crc32: u32,
}

/// Why bytes are not an object of this format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The first bytes are not [`OBJECT_MAGIC`].
    #[error("does not begin with the magic bytes TIDESNAP (found {0:02x?})")]
    Magic([u8; 8]),
    /// The object header's checksum does not match.
    #[error("object header has crc32 {stored:08x}, its bytes give {computed:08x}")]
    HeaderChecksum {
        /// As written in the header.
        stored: u32,
        /// As computed from the bytes.
        computed: u32,
    },
    /// A format version that this build does not know.
    #[error("object format version {0}, this build reads version {OBJECT_VERSION}")]
    Version(u16),
    /// A section kind that this build does not know.
    #[error("unknown section kind {0} (known are 1 to 6)")]
    Kind(u16),
    /// A payload beyond [`PAYLOAD_BYTES_MAX`].
    #[error("payload of {0} bytes, the limit is {PAYLOAD_BYTES_MAX}")]
    Length(u64),
    /// A chunk's checksum does not match.
    #[error("chunk has crc32 {stored:08x}, its bytes give {computed:08x}")]
    ChunkChecksum {
        /// As written in the chunk.
        stored: u32,
        /// As computed from the bytes.
        computed: u32,
    },
}

/// The object header as this build writes it.
pub fn object_header() -> [u8; OBJECT_HEADER_BYTES] {
    let mut out = [0; OBJECT_HEADER_BYTES];
    out[..8].copy_from_slice(&OBJECT_MAGIC);
    out[8..10].copy_from_slice(&OBJECT_VERSION.to_le_bytes());
    let crc = crc32fast::hash(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks an object header.
pub fn check_object_header(bytes: &[u8; OBJECT_HEADER_BYTES]) -> Result<(), FormatError> {
    let magic: [u8; 8] = array(bytes, 0);
    if magic != OBJECT_MAGIC {
        return Err(FormatError::Magic(magic));
    }
    let stored = u32::from_le_bytes(array(bytes, 12));
    let computed = crc32fast::hash(&bytes[..12]);
    if stored != computed {
        return Err(FormatError::HeaderChecksum { stored, computed });
    }
    let version = u16::from_le_bytes(array(bytes, 8));
    if version != OBJECT_VERSION {
        return Err(FormatError::Version(version));
    }
    // A set reserved field would be a version that we do not know.
    if bytes[10..12] != [0, 0] {
        return Err(FormatError::Version(u16::from_le_bytes(array(bytes, 10))));
    }
    Ok(())
}

impl ChunkHeader {
    /// The header of a chunk with this payload.
    ///
    /// # Errors
    /// [`FormatError::Length`] when the payload is longer than [`PAYLOAD_BYTES_MAX`].
    pub fn new(key: ChunkKey, payload: &[u8]) -> Result<Self, FormatError> {
        let too_long = FormatError::Length(payload.len() as u64);
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(too_long);
        }
        let length = u32::try_from(payload.len()).map_err(|_| too_long)?;
        let mut header = ChunkHeader { key, length, crc32: 0 };
        header.crc32 = header.checksum().finish(payload);
        Ok(header)
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; CHUNK_HEADER_BYTES] {
        let mut out = [0; CHUNK_HEADER_BYTES];
        out[..8].copy_from_slice(&self.key.operator.to_le_bytes());
        out[8..12].copy_from_slice(&self.key.subtask.to_le_bytes());
        out[12..14].copy_from_slice(&(self.key.kind as u16).to_le_bytes());
        out[14..16].copy_from_slice(&self.key.state.to_le_bytes());
        out[16..20].copy_from_slice(&self.length.to_le_bytes());
        out[20..].copy_from_slice(&self.crc32.to_le_bytes());
        out
    }

    /// The header that these bytes are. The checksum is compared by [`check`](Self::check),
    /// when the payload is at hand.
    ///
    /// # Errors
    /// An unknown kind, or a length beyond the limit.
    pub fn decode(bytes: &[u8; CHUNK_HEADER_BYTES]) -> Result<Self, FormatError> {
        let length = u32::from_le_bytes(array(bytes, 16));
        if length as usize > PAYLOAD_BYTES_MAX {
            return Err(FormatError::Length(length.into()));
        }
        let key = ChunkKey {
            operator: u64::from_le_bytes(array(bytes, 0)),
            subtask: u32::from_le_bytes(array(bytes, 8)),
            kind: SectionKind::from_disk(u16::from_le_bytes(array(bytes, 12)))?,
            state: u16::from_le_bytes(array(bytes, 14)),
        };
        Ok(ChunkHeader { key, length, crc32: u32::from_le_bytes(array(bytes, 20)) })
    }

    /// Compares the checksum with header and payload.
    ///
    /// # Errors
    /// [`FormatError::ChunkChecksum`].
    pub fn check(&self, payload: &[u8]) -> Result<(), FormatError> {
        self.checksum().check(self.crc32, payload)
    }

    /// Bytes of the whole chunk.
    pub fn chunk_bytes(&self) -> u64 {
        CHUNK_HEADER_BYTES as u64 + u64::from(self.length)
    }

    /// A running checksum that has taken in the header.
    pub(crate) fn checksum(&self) -> Checksum {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.encode()[..20]);
        Checksum(hasher)
    }
}

/// The running checksum of a chunk whose payload arrives in pieces.
pub(crate) struct Checksum(crc32fast::Hasher);

impl Checksum {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    fn finish(mut self, rest: &[u8]) -> u32 {
        self.0.update(rest);
        self.0.finalize()
    }

    pub(crate) fn check(self, stored: u32, rest: &[u8]) -> Result<(), FormatError> {
        let computed = self.finish(rest);
        if stored != computed {
            return Err(FormatError::ChunkChecksum { stored, computed });
        }
        Ok(())
    }
}

/// `N` bytes from `at`. The callers' offsets are constants inside a fixed array.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(operator: u64, subtask: u32, kind: usize, state: u16) -> ChunkKey {
        ChunkKey { operator, subtask, kind: SectionKind::ALL[kind], state }
    }

    /// The bytes on disk are fixed forever: a change here is a new version.
    #[test]
    fn golden_bytes() {
        assert_eq!(object_header()[..12], *b"TIDESNAP\x02\x00\x00\x00");
        let header = ChunkHeader::new(key(0x0102_0304_0506_0708, 9, 3, 10), b"abc").unwrap();
        let want = [8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 4, 0, 10, 0, 3, 0, 0, 0];
        assert_eq!(header.encode()[..20], want);
        let crc = crc32fast::hash(&[&want[..], b"abc"].concat());
        assert_eq!(header.encode()[20..], crc.to_le_bytes());
    }

    #[test]
    fn unknown_kind_is_named() {
        let mut bytes = ChunkHeader::new(key(1, 2, 0, 3), b"").unwrap().encode();
        bytes[12] = 99;
        let error = ChunkHeader::decode(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "unknown section kind 99 (known are 1 to 6)");
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = object_header();
        bytes[8] = 7;
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(check_object_header(&bytes), Err(FormatError::Version(7)));
    }

    proptest! {
        #[test]
        fn header_round_trip(op: u64, sub: u32, kind in 0usize..6, state: u16, payload: Vec<u8>) {
            let header = ChunkHeader::new(key(op, sub, kind, state), &payload).unwrap();
            prop_assert_eq!(ChunkHeader::decode(&header.encode()).unwrap(), header);
            prop_assert_eq!(header.check(&payload), Ok(()));
        }

        /// F1: no flipped bit in header or payload goes unnoticed.
        #[test]
        fn flipped_bits_are_seen(payload in prop::collection::vec(any::<u8>(), 0..64), bit: prop::sample::Index) {
            let header = ChunkHeader::new(key(7, 1, 2, 3), &payload).unwrap();
            let mut bytes = [&header.encode()[..], &payload].concat();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let head: [u8; CHUNK_HEADER_BYTES] = array(&bytes, 0);
            let seen = ChunkHeader::decode(&head)
                .and_then(|h| if h.length == header.length { h.check(&bytes[24..]) }
                              else { Err(FormatError::Length(h.length.into())) });
            prop_assert!(seen.is_err());
        }
    }
}
