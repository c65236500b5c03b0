//! The bytes of a frame: a header of fixed size, then its payload. All numbers little-endian.
//!
//! ```text
//!  0        2         3      4         8          16        20       24            28         32
//!  | magic  | version | kind | channel | sequence | session | length | payload crc | header crc |
//!  payload: `length` bytes
//!    Batch    head (32 bytes, see batch.rs) | packed metadata | archives
//!    Control  tag u8, then what the element has (see control.rs)
//!    Credit   (channel u32 | units u32) ...
//!    Ping     nothing
//!    Goodbye  the reason, UTF-8
//! ```
//! `session` is a number that both sides drew in their handshake: a frame recorded on another
//! connection is foreign. `sequence` counts the frames of a channel in one direction, from 0; credits,
//! pings and goodbyes belong to the pseudo-channel [`LINK`].
//!
//! Invariants
//!   F1  A header that does not match its own checksum is never believed, not even its length.
//!   F2  A payload is handed on only whole and when it matches its checksum.
//!   F3  A payload has at most [`PAYLOAD_MAX`] bytes.

pub mod batch;
pub mod control;

use crate::error::Broken;

#[cfg(test)]
mod tests;

/// Bytes of a header.
pub const HEADER: usize = 32;

/// The first two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"TM";

/// Version of the protocol; peers of different versions refuse each other in the handshake.
pub const VERSION: u8 = 2;

/// The largest payload: a dedicated buffer of the largest record, its metadata and the head.
pub const PAYLOAD_MAX: usize = (32 << 20) + 4096;

/// The channel number of frames that belong to the connection itself.
pub const LINK: u32 = u32::MAX;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Records.
    Batch = 1,
    /// Watermark, status, barrier or end.
    Control = 2,
    /// Grants for channels in the other direction.
    Credit = 3,
    /// A sign of life.
    Ping = 4,
    /// The sender ends the connection, and says why.
    Goodbye = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Batch,
            2 => Kind::Control,
            3 => Kind::Credit,
            4 => Kind::Ping,
            5 => Kind::Goodbye,
            _ => return None,
        })
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// The channel, or [`LINK`].
    pub channel: u32,
    /// Number of the frame among those of its channel.
    pub sequence: u64,
    /// The connection.
    pub session: u32,
    /// Bytes of the payload.
    pub length: u32,
    /// Checksum of the payload.
    pub payload_crc: u32,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..2].copy_from_slice(&MAGIC);
        out[2] = VERSION;
        out[3] = self.kind as u8;
        out[4..8].copy_from_slice(&self.channel.to_le_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..20].copy_from_slice(&self.session.to_le_bytes());
        out[20..24].copy_from_slice(&self.length.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header (F1, F3).
    ///
    /// # Errors
    /// [`Broken::Damaged`] naming what is wrong with it.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Header, Broken> {
        if bytes[..2] != MAGIC {
            return Err(damaged(format!("a frame begins with {:02x?}", &bytes[..2])));
        }
        let crc = word(bytes, 28);
        if crc32fast::hash(&bytes[..28]) != crc {
            return Err(damaged("a header does not match its checksum".into()));
        }
        if bytes[2] != VERSION {
            let version = bytes[2];
            return Err(damaged(format!("a frame of version {version}, this is {VERSION}")));
        }
        let kind = Kind::from_byte(bytes[3])
            .ok_or_else(|| damaged(format!("a frame of the unknown kind {}", bytes[3])))?;
        let length = word(bytes, 20);
        if length as usize > PAYLOAD_MAX {
            return Err(damaged(format!("a payload of {length} bytes, at most {PAYLOAD_MAX}")));
        }
        let sequence = u64::from(word(bytes, 8)) | u64::from(word(bytes, 12)) << 32;
        Ok(Header {
            kind,
            channel: word(bytes, 4),
            sequence,
            session: word(bytes, 16),
            length,
            payload_crc: word(bytes, 24),
        })
    }
}

pub(crate) fn damaged(what: String) -> Broken {
    Broken::Damaged(what)
}

/// The little-endian word at `at`. Panics outside of `bytes`.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Takes `N` bytes from the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*front)
}
