//! Control elements as payloads.
//!
//! ```text
//!   1 watermark i64
//!   2 status u8 (0 active, 1 idle)
//!   3 epoch u64 | age u64 us | kind u8 (0 aligned without timeout, 1 with, 2 unaligned, 3 savepoint) | timeout u64 us
//!   4 (end)
//! ```
//! A barrier's age travels, not its moment: each process has a clock of its own.

use super::{damaged, take};
use crate::error::Broken;
use tidemill_base::{Barrier, BarrierKind, Element, Micros, Status};

/// Appends a control element; nothing for a batch, which has a frame of its own.
pub fn encode(element: &Element, now: Micros, out: &mut Vec<u8>) {
    match element {
        Element::Batch(_) => {}
        Element::Watermark(w) => {
            out.push(1);
            out.extend_from_slice(&w.to_le_bytes());
        }
        Element::Status(status) => out.extend_from_slice(&[2, u8::from(*status == Status::Idle)]),
        Element::Barrier(b) => {
            let (kind, timeout) = match b.kind {
                BarrierKind::Aligned { timeout: None } => (0, 0),
                BarrierKind::Aligned { timeout: Some(t) } => (1, t),
                BarrierKind::Unaligned => (2, 0),
                BarrierKind::Savepoint => (3, 0),
            };
            out.push(3);
            out.extend_from_slice(&b.epoch.to_le_bytes());
            out.extend_from_slice(&now.saturating_sub(b.triggered_at).to_le_bytes());
            out.push(kind);
            out.extend_from_slice(&timeout.to_le_bytes());
        }
        Element::End => out.push(4),
    }
}

/// Reads a control element; a barrier's trigger is put on the clock that says `now`.
///
/// # Errors
/// [`Broken::Damaged`] where it is none, or is followed by anything.
pub fn decode(mut bytes: &[u8], now: Micros) -> Result<Element, Broken> {
    let all = bytes;
    read(&mut bytes, now)
        .filter(|_| bytes.is_empty())
        .ok_or_else(|| damaged(format!("no control element: {:02x?}", &all[..all.len().min(40)])))
}

fn read(bytes: &mut &[u8], now: Micros) -> Option<Element> {
    let [tag] = take(bytes)?;
    Some(match tag {
        1 => Element::Watermark(i64::from_le_bytes(take(bytes)?)),
        2 => Element::Status(match take(bytes)? {
            [0] => Status::Active,
            [1] => Status::Idle,
            _ => return None,
        }),
        3 => {
            let epoch = u64::from_le_bytes(take(bytes)?);
            let age = u64::from_le_bytes(take(bytes)?);
            let [kind] = take(bytes)?;
            let timeout = u64::from_le_bytes(take(bytes)?);
            let kind = match (kind, timeout) {
                (0, 0) => BarrierKind::Aligned { timeout: None },
                (1, t) => BarrierKind::Aligned { timeout: Some(t) },
                (2, 0) => BarrierKind::Unaligned,
                (3, 0) => BarrierKind::Savepoint,
                _ => return None,
            };
            Element::Barrier(Barrier { epoch, triggered_at: now.saturating_sub(age), kind })
        }
        4 => Element::End,
        _ => return None,
    })
}
