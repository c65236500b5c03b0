//! The messages of the handshake. Numbers little-endian; on a connection each stands behind its length
//! (u16).
//!
//! ```text
//!   1 Hello      "TMNET" | version u16 | job [16] | attempt u32 | from u32 | to u32 | build [32] | nonce [32]
//!   2 Challenge  nonce [32] | mac [32]
//!   3 Proof      mac [32]
//!   4 Welcome    mac [32]
//!   5 Refusal    the reason, UTF-8
//! ```
//! The first eight bytes of a hello are the same in every version, so that another version can be named.

use super::{Identity, PROTOCOL};

/// The longest message, in bytes.
pub const MESSAGE_MAX: usize = 512;

const MAGIC: [u8; 5] = *b"TMNET";

/// A hello.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) job: [u8; 16],
    pub(super) attempt: u32,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) build: [u8; 32],
    nonce: [u8; 32],
}

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Hello(Box<Hello>),
    Challenge { nonce: [u8; 32], mac: [u8; 32] },
    Proof { mac: [u8; 32] },
    Welcome { mac: [u8; 32] },
    Refusal(String),
}

impl Message {
    pub(super) fn hello(identity: &Identity, from: u32, to: u32, nonce: [u8; 32]) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&PROTOCOL.to_le_bytes());
        out.extend_from_slice(&identity.job);
        out.extend_from_slice(&identity.attempt.to_le_bytes());
        out.extend_from_slice(&from.to_le_bytes());
        out.extend_from_slice(&to.to_le_bytes());
        out.extend_from_slice(&identity.build);
        out.extend_from_slice(&nonce);
        out
    }

    pub(super) fn challenge(nonce: [u8; 32], mac: [u8; 32]) -> Vec<u8> {
        [&[2], &nonce[..], &mac[..]].concat()
    }

    pub(super) fn proof(mac: [u8; 32]) -> Vec<u8> {
        [&[3], &mac[..]].concat()
    }

    pub(super) fn welcome(mac: [u8; 32]) -> Vec<u8> {
        [&[4], &mac[..]].concat()
    }

    pub(super) fn refusal(reason: &str) -> Vec<u8> {
        let mut out = vec![5];
        out.extend(reason.bytes().take(MESSAGE_MAX - 1));
        out
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "a hello",
            Message::Challenge { .. } => "a challenge",
            Message::Proof { .. } => "a proof",
            Message::Welcome { .. } => "a welcome",
            Message::Refusal(_) => "a refusal",
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Message, String> {
        let unreadable = || "a message that is no part of Tidemill's handshake".to_owned();
        let (&tag, mut body) = bytes.split_first().ok_or_else(unreadable)?;
        if tag == 5 {
            return Ok(Message::Refusal(String::from_utf8_lossy(body).into_owned()));
        }
        if tag == 1 {
            let magic = take::<5>(&mut body).ok_or_else(unreadable)?;
            let version = take::<2>(&mut body).map(u16::from_le_bytes).ok_or_else(unreadable)?;
            if magic != MAGIC {
                return Err(unreadable());
            }
            if version != PROTOCOL {
                // What follows may look different there; the version is what is refused.
                body = &[0; 16 + 12 + 64];
            }
            let hello = Self::decode_hello(version, &mut body).filter(|_| body.is_empty());
            return hello.map(|h| Message::Hello(Box::new(h))).ok_or_else(unreadable);
        }
        let message = match tag {
            2 => take(&mut body).zip(take(&mut body)).map(|(nonce, mac)| {
                let message: Message = Message::Challenge { nonce, mac };
                message
            }),
            3 => take(&mut body).map(|mac| Message::Proof { mac }),
            4 => take(&mut body).map(|mac| Message::Welcome { mac }),
            _ => None,
        };
        message.filter(|_| body.is_empty()).ok_or_else(unreadable)
    }

    fn decode_hello(version: u16, body: &mut &[u8]) -> Option<Hello> {
        Some(Hello {
            version,
            job: take(body)?,
            attempt: u32::from_le_bytes(take(body)?),
            from: u32::from_le_bytes(take(body)?),
            to: u32::from_le_bytes(take(body)?),
            build: take(body)?,
            nonce: take(body)?,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*front)
}
