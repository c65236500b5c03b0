//! Ways to make record i.

use tidemill_base::{Micros, Record, Result, Timestamp};
use tidemill_runtime::source::Emit;

/// Makes record i.
///
/// Law: what is emitted for i depends on i alone (and on `due`, where it is scheduled): after a
/// restore it is made again.
pub trait Generate: Clone + Send + 'static {
    /// What it makes.
    type Item: Record;

    /// For job graphs and messages.
    const NAME: &'static str = "generator";

    /// Whether it wants to know when records are due.
    const SCHEDULED: bool = false;

    /// Called before the first record: the subtask's class number `class` will be asked for
    /// `next`, `next + step`, ... below `total`.
    fn open(&mut self, _class: usize, _next: u64, _step: u64, _total: u64) -> Result<()> {
        Ok(())
    }

    /// The next calls are for `next`, `next + step`, ... of class number `class`.
    #[inline(always)]
    fn start(&mut self, _class: usize, _next: u64, _step: u64) {}

    /// Emits record `i`, due at `due` on the engine's clock (0 unless `SCHEDULED`); returns its
    /// event time.
    fn generate<O: Emit<Self::Item>>(&mut self, i: u64, due: Micros, out: &mut O) -> Timestamp;
}

/// By a function, with timestamp 0.
#[derive(Clone, Debug)]
pub struct Plain<F>(pub(super) F);

impl<T, F> Generate for Plain<F>
where
    T: Record,
    F: Fn(u64) -> T + Clone + Send + 'static,
{
    type Item = T;
    #[inline(always)]
    fn generate<O: Emit<T>>(&mut self, i: u64, _: Micros, out: &mut O) -> Timestamp {
        let record = (self.0)(i);
        out.emit(record.view(), 0);
        0
    }
}

/// By a function that gives the event time too.
#[derive(Clone, Debug)]
pub struct Stamped<F>(pub(super) F);

impl<T, F> Generate for Stamped<F>
where
    T: Record,
    F: Fn(u64) -> (T, Timestamp) + Clone + Send + 'static,
{
    type Item = T;
    #[inline(always)]
    fn generate<O: Emit<T>>(&mut self, i: u64, _: Micros, out: &mut O) -> Timestamp {
        let (record, timestamp) = (self.0)(i);
        out.emit(record.view(), timestamp);
        timestamp
    }
}

/// By a function that writes over the record before.
#[derive(Clone, Debug)]
pub struct InPlace<T, F> {
    pub(super) record: T,
    pub(super) function: F,
}

impl<T, F> Generate for InPlace<T, F>
where
    T: Record + Clone + Send,
    F: Fn(u64, &mut T) -> Timestamp + Clone + Send + 'static,
{
    type Item = T;
    #[inline(always)]
    fn generate<O: Emit<T>>(&mut self, i: u64, _: Micros, out: &mut O) -> Timestamp {
        let timestamp = (self.function)(i, &mut self.record);
        out.emit(self.record.view(), timestamp);
        timestamp
    }
}

/// By a function that is told when the record was due.
#[derive(Clone, Debug)]
pub struct Scheduled<F>(pub(super) F);

impl<T, F> Generate for Scheduled<F>
where
    T: Record,
    F: Fn(u64, Micros) -> (T, Timestamp) + Clone + Send + 'static,
{
    type Item = T;
    const SCHEDULED: bool = true;
    #[inline(always)]
    fn generate<O: Emit<T>>(&mut self, i: u64, due: Micros, out: &mut O) -> Timestamp {
        let (record, timestamp) = (self.0)(i, due);
        out.emit(record.view(), timestamp);
        timestamp
    }
}
