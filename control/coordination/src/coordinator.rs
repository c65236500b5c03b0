//! The checkpoint coordinator of one attempt of a job. Pure: what happens comes in as events with the
//! time at which it is handled, what is to be done goes out as actions. Life and table: table.rs.
//!
//! Invariants
//!   C1   At most one epoch is pending: from Trigger to Abort, or to the last CommitAcked.
//!   C2   Epochs strictly increase, from `first_epoch`.
//!   C3   FinishObjects(n) only after every subtask acknowledged n.
//!   C4   StoreManifest(n) only after FinishObjects(n) and every writer's WriterFinished(n).
//!   C5   Commit(n) only after ManifestStored(n); without a store, after every subtask acknowledged n.
//!   C6   For every n at most one of Commit(n) and Abort(n), once.
//!   C7   After StoreManifest(n), Abort(n) only on ManifestFailed(n): while the manifest may become
//!        visible, sinks keep what they prepared, because a restore of n would commit it.
//!   C8   After JobDone, FailJob or Failed nothing but refusals of savepoints goes out.
//!   C9   JobDone(Finished) only after a Final epoch, triggered after all subtasks finished, was
//!        committed by every subtask.
//!   C10  An illegal event changes nothing.
//!   C11  A late event, one of an epoch that is over, changes nothing.
//!   C12  Every savepoint asked for is answered once, at the latest when the attempt ends. Asked again
//!        before the answer it is the same one, after it a new one.
//!   C13  While an epoch is pending or one is to come, the last WakeAt names the next moment at which
//!        time alone changes something.
//!   C14  `pending` is Some exactly in Collecting, Closing, Storing and Committing.
//!
//! A restart is a new coordinator whose `first_epoch` is above the old one's [`Coordinator::last_epoch`].

use std::collections::{BTreeSet, VecDeque};

use thiserror::Error;
use tidemill_plan::SubtaskId;

use crate::event::Missing;
use crate::table::{EventName, Phase, Rule, rule};
use crate::{
    AbortReason, Action, Config, ConfigError, Epoch, EpochKind, Event, FailReason, Micros, Outcome,
    SavepointError, SavepointId, Store,
};

/// How many savepoints may wait.
pub const SAVEPOINTS_QUEUED_MAX: usize = 16;

/// The least time between a last epoch that failed and the next try, in microseconds: without it a
/// finished job whose store is full would try without pause.
pub const FINAL_RETRY_US: Micros = 1_000_000;

/// An event that cannot happen here: the caller has a defect. Nothing was changed (C10).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "checkpoint coordinator: {event} is illegal while {phase}: {why}; this is a defect of Tidemill, please report it"
)]
pub struct Illegal {
    /// What came.
    pub event: EventName,
    /// Where the coordinator stood.
    pub phase: Phase,
    /// What is wrong with it.
    pub why: String,
}

/// What the user wants of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Run,
    Cancel,
}

/// The epoch in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    epoch: Epoch,
    kind: EpochKind,
    triggered_at: Micros,
    deadline: Micros,
    /// Who has not acknowledged, or in Committing, not committed.
    subtasks: BTreeSet<SubtaskId>,
    writers: BTreeSet<u32>,
}

/// Decides on the checkpoints of one attempt; see the module's invariants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinator {
    config: Config,
    phase: Phase,
    goal: Goal,
    now: Micros,
    subtasks: BTreeSet<SubtaskId>,
    unfinished: BTreeSet<SubtaskId>,
    pending: Option<Pending>,
    next_epoch: Epoch,
    completed: Option<Epoch>,
    failures: u32,
    periodic_at: Option<Micros>,
    final_at: Micros,
    savepoints: VecDeque<EpochKind>,
    wake_at: Option<Micros>,
}

impl Coordinator {
    /// A coordinator that has not started.
    ///
    /// # Errors
    /// When the settings contradict each other.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            phase: Phase::New,
            goal: Goal::Run,
            now: 0,
            subtasks: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            pending: None,
            next_epoch: config.first_epoch,
            completed: None,
            failures: 0,
            periodic_at: None,
            final_at: 0,
            savepoints: VecDeque::new(),
            wake_at: None,
            config,
        })
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The epoch in progress.
    pub fn pending_epoch(&self) -> Option<Epoch> {
        self.pending.as_ref().map(|p| p.epoch)
    }

    /// The highest epoch triggered, or `first_epoch - 1`.
    pub fn last_epoch(&self) -> Epoch {
        self.next_epoch - 1
    }

    /// The last epoch that passed its commit point in this attempt.
    pub fn completed_epoch(&self) -> Option<Epoch> {
        self.completed
    }

    /// Handles one event and appends what is to be done. `now` should not go backwards; where it does,
    /// the latest one counts.
    ///
    /// # Errors
    /// [`Illegal`]: the caller broke the protocol; log it and fail the attempt.
    pub fn on(&mut self, now: Micros, event: Event, out: &mut Vec<Action>) -> Result<(), Illegal> {
        let now = now.max(self.now);
        let name = self.name(now, &event);
        if !self.is_current(name, &event)? {
            return Ok(());
        }
        let rule = rule(self.phase, name);
        if rule == Rule::Illegal {
            return Err(self.illegal(name, "it was not asked for".to_owned()));
        }
        self.now = now;
        match rule {
            Rule::Ignore | Rule::Pulse | Rule::Illegal => {}
            Rule::Start => self.start(event),
            Rule::Finish => self.finish_subtask(&event),
            Rule::Queue => self.queue(&event, out),
            Rule::Refuse => refuse(&event, out),
            Rule::Ack => self.ack(&event, out),
            Rule::Write => self.write(&event, out),
            Rule::Commit => self.commit(out),
            Rule::CommitAck => self.commit_ack(&event, out),
            Rule::Abort => self.abort_epoch(event, out),
            Rule::Doubt => self.doubt(out),
            Rule::AbortFail => {
                self.drop_pending(reason_of_failure(event), out);
                self.fail(out);
            }
            Rule::Fail | Rule::LeaveFail => self.fail(out),
            Rule::AbortCancel => {
                self.drop_pending(AbortReason::Cancelled, out);
                self.end(out, Some(done(Outcome::Cancelled)));
            }
            Rule::Cancel => self.end(out, Some(done(Outcome::Cancelled))),
            Rule::CancelLater => self.cancel_later(out),
        }
        self.trigger_if_due(out);
        self.set_wake(name, out);
        Ok(())
    }

    fn name(&self, now: Micros, event: &Event) -> EventName {
        match event {
            Event::Started { .. } => EventName::Started,
            Event::Tick if self.pending.as_ref().is_some_and(|p| now >= p.deadline) => {
                EventName::Deadline
            }
            Event::Tick => EventName::Tick,
            Event::Acked { .. } => EventName::Acked,
            Event::Declined { .. } => EventName::Declined,
            Event::SubtaskFinished { .. } => EventName::SubtaskFinished,
            Event::WriterFinished { .. } => EventName::WriterFinished,
            Event::WriterFailed { .. } => EventName::WriterFailed,
            Event::ManifestStored { .. } => EventName::ManifestStored,
            Event::ManifestFailed { .. } => EventName::ManifestFailed,
            Event::CommitAcked { .. } => EventName::CommitAcked,
            Event::SavepointRequested { .. } => EventName::SavepointRequested,
            Event::StopWithSavepoint { .. } => EventName::StopWithSavepoint,
            Event::Failed { .. } => EventName::Failed,
            Event::CancelRequested => EventName::CancelRequested,
        }
    }

    /// Whether the event is of now rather than late (C11); an error where it is of nowhere (C10).
    fn is_current(&self, name: EventName, event: &Event) -> Result<bool, Illegal> {
        let epoch = match event {
            Event::Acked { epoch, .. }
            | Event::Declined { epoch, .. }
            | Event::WriterFinished { epoch, .. }
            | Event::WriterFailed { epoch, .. }
            | Event::ManifestStored { epoch }
            | Event::ManifestFailed { epoch, .. }
            | Event::CommitAcked { epoch, .. } => Some(*epoch),
            _ => None,
        };
        if let Some(epoch) = epoch.filter(|&e| e >= self.next_epoch) {
            return Err(self.illegal(name, format!("epoch {epoch} was never triggered")));
        }
        if epoch.is_some() && epoch != self.pending_epoch() {
            return Ok(false);
        }
        match event {
            Event::Started { subtasks } if subtasks.is_empty() => {
                Err(self.illegal(name, "a job has at least one subtask".to_owned()))
            }
            Event::Acked { subtask, .. }
            | Event::Declined { subtask, .. }
            | Event::CommitAcked { subtask, .. }
            | Event::SubtaskFinished { subtask }
                if !self.subtasks.contains(subtask) =>
            {
                Err(self.illegal(name, format!("the job has no {subtask}")))
            }
            Event::WriterFinished { writer, .. } | Event::WriterFailed { writer, .. }
                if *writer >= self.config.writers =>
            {
                Err(self.illegal(name, format!("the job has no writer {writer}")))
            }
            _ => Ok(true),
        }
    }

    fn illegal(&self, event: EventName, why: String) -> Illegal {
        Illegal { event, phase: self.phase, why }
    }

    fn start(&mut self, event: Event) {
        let Event::Started { subtasks } = event else {
            return;
        };
        self.unfinished.clone_from(&subtasks);
        self.subtasks = subtasks;
        self.periodic_at = self.config.interval_us.map(|i| self.now.saturating_add(i));
        self.phase = Phase::Waiting;
    }

    fn finish_subtask(&mut self, event: &Event) {
        if let Event::SubtaskFinished { subtask } = event {
            self.unfinished.remove(subtask);
        }
    }

    fn queue(&mut self, event: &Event, out: &mut Vec<Action>) {
        let (id, kind) = match *event {
            Event::SavepointRequested { id } => (id, EpochKind::Savepoint(id)),
            Event::StopWithSavepoint { id } => (id, EpochKind::StopWithSavepoint(id)),
            _ => return,
        };
        // In Committing the pending one is answered already.
        let unanswered = self.pending.as_ref().filter(|_| self.phase != Phase::Committing);
        let pending = unanswered.and_then(|p| p.kind.savepoint());
        let waiting = self.savepoints.len();
        let reason =
            if pending == Some(id) || self.savepoints.iter().any(|s| s.savepoint() == Some(id)) {
                return;
            } else if self.config.store == Store::None {
                SavepointError::NoStore
            } else if waiting >= SAVEPOINTS_QUEUED_MAX {
                SavepointError::QueueFull { waiting }
            } else {
                return self.savepoints.push_back(kind);
            };
        out.push(Action::SavepointFailed { id, reason });
    }

    fn ack(&mut self, event: &Event, out: &mut Vec<Action>) {
        let (Event::Acked { subtask, .. }, Some(pending)) = (event, &mut self.pending) else {
            return;
        };
        pending.subtasks.remove(subtask);
        if !pending.subtasks.is_empty() {
            return;
        }
        let epoch = pending.epoch;
        match self.config.store {
            Store::Durable => {
                self.phase = Phase::Closing;
                out.push(Action::FinishObjects { epoch });
            }
            Store::None => self.commit(out),
        }
    }

    fn write(&mut self, event: &Event, out: &mut Vec<Action>) {
        let (Event::WriterFinished { writer, .. }, Some(pending)) = (event, &mut self.pending)
        else {
            return;
        };
        pending.writers.remove(writer);
        if pending.writers.is_empty() {
            self.phase = Phase::Storing;
            out.push(Action::StoreManifest { epoch: pending.epoch });
        }
    }

    /// The commit point is passed (C5).
    fn commit(&mut self, out: &mut Vec<Action>) {
        let Some(pending) = &mut self.pending else {
            return;
        };
        let epoch = pending.epoch;
        pending.subtasks.clone_from(&self.subtasks);
        pending.deadline = self.now.saturating_add(self.config.timeout_us);
        self.completed = Some(epoch);
        self.failures = 0;
        self.phase = Phase::Committing;
        out.push(Action::Commit { epoch });
        if let Some(id) = pending.kind.savepoint() {
            out.push(Action::SavepointDone { id, epoch });
        }
    }

    fn commit_ack(&mut self, event: &Event, out: &mut Vec<Action>) {
        let (Event::CommitAcked { subtask, .. }, Some(pending)) = (event, &mut self.pending) else {
            return;
        };
        pending.subtasks.remove(subtask);
        if !pending.subtasks.is_empty() {
            return;
        }
        let Some(pending) = self.pending.take() else {
            return;
        };
        if self.config.store == Store::Durable && pending.kind.savepoint().is_none() {
            out.push(Action::Retain);
        }
        match (self.goal, pending.kind) {
            (Goal::Cancel, _) => self.end(out, Some(done(Outcome::Cancelled))),
            (Goal::Run, EpochKind::Final) => self.end(out, Some(done(Outcome::Finished))),
            (Goal::Run, EpochKind::StopWithSavepoint(id)) => {
                self.end(out, Some(done(Outcome::Stopped(id))));
            }
            (Goal::Run, EpochKind::Periodic | EpochKind::Savepoint(_)) => {
                self.wait_after(pending.triggered_at);
                self.final_at = self.now;
            }
        }
    }

    /// Back to Waiting after an epoch, with the next periodic one's time.
    fn wait_after(&mut self, triggered_at: Micros) {
        self.phase = Phase::Waiting;
        let earliest = self.now.saturating_add(self.config.min_pause_us);
        self.periodic_at =
            self.config.interval_us.map(|i| triggered_at.saturating_add(i).max(earliest));
    }

    /// Gives the pending epoch up, and the attempt where that was one too many.
    fn abort_epoch(&mut self, event: Event, out: &mut Vec<Action>) {
        let reason = self.reason_of_abort(event);
        let Some(pending) = self.drop_pending(reason.clone(), out) else {
            return;
        };
        if self.goal == Goal::Cancel {
            return self.end(out, Some(done(Outcome::Cancelled)));
        }
        self.wait_after(pending.triggered_at);
        self.final_at = self.now.saturating_add(self.config.min_pause_us.max(FINAL_RETRY_US));
        if pending.kind.savepoint().is_some() {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if let Some(tolerated) = self.config.tolerated_failures.filter(|&t| self.failures > t) {
            let (failures, epoch) = (self.failures, pending.epoch);
            let reason = FailReason::TooManyFailures { failures, tolerated, epoch, last: reason };
            self.end(out, Some(Action::FailJob { reason }));
        }
    }

    fn reason_of_abort(&self, event: Event) -> AbortReason {
        match event {
            Event::Declined { subtask, reason, .. } => AbortReason::Declined { subtask, reason },
            Event::WriterFailed { writer, reason, .. } => AbortReason::Writer { writer, reason },
            Event::ManifestFailed { reason, .. } => AbortReason::Manifest { reason },
            _ => {
                AbortReason::Expired { timeout_us: self.config.timeout_us, missing: self.missing() }
            }
        }
    }

    fn missing(&self) -> Missing {
        match (&self.pending, self.phase) {
            (Some(pending), Phase::Closing) => Missing::Writers(pending.writers.clone()),
            (Some(pending), _) => Missing::Subtasks(pending.subtasks.clone()),
            (None, _) => Missing::Subtasks(BTreeSet::new()),
        }
    }

    /// Aborts the pending epoch, which has not passed its commit point (C6, C7).
    fn drop_pending(&mut self, reason: AbortReason, out: &mut Vec<Action>) -> Option<Pending> {
        let pending = self.pending.take()?;
        let epoch = pending.epoch;
        out.push(Action::Abort { epoch, reason: reason.clone() });
        if let Some(id) = pending.kind.savepoint() {
            let reason = SavepointError::Aborted { epoch, reason };
            out.push(Action::SavepointFailed { id, reason });
        }
        Some(pending)
    }

    /// The deadline passed in Storing or Committing: the epoch must not be aborted (C7).
    fn doubt(&mut self, out: &mut Vec<Action>) {
        let Some(pending) = &self.pending else { return };
        let (epoch, timeout_us) = (pending.epoch, self.config.timeout_us);
        let last = match (self.goal, self.phase) {
            (Goal::Cancel, _) => done(Outcome::Cancelled),
            (Goal::Run, Phase::Storing) => {
                Action::FailJob { reason: FailReason::ManifestInDoubt { epoch, timeout_us } }
            }
            (Goal::Run, _) => {
                let missing = self.missing();
                let reason = FailReason::CommitExpired { epoch, timeout_us, missing };
                Action::FailJob { reason }
            }
        };
        self.end(out, Some(last));
    }

    /// The caller said that the attempt failed; a job that is being cancelled is not started again.
    fn fail(&mut self, out: &mut Vec<Action>) {
        let last = match self.goal {
            Goal::Run => None,
            Goal::Cancel => Some(done(Outcome::Cancelled)),
        };
        self.end(out, last);
    }

    fn cancel_later(&mut self, out: &mut Vec<Action>) {
        match self.goal {
            Goal::Run => self.goal = Goal::Cancel,
            Goal::Cancel => self.end(out, Some(done(Outcome::Cancelled))),
        }
    }

    /// Nothing follows `last` (C8); savepoints that still wait are answered before it (C12).
    fn end(&mut self, out: &mut Vec<Action>, last: Option<Action>) {
        if let Some(pending) = self.pending.take() {
            // Past the commit point its savepoint is answered already.
            if let (Some(id), Phase::Storing) = (pending.kind.savepoint(), self.phase) {
                let reason = SavepointError::InDoubt { epoch: pending.epoch };
                out.push(Action::SavepointFailed { id, reason });
            }
        }
        for kind in self.savepoints.drain(..) {
            if let Some(id) = kind.savepoint() {
                out.push(Action::SavepointFailed { id, reason: SavepointError::JobEnded });
            }
        }
        self.phase = Phase::Ended;
        out.extend(last);
    }

    /// The next epoch to trigger, and when: savepoints first, then the last epoch of a finished job,
    /// then periodic ones.
    fn next_due(&self) -> Option<(Micros, EpochKind)> {
        if let Some(&kind) = self.savepoints.front() {
            return Some((self.now, kind));
        }
        if self.unfinished.is_empty() {
            return Some((self.final_at, EpochKind::Final));
        }
        self.periodic_at.map(|at| (at, EpochKind::Periodic))
    }

    fn trigger_if_due(&mut self, out: &mut Vec<Action>) {
        let (Phase::Waiting, Some((at, kind))) = (self.phase, self.next_due()) else {
            return;
        };
        if at > self.now {
            return;
        }
        if kind.savepoint().is_some() {
            self.savepoints.pop_front();
        }
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        self.pending = Some(Pending {
            epoch,
            kind,
            triggered_at: self.now,
            deadline: self.now.saturating_add(self.config.timeout_us),
            subtasks: self.subtasks.clone(),
            writers: (0..self.config.writers).collect(),
        });
        self.phase = Phase::Collecting;
        let aligned_timeout_ms = match kind {
            EpochKind::Periodic => self.config.aligned_timeout_ms,
            _ => None,
        };
        out.push(Action::Trigger { epoch, kind, aligned_timeout_ms });
    }

    /// C13. After a tick it is said again, because the caller's timer is spent.
    fn set_wake(&mut self, name: EventName, out: &mut Vec<Action>) {
        let at = match (&self.pending, self.phase) {
            (Some(pending), _) => Some(pending.deadline),
            (None, Phase::Waiting) => self.next_due().map(|(at, _)| at),
            (None, _) => None,
        };
        let ticked = matches!(name, EventName::Tick | EventName::Deadline);
        if let Some(at) = at.filter(|_| ticked || at != self.wake_at) {
            out.push(Action::WakeAt { at });
        }
        self.wake_at = at;
    }
}

fn done(outcome: Outcome) -> Action {
    Action::JobDone { outcome }
}

fn reason_of_failure(event: Event) -> AbortReason {
    match event {
        Event::Failed { reason } => AbortReason::Failed { reason },
        _ => AbortReason::Cancelled,
    }
}

fn refuse(event: &Event, out: &mut Vec<Action>) {
    let id: SavepointId = match *event {
        Event::SavepointRequested { id } | Event::StopWithSavepoint { id } => id,
        _ => return,
    };
    out.push(Action::SavepointFailed { id, reason: SavepointError::JobEnded });
}
