//! Where late records go.

use crate::context::Context;
use crate::stage::{Collector, Control, Stage as _};
use tidemill_base::{Record, Result, Timestamp};

/// The side output of late records, or their count if there is none.
pub(super) struct LateOutput<T: Record> {
    outputs: Vec<Collector<T>>,
    context: Context,
}

impl<T: Record> LateOutput<T> {
    pub(super) fn new(outputs: Vec<Collector<T>>, context: Context) -> Self {
        LateOutput { outputs, context }
    }

    /// Takes a late record.
    #[cold]
    #[inline(never)]
    pub(super) fn push(&mut self, record: T::View<'_>, timestamp: Timestamp) {
        if self.outputs.is_empty() {
            self.context.metrics.late_dropped.add(1);
        }
        for output in &mut self.outputs {
            output.push(T::shorten(record), timestamp);
        }
    }

    pub(super) fn control(&mut self, control: Control) -> Result<()> {
        self.outputs.iter_mut().try_for_each(|o| o.control(control))
    }

    pub(super) fn end_run(&mut self) {
        self.outputs.iter_mut().for_each(|o| o.end_run());
    }

    pub(super) fn settled(&mut self) -> Result<bool> {
        self.outputs.iter_mut().try_fold(true, |settled, o| Ok(settled & o.settled()?))
    }

    /// Whether all have room for more of the run at hand; see [`Stage::room`](crate::stage::Stage::room).
    /// Asked behind each record beside the main output, so that what late records expand to is told from
    /// what one does.
    pub(super) fn room(&self) -> bool {
        self.outputs.iter().fold(true, |room, output| room & output.room())
    }

    pub(super) fn writable(&mut self) -> bool {
        self.outputs.iter_mut().all(|o| o.writable())
    }
}
