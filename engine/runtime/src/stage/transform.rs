//! Stateless operators.

use super::{Control, Stage};
use crate::blame::Blame;
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
    fn control(&mut self, control: Control) -> Result<()> {
        self.tail.control(control)
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
    }
}

/// `filter`: drops records for which the function says false.
pub struct FilterStage<T, F, S> {
    /// Index of the operator in its chain.
    pub operator: u32,
    /// The user's function.
    pub function: F,
    /// What is behind it.
    pub tail: S,
    /// Record types.
    pub types: PhantomData<fn(T)>,
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
        if keep {
            self.tail.push(view, timestamp);
        }
    }
    fn control(&mut self, control: Control) -> Result<()> {
        self.tail.control(control)
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
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
    fn control(&mut self, control: Control) -> Result<()> {
        self.tail.control(control)
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
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
    fn control(&mut self, control: Control) -> Result<()> {
        self.tail.control(control)
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
    }
}

/// Assigns timestamps and watermarks anew in the middle of a chain; watermarks from upstream are
/// replaced, except the last one at the end of the stream.
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
    /// What is behind it.
    pub tail: S,
    /// Record types.
    pub types: PhantomData<fn(T)>,
}

impl<T, F, S> Timestamps<T, F, S> {
    /// Before any record.
    pub fn new(operator: u32, function: F, lateness: i64, tail: S) -> Self {
        let (max, sent) = (WATERMARK_MIN, WATERMARK_MIN);
        Timestamps { operator, function, lateness, max, sent, tail, types: PhantomData }
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
    fn control(&mut self, control: Control) -> Result<()> {
        match control {
            Control::Watermark(tidemill_base::WATERMARK_MAX) => self.tail.control(control),
            Control::Watermark(_) => Ok(()),
            Control::Flush => {
                let watermark = self.max.saturating_sub(self.lateness);
                if watermark > self.sent {
                    self.sent = watermark;
                    self.tail.control(Control::Watermark(watermark))?;
                }
                self.tail.control(control)
            }
            _ => self.tail.control(control),
        }
    }
    fn writable(&mut self) -> bool {
        self.tail.writable()
    }
}
