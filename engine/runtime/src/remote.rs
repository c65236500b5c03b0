//! Channels whose other end is in another process: the pump between a slot's rings and its
//! connections. Synchronous: the slot's shell calls it between rounds, the simulation as a task.
//!
//! ```text
//!   EdgeWriter -> ring -> Pump: Link -> packet -> transport  ~~~  transport -> bytes -> Link: Pump -> ring -> Gate
//!        ^------ buffers, once sent ------+                          grants <---- buffers read -----+
//! ```
//! Tasks see ordinary channels: the ring's receiver on the producer's side, and the ring's sender on the
//! consumer's, belong to the pump.
//!
//! Invariants
//!   N1  The pump takes whatever a ring holds, at once, so that it sees a barrier that stands behind
//!       batches without credit; the buffers stay the producer's, so the ring's credits bound it.
//!   N2  An error names the slot at the other end, its address and the reason; it ends the attempt, never
//!       the process.
//!   N3  A connection that ends after all its channels have ended is no error.
//!   N4  A round that takes in that a packet has left has worked: nobody sleeps while its buffers, and what waits
//!       behind it, could go on.

use crate::channel::{ChannelReceiver, ChannelSender};
use crate::deploy::PeerChannels;
use crate::slot::Round;
use tidemill_base::{BUFFER_BYTES, Batch, Buffer, Element, Error, Micros, Result};
use tidemill_net::Broken;
use tidemill_net::link::{Link, LinkOptions, Port};
use tidemill_net::transport::{Read, Transport};

/// Who stands at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The slot there.
    pub slot: u32,
    /// Where it is, for messages.
    pub address: String,
    /// The handshake's number.
    pub session: u32,
}

/// The rings of one connection.
struct Rings {
    sends: Vec<ChannelReceiver>,
    receives: Vec<ChannelSender>,
}

struct Partner {
    peer: Peer,
    link: Link,
    rings: Rings,
    closed: bool,
}

/// All connections of one slot.
pub struct Pump<T> {
    slot: u32,
    transport: T,
    partners: Vec<Partner>,
    turned_at: Micros,
}

/// While the slot's tasks have work, the transport gets a turn as often as this: system calls that
/// move a hundred kilobytes each are what makes a connection fast, and a task that has work waits for
/// nothing that came in meanwhile.
const TURN_US: Micros = 60;

impl Port for Rings {
    fn buffer(&mut self, at: usize, bytes: usize) -> Option<Buffer> {
        if bytes <= BUFFER_BYTES {
            return self.receives[at].take_buffer();
        }
        self.receives[at].take_credits(bytes).then(|| Buffer::with_bytes(bytes))
    }

    fn deliver(&mut self, at: usize, element: Element) {
        self.receives[at].send(element);
    }

    fn release(&mut self, at: usize, batch: Batch) {
        self.sends[at].recycle(batch);
    }
}

impl<T: Transport> Pump<T> {
    /// For `slot`; the partners in the order of the transport's connections.
    pub fn new(
        slot: u32,
        transport: T,
        partners: Vec<(Peer, PeerChannels)>,
        options: LinkOptions,
        now: Micros,
    ) -> Self {
        debug_assert_eq!(transport.connections(), partners.len());
        let partners = partners.into_iter().map(|(peer, channels)| {
            let sends: Vec<u32> = channels.sends.iter().map(|(number, _)| *number).collect();
            let receives: Vec<_> =
                channels.receives.iter().map(|(number, credits, _)| (*number, *credits)).collect();
            Partner {
                link: Link::new(peer.session, &sends, &receives, options, now),
                rings: Rings {
                    sends: channels.sends.into_iter().map(|(_, rx)| rx).collect(),
                    receives: channels.receives.into_iter().map(|(_, _, tx)| tx).collect(),
                },
                peer,
                closed: false,
            }
        });
        Pump { slot, partners: partners.collect(), transport, turned_at: 0 }
    }

    /// Moves what can be moved, both ways; while the slot's tasks are `busy`, not at every call.
    ///
    /// # Errors
    /// When a connection has ended before its channels had (N2, N3).
    pub fn round(&mut self, now: Micros, busy: bool) -> Result<Round> {
        if busy && now < self.turned_at + TURN_US {
            return Ok(Round::Idle { until: None });
        }
        self.turned_at = now;
        let (mut worked, mut until) = (false, None::<Micros>);
        for at in 0..self.partners.len() {
            worked |= self.outgoing(at, now);
        }
        self.transport.turn()?;
        for at in 0..self.partners.len() {
            worked |= self.written(at);
            worked |= self.incoming(at, now)?;
            until = [until, self.partners[at].link.deadline()].into_iter().flatten().min();
        }
        Ok(if worked { Round::Worked } else { Round::Idle { until } })
    }

    /// Tells every peer why this slot ends, as far as it listens.
    pub fn goodbye(&mut self, reason: &str, now: Micros) {
        for partner in self.partners.iter_mut().filter(|p| !p.closed) {
            partner.link.say_goodbye(reason);
        }
        for at in 0..self.partners.len() {
            self.outgoing(at, now);
        }
        // It is a courtesy: who does not get it sees that the connection is closed.
        let _ = self.transport.turn();
    }

    /// What moves the bytes.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Gives back the buffers of what has left; true if anything has (N4).
    fn written(&mut self, at: usize) -> bool {
        let Partner { link, rings, .. } = &mut self.partners[at];
        let mut worked = false;
        while let Some(packet) = self.transport.written(at) {
            link.written(packet, |channel, batch| rings.release(channel, batch));
            worked = true;
        }
        worked
    }

    /// From the rings to the transport; true if anything was sent.
    fn outgoing(&mut self, at: usize, now: Micros) -> bool {
        let mut worked = self.written(at);
        let Partner { link, rings, closed, .. } = &mut self.partners[at];
        if *closed {
            return worked;
        }
        for (channel, ring) in rings.sends.iter_mut().enumerate() {
            ring.drain_into(link.queue_mut(channel));
        }
        for (channel, ring) in rings.receives.iter_mut().enumerate() {
            ring.flush_waiting();
            link.set_in_use(channel, ring.in_use() as u64);
        }
        if self.transport.can_write(at)
            && let Some(packet) = link.fill(now)
        {
            self.transport.write(at, packet);
            worked = true;
        }
        worked
    }

    /// From the transport to the rings; true if anything came.
    fn incoming(&mut self, at: usize, now: Micros) -> Result<bool> {
        let Partner { link, rings, peer, closed } = &mut self.partners[at];
        if *closed {
            return Ok(false);
        }
        let mut result = link.watch(now);
        let read = self.transport.read(at, &mut |bytes| {
            if result.is_ok() {
                result = link.receive(bytes, now, rings);
            }
        });
        let result = match (result, read) {
            (Err(broken), _) => Err(broken),
            (Ok(()), Read::Empty) => return Ok(false),
            (Ok(()), Read::Some) => return Ok(true),
            (Ok(()), Read::Closed) => link.closed(),
            (Ok(()), Read::Failed(reason)) => {
                if link.is_done() {
                    Ok(())
                } else {
                    Err(Broken::Io(reason))
                }
            }
        };
        // N3: a farewell after the end is one among friends.
        let result = if link.is_done() { Ok(()) } else { result };
        *closed = true;
        result.map(|()| true).map_err(|broken| {
            let (own, Peer { slot, address, .. }) = (self.slot, peer);
            Error::attempt(format!(
                "the connection of slot {own} to slot {slot} at {address} has ended: {broken}"
            ))
        })
    }
}

#[cfg(test)]
mod tests;
