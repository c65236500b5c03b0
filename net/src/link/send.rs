//! Elements into packets.

use super::{Inbound, Link, Outbound, PACKET_BYTES, due};
use crate::frame::{HEADER, Header, Kind, LINK, batch, control};
use crate::packet::{Packet, Piece, Sent};
use tidemill_base::batch::credits;
use tidemill_base::{Batch, Element, Micros};

/// Parts that a packet may have: the kernel takes 1024 at once.
const PIECES_MAX: usize = 512;

impl Link {
    /// What may be sent now; `None` if there is nothing. The packet comes back by [`Link::written`].
    pub fn fill(&mut self, now: Micros) -> Option<Packet> {
        let mut packet = self.spare.pop().unwrap_or_default();
        self.grants(&mut packet);
        self.channels(&mut packet, now);
        if packet.is_empty() && self.options.ping_us.is_some_and(|p| now >= self.sent_at + p) {
            self.own_frame(&mut packet, Kind::Ping, |_| {});
        }
        if let Some(reason) = self.farewell.take() {
            self.own_frame(&mut packet, Kind::Goodbye, |out| out.extend(reason.bytes().take(1000)));
        }
        if packet.is_empty() {
            self.spare.push(packet);
            return None;
        }
        self.sent_at = now;
        self.abroad += 1;
        Some(packet)
    }

    /// The last byte of a packet has left: `release(at, batch)` gets the batches whose buffers may go
    /// back to the producer of outbound channel `at`.
    pub fn written(&mut self, mut packet: Packet, mut release: impl FnMut(usize, Batch)) {
        self.abroad -= 1;
        for Sent { at, batch, until } in packet.batches.drain(..) {
            let free = match until {
                Some(until) => self.outbound[at].credit.withhold(until, batch),
                None => Some(batch),
            };
            if let Some(batch) = free {
                release(at, batch);
            }
        }
        packet.clear();
        self.spare.push(packet);
    }

    /// Bytes of batches that could be sent now, as far as that is known without looking closely.
    pub fn waiting_bytes(&self) -> usize {
        let queued = self.outbound.iter().filter(|o| o.credit.may_send()).flat_map(|o| &o.queue);
        queued.map(|e| if let Element::Batch(b) = e { b.bytes_used() } else { PACKET_BYTES }).sum()
    }

    fn grants(&mut self, packet: &mut Packet) {
        let mut any = false;
        for inbound in &mut self.inbound {
            let Inbound { channel, credit, in_use, ended: false, .. } = inbound else { continue };
            let more = credit.grant(*in_use);
            if more > 0 {
                if !any {
                    packet.scratch.resize(packet.scratch.len() + HEADER, 0);
                    any = true;
                }
                packet.scratch.extend_from_slice(&channel.to_le_bytes());
                packet.scratch.extend_from_slice(&(more as u32).to_le_bytes());
            }
        }
        if any {
            self.seal_own(packet, Kind::Credit, 0);
        }
    }

    /// A frame of the link itself.
    fn own_frame(&mut self, packet: &mut Packet, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
        let from = packet.scratch.len();
        packet.scratch.resize(from + HEADER, 0);
        write(&mut packet.scratch);
        self.seal_own(packet, kind, from);
    }

    fn seal_own(&mut self, packet: &mut Packet, kind: Kind, from: usize) {
        let sequence = self.own.0;
        self.own.0 += 1;
        seal(packet, from, &[], Stamp { kind, channel: LINK, sequence, session: self.session });
        packet.end_scratch();
    }

    /// The channels' elements, in turns (L4).
    fn channels(&mut self, packet: &mut Packet, now: Micros) {
        let n = self.outbound.len();
        let mut barren = 0;
        while barren < n && packet.len() < PACKET_BYTES && packet.pieces.len() < PIECES_MAX {
            let at = self.next;
            self.next = (self.next + 1) % n;
            let session = self.session;
            barren = if self.outbound[at].turn(packet, at, session, now) { 0 } else { barren + 1 };
        }
    }
}

impl Outbound {
    /// One batch and the control elements around it; false if nothing could be sent.
    fn turn(&mut self, packet: &mut Packet, at: usize, session: u32, now: Micros) -> bool {
        let mut sent = false;
        while let Some(element) = self.queue.pop_front() {
            match element {
                Element::Batch(batch) if !sent && self.may_send(now) => {
                    self.batch(packet, at, batch, session, now);
                    sent = true;
                }
                Element::Batch(batch) => {
                    self.queue.push_front(Element::Batch(batch));
                    return sent;
                }
                element => {
                    self.ended |= matches!(element, Element::End);
                    let from = packet.scratch.len();
                    packet.scratch.resize(from + HEADER, 0);
                    control::encode(&element, now, &mut packet.scratch);
                    let stamp = self.stamp(Kind::Control, session);
                    seal(packet, from, &[], stamp);
                    packet.end_scratch();
                }
            }
        }
        sent
    }

    /// Whether the batch at the front may leave (L2, L3).
    fn may_send(&self, now: Micros) -> bool {
        self.credit.may_send()
            || self.queue.iter().any(|e| match e {
                Element::Barrier(barrier) => due(barrier).is_some_and(|at| now >= at),
                _ => false,
            })
    }

    fn batch(&mut self, packet: &mut Packet, at: usize, batch: Batch, session: u32, now: Micros) {
        let from = packet.scratch.len();
        packet.scratch.resize(from + HEADER, 0);
        batch::pack(&batch, now, &mut packet.scratch);
        let stamp = self.stamp(Kind::Batch, session);
        seal(packet, from, batch.data(), stamp);
        packet.end_scratch();
        let until = self.credit.send(credits(batch.bytes_used()) as u64);
        if !batch.data().is_empty() {
            packet.bytes += batch.data().len();
            packet.pieces.push(Piece::Archives(packet.batches.len()));
        }
        packet.batches.push(Sent { at, batch, until });
    }

    fn stamp(&mut self, kind: Kind, session: u32) -> Stamp {
        let sequence = self.sequence;
        self.sequence += 1;
        Stamp { kind, channel: self.channel, sequence, session }
    }
}

/// What a header says beside length and checksums.
struct Stamp {
    kind: Kind,
    channel: u32,
    sequence: u64,
    session: u32,
}

/// Writes the header at `from` for what follows it in the scratch, and `rest` behind that.
fn seal(packet: &mut Packet, from: usize, rest: &[u8], stamp: Stamp) {
    let payload = &packet.scratch[from + HEADER..];
    let mut crc = crc32fast::Hasher::new();
    crc.update(payload);
    crc.update(rest);
    let header = Header {
        kind: stamp.kind,
        channel: stamp.channel,
        sequence: stamp.sequence,
        session: stamp.session,
        length: (payload.len() + rest.len()) as u32,
        payload_crc: crc.finalize(),
    };
    packet.scratch[from..from + HEADER].copy_from_slice(&header.encode());
}
