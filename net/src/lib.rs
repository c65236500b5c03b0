//! What connects the slots of different worker processes: frames over one connection for each pair
//! of slots, with credits for each channel.
//!
//! From the pure to the outside:
//! - [`frame`]: the bytes of a frame, and what makes one damaged, foreign or out of order
//! - [`decoder`]: frames out of a stream of bytes
//! - [`credit`]: how much a sender may send, how much a receiver grants
//! - [`link`]: the multiplexer of one connection: elements in, packets out; bytes in, elements out
//! - [`packet`]: bytes to be sent, with the batches they lie in
//! - [`handshake`]: who stands at the other end; nothing secret on the wire
//! - [`transport`]: what moves bytes: in memory for simulations, TCP by io_uring
//! - [`mesh`]: listens and connects, on an ordinary thread, before a slot runs
//!
//! Not here: tasks, rings and slots; `engine/runtime` pumps between them and a [`link::Link`].

#![deny(unsafe_code)]

pub mod credit;
pub mod decoder;
mod error;
pub mod frame;
pub mod handshake;
pub mod link;
pub mod mesh;
pub mod packet;
pub mod transport;

pub use error::Broken;
pub use handshake::{AttemptKey, Identity};
pub use mesh::{Connection, Listener};
