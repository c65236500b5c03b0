//! Operators at the head of a task: they read batches from channels, keep state, and push to the
//! fused chain behind them.

use crate::stage::{Control, Stage};
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Micros, Record, Result, Timestamp};

/// Whether a call has done all its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// All done.
    Done,
    /// More to emit: call [`Operator::resume`] when the outputs are writable.
    More,
}

/// An operator with one or more inputs, keyed or not.
///
/// Laws: records are pushed to `out` only from `records`, `watermark`, `tick`, `resume` and
/// `end`; one call emits a bounded number of records per input record, and `Flow::More` where
/// state makes it unbounded (a window that fires). A snapshot is the state at the moment of
/// `snapshot`, whatever happens until `snapshot_step` says that it is complete.
pub trait Operator: 'static {
    /// What it emits.
    type Out: Record;

    /// Takes the records `range` of a batch of input `input`, in order; returns where it stopped:
    /// at the end of the range, or behind the record after which the outputs had no
    /// [room](Stage::room).
    fn records<S: Stage<Self::Out>>(
        &mut self,
        input: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize>;

    /// The merged watermark has advanced. It is sent on when the work is done.
    fn watermark<S: Stage<Self::Out>>(&mut self, _: Timestamp, _: &mut S) -> Result<Flow> {
        Ok(Flow::Done)
    }

    /// Goes on with what `watermark` or `tick` left.
    fn resume<S: Stage<Self::Out>>(&mut self, _: &mut S) -> Result<Flow> {
        Ok(Flow::Done)
    }

    /// Processing time has reached [`Operator::deadline`].
    fn tick<S: Stage<Self::Out>>(&mut self, _wall_ms: i64, _: &mut S) -> Result<Flow> {
        Ok(Flow::Done)
    }

    /// When the next processing-time timer is due, in milliseconds since the Unix epoch.
    fn deadline(&self) -> Option<i64> {
        None
    }

    /// Begins the snapshot of an epoch: small states leave their entries in the outbox at once.
    fn snapshot(&mut self, _epoch: u64) -> Result<()> {
        Ok(())
    }

    /// A bounded step of the snapshot; true when it is complete. `until` is when to stop.
    fn snapshot_step(&mut self, _epoch: u64, _until: Micros) -> Result<bool> {
        Ok(true)
    }

    /// The epoch is aborted: forget its snapshot.
    fn abort_snapshot(&mut self, _epoch: u64) {}

    /// All input is processed (the last watermark has been).
    fn end<S: Stage<Self::Out>>(&mut self, _: &mut S) -> Result<()> {
        Ok(())
    }

    /// Passes a control element to the side outputs.
    fn side_control(&mut self, _: Control) -> Result<()> {
        Ok(())
    }

    /// The task has no more records at hand: side outputs pass on what they gathered.
    fn side_end_run(&mut self) {}

    /// Whether what is behind the side outputs has [settled](Stage::settled).
    fn side_settled(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// Whether the side outputs have free buffers.
    fn side_writable(&mut self) -> bool {
        true
    }
}

/// No operator: the chain reads the channel as it is.
pub struct PassThrough<T>(PhantomData<fn() -> T>);

impl<T> Default for PassThrough<T> {
    fn default() -> Self {
        PassThrough(PhantomData)
    }
}

impl<T: Record> Operator for PassThrough<T> {
    type Out = T;

    #[inline]
    fn records<S: Stage<T>>(
        &mut self,
        _: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        let end = range.end;
        for i in range {
            let (view, timestamp, _) = batch.get::<T>(i);
            out.push(view, timestamp);
            if !out.room() {
                return Ok(i + 1);
            }
        }
        Ok(end)
    }
}
