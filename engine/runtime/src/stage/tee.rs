//! One stream, several consumers: a stage that pushes each record to several erased collectors.

use super::{Control, Stage};
use tidemill_base::{Record, Result, Timestamp};

/// A stage behind a pointer: one virtual call a record. Used where a stream has several
/// consumers and for side outputs.
pub type Collector<T> = Box<dyn Stage<T>>;

impl<T: Record> Stage<T> for Collector<T> {
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        (**self).push(view, timestamp);
    }
    fn end_run(&mut self) {
        (**self).end_run();
    }
    fn control(&mut self, control: Control) -> Result<()> {
        (**self).control(control)
    }
    fn settled(&mut self) -> Result<bool> {
        (**self).settled()
    }
    fn writable(&mut self) -> bool {
        (**self).writable()
    }
    fn room(&self) -> bool {
        (**self).room()
    }
}

/// Copies a stream to each of its consumers.
pub struct Tee<T: Record> {
    pub(crate) outputs: Vec<Collector<T>>,
}

impl<T: Record> Tee<T> {
    /// A stage that feeds all of `outputs`.
    pub fn new(outputs: Vec<Collector<T>>) -> Self {
        Tee { outputs }
    }
}

impl<T: Record> Stage<T> for Tee<T> {
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        for output in &mut self.outputs {
            output.push(view, timestamp);
        }
    }
    fn end_run(&mut self) {
        self.outputs.iter_mut().for_each(Stage::end_run);
    }
    fn control(&mut self, control: Control) -> Result<()> {
        self.outputs.iter_mut().try_for_each(|o| o.control(control))
    }
    fn settled(&mut self) -> Result<bool> {
        self.outputs.iter_mut().try_fold(true, |settled, o| Ok(settled & o.settled()?))
    }
    fn writable(&mut self) -> bool {
        self.outputs.iter_mut().all(Stage::writable)
    }
    fn room(&self) -> bool {
        self.outputs.iter().fold(true, |room, output| room & output.room())
    }
}
