//! What moves the bytes of a slot's connections. Nothing here waits, except [`Transport::park`].
//!
//! Invariants (laws of the trait; `tests/contract.rs` runs against each implementation)
//!   T1  Bytes arrive in order, each once, unchanged, whatever the sizes of packets and reads.
//!   T2  A packet comes back by `written` only when the last of its bytes is with the transport, and
//!       packets come back in the order in which they were given.
//!   T3  What was written before the peer closed is read before `Closed`.
//!   T4  After `Closed` or `Failed` a connection delivers nothing more, and says so again when asked.
//!   T5  The waker ends a `park`, also one that begins after it was woken, whatever turns were between the two.

use crate::packet::Packet;
use std::task::Waker;
use tidemill_base::{Micros, Result};

pub mod memory;
#[expect(unsafe_code, reason = "the kernel reads and writes memory that this module keeps alive")]
pub mod uring;

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing now.
    Empty,
    /// Bytes, handed to the closure.
    Some,
    /// The peer has closed; nothing more will come.
    Closed,
    /// The connection is gone, and why.
    Failed(String),
}

/// The connections of one slot, by index.
pub trait Transport {
    /// How many there are.
    fn connections(&self) -> usize;

    /// Whether connection `at` takes a packet now: one that is broken takes and drops it.
    fn can_write(&self, at: usize) -> bool;

    /// Begins to send a packet. Only where [`Transport::can_write`].
    fn write(&mut self, at: usize, packet: Packet);

    /// A packet that has left (T2).
    fn written(&mut self, at: usize) -> Option<Packet>;

    /// Lends the bytes that have arrived to `take`, which takes them all.
    fn read(&mut self, at: usize, take: &mut dyn FnMut(&[u8])) -> Read;

    /// Does what was asked for and takes in what has happened; a system call only where there is a
    /// reason for one.
    ///
    /// # Errors
    /// When no connection can be served any more.
    fn turn(&mut self) -> Result<()>;

    /// Ends a park from any thread (T5).
    fn waker(&self) -> Waker;

    /// Waits until something has happened on a connection, the waker was called, or `most` us have
    /// passed; may return early.
    ///
    /// # Errors
    /// As [`Transport::turn`].
    fn park(&mut self, most: Option<Micros>) -> Result<()>;
}
