//! Jobs: from a master's effects to rows, messages and workers.

use super::{ADOPT_TIMEOUT_US, Fact, Job, Manager, Out, Then};
use crate::cluster::metadata::{Change, Record, Row};
use crate::cluster::wire::{Message, StartWorker};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tidemill_base::Micros;
use tidemill_coordination::{
    CheckpointFact, Effect, JobStatus, LeftBehind, Master, MasterEvent, Outcome, SavepointId,
};
use tidemill_protocol::{StoreSettings, ToWorker};
use tidemill_snapshot::Manifest;

/// How long before the coordinator's own timeout a commit is given up, where that is certain.
const MARGIN_US: Micros = 500_000;

/// The store of a job.
pub(in crate::cluster) fn store_of(job: usize) -> StoreSettings {
    StoreSettings::Dir { path: format!("/{job}") }
}

impl Job {
    pub(super) fn new(record: Record, master: Option<Master>) -> Self {
        Job {
            master,
            accepted: true,
            record,
            changes: Vec::new(),
            connections: BTreeMap::new(),
            placed: BTreeMap::new(),
            held: None,
            holds: 0,
            committing: None,
            frozen: None,
            wake: None,
            triggered: 0,
            retaining: false,
        }
    }

    fn head(&mut self) {
        self.changes.push(Change::Job(Box::new(self.record.clone())));
    }

    fn row(&mut self, epoch: u64, row: Row) {
        self.record.checkpoints.insert(epoch, row);
        self.changes.push(Change::Checkpoint(epoch, row));
    }

    fn give_up(&mut self, epoch: u64) {
        if self.record.checkpoints.get(&epoch) == Some(&Row::InProgress) {
            self.row(epoch, Row::Over);
        }
    }

    fn savepoint(&mut self, id: SavepointId, state: Option<Option<u64>>) {
        self.record.savepoints.insert(id, state);
        self.changes.push(Change::Savepoint(id, state));
    }
}

impl Manager {
    pub(super) fn restore_job(
        &mut self,
        now: Micros,
        id: usize,
        record: Record,
        out: &mut Vec<Out>,
    ) {
        if record.status.is_over() {
            self.jobs.insert(id, Job::new(record, None));
            return;
        }
        let first_epoch = record.checkpoints.last_key_value().map_or(1, |(epoch, _)| epoch + 1);
        let (submission, initial) = (record.submission.clone(), record.initial.clone());
        let master = if record.workers.is_empty() {
            Master::new(self.settings_of(id), submission, first_epoch, initial)
        } else {
            let left = LeftBehind {
                attempt: record.attempt,
                workers: record.workers.clone(),
                completed: record.completed(),
                first_epoch,
                initial,
            };
            Master::adopt(self.settings_of(id), submission, left, now + ADOPT_TIMEOUT_US)
        };
        let (workers, status) = (record.workers.clone(), record.status);
        let mut job = Job::new(record, Some(master));
        job.placed = workers.into_iter().map(|w| (w.worker, (w.agent, w.slots))).collect();
        let open = job.record.savepoints.iter().filter(|(_, state)| state.is_none());
        for savepoint in open.map(|(&id, _)| id).collect::<Vec<_>>() {
            job.savepoint(savepoint, Some(None));
        }
        for epoch in job.record.checkpoints.keys().copied().collect::<Vec<_>>() {
            job.give_up(epoch);
        }
        self.jobs.insert(id, job);
        self.drive(now, id, MasterEvent::Tick, out);
        if status == JobStatus::Cancelling {
            self.drive(now, id, MasterEvent::Cancel, out);
        }
    }

    /// Tells a job's master, and does what it asks for.
    pub(in crate::cluster) fn drive(
        &mut self,
        now: Micros,
        id: usize,
        event: MasterEvent,
        out: &mut Vec<Out>,
    ) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(job) = self.jobs.get_mut(&id) else { return };
            if let Some(later) = &mut job.frozen {
                later.push_back(event);
                continue;
            }
            let Some(master) = &mut job.master else {
                refuse_late(id, job, event, out);
                continue;
            };
            let before = (master.status(), master.attempt());
            let mut effects = Vec::new();
            master.on(now, event, &mut effects);
            if before == (JobStatus::Restarting, master.attempt())
                && master.status() == JobStatus::Running
            {
                out.push(Out::Fact(Fact::Adopted));
            }
            job.wake = None;
            for effect in effects {
                self.carry_out(now, id, effect, &mut events, out);
            }
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let changes = std::mem::take(&mut job.changes);
        self.write(id, changes, Then::Nothing, None, out);
    }

    fn carry_out(
        &mut self,
        now: Micros,
        id: usize,
        effect: Effect,
        events: &mut VecDeque<MasterEvent>,
        out: &mut Vec<Out>,
    ) {
        match effect {
            Effect::Acquire { slots } => events.push_back(match self.pool.find(slots) {
                Ok(grants) => MasterEvent::SlotsGranted(grants),
                Err(_) => MasterEvent::SlotsDenied,
            }),
            Effect::StartWorker { worker, agent, slots, parallelism } => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.placed.insert(worker, (agent.clone(), slots));
                }
                let start = StartWorker { worker: (id, worker), slots, parallelism };
                self.start_worker(&agent, start, out);
            }
            Effect::StopWorker { worker } => self.stop_worker((id, worker), out),
            Effect::Send { worker, message } => self.send(id, worker, message, out),
            Effect::StoreManifest { manifest } => self.commit(now, id, manifest, out),
            Effect::Discard { epoch } => self.discard(id, epoch, out),
            Effect::Retain { .. } => self.retain(id, out),
            Effect::Damaged { epoch } => {
                out.push(Out::Fact(Fact::Damaged { job: id, epoch }));
            }
            effect => self.note(now, id, effect, out),
        }
    }

    /// Effects that are written down.
    fn note(&mut self, now: Micros, id: usize, effect: Effect, out: &mut Vec<Out>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match effect {
            Effect::WakeAt(at) => job.wake = Some(job.wake.map_or(at, |known| known.min(at))),
            Effect::Status(status) => {
                job.record.status = status;
                job.head();
                let ends = matches!(status, JobStatus::Restarting | JobStatus::Rescaling);
                if ends && job.committing.is_some() && job.frozen.is_none() {
                    job.frozen = Some(VecDeque::new());
                }
            }
            Effect::AttemptStarted { attempt, workers, restored } => {
                job.record.attempt = attempt;
                job.record.workers.clone_from(&workers);
                if let Some(master) = &job.master {
                    job.record.submission = master.submission().clone();
                }
                job.head();
                out.push(Out::Fact(Fact::Attempt { job: id, attempt, workers, restored }));
                self.hold(id, out);
            }
            Effect::AttemptFailed { cause, .. } => {
                if let Some((_, waiting)) = &mut job.held {
                    waiting.retain(|(_, message)| !matches!(message, ToWorker::Deploy(_)));
                }
                out.push(Out::Fact(Fact::AttemptFailed { job: id, cause }));
            }
            Effect::Checkpoint(CheckpointFact::Triggered { epoch, .. }) => {
                job.triggered = now;
                job.row(epoch, Row::InProgress);
                self.hold(id, out);
            }
            Effect::Checkpoint(CheckpointFact::Failed { epoch, .. }) => job.give_up(epoch),
            Effect::SavepointDone { id: number, epoch } => {
                job.savepoint(number, Some(Some(epoch)));
                out.push(Out::Fact(Fact::SavepointDone { job: id, id: number, epoch }));
            }
            Effect::SavepointFailed { id: number, .. } => {
                job.savepoint(number, Some(None));
                out.push(Out::Fact(Fact::SavepointFailed { job: id, id: number }));
            }
            Effect::RescaleFailed { .. } => out.push(Out::Fact(Fact::RescaleFailed)),
            Effect::Done { outcome } => self.over(id, outcome, out),
            _ => {}
        }
    }

    fn over(&mut self, id: usize, outcome: Result<Outcome, String>, out: &mut Vec<Out>) {
        let clear = outcome.is_ok();
        out.push(Out::Fact(Fact::Over { job: id, outcome }));
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.record.workers = Vec::new();
        job.head();
        (job.master, job.wake, job.held) = (None, None, None);
        for connection in std::mem::take(&mut job.connections).into_values() {
            out.push(Out::Close { connection });
        }
        job.placed.clear();
        let changes = std::mem::take(&mut job.changes);
        self.write(id, changes, Then::Over { job: id, clear }, None, out);
    }

    /// J2: holds what follows until the row is written.
    fn hold(&mut self, id: usize, out: &mut Vec<Out>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.holds += 1;
        let hold = job.holds;
        let waiting = job.held.take().map(|(_, waiting)| waiting).unwrap_or_default();
        job.held = Some((hold, waiting));
        let changes = std::mem::take(&mut job.changes);
        self.write(id, changes, Then::Release { job: id, hold }, None, out);
    }

    pub(super) fn release(&mut self, id: usize, hold: u64, out: &mut Vec<Out>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.held.as_ref().is_none_or(|(held, _)| *held != hold) {
            return;
        }
        for (worker, message) in job.held.take().map(|(_, waiting)| waiting).unwrap_or_default() {
            self.send(id, worker, message, out);
        }
    }

    fn send(&mut self, id: usize, worker: u32, message: ToWorker, out: &mut Vec<Out>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let waits = !matches!(message, ToWorker::Attached { .. } | ToWorker::Shutdown);
        if let Some((_, waiting)) = &mut job.held
            && waits
        {
            waiting.push((worker, message));
            return;
        }
        if let Some(&connection) = job.connections.get(&worker) {
            let message = Message::ToWorker(Box::new(message));
            out.push(Out::Send { connection, message });
        }
    }

    fn commit(&mut self, now: Micros, id: usize, manifest: Box<Manifest>, out: &mut Vec<Out>) {
        let timeout_us = self.settings.checkpoint_timeout_ms * 1_000;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let by = (job.triggered + timeout_us).saturating_sub(MARGIN_US);
        let expires = by.max(now + MARGIN_US / 5);
        job.committing = Some((manifest.epoch, manifest.savepoint, expires));
        out.push(Out::PutManifest { job: id, manifest, within: expires - now });
    }

    /// The manifest is stored, or never will be.
    pub(in crate::cluster) fn on_manifest(
        &mut self,
        now: Micros,
        (term, id, epoch): (u64, usize, u64),
        result: Result<(), String>,
        out: &mut Vec<Out>,
    ) {
        if self.term != Some(term) {
            return;
        }
        if let Err(reason) = result {
            return self.not_committed(now, id, epoch, reason, out);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some((of, savepoint, expires)) = job.committing else { return };
        if of != epoch {
            return;
        }
        let mut changes = std::mem::take(&mut job.changes);
        changes.push(Change::Checkpoint(epoch, Row::Completed { savepoint }));
        self.write(id, changes, Then::Commit { job: id, epoch }, Some(expires), out);
    }

    pub(super) fn committed(&mut self, now: Micros, id: usize, epoch: u64, out: &mut Vec<Out>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some((of, savepoint, _)) = job.committing
            && of == epoch
        {
            job.record.checkpoints.insert(epoch, Row::Completed { savepoint });
            self.settle(now, id, MasterEvent::ManifestStored { epoch }, out);
        }
    }

    pub(super) fn not_committed(
        &mut self,
        now: Micros,
        id: usize,
        epoch: u64,
        reason: String,
        out: &mut Vec<Out>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.committing.is_some_and(|(of, ..)| of == epoch) {
            job.give_up(epoch);
            self.settle(now, id, MasterEvent::ManifestFailed { epoch, reason }, out);
        }
    }

    /// J3: the master hears of the outcome first, then of what came meanwhile.
    fn settle(&mut self, now: Micros, id: usize, outcome: MasterEvent, out: &mut Vec<Out>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.committing = None;
        let later = job.frozen.take().unwrap_or_default();
        self.drive(now, id, outcome, out);
        for event in later {
            self.drive(now, id, event, out);
        }
    }

    fn discard(&mut self, id: usize, epoch: u64, out: &mut Vec<Out>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.give_up(epoch);
        if !matches!(job.record.checkpoints.get(&epoch), Some(Row::Completed { .. })) {
            out.push(Out::Discard { job: id, epoch });
        }
    }

    fn retain(&mut self, id: usize, out: &mut Vec<Out>) {
        let protected = self.starting_points(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if std::mem::replace(&mut job.retaining, true) {
            return;
        }
        let whole: BTreeSet<u64> = job.record.completed().into_iter().collect();
        let rows = job.record.checkpoints.iter();
        let mut in_flight: BTreeSet<u64> =
            rows.filter(|(_, row)| **row == Row::InProgress).map(|(&epoch, _)| epoch).collect();
        in_flight.extend(job.committing.map(|(epoch, ..)| epoch));
        in_flight.extend(protected);
        out.push(Out::Retain { job: id, whole, in_flight });
    }

    pub(in crate::cluster) fn on_retained(
        &mut self,
        term: u64,
        id: usize,
        deleted: Vec<u64>,
        out: &mut Vec<Out>,
    ) {
        if self.term != Some(term) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.retaining = false;
        for epoch in deleted {
            if matches!(job.record.checkpoints.get(&epoch), Some(Row::Completed { .. })) {
                job.row(epoch, Row::Over);
            }
        }
        let changes = std::mem::take(&mut job.changes);
        self.write(id, changes, Then::Nothing, None, out);
    }

    /// The user asks for something; false where that is refused at once.
    pub(in crate::cluster) fn ask(
        &mut self,
        now: Micros,
        id: usize,
        event: MasterEvent,
        out: &mut Vec<Out>,
    ) -> bool {
        if !self.runs(id) || self.status(id) == Some(JobStatus::Cancelling) {
            return false;
        }
        if let MasterEvent::Savepoint { id: number } | MasterEvent::StopWithSavepoint { id: number } =
            event
            && let Some(job) = self.jobs.get_mut(&id)
        {
            job.savepoint(number, None);
        }
        self.drive(now, id, event, out);
        true
    }
}

/// A job that is over: what asked for an answer gets it.
fn refuse_late(id: usize, job: &mut Job, event: MasterEvent, out: &mut Vec<Out>) {
    if let MasterEvent::Savepoint { id: number } | MasterEvent::StopWithSavepoint { id: number } =
        event
    {
        job.savepoint(number, Some(None));
        out.push(Out::Fact(Fact::SavepointFailed { job: id, id: number }));
    }
}
