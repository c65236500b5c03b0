//! Bytes on their way out: frame headers and packed metadata in a scratch of their own, archives where
//! they were written.

use crate::credit::CoveredAt;
use std::io::IoSlice;
use tidemill_base::Batch;

/// Some frames, to be sent as they are. Whoever sends it owns it until the last byte has left; then it
/// goes back to the link that made it.
#[derive(Debug, Default)]
pub struct Packet {
    pub(crate) scratch: Vec<u8>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) batches: Vec<Sent>,
    pub(crate) bytes: usize,
}

/// A contiguous part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Of the scratch.
    Scratch { from: usize, to: usize },
    /// The archives of a batch, by index.
    Archives(usize),
}

/// A batch in a packet.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Index of the outbound channel.
    pub(crate) at: usize,
    pub(crate) batch: Batch,
    /// Sent by force: its buffer is withheld.
    pub(crate) until: Option<CoveredAt>,
}

impl Packet {
    /// A packet of these bytes and nothing else: for transports' tests.
    pub fn of_bytes(bytes: &[u8]) -> Packet {
        let mut packet = Packet { scratch: bytes.to_vec(), ..Packet::default() };
        packet.end_scratch();
        packet
    }

    /// Bytes to be sent.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The parts, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| match *piece {
            Piece::Scratch { from, to } => &self.scratch[from..to],
            Piece::Archives(i) => self.batches[i].batch.data(),
        })
    }

    /// The parts from byte `from` on, at most `most`, ready for a vectored write.
    pub fn io_slices(&self, from: usize, most: usize) -> Vec<IoSlice<'_>> {
        let mut skip = from;
        let mut out = Vec::with_capacity(self.pieces.len().min(most));
        for slice in self.slices() {
            if skip >= slice.len() {
                skip -= slice.len();
                continue;
            }
            if out.len() == most {
                break;
            }
            out.push(IoSlice::new(&slice[skip..]));
            skip = 0;
        }
        out
    }

    /// Makes what was appended to the scratch since the last piece a piece, or part of the last one.
    pub(crate) fn end_scratch(&mut self) {
        let to = self.scratch.len();
        let from = self.pieces.iter().rev().find_map(|piece| match piece {
            Piece::Scratch { to, .. } => Some(*to),
            Piece::Archives(_) => None,
        });
        let from = from.unwrap_or(0);
        self.bytes += to - from;
        match self.pieces.last_mut() {
            _ if from == to => {}
            Some(Piece::Scratch { to: end, .. }) => *end = to,
            _ => self.pieces.push(Piece::Scratch { from, to }),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.scratch.clear();
        self.pieces.clear();
        self.batches.clear();
        self.bytes = 0;
    }
}
