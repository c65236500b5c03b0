//! Fused operators: a chain is a nest of stages, monomorphized once per job and entered once a
//! batch.
//!
//! A stage takes views and pushes views to its tail. Errors inside `push` go to the subtask's
//! [`Failure`](crate::context::Failure): the task stops before the next run of records.

mod tee;
mod transform;

pub use tee::{Collector, Tee};
pub use transform::{FilterStage, FlatMapStage, InspectStage, MapStage, Timestamps};

use tidemill_base::{Barrier, Record, Result, Status, Timestamp};

/// What happens to a chain beside records.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// No later record has a smaller timestamp.
    Watermark(Timestamp),
    /// The stream goes idle or active.
    Status(Status),
    /// Leave the snapshot's entries in the outbox, then send the barrier on.
    Barrier(Barrier),
    /// Send what is buffered.
    Flush,
    /// The checkpoint is complete: two-phase sinks commit.
    Commit(u64),
    /// The checkpoint will never be complete.
    Abort(u64),
    /// Nothing follows; sinks prepare what is left.
    End,
}

/// One operator of a chain, with everything downstream of it up to the next exchange.
///
/// Law: a stage handles a [`Control`] itself first, if it concerns it, and always passes it to its
/// tail, exactly once and in order with the records. It asks its tail too where it is asked.
pub trait Stage<T: Record>: 'static {
    /// Takes one record.
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp);

    /// The task has no more records at hand: a stage that gathers records passes them on. What it
    /// still holds at the next control element goes before that.
    fn end_run(&mut self) {}

    /// Takes a control element.
    fn control(&mut self, control: Control) -> Result<()>;

    /// Whether what the last barrier and the last commit began has come to its end: an epoch is
    /// acknowledged, and a commit confirmed, only then. Asked again and again; elements go on.
    fn settled(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// Whether every output has a free buffer; the task takes records only then.
    fn writable(&mut self) -> bool;

    /// Whether the outputs have room for more records of the run at hand. What takes records asks
    /// behind each: false once what was pushed has gone far beyond the credits, until the outputs
    /// are writable again. Who cannot stop there asks behind each record all the same, and all
    /// outputs are asked: that is how they tell one record that expands without bound from several.
    fn room(&self) -> bool;
}
