//! One life of the job: what the embedded shell does with threads and channels, here step by step.

use super::disk::Disk;
use super::seat::Seat;
use super::wires::{deploy_split, seated};
use crate::rng::Rng;
use crate::scenario::{Life, PATIENT_US, Scenario};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tidemill::job::checkpoint::Declared;
use tidemill_base::clock::ManualClock;
use tidemill_base::{Barrier, BarrierKind, Clock, Error, Severity};
use tidemill_coordination::{
    AbortReason, Action, Config, Coordinator, EpochKind, Event, Outcome, Store,
};
use tidemill_plan::{PhysicalPlan, SubtaskId};
use tidemill_ring::Doorbell;
use tidemill_runtime::context::{Restored, SectionKind, TaskEvent};
use tidemill_runtime::deploy::{Blueprint, DeployOptions, JobPlan};
use tidemill_runtime::slot::{Command, Slot};
use tidemill_snapshot as snapshot;
use tidemill_snapshot::{ChunkKey, FaultyStore, MemoryStore, WriterCore};

/// How a life ended.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    Done(Outcome),
    Crashed,
    Failed(String),
}

/// What a life begins with.
pub(super) struct Start<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) life: &'a Life,
    pub(super) number: u64,
    pub(super) physical: &'a PhysicalPlan,
    pub(super) plan: &'a JobPlan,
    pub(super) restored: Option<Arc<Restored>>,
    pub(super) next_epoch: u64,
    pub(super) store: MemoryStore,
    pub(super) clock: ManualClock,
}

/// Batches of channel state in a checkpoint.
pub(super) fn channel_state(restored: &Restored) -> u64 {
    let channels = restored.sections.iter().filter(|(id, _)| id.kind == SectionKind::ChannelState);
    channels.map(|(_, entries)| entries.len() as u64).sum()
}

/// A running life.
pub(super) struct Attempt<'a> {
    pub(super) start: Start<'a>,
    pub(super) rng: Rng,
    pub(super) seats: Vec<Seat>,
    /// How likely each task of each slot is to be stepped, for a while.
    pub(super) weights: Vec<Vec<u64>>,
    pub(super) reweigh_at: u64,
    coordinator: Coordinator,
    /// Events on their way to the coordinator.
    inbox: BTreeMap<SubtaskId, VecDeque<Event>>,
    writer: WriterCore,
    pub(super) jobs: VecDeque<snapshot::Job>,
    writer_events: VecDeque<snapshot::Event>,
    operators: Vec<Vec<u64>>,
    /// Of how many of its operators the writer knows that they are done.
    told: BTreeMap<SubtaskId, usize>,
    declared: Declared,
    parts: BTreeMap<u64, snapshot::WorkerPart>,
    savepoints: BTreeSet<u64>,
    committing: Option<u64>,
    pub(super) wake_at: Option<u64>,
    /// Steps in a row that did nothing.
    pub(super) idle: usize,
    pub(super) ending: Option<Ending>,
    pub(super) completed: u64,
    pub(super) aborted: u64,
    pub(super) trace: u64,
    /// A connection may break, and has broken.
    may_cut: bool,
    pub(super) was_cut: bool,
    /// After `seats`, whose databases are in it.
    _disk: Disk,
}

impl<'a> Attempt<'a> {
    pub(super) fn start(start: Start<'a>, mut rng: Rng) -> Result<Self, String> {
        let slots = start.plan.slots();
        let doorbells: Vec<_> = (0..slots).map(|_| Doorbell::new()).collect();
        let disk = Disk::new(start.life.state)?;
        let options = DeployOptions {
            attempt: start.number as u32,
            channel: start.scenario.channel,
            restored: start.restored.clone(),
            state: disk.backend(),
        };
        let mut declared = Declared::default();
        let mut seats = Vec::new();
        let wires = start.scenario.wires;
        // Not in the last life, which nothing would restore.
        let may_cut = wires.is_some_and(|w| start.life.crash.is_some() && rng.percent(w.cuts));
        let deployed = match wires {
            Some(wires) => deploy_split(start.plan, &doorbells, &options, wires, may_cut),
            None => seated(start.plan, &doorbells, &options),
        };
        let deployed = deployed.map_err(|e| format!("deploy: {e}"))?;
        for ((blueprints, pump), doorbell) in deployed.into_iter().zip(&doorbells) {
            let built: tidemill::Result<Vec<_>> =
                blueprints.into_iter().map(Blueprint::build).collect();
            let tasks = built.map_err(|e| format!("build: {e}"))?;
            for t in &tasks {
                declared.add(&[(t.context.info.clone(), t.context.states.borrow().clone())]);
            }
            seats.push(Seat::new(Slot::new(tasks), pump, doorbell.clone()));
        }
        let config = Config {
            interval_us: start.scenario.interval_us,
            timeout_us: start.life.timeout_us,
            aligned_timeout_ms: start.life.alignment.timeout_ms(),
            tolerated_failures: start.life.tolerated_failures,
            store: Store::Durable,
            first_epoch: start.next_epoch,
            ..Config::default()
        };
        let store = Arc::new(FaultyStore::new(start.store.clone(), start.life.faults));
        let ids = |t: &tidemill_runtime::deploy::TaskPlan| {
            t.operators.iter().map(|&o| start.plan.operator_ids[o]).collect::<Vec<u64>>()
        };
        let mut attempt = Attempt {
            rng,
            weights: Vec::new(),
            reweigh_at: 0,
            seats,
            coordinator: Coordinator::new(config).map_err(|e| e.to_string())?,
            inbox: BTreeMap::new(),
            writer: WriterCore::new(store, 0),
            jobs: VecDeque::new(),
            writer_events: VecDeque::new(),
            operators: start.plan.tasks.iter().map(ids).collect(),
            told: BTreeMap::new(),
            declared,
            parts: BTreeMap::new(),
            savepoints: BTreeSet::new(),
            committing: None,
            wake_at: None,
            idle: 0,
            ending: None,
            completed: 0,
            aborted: 0,
            trace: 0,
            may_cut,
            was_cut: false,
            start,
            _disk: disk,
        };
        let subtasks = attempt.start.physical.subtasks().collect();
        attempt.tell(Event::Started { subtasks })?;
        Ok(attempt)
    }

    /// Steps that found no free output buffer.
    pub(super) fn blocked(&self) -> u64 {
        self.seats.iter().map(|seat| seat.blocked).sum()
    }

    pub(super) fn last_epoch(&self) -> u64 {
        self.coordinator.last_epoch()
    }

    pub(super) fn note(&mut self, what: u64) {
        self.trace = tidemill_base::hash::hash_u64(self.trace.wrapping_add(what));
    }

    /// Whether the job runs in two processes.
    pub(super) fn is_split(&self) -> bool {
        self.seats.iter().any(|seat| seat.pump.is_some())
    }

    pub(super) fn failed(&mut self, error: &Error) -> Result<(), String> {
        if self.may_cut && error.to_string().contains("the connection of slot") {
            (self.was_cut, self.ending) = (true, Some(Ending::Crashed));
            return Ok(());
        }
        // Storage fails on purpose, tasks do not.
        match error.severity() {
            Severity::FailJob | Severity::FailAttempt | Severity::Retry => {
                Err(format!("a task failed: {error}\n{}", self.picture()))
            }
        }
    }

    pub(super) fn waiting(&self, slot: usize) -> usize {
        let slot = &self.seats[slot].slot;
        (0..slot.len()).map(|i| slot.context(i).outbox.len()).sum()
    }

    /// Carries at most `most` events of each task of a slot; true if the writer is behind.
    pub(super) fn carry(&mut self, slot: usize, most: usize) -> bool {
        let mut left = false;
        for i in 0..self.seats[slot].slot.len() {
            for _ in 0..most {
                let Some(event) = self.seats[slot].slot.pop_event(i) else { break };
                let context = self.seats[slot].slot.context(i).clone();
                if let Err(event) = self.deliver(&context.info, event) {
                    context.outbox.put_back(event);
                    left = true;
                    break;
                }
            }
        }
        left
    }

    fn offer(&mut self, job: snapshot::Job) -> Result<(), snapshot::Job> {
        if self.jobs.len() >= self.start.scenario.writer_queue {
            return Err(job);
        }
        self.jobs.push_back(job);
        Ok(())
    }

    fn deliver(
        &mut self,
        info: &tidemill_runtime::context::SubtaskInfo,
        event: TaskEvent,
    ) -> Result<(), TaskEvent> {
        let id = SubtaskId::new(info.task as u32, info.subtask);
        let told = match event {
            TaskEvent::Entry { epoch, section, payload, records } => {
                let key = ChunkKey {
                    operator: section.operator,
                    subtask: info.subtask,
                    kind: section.kind,
                    state: section.state,
                };
                let job = snapshot::Job::Chunk { epoch, key, payload, records };
                return match self.offer(job) {
                    Err(snapshot::Job::Chunk { payload, .. }) => {
                        Err(TaskEvent::Entry { epoch, section, payload, records })
                    }
                    _ => Ok(()),
                };
            }
            TaskEvent::File { epoch, source } => {
                let job = snapshot::Job::Share { epoch, source };
                return match self.offer(job) {
                    Err(snapshot::Job::Share { epoch, source }) => {
                        Err(TaskEvent::File { epoch, source })
                    }
                    _ => Ok(()),
                };
            }
            TaskEvent::Acknowledged { epoch } => {
                // Where the queue is full it goes on from there, as in production.
                let operators = self.operators[info.task as usize].clone();
                let told = self.told.remove(&id).unwrap_or(0);
                for (nth, operator) in operators.into_iter().enumerate().skip(told) {
                    let done = snapshot::SubtaskId { operator, subtask: info.subtask };
                    let job = snapshot::Job::SubtaskDone { epoch, subtask: done };
                    if self.offer(job).is_err() {
                        self.told.insert(id, nth);
                        return Err(event);
                    }
                }
                Event::Acked { epoch, subtask: id }
            }
            TaskEvent::Committed { epoch } => Event::CommitAcked { epoch, subtask: id },
            TaskEvent::Finished => Event::SubtaskFinished { subtask: id },
        };
        self.inbox.entry(id).or_default().push_back(told);
        Ok(())
    }

    /// The writer does its next job.
    pub(super) fn write(&mut self) -> bool {
        let Some(job) = self.jobs.pop_front() else { return false };
        let mut out = Vec::new();
        self.writer.on(job, &mut out);
        self.writer_events.extend(out);
        true
    }

    /// The coordinator hears of something.
    pub(super) fn coordinate(&mut self) -> Result<bool, String> {
        let told: Vec<SubtaskId> =
            self.inbox.iter().filter(|(_, q)| !q.is_empty()).map(|(id, _)| *id).collect();
        let from_writer = usize::from(!self.writer_events.is_empty());
        if told.len() + from_writer == 0 {
            return Ok(false);
        }
        let which = self.rng.index(told.len() + from_writer);
        match told.get(which) {
            Some(id) => {
                if let Some(event) = self.inbox.get_mut(id).and_then(VecDeque::pop_front) {
                    self.tell(event)?;
                }
            }
            None => {
                if let Some(event) = self.writer_events.pop_front() {
                    self.on_writer(event)?;
                }
            }
        }
        Ok(true)
    }

    fn on_writer(&mut self, event: snapshot::Event) -> Result<(), String> {
        match event {
            snapshot::Event::Finished { epoch, part } => {
                self.parts.insert(epoch, part);
                self.tell(Event::WriterFinished { epoch, writer: 0 })
            }
            snapshot::Event::Failed { error: snapshot::Error::InDoubt(report), .. } => {
                self.ending = Some(Ending::Failed(report.to_string()));
                Ok(())
            }
            snapshot::Event::Failed { epoch, error } => {
                let reason = error.to_string();
                if !reason.contains("injected failure") {
                    return Err(format!("checkpoint {epoch}: {reason}\n{}", self.picture()));
                }
                if self.committing == Some(epoch) {
                    self.tell(Event::ManifestFailed { epoch, reason })
                } else {
                    self.tell(Event::WriterFailed { epoch, writer: 0, reason })
                }
            }
            snapshot::Event::Committed { epoch } => {
                self.completed += 1;
                self.tell(Event::ManifestStored { epoch })
            }
            _ => Ok(()),
        }
    }

    /// Tells the coordinator and does what it asks for.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), String> {
        let mut actions = Vec::new();
        let now = self.start.clock.now();
        self.coordinator
            .on(now, event, &mut actions)
            .map_err(|e| format!("coordinator: {e}\n{}", self.picture()))?;
        actions.into_iter().try_for_each(|action| self.act(action))
    }

    fn command_all(&mut self, command: Command) {
        self.seats.iter_mut().for_each(|seat| seat.commands.push_back(command));
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Trigger { epoch, kind, aligned_timeout_ms } => {
                if kind.savepoint().is_some() {
                    self.savepoints.insert(epoch);
                }
                self.jobs.push_back(snapshot::Job::Begin { epoch, expect: Vec::new() });
                let kind = match (kind, aligned_timeout_ms) {
                    (kind, None) if kind.savepoint().is_some() => BarrierKind::Savepoint,
                    (EpochKind::Periodic, Some(0)) => BarrierKind::Unaligned,
                    (_, timeout) => BarrierKind::Aligned { timeout: timeout.map(|ms| ms * 1_000) },
                };
                let triggered_at = self.start.clock.now();
                self.command_all(Command::Trigger(Barrier { epoch, triggered_at, kind }));
            }
            Action::FinishObjects { epoch } => {
                self.jobs.push_back(snapshot::Job::Finish { epoch });
            }
            Action::StoreManifest { epoch } => {
                let part = self.parts.remove(&epoch).ok_or("no data object")?;
                let savepoint = self.savepoints.remove(&epoch);
                let created = self.start.clock.wall_ms();
                let physical = self.start.physical;
                let manifest = self.declared.manifest(physical, epoch, created, savepoint, part);
                self.committing = Some(epoch);
                self.jobs.push_back(snapshot::Job::Commit { manifest: Box::new(manifest) });
            }
            Action::Commit { epoch } => self.command_all(Command::Commit(epoch)),
            Action::Abort { epoch, reason } => {
                let patient = self.start.life.timeout_us == PATIENT_US;
                if patient && matches!(reason, AbortReason::Expired { .. }) {
                    return Err(format!("epoch {epoch} never ends: {reason}\n{}", self.picture()));
                }
                self.aborted += 1;
                self.command_all(Command::Abort(epoch));
                self.jobs.push_back(snapshot::Job::Abort { epoch });
                self.parts.remove(&epoch);
            }
            Action::Retain => self.jobs.push_back(snapshot::Job::Retain {
                policy: snapshot::Policy { keep: self.start.scenario.keep },
                in_flight: BTreeSet::new(),
                suspect: BTreeSet::new(),
            }),
            Action::JobDone { outcome } => self.ending = Some(Ending::Done(outcome)),
            Action::FailJob { reason } => self.ending = Some(Ending::Failed(reason.to_string())),
            Action::WakeAt { at } => self.wake_at = Some(at),
            Action::SavepointDone { .. } | Action::SavepointFailed { .. } => {}
        }
        Ok(())
    }

    /// The state, for people.
    pub(super) fn picture(&self) -> String {
        let now = super::seat::now(&self.start.clock);
        let mut text = format!(
            "life {} at {now} us, coordinator {:?} epoch {:?}, wake at {:?}, {} writer jobs\n",
            self.start.number,
            self.coordinator.phase(),
            self.coordinator.pending_epoch(),
            self.wake_at,
            self.jobs.len(),
        );
        for (i, seat) in self.seats.iter().enumerate() {
            text += &format!("  slot {i}:\n{}", seat.picture(now));
        }
        text
    }
}
