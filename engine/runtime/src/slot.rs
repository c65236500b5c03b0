//! One core's tasks. Pure: the shell passes the clock and carries what the outboxes hold.

use crate::blame;
use crate::context::{Context, TaskEvent};
use crate::stage::Control;
use crate::task::{Progress, Task};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tidemill_base::metrics::Activity;
use tidemill_base::{Barrier, Clock, Error, Micros, Result};

#[cfg(test)]
mod tests;

/// What the coordinator tells the tasks of a slot.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Start a checkpoint.
    Trigger(Barrier),
    /// The checkpoint is complete.
    Commit(u64),
    /// The checkpoint is given up.
    Abort(u64),
}

/// A task with its place.
pub struct Hosted {
    /// The task.
    pub task: Box<dyn Task>,
    /// Its context.
    pub context: Context,
    /// Names of the chain's operators, head first, for messages.
    pub operators: Vec<String>,
}

struct Seat {
    hosted: Hosted,
    state: Progress,
}

/// What a round over all tasks achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Something: go on.
    Worked,
    /// Nothing until an element, a buffer or a command arrives, or `until`.
    Idle {
        /// On the engine's clock.
        until: Option<Micros>,
    },
}

impl Round {
    /// Both rounds: idle only if both were.
    #[must_use]
    pub fn and(self, other: Round) -> Round {
        match (self, other) {
            (Round::Idle { until: a }, Round::Idle { until: b }) => {
                Round::Idle { until: [a, b].into_iter().flatten().min() }
            }
            _ => Round::Worked,
        }
    }
}

/// The tasks of one slot.
pub struct Slot {
    seats: Vec<Seat>,
    /// The task whose last step worked, if it was the last one stepped: busy until the next begins.
    running: Option<usize>,
}

impl Slot {
    /// A slot with its tasks, in the order in which they are stepped (upstream first).
    pub fn new(tasks: Vec<Hosted>) -> Self {
        let seat = |hosted| Seat { hosted, state: Progress::Worked };
        Slot { seats: tasks.into_iter().map(seat).collect(), running: None }
    }

    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether the slot is empty.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// The context of task `i`.
    pub fn context(&self, i: usize) -> &Context {
        &self.seats[i].hosted.context
    }

    /// Steps one task once. A panic in user code becomes an error that names operator and record.
    pub fn step(&mut self, i: usize, clock: &dyn Clock) -> Result<Progress> {
        self.seats[i].hosted.context.time.refresh(clock);
        let now = self.seats[i].hosted.context.time.now();
        if let Some(last) = self.running.take_if(|&mut last| last != i) {
            self.seats[last].hosted.context.metrics.enter(Activity::Ready, now);
        }
        let seat = &mut self.seats[i];
        // A blocked task most likely still is: only what follows the step tells.
        let blocked = matches!(seat.state, Progress::Blocked { .. });
        if !blocked {
            seat.hosted.context.metrics.enter(Activity::Busy, now);
        }
        let task = &mut seat.hosted.task;
        let result = catch_unwind(AssertUnwindSafe(|| task.step()));
        seat.state = Self::settle(&seat.hosted, result)?;
        self.running = None;
        let metrics = &seat.hosted.context.metrics;
        let end = clock.now();
        metrics.stepped(end.saturating_sub(now));
        match seat.state {
            Progress::Worked => {
                metrics.enter(Activity::Busy, now);
                self.running = Some(i);
            }
            // The step itself was work: a source that keeps to a rate emits and goes idle at once.
            Progress::Idle { .. } => metrics.enter(Activity::Idle, end),
            Progress::Blocked { .. } if blocked => {}
            Progress::Blocked { .. } => metrics.enter(Activity::Backpressured, end),
            Progress::Finished => metrics.enter(Activity::Finished, now),
        }
        Ok(seat.state)
    }

    /// Steps every task once.
    pub fn round(&mut self, clock: &dyn Clock) -> Result<Round> {
        let mut worked = false;
        let mut until: Option<Micros> = None;
        for i in 0..self.seats.len() {
            match self.step(i, clock)? {
                Progress::Worked => worked = true,
                Progress::Idle { until: u } | Progress::Blocked { until: u } => {
                    until = [until, u].into_iter().flatten().min();
                }
                Progress::Finished => {}
            }
        }
        Ok(if worked { Round::Worked } else { Round::Idle { until } })
    }

    /// Carries a command to every task.
    pub fn command(&mut self, command: Command, clock: &dyn Clock) -> Result<()> {
        for seat in &mut self.seats {
            seat.hosted.context.time.refresh(clock);
            let task = &mut seat.hosted.task;
            let result = catch_unwind(AssertUnwindSafe(|| match command {
                Command::Trigger(barrier) => task.trigger(barrier),
                Command::Commit(epoch) => task.outcome(Control::Commit(epoch)),
                Command::Abort(epoch) => task.outcome(Control::Abort(epoch)),
            }));
            Self::settle(&seat.hosted, result)?;
        }
        Ok(())
    }

    /// Takes the oldest event of task `i`.
    pub fn pop_event(&mut self, i: usize) -> Option<TaskEvent> {
        self.seats[i].hosted.context.outbox.pop()
    }

    fn settle<T>(hosted: &Hosted, result: std::thread::Result<Result<T>>) -> Result<T> {
        let info = &hosted.context.info;
        let place = || format!("task '{}' (subtask {})", info.task_name, info.subtask);
        match result {
            Ok(result) => result.map_err(|e| e.context(place())),
            Err(payload) => {
                let text = payload
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| payload.downcast_ref::<&str>().copied())
                    .unwrap_or("a value that is not text");
                let whom = match blame::take_culprit() {
                    Some((op, record)) => {
                        let name =
                            hosted.operators.get(op as usize).map_or("key_by", String::as_str);
                        format!("operator '{name}' panicked on record {record}")
                    }
                    None => String::from("the task panicked"),
                };
                Err(Error::attempt(format!("{}: {whom}: {text}", place())))
            }
        }
    }
}
