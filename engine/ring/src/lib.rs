//! What carries elements from one slot (thread) to another, and what wakes the receiving one.
//!
//! * [`ring`] makes a bounded single-producer single-consumer queue: a [`Sender`] and a [`Receiver`].
//!   Neither side ever blocks, locks or allocates after construction; a full ring hands the element
//!   back as [`Full`].
//! * [`Doorbell`] is the parking protocol of one consumer thread that watches many rings: a producer
//!   pays one fence and one load while the consumer is awake, and no wake-up is ever lost.
//!
//! ```
//! use std::collections::VecDeque;
//!
//! let (mut sender, mut receiver) = tidemill_ring::ring(4);
//! for element in 0..4 {
//!     sender.try_push(element)?;
//! }
//! assert_eq!(sender.try_push(4), Err(tidemill_ring::Full(4)));
//! assert_eq!(receiver.try_pop(), Some(0));
//!
//! let mut inbox = VecDeque::new();
//! assert_eq!(receiver.drain_into(&mut inbox), 3);
//! assert_eq!(inbox, [1, 2, 3]);
//! # Ok::<(), tidemill_ring::Full<i32>>(())
//! ```
//!
//! A channel between slots is one ring forward (elements) and one ring back (emptied buffers), with the
//! [`Doorbell`] of the thread at each ring's end.
//!
//! Not here: what an element is, credits, and the thread that parks.

#![deny(unsafe_code)]

mod doorbell;
mod spsc;
mod sync;

pub use doorbell::Doorbell;
pub use spsc::{CAPACITY_MAX, Full, Receiver, Sender, ring};
