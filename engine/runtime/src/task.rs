//! A task: a head and its fused chain, stepped by its slot.
//!
//! ```text
//!   Running --end of all inputs--> Finished --trigger--> acknowledges with its final state
//! ```
//!
//! Invariants
//!   T1  Records are taken from a channel only while every output has a free buffer.
//!   T2  Barriers are handled also while outputs are not writable, but never between the steps of
//!       a firing: a snapshot sees a watermark wholly applied or not at all.
//!   T3  A finished task acknowledges every later epoch with its final state, so that a restore
//!       knows that it has finished.
//!   T4  An epoch triggered while the task runs and still pending when its last input ends is
//!       acknowledged at the end.
//!   T5  A run of records ends behind the record that leaves an output without room (channel.rs,
//!       H3), so that what is in flight is bounded in bytes, whatever the size of records.
//!   T6  A step ends between two records, or two parts of a firing, once it has taken longer than
//!       [`STEP_US`] (pace.rs), so that a barrier waits for a record's user code, not for a batch's.
//!   T7  An epoch is acknowledged, and a commit confirmed, when the sinks of the chain have settled
//!       (settle.rs); records go on meanwhile.

mod operator_task;
mod pace;
mod settle;

pub use operator_task::OperatorTask;
pub(crate) use pace::Pace;
pub use pace::STEP_US;
pub(crate) use settle::Settling;

use crate::stage::Control;
use tidemill_base::{Barrier, Micros, Result};

/// What a step achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something: step again.
    Worked,
    /// Nothing to do. Woken by an arriving element, a trigger, or `until`.
    Idle {
        /// When to step even if nothing arrives, on the engine's clock.
        until: Option<Micros>,
    },
    /// No free output buffer. Woken by a returned buffer, a trigger, or `until`.
    Blocked {
        /// When to step even if nothing comes back.
        until: Option<Micros>,
    },
    /// Finished: steps only matter to complete snapshots.
    Finished,
}

/// One subtask as its slot sees it.
pub trait Task {
    /// Does a bounded piece of work, never waits. `now` and wall time are in the context.
    fn step(&mut self) -> Result<Progress>;

    /// The coordinator starts a checkpoint: sources send the barrier, finished tasks acknowledge,
    /// others wait for the barrier in their channels.
    fn trigger(&mut self, barrier: Barrier) -> Result<()>;

    /// The checkpoint is complete (`Control::Commit`) or given up (`Control::Abort`).
    fn outcome(&mut self, outcome: Control) -> Result<()>;
}

/// Records taken from a batch between two looks at the outputs.
pub const RUN_RECORDS: usize = if cfg!(feature = "check") { 7 } else { 256 };

/// How long one step may spend on a snapshot.
pub const SNAPSHOT_STEP_US: Micros = 200;

/// Snapshot entries that may wait in the outbox before snapshots pause.
pub const OUTBOX_MAX: usize = 64;
