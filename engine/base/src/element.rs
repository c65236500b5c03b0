//! What travels through a channel between a producer subtask and a consumer subtask.

use crate::batch::Batch;
use crate::time::{Micros, Timestamp};

/// An element of a channel. A channel carries, in order,
/// `(Batch | Watermark | Barrier | Status)* End`.
#[derive(Debug)]
pub enum Element {
    /// Records.
    Batch(Batch),
    /// No later record of this channel has a smaller timestamp; never decreases.
    Watermark(Timestamp),
    /// Separates the records before a checkpoint from those after it.
    Barrier(Barrier),
    /// Whether the channel takes part in the watermark.
    Status(Status),
    /// Nothing follows.
    End,
}

/// Whether a channel takes part in its consumer's watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Active,
    /// It does not, until it is active again.
    Idle,
}

/// The barrier of one checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The checkpoint's id; increases by at least one from barrier to barrier.
    pub epoch: u64,
    /// When the coordinator triggered it, on the engine's clock.
    pub triggered_at: Micros,
    /// How tasks align.
    pub kind: BarrierKind,
}

/// How tasks align on a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    /// Wait for every channel, at most until the timeout since the trigger (`None`: for ever).
    Aligned {
        /// Microseconds since the trigger after which the epoch turns unaligned.
        timeout: Option<Micros>,
    },
    /// Do not wait: batches that the barrier overtakes become channel state.
    Unaligned,
    /// Wait for every channel for ever; what is written refers to nothing outside of the
    /// checkpoint.
    Savepoint,
}
