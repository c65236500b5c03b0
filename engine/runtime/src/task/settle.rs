//! What a task has to say once the sinks of its chain have settled: a checkpoint that is whole but for
//! them, and commits. Pure.

use crate::context::{Context, TaskEvent};
use tidemill_base::{Barrier, Micros};

/// A task whose sinks are not settled asks them so often, where nothing else wakes it.
const SETTLE_POLL_US: Micros = 1_000;

/// What waits for the sinks.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    /// Everything else of its snapshot is in the outbox.
    whole: Option<Barrier>,
    /// Committed, oldest first.
    commits: Vec<u64>,
}

impl Settling {
    /// The subtask's snapshot is whole but for what its sinks began.
    pub(crate) fn whole(&mut self, barrier: Barrier) {
        self.whole = Some(barrier);
    }

    /// The commit has been passed to the sinks.
    pub(crate) fn committed(&mut self, epoch: u64) {
        self.commits.push(epoch);
    }

    /// The epoch is given up, or a later one has begun.
    pub(crate) fn abandon(&mut self, epoch: u64) {
        self.whole.take_if(|barrier| barrier.epoch <= epoch);
    }

    /// Whether something waits: the sinks are to be asked.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.whole.is_some() || !self.commits.is_empty()
    }

    /// When to ask again.
    pub(crate) fn until(&self, now: Micros) -> Option<Micros> {
        self.waits().then_some(now + SETTLE_POLL_US)
    }

    /// The sinks have settled: says what waited (T7).
    pub(crate) fn settled(&mut self, context: &Context) {
        if let Some(barrier) = self.whole.take() {
            let took = context.time.now().saturating_sub(barrier.triggered_at);
            context.metrics.checkpoint_acknowledged(barrier.epoch, took);
            context.outbox.push(TaskEvent::Acknowledged { epoch: barrier.epoch });
        }
        for epoch in self.commits.drain(..) {
            context.outbox.push(TaskEvent::Committed { epoch });
        }
    }
}
