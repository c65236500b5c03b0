//! Stateless operators.

use super::{Control, Stage};
use crate::blame::Blame;
use crate::context::Context;
use std::marker::PhantomData;
use tidemill_base::{Record, Result, Timestamp, WATERMARK_MIN};

/// `map`: one record in, one out.
pub struct MapStage<T, U, F, S> {
    /// Index of the operator in its chain.
    pub operator: u32,
    /// The user's function.
    pub function: F,
    /// What is behind it.
    pub tail: S,
    /// Record types.
    pub types: PhantomData<fn(T) -> U>,
}

impl<T, U, F, S> MapStage<T, U, F, S> {
    /// The operator at place `operator` of its chain.
    pub fn new(operator: u32, function: F, tail: S) -> Self {
        MapStage { operator, function, tail, types: PhantomData }
    }
}

impl<T, U, F, S> Stage<T> for MapStage<T, U, F, S>
where
    T: Record,
    U: Record,
    F: for<'a> FnMut(T::View<'a>) -> U + 'static,
    S: Stage<U>,
{
    #[inline(always)]
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        let blame = Blame::new(self.operator, view);
        let out = (self.function)(view);
        blame.clear();
        self.tail.push(out.view(), timestamp);
    }
    fn end_run(&mut self) {
        self.tail.end_run();
    }
    fn control(&mut self, control: Control) -> Result<()> {
        self.tail.control(control)
    }
    fn settled(&mut self) -> Result<bool> {
        self.tail.settled()
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
    }
    #[inline(always)]
    fn room(&self) -> bool {
        self.tail.room()
    }
}

/// The most records that a filter gathers before it passes them on.
const FILTER_RUN: usize = 64;

/// `filter`: drops records for which the function says false.
///
/// Which records a filter keeps is what a CPU cannot predict: a branch on it costs more than the
/// record. Plain records are therefore gathered without a branch, and passed on in runs; the run
/// is empty before every control element, so order is kept.
pub struct FilterStage<T, F, S> {
    operator: u32,
    function: F,
    tail: S,
    /// Kept records; those from `kept` on are leftovers.
    run: Vec<(T, Timestamp)>,
    kept: usize,
    /// Records to gather: back to one when what they became left an output without room.
    pace: usize,
}

impl<T, F, S> FilterStage<T, F, S>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>) -> bool + 'static,
    S: Stage<T>,
{
    /// The filter at place `operator` of its chain.
    pub fn new(operator: u32, function: F, tail: S) -> Self {
        let run = Vec::with_capacity(if T::PLAIN { FILTER_RUN } else { 0 });
        FilterStage { operator, function, tail, run, kept: 0, pace: 1 }
    }

    /// What is behind it.
    pub fn tail(&self) -> &S {
        &self.tail
    }

    #[inline(always)]
    fn gather(&mut self, view: T::View<'_>, timestamp: Timestamp, keep: bool) {
        let record = (T::from_view(view), timestamp);
        match self.run.get_mut(self.kept) {
            Some(place) => *place = record,
            None => self.run.push(record),
        }
        self.kept += usize::from(keep);
        if self.kept == self.pace {
            let room = self.pass_on();
            self.pace = if room { FILTER_RUN.min(2 * self.pace) } else { 1 };
        }
    }

    /// Pushes what was gathered; whether the outputs still have room.
    #[inline(always)]
    fn pass_on(&mut self) -> bool {
        let mut room = true;
        for (record, timestamp) in &self.run[..self.kept] {
            self.tail.push(record.view(), *timestamp);
            room = self.tail.room();
        }
        self.kept = 0;
        room
    }
}

impl<T, F, S> Stage<T> for FilterStage<T, F, S>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>) -> bool + 'static,
    S: Stage<T>,
{
    #[inline(always)]
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        let blame = Blame::new(self.operator, view);
        let keep = (self.function)(view);
        blame.clear();
        if T::PLAIN {
            self.gather(view, timestamp, keep);
        } else if keep {
            self.tail.push(view, timestamp);
        }
    }
    fn end_run(&mut self) {
        self.pass_on();
        self.tail.end_run();
    }
    fn control(&mut self, control: Control) -> Result<()> {
        self.pass_on();
        self.tail.control(control)
    }
    fn settled(&mut self) -> Result<bool> {
        self.tail.settled()
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
    }
    #[inline(always)]
    fn room(&self) -> bool {
        self.tail.room()
    }
}

/// `flat_map`: any number of records out, as views.
pub struct FlatMapStage<T, U, F, S> {
    /// Index of the operator in its chain.
    pub operator: u32,
    /// The user's function.
    pub function: F,
    /// What is behind it.
    pub tail: S,
    /// Record types.
    pub types: PhantomData<fn(T) -> U>,
}

impl<T, U, F, S> FlatMapStage<T, U, F, S> {
    /// The operator at place `operator` of its chain.
    pub fn new(operator: u32, function: F, tail: S) -> Self {
        FlatMapStage { operator, function, tail, types: PhantomData }
    }
}

impl<T, U, F, S> Stage<T> for FlatMapStage<T, U, F, S>
where
    T: Record,
    U: Record,
    F: for<'a, 'c> FnMut(T::View<'a>, &'c mut dyn FnMut(U::View<'_>)) + 'static,
    S: Stage<U>,
{
    #[inline(always)]
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        let blame = Blame::new(self.operator, view);
        let tail = &mut self.tail;
        (self.function)(view, &mut |out| tail.push(out, timestamp));
        blame.clear();
    }
    fn end_run(&mut self) {
        self.tail.end_run();
    }
    fn control(&mut self, control: Control) -> Result<()> {
        self.tail.control(control)
    }
    fn settled(&mut self) -> Result<bool> {
        self.tail.settled()
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
    }
    #[inline(always)]
    fn room(&self) -> bool {
        self.tail.room()
    }
}

/// `inspect`: looks at records and passes them on.
pub struct InspectStage<T, F, S> {
    /// Index of the operator in its chain.
    pub operator: u32,
    /// The user's function.
    pub function: F,
    /// What is behind it.
    pub tail: S,
    /// Record types.
    pub types: PhantomData<fn(T)>,
}

impl<T, F, S> InspectStage<T, F, S> {
    /// The operator at place `operator` of its chain.
    pub fn new(operator: u32, function: F, tail: S) -> Self {
        InspectStage { operator, function, tail, types: PhantomData }
    }
}

impl<T, F, S> Stage<T> for InspectStage<T, F, S>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, Timestamp) + 'static,
    S: Stage<T>,
{
    #[inline(always)]
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        let blame = Blame::new(self.operator, view);
        (self.function)(view, timestamp);
        blame.clear();
        self.tail.push(view, timestamp);
    }
    fn end_run(&mut self) {
        self.tail.end_run();
    }
    fn control(&mut self, control: Control) -> Result<()> {
        self.tail.control(control)
    }
    fn settled(&mut self) -> Result<bool> {
        self.tail.settled()
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
    }
    #[inline(always)]
    fn room(&self) -> bool {
        self.tail.room()
    }
}

/// Runs of records between two watermarks of a task that is never at rest.
const WATERMARK_RUNS: u32 = 4;

/// Assigns timestamps and watermarks anew in the middle of a chain; watermarks from upstream are
/// replaced, except the last one at the end of the stream. Its own go out when the task rests, and
/// behind every few runs while it does not: a backlog is no reason to keep windows waiting, nor to
/// send a watermark (and so what the outputs have gathered) with every few records.
pub struct Timestamps<T, F, S> {
    /// Index of the operator in its chain.
    pub operator: u32,
    /// The user's function.
    pub function: F,
    /// How far records may be behind, in milliseconds.
    pub lateness: i64,
    /// Greatest timestamp seen.
    pub max: Timestamp,
    /// Last watermark sent on.
    pub sent: Timestamp,
    /// Runs since a watermark could be sent.
    runs: u32,
    /// Where failures go that `end_run` cannot return.
    context: Context,
    /// What is behind it.
    pub tail: S,
    /// Record types.
    pub types: PhantomData<fn(T)>,
}

impl<T: Record, F, S: Stage<T>> Timestamps<T, F, S> {
    /// Before any record.
    pub fn new(operator: u32, function: F, lateness: i64, context: Context, tail: S) -> Self {
        let (max, sent, types) = (WATERMARK_MIN, WATERMARK_MIN, PhantomData);
        Timestamps { operator, function, lateness, max, sent, runs: 0, context, tail, types }
    }

    /// Sends a watermark on, if it has advanced.
    fn send_watermark(&mut self) -> Result<()> {
        self.runs = 0;
        let watermark = self.max.saturating_sub(self.lateness);
        if watermark > self.sent {
            self.sent = watermark;
            self.tail.control(Control::Watermark(watermark))?;
        }
        Ok(())
    }
}

impl<T, F, S> Stage<T> for Timestamps<T, F, S>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>) -> Timestamp + 'static,
    S: Stage<T>,
{
    #[inline(always)]
    fn push(&mut self, view: T::View<'_>, _: Timestamp) {
        let blame = Blame::new(self.operator, view);
        let timestamp = (self.function)(view);
        blame.clear();
        self.max = self.max.max(timestamp);
        self.tail.push(view, timestamp);
    }
    fn end_run(&mut self) {
        self.tail.end_run();
        self.runs += 1;
        if self.runs >= WATERMARK_RUNS
            && let Err(error) = self.send_watermark()
        {
            self.context.failure.set(error);
        }
    }
    fn control(&mut self, control: Control) -> Result<()> {
        match control {
            Control::Watermark(tidemill_base::WATERMARK_MAX) => self.tail.control(control),
            Control::Watermark(_) => Ok(()),
            Control::Flush => {
                self.send_watermark()?;
                self.tail.control(control)
            }
            _ => self.tail.control(control),
        }
    }
    fn settled(&mut self) -> Result<bool> {
        self.tail.settled()
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
    }
    #[inline(always)]
    fn room(&self) -> bool {
        self.tail.room()
    }
}
