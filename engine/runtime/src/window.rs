//! Windows over keyed streams: tumbling, sliding, session, global, count.
//!
//! - `spec`: which windows, when they fire (plain values)
//! - `function`: what a window computes
//! - `sliced`: aligned windows that fire at their end, one update a record, no timers
//! - `listed`: sessions, global windows, and aligned ones with early or purging triggers: a list
//!   of windows for each key, and a timer for each window
//! - `counted`: windows of n records
//! - `frontier`: up to when windows have fired, also after a rescale
//!
//! A window `start..end` fires when the watermark reaches `end`; a record is late when all its
//! windows have `end + lateness <= watermark`. Results have timestamp `end - 1`.

mod counted;
mod frontier;
mod function;
mod late;
mod listed;
mod sliced;
mod spec;
mod store;
#[cfg(test)]
mod tests;

pub use function::WindowFunction;
pub use spec::{
    Aligned, Assigner, DURATION_MAX, Domain, Spec, TIMESTAMP_MAX, Trigger, Window, millis,
};

use crate::context::Context;
use crate::operator::{Flow, Operator};
use crate::stage::{Collector, Control, Stage};
use counted::Counted;
use late::LateOutput;
use listed::Listed;
use sliced::Sliced;
use std::ops::Range;
use store::Store;
use tidemill_base::{Batch, Key, Micros, Record, Result, Timestamp};

/// The operator behind `keyed.window(..)`.
pub struct WindowOperator<K: Key, T: Record, F, A: WindowFunction<K, T>> {
    kind: Kind<K, T, F, A>,
}

enum Kind<K: Key, T: Record, F, A: WindowFunction<K, T>> {
    Sliced(Box<Sliced<K, T, F, A>>),
    Listed(Box<Listed<K, T, F, A>>),
    Counted(Box<Counted<K, T, F, A>>),
}

impl<K, T, F, A> WindowOperator<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
    A: WindowFunction<K, T>,
{
    /// Builds the operator with its state restored. `selector` takes the key from a record; late
    /// records go to all of `late`, or are counted as dropped if that is empty. Fails if the
    /// windows make no sense, or if restored state is damaged.
    pub fn open(
        spec: &Spec,
        selector: F,
        function: A,
        late: Vec<Collector<T>>,
        context: &Context,
        operator_id: u64,
    ) -> Result<Self> {
        spec.validate()?;
        let late = LateOutput::new(late, context.clone());
        let id = operator_id;
        let kind = match spec.assigner {
            Assigner::Aligned(aligned) if spec.by_slice() => {
                let store = Store::open::<K, A::Acc>(context, id, spec)?;
                let sliced = Sliced::open(spec, aligned, selector, function, late, store)?;
                Kind::Sliced(Box::new(sliced))
            }
            Assigner::Count { size, slide } => {
                let store = Store::open::<K, counted::Panes<A::Acc>>(context, id, spec)?;
                let counted = Counted::open((size, slide), selector, function, late, store)?;
                Kind::Counted(Box::new(counted))
            }
            _ => {
                let store = Store::open::<K, Vec<listed::Cell<A::Acc>>>(context, id, spec)?;
                Kind::Listed(Box::new(Listed::open(spec, selector, function, late, store)?))
            }
        };
        Ok(WindowOperator { kind })
    }
}

/// Calls the operator that it is.
macro_rules! each {
    ($self:ident, $operator:ident => $call:expr) => {
        match &mut $self.kind {
            Kind::Sliced($operator) => $call,
            Kind::Listed($operator) => $call,
            Kind::Counted($operator) => $call,
        }
    };
}

impl<K, T, F, A> Operator for WindowOperator<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
    A: WindowFunction<K, T>,
{
    type Out = A::Out;

    fn records<S: Stage<A::Out>>(
        &mut self,
        _: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        each!(self, o => o.records(batch, range, out))
    }

    fn watermark<S: Stage<A::Out>>(&mut self, now: Timestamp, out: &mut S) -> Result<Flow> {
        each!(self, o => o.watermark(now, out))
    }

    fn resume<S: Stage<A::Out>>(&mut self, out: &mut S) -> Result<Flow> {
        each!(self, o => o.resume(out))
    }

    fn tick<S: Stage<A::Out>>(&mut self, wall_ms: i64, out: &mut S) -> Result<Flow> {
        each!(self, o => o.tick(wall_ms, out))
    }

    fn deadline(&self) -> Option<i64> {
        match &self.kind {
            Kind::Sliced(o) => o.deadline(),
            Kind::Listed(o) => o.deadline(),
            Kind::Counted(_) => None,
        }
    }

    fn snapshot(&mut self, epoch: u64) -> Result<()> {
        each!(self, o => o.snapshot(epoch))
    }

    fn snapshot_step(&mut self, epoch: u64, _: Micros) -> Result<bool> {
        each!(self, o => o.snapshot_step(epoch))
    }

    fn abort_snapshot(&mut self, _: u64) {
        each!(self, o => o.abort_snapshot());
    }

    fn side_control(&mut self, control: Control) -> Result<()> {
        each!(self, o => o.side_control(control))
    }

    fn side_end_run(&mut self) {
        each!(self, o => o.side_end_run());
    }

    fn side_settled(&mut self) -> Result<bool> {
        each!(self, o => o.side_settled())
    }

    fn side_writable(&mut self) -> bool {
        each!(self, o => o.side_writable())
    }
}
