//! The multiplexer of one connection: all channels between two slots, both ways. Sans-IO: elements in
//! and packets out on one side, bytes in and elements out on the other; time is an argument.
//!
//! ```text
//!   ring -> queue --credit, or force--> packet -> bytes     bytes -> frame -> checks -> ring
//!              ^                           |                                             |
//!              +----- buffer, when sent ---+              grants <-- buffers given back -+
//! ```
//!
//! Invariants
//!   L1  A channel's elements leave and arrive in order; nothing follows its end.
//!   L2  Control elements never wait for credit, only for the batches before them.
//!   L3  A batch before a barrier that may overtake (unaligned, or aligned and past its timeout) is sent
//!       without credit, and its buffer withheld (E2): the barrier reaches the consumer at once.
//!   L4  Channels take turns, a batch each, so none starves another of the connection.
//!   L5  A frame that is damaged, foreign, repeated, missing, or against a channel's state ends the link
//!       before anything of it is delivered.
//!
//! Not here: which bytes the socket takes (transport.rs); the rings (engine/runtime).

mod receive;
mod send;

pub use receive::Port;

use crate::credit::{ReceiveCredit, SendCredit};
use crate::decoder::Decoder;
use crate::error::Broken;
use crate::packet::Packet;
use std::collections::VecDeque;
use tidemill_base::{Barrier, BarrierKind, Batch, Element, Micros, Timestamp, WATERMARK_MIN};

#[cfg(test)]
mod tests;

/// Bytes after which a packet takes no further batch. Fewer larger submits are what makes a connection
/// fast; beyond this there is nothing left to gain.
pub const PACKET_BYTES: usize = 256 << 10;

/// How a link watches over its peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkOptions {
    /// With `Some(t)`: sends a ping after `t` us without anything else to send, and takes a peer that
    /// sends nothing for `10 * t` for lost. A slot that spends longer than that in one call of user code
    /// is lost too.
    pub ping_us: Option<Micros>,
}

/// A channel whose producer is here.
struct Outbound {
    channel: u32,
    queue: VecDeque<Element>,
    sequence: u64,
    credit: SendCredit<Batch>,
    ended: bool,
}

/// A channel whose consumer is here.
struct Inbound {
    channel: u32,
    sequence: u64,
    credit: ReceiveCredit,
    in_use: u64,
    watermark: Timestamp,
    epoch: u64,
    ended: bool,
}

/// One end of a connection.
pub struct Link {
    session: u32,
    options: LinkOptions,
    decoder: Decoder,
    outbound: Vec<Outbound>,
    inbound: Vec<Inbound>,
    /// Sequence numbers of frames of the link itself: sent, received.
    own: (u64, u64),
    next: usize,
    farewell: Option<String>,
    spare: Vec<Packet>,
    /// Packets with a transport.
    abroad: usize,
    sent_at: Micros,
    heard_at: Micros,
}

impl Link {
    /// An end with the channels that it sends, and those that it receives with the pooled buffers of
    /// each. `session` is the handshake's.
    pub fn new(
        session: u32,
        sends: &[u32],
        receives: &[(u32, usize)],
        options: LinkOptions,
        now: Micros,
    ) -> Self {
        let outbound = sends.iter().map(|&channel| Outbound {
            channel,
            queue: VecDeque::new(),
            sequence: 0,
            credit: SendCredit::default(),
            ended: false,
        });
        let inbound = receives.iter().map(|&(channel, buffers)| Inbound {
            channel,
            sequence: 0,
            credit: ReceiveCredit::new(buffers as u64),
            in_use: 0,
            watermark: WATERMARK_MIN,
            epoch: 0,
            ended: false,
        });
        Link {
            session,
            options,
            decoder: Decoder::new(session),
            outbound: outbound.collect(),
            inbound: inbound.collect(),
            own: (0, 0),
            next: 0,
            farewell: None,
            spare: Vec::new(),
            abroad: 0,
            sent_at: now,
            heard_at: now,
        }
    }

    /// Queues an element of outbound channel `at`.
    pub fn queue(&mut self, at: usize, element: Element) {
        self.outbound[at].queue.push_back(element);
    }

    /// The queue of outbound channel `at`, to be filled from a ring.
    pub fn queue_mut(&mut self, at: usize) -> &mut VecDeque<Element> {
        &mut self.outbound[at].queue
    }

    /// Units of inbound channel `at` that its consumer has not given back yet.
    pub fn set_in_use(&mut self, at: usize, units: u64) {
        self.inbound[at].in_use = units;
    }

    /// Says goodbye in the next packet, with a reason.
    pub fn say_goodbye(&mut self, reason: &str) {
        self.farewell = Some(reason.to_owned());
    }

    /// Whether every channel has ended and all that was queued is sent.
    pub fn is_done(&self) -> bool {
        let sent = self.outbound.iter().all(|o| o.ended && o.queue.is_empty());
        sent && self.abroad == 0 && self.inbound.iter().all(|i| i.ended)
    }

    /// Buffers of outbound channel `at` that are withheld from its producer.
    pub fn withheld(&self, at: usize) -> usize {
        self.outbound[at].credit.withheld()
    }

    /// The peer has closed the connection.
    ///
    /// # Errors
    /// Unless the link is done.
    pub fn closed(&self) -> Result<(), Broken> {
        if self.is_done() { Ok(()) } else { Err(Broken::Closed) }
    }

    /// Looks at the peer's silence.
    ///
    /// # Errors
    /// [`Broken::Silent`] after ten pings' time without a byte.
    pub fn watch(&self, now: Micros) -> Result<(), Broken> {
        let silent = now.saturating_sub(self.heard_at);
        match self.options.ping_us {
            Some(ping) if silent > 10 * ping && !self.is_done() => Err(Broken::Silent(silent)),
            _ => Ok(()),
        }
    }

    /// When [`Link::fill`] or [`Link::watch`] has something to do even if nothing happens: a barrier's
    /// timeout that passes while batches before it wait, or a ping.
    pub fn deadline(&self) -> Option<Micros> {
        let barriers = self.outbound.iter().flat_map(|o| &o.queue).filter_map(|e| match e {
            Element::Barrier(barrier) => due(barrier),
            _ => None,
        });
        let ping = self.options.ping_us.filter(|_| !self.is_done());
        let ping = ping.map(|p| (self.sent_at + p).min(self.heard_at + 10 * p + 1));
        barriers.chain(ping).min()
    }
}

/// From when on the barrier may overtake.
fn due(barrier: &Barrier) -> Option<Micros> {
    match barrier.kind {
        BarrierKind::Unaligned => Some(0),
        BarrierKind::Aligned { timeout } => timeout.map(|t| barrier.triggered_at + t),
        BarrierKind::Savepoint => None,
    }
}
