//! Side outputs: records of other types that a function emits beside its main output.

use crate::stage::{Collector, Control, Stage, Tee};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use tidemill_base::{Record, Result, Timestamp};

/// Names a side output of records `T` to the function that emits to it.
pub struct SideTag<T> {
    number: u64,
    types: PhantomData<fn() -> T>,
}

impl<T> SideTag<T> {
    /// The side output of a number, unique in its job.
    pub fn new(number: u64) -> Self {
        SideTag { number, types: PhantomData }
    }
    /// The number.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl<T> Clone for SideTag<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SideTag<T> {}

impl<T> fmt::Debug for SideTag<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SideTag({})", self.number)
    }
}

/// A side output without its type.
trait AnySide {
    fn end_run(&mut self);
    fn control(&mut self, control: Control) -> Result<()>;
    fn settled(&mut self) -> Result<bool>;
    fn writable(&mut self) -> bool;
    fn room(&self) -> bool;
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<T: Record> AnySide for Tee<T> {
    fn end_run(&mut self) {
        Stage::end_run(self);
    }
    fn control(&mut self, control: Control) -> Result<()> {
        Stage::control(self, control)
    }
    fn settled(&mut self) -> Result<bool> {
        Stage::settled(self)
    }
    fn writable(&mut self) -> bool {
        Stage::writable(self)
    }
    fn room(&self) -> bool {
        Stage::room(self)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// The side outputs of an operator's subtask.
#[derive(Default)]
pub struct SideOutputs {
    sides: Vec<(u64, Box<dyn AnySide>)>,
}

impl SideOutputs {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a side output, with all its readers.
    pub fn add<T: Record>(&mut self, tag: SideTag<T>, readers: Vec<Collector<T>>) {
        self.sides.push((tag.number, Box::new(Tee::new(readers))));
    }

    /// Emits a record; false if the operator has no such output.
    #[inline]
    pub fn push<T: Record>(&mut self, tag: SideTag<T>, view: T::View<'_>, at: Timestamp) -> bool {
        let side = self.sides.iter_mut().find(|(number, _)| *number == tag.number);
        let Some(tee) = side.and_then(|(_, s)| s.as_any().downcast_mut::<Tee<T>>()) else {
            return false;
        };
        tee.push(view, at);
        true
    }

    /// Passes a control element to all.
    pub fn control(&mut self, control: Control) -> Result<()> {
        self.sides.iter_mut().try_for_each(|(_, s)| s.control(control))
    }

    /// Passes on what they gathered from the run at hand; see [`Stage::end_run`].
    #[inline]
    pub fn end_run(&mut self) {
        self.sides.iter_mut().for_each(|(_, side)| side.end_run());
    }

    /// Whether what the last barrier and the last commit began has come to its end; see
    /// [`Stage::settled`].
    pub fn settled(&mut self) -> Result<bool> {
        self.sides.iter_mut().try_fold(true, |settled, (_, side)| Ok(settled & side.settled()?))
    }

    /// Whether all have free buffers.
    #[inline]
    pub fn writable(&mut self) -> bool {
        self.sides.iter_mut().all(|(_, s)| s.writable())
    }

    /// Whether all have room for more of the run at hand; see [`Stage::room`].
    #[inline]
    pub fn room(&self) -> bool {
        self.sides.iter().fold(true, |room, (_, side)| room & side.room())
    }
}
