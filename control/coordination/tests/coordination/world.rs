//! A job around a coordinator: answers its actions, in any order, late, twice, or badly.

use tidemill_coordination::{Action, Config, Event, Micros, Phase, SAVEPOINTS_QUEUED_MAX};
use tidemill_plan::SubtaskId;

use crate::checker::Checked;

/// What the world does next; numbers pick among what there is.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// One of the answers under way arrives.
    Deliver(usize),
    /// One arrives and will come again.
    Repeat(usize),
    /// One is lost.
    Lose(usize),
    /// One turns into a failure.
    Spoil(usize),
    /// Time passes.
    Pass(Micros),
    /// A subtask comes to its end.
    Finish(usize),
    /// The user wants a savepoint.
    Savepoint,
    /// Anything at all arrives.
    Noise(Event),
}

pub(crate) struct World {
    pub(crate) job: Checked,
    pub(crate) now: Micros,
    pub(crate) subtasks: Vec<SubtaskId>,
    pub(crate) under_way: Vec<Event>,
    writers: u32,
    savepoints: u64,
    pub(crate) illegal: usize,
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let subtasks: Vec<_> = [(0, 0), (0, 1), (1, 0)].map(|(t, s)| SubtaskId::new(t, s)).to_vec();
        let writers = config.writers;
        let mut world = Self {
            job: Checked::new(config),
            now: 1_000,
            subtasks: subtasks.clone(),
            under_way: Vec::new(),
            writers,
            savepoints: 1_000,
            illegal: 0,
        };
        world.send(Event::Started { subtasks: subtasks.into_iter().collect() });
        world
    }

    pub(crate) fn send(&mut self, event: Event) {
        match self.job.on(self.now, event) {
            Ok(actions) => actions.into_iter().for_each(|action| self.answer(action)),
            Err(_) => self.illegal += 1,
        }
    }

    fn answer(&mut self, action: Action) {
        let subtasks = self.subtasks.clone();
        match action {
            Action::Trigger { epoch, .. } => {
                let acks = subtasks.into_iter().map(|subtask| Event::Acked { epoch, subtask });
                self.under_way.extend(acks);
            }
            Action::FinishObjects { epoch } => {
                let ends = (0..self.writers).map(|writer| Event::WriterFinished { epoch, writer });
                self.under_way.extend(ends);
            }
            Action::StoreManifest { epoch } => {
                self.under_way.push(Event::ManifestStored { epoch });
            }
            Action::Commit { epoch } => {
                let acks =
                    subtasks.into_iter().map(|subtask| Event::CommitAcked { epoch, subtask });
                self.under_way.extend(acks);
            }
            _ => {}
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        let count = self.under_way.len();
        match step {
            Step::Deliver(i) if count > 0 => {
                let event = self.under_way.swap_remove(i % count);
                self.send(event);
            }
            Step::Repeat(i) if count > 0 => self.send(self.under_way[i % count].clone()),
            Step::Lose(i) if count > 0 => drop(self.under_way.swap_remove(i % count)),
            Step::Spoil(i) if count > 0 => {
                let event = self.under_way.swap_remove(i % count);
                self.send(spoilt(event));
            }
            Step::Pass(micros) => self.pass(micros),
            Step::Finish(i) => {
                let subtask = self.subtasks[i % self.subtasks.len()];
                self.send(Event::SubtaskFinished { subtask });
            }
            Step::Savepoint if self.savepoints < 1_000 + SAVEPOINTS_QUEUED_MAX as u64 => {
                self.savepoints += 1;
                self.send(Event::SavepointRequested { id: self.savepoints });
            }
            Step::Noise(event) => self.send(event),
            _ => {}
        }
    }

    /// Time passes, with a tick when one was asked for.
    fn pass(&mut self, micros: Micros) {
        let until = self.now + micros;
        while let Some(at) = self.job.wake_at.filter(|&at| at <= until) {
            self.job.wake_at = None;
            self.now = self.now.max(at);
            self.send(Event::Tick);
        }
        self.now = until;
    }

    /// What was lost past the point of no return is answered again, as a store that is asked again does.
    pub(crate) fn answer_again(&mut self) {
        let Some(epoch) = self.job.coordinator.pending_epoch() else { return };
        match self.job.coordinator.phase() {
            Phase::Storing => self.answer(Action::StoreManifest { epoch }),
            Phase::Committing => self.answer(Action::Commit { epoch }),
            _ => {}
        }
    }

    /// Everything under way arrives, and time goes on when nothing is, until `enough` or the end.
    pub(crate) fn run_until(&mut self, enough: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if self.job.has_ended() || enough(self) {
                return;
            }
            if !self.under_way.is_empty() {
                self.step(Step::Deliver(0));
            } else if let Some(at) = self.job.wake_at {
                self.pass(at.saturating_sub(self.now));
            } else {
                panic!("stuck: nothing under way and no wake-up, {:?}", self.job.coordinator);
            }
        }
        panic!("no end: {:?}", self.job.coordinator);
    }
}

fn spoilt(event: Event) -> Event {
    let reason = "disk full".to_owned();
    match event {
        Event::Acked { epoch, subtask } => Event::Declined { epoch, subtask, reason },
        Event::WriterFinished { epoch, writer } => Event::WriterFailed { epoch, writer, reason },
        Event::ManifestStored { epoch } => Event::ManifestFailed { epoch, reason },
        other => other,
    }
}
