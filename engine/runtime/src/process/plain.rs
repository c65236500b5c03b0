//! Process functions without key: stateless, fused into their chain, with side outputs.

use super::context::missing_side;
use super::side::{SideOutputs, SideTag};
use crate::blame::Blame;
use crate::context::Context;
use crate::stage::{Control, Stage};
use std::marker::PhantomData;
use tidemill_base::{Error, Record, Result, Timestamp, WATERMARK_MIN};

/// Times and outputs of the record at hand.
pub struct PlainContext<'a, O: Record> {
    pub(super) timestamp: Timestamp,
    pub(super) watermark: Timestamp,
    pub(super) context: &'a Context,
    pub(super) sides: &'a mut SideOutputs,
    pub(super) out: &'a mut dyn Stage<O>,
}

impl<O: Record> PlainContext<'_, O> {
    /// Emits a record with the timestamp of the one at hand.
    #[inline]
    pub fn emit(&mut self, record: O::View<'_>) {
        self.out.push(record, self.timestamp);
    }
    /// Emits a record with a timestamp. One before the watermark makes it late downstream.
    #[inline]
    pub fn emit_at(&mut self, record: O::View<'_>, timestamp: Timestamp) {
        self.out.push(record, timestamp);
    }
    /// Emits a record to a side output. The job fails if the operator was not given the output
    /// with `.side_output(&tag)`.
    #[inline]
    pub fn side<T: Record>(&mut self, tag: &impl AsRef<SideTag<T>>, record: T::View<'_>) {
        let tag = *tag.as_ref();
        if !self.sides.push(tag, record, self.timestamp) {
            missing_side(&self.context.failure, tag.number());
        }
    }
    /// Event time of the record.
    #[inline]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }
    /// The watermark: no later record is expected before it.
    #[inline]
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }
    /// The wall clock, in milliseconds since the Unix epoch.
    #[inline]
    pub fn processing_time(&self) -> i64 {
        self.context.time.wall_ms()
    }
    /// Fails this attempt of the job.
    #[cold]
    pub fn fail(&mut self, error: Error) {
        self.context.failure.set(error);
    }
}

/// The stage.
pub struct ProcessStage<T, O, F, S> {
    operator: u32,
    function: F,
    watermark: Timestamp,
    context: Context,
    sides: SideOutputs,
    tail: S,
    types: PhantomData<fn(T) -> O>,
}

impl<T, O, F, S> ProcessStage<T, O, F, S> {
    /// A stage at place `operator` of its chain.
    pub fn new(operator: u32, function: F, context: Context, sides: SideOutputs, tail: S) -> Self {
        let (watermark, types) = (WATERMARK_MIN, PhantomData);
        ProcessStage { operator, function, watermark, context, sides, tail, types }
    }
}

impl<T, O, F, S> Stage<T> for ProcessStage<T, O, F, S>
where
    T: Record,
    O: Record,
    F: for<'a, 'b, 'c> FnMut(T::View<'a>, &'b mut PlainContext<'c, O>) + 'static,
    S: Stage<O>,
{
    #[inline]
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        let blame = Blame::new(self.operator, view);
        let mut cx = PlainContext {
            timestamp,
            watermark: self.watermark,
            context: &self.context,
            sides: &mut self.sides,
            out: &mut self.tail,
        };
        (self.function)(view, &mut cx);
        blame.clear();
    }

    fn end_run(&mut self) {
        self.sides.end_run();
        self.tail.end_run();
    }

    fn control(&mut self, control: Control) -> Result<()> {
        if let Control::Watermark(w) = control {
            self.watermark = w;
        }
        self.sides.control(control)?;
        self.tail.control(control)
    }

    fn settled(&mut self) -> Result<bool> {
        Ok(self.sides.settled()? & self.tail.settled()?)
    }

    fn writable(&mut self) -> bool {
        self.tail.writable() && self.sides.writable()
    }

    #[inline]
    fn room(&self) -> bool {
        self.tail.room() & self.sides.room()
    }
}
