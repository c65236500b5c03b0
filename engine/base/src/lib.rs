//! The vocabulary of Tidemill: records, keys, buffers, batches, channel elements, time, errors,
//! metrics. No I/O, no threads, no async: everything here can be stepped by the simulation.
//!
//! - [`record`]: a record in three forms (owned, archived, view) and its codec
//! - [`key`]: records that can partition a stream, with their stable hash
//! - [`buffer`], [`batch`]: fixed buffers and the records in them
//! - [`element`]: what travels through a channel
//! - [`clock`], [`time`]: time as an input
//! - [`metrics`]: per-core counters

#![deny(unsafe_code)]

extern crate self as tidemill_base;

pub mod batch;
pub mod buffer;
pub mod clock;
pub mod element;
pub mod error;
pub mod hash;
pub mod key;
pub mod metrics;
pub mod record;
mod short;
pub mod time;

pub use batch::{Batch, BatchBuilder, Full};
pub use buffer::{BUFFER_BYTES, Buffer};
pub use clock::Clock;
pub use element::{Barrier, BarrierKind, Element, Status};
pub use error::{Error, Result, Severity};
pub use key::Key;
pub use record::Record;
pub use time::{Micros, Timestamp, WATERMARK_MAX, WATERMARK_MIN};

#[doc(hidden)]
pub use rkyv;
