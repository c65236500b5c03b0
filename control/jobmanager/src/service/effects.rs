//! Carries out what a job's master asks for.

use tidemill_coordination::{
    CheckpointFact, Effect, Epoch, JobStatus, MasterEvent, Outcome, SavepointError, SavepointId,
};
use tidemill_protocol::JobId;
use tracing::{info, warn};

use super::Service;
use super::event::Then;
use super::history::History;
use super::jobs::Events;
use crate::metadata::{CheckpointRow, CheckpointState, SavepointState};

impl Service {
    pub(super) fn carry_out(&mut self, id: &JobId, effect: Effect, events: &mut Events) {
        match effect {
            Effect::Acquire { slots } => events.push_back(match self.pool.find(slots) {
                Ok(grants) => MasterEvent::SlotsGranted(grants),
                Err(_) => MasterEvent::SlotsDenied,
            }),
            Effect::StartWorker { worker, agent, slots, parallelism } => {
                self.start(id, worker, agent, slots, parallelism);
            }
            Effect::StopWorker { worker } => self.stop(id, worker),
            Effect::Send { worker, message } => self.send(id, worker, message),
            Effect::StoreManifest { manifest } => self.commit(id, *manifest),
            Effect::Discard { epoch } => self.discard(id, epoch),
            Effect::Retain { .. } => self.retain(id),
            Effect::WakeAt(at) => self.set_wake(id, at),
            Effect::Status(status) => self.status(id, status),
            Effect::AttemptStarted { attempt, workers, restored } => {
                let from = restored
                    .as_ref()
                    .map_or("nothing".into(), |r| format!("checkpoint {}", r.epoch));
                info!("job {id}: attempt {attempt} on {} workers, from {from}", workers.len());
                self.with(id, |history, master| {
                    let head = history.head();
                    head.attempt = attempt;
                    head.workers = workers;
                    if let Some(master) = master {
                        head.submission = master.submission().clone();
                    }
                });
                if let Some(job) = self.jobs.get_mut(id) {
                    job.metrics.clear();
                }
                self.hold(id);
            }
            Effect::AttemptFailed { attempt, task, worker, cause } => {
                self.attempt_failed(id, attempt, task, worker, cause);
            }
            Effect::Damaged { epoch } => self.damaged(id, epoch),
            Effect::Checkpoint(fact) => self.checkpoint_fact(id, fact),
            Effect::SavepointDone { id: number, epoch } => {
                self.with(id, |history, _| savepoint_done(history, number, epoch));
            }
            Effect::SavepointFailed { id: number, reason } => {
                self.with(id, |history, _| savepoint_failed(history, number, &reason));
            }
            Effect::RescaleFailed { reason } => {
                let (at_ms, now) = (self.wall_ms(), format!("the job is not rescaled: {reason}"));
                warn!("job {id}: {now}");
                self.with(id, |history, _| {
                    let attempt = history.record().job.attempt;
                    history.exception(at_ms, attempt, None, None, now);
                });
            }
            Effect::Done { outcome } => self.over(id, outcome),
        }
    }

    pub(super) fn with(
        &mut self,
        id: &JobId,
        change: impl FnOnce(&mut History, Option<&tidemill_coordination::Master>),
    ) {
        if let Some(job) = self.jobs.get_mut(id) {
            change(&mut job.history, job.master.as_ref());
        }
    }

    fn status(&mut self, id: &JobId, status: JobStatus) {
        let at_ms = self.wall_ms();
        info!("job {id}: {status}");
        self.with(id, |history, _| history.status(status, at_ms));
        if matches!(status, JobStatus::Restarting | JobStatus::Rescaling) {
            self.freeze(id);
        }
    }

    fn attempt_failed(
        &mut self,
        id: &JobId,
        attempt: u32,
        task: Option<String>,
        worker: Option<u32>,
        cause: String,
    ) {
        warn!("job {id}: attempt {attempt} failed: {cause}");
        self.forget_deployments(id);
        let at_ms = self.wall_ms();
        let host = self.jobs.get(id).and_then(|job| job.host_of(worker?).map(str::to_owned));
        self.with(id, |history, _| history.exception(at_ms, attempt, task, host, cause));
    }

    fn damaged(&mut self, id: &JobId, epoch: Epoch) {
        self.with(id, |history, master| {
            let next = master.and_then(|m| m.completed().last().copied());
            let initial = history.record().job.initial.as_ref().filter(|from| from.epoch != epoch);
            let then = match (next, initial) {
                (Some(e), _) => format!("checkpoint {e} is used instead"),
                (None, Some(_)) => "what the job was started from is used instead".into(),
                (None, None) => "no whole one is left".into(),
            };
            warn!("job {id}: checkpoint {epoch} is damaged; {then}");
            history.change_checkpoint(epoch, |row| row.state = CheckpointState::Damaged);
        });
    }

    fn checkpoint_fact(&mut self, id: &JobId, fact: CheckpointFact) {
        let at_ms = self.wall_ms();
        let triggered = self.now();
        match fact {
            CheckpointFact::Triggered { epoch, kind } => {
                if let Some(job) = self.jobs.get_mut(id) {
                    job.triggered(triggered);
                }
                let row = CheckpointRow {
                    epoch,
                    state: CheckpointState::InProgress,
                    savepoint: kind.savepoint().is_some_and(|s| s != SavepointId::MAX),
                    triggered_ms: at_ms,
                    duration_ms: None,
                    object_bytes: 0,
                    shared_bytes: 0,
                    records: 0,
                    location: None,
                    reason: None,
                };
                self.with(id, |history, _| history.put_checkpoint(row));
                self.hold(id);
            }
            CheckpointFact::Completed { epoch, duration_us } => self.with(id, |history, _| {
                history.change_checkpoint(epoch, |row| row.duration_ms = Some(duration_us / 1_000));
            }),
            CheckpointFact::Failed { epoch, reason } => {
                self.with(id, |history, _| fail_checkpoint(history, epoch, &reason));
            }
        }
    }

    fn over(&mut self, id: &JobId, outcome: Result<Outcome, String>) {
        match &outcome {
            Ok(how) => info!("job {id} is over: {how:?}"),
            Err(cause) => warn!("job {id} failed for good: {cause}"),
        }
        let failed = outcome.is_err();
        self.with(id, |history, _| {
            let head = history.head();
            head.cause = outcome.err();
            head.workers = Vec::new();
        });
        let Some(term) = self.term else { return };
        if let Some(job) = self.jobs.get_mut(id) {
            job.end();
            // What a failed job had is left for its successor to start from.
            let then = Then::Over { job: id.clone(), clear: !failed };
            self.recorder.write(term, job.history.take(), then, None);
        }
    }
}

/// What was in progress never will be complete.
pub(super) fn fail_checkpoint(history: &mut History, epoch: Epoch, reason: &str) {
    history.change_checkpoint(epoch, |row| {
        if row.state == CheckpointState::InProgress {
            row.state = CheckpointState::Failed;
            row.reason = Some(reason.to_owned());
        }
    });
}

fn savepoint_done(history: &mut History, trigger: SavepointId, epoch: Epoch) {
    let location = history.checkpoint(epoch).and_then(|c| c.location.clone());
    let Some(mut row) = history.savepoint(trigger).cloned() else { return };
    row.state = SavepointState::Completed;
    row.epoch = Some(epoch);
    row.location = location;
    history.put_savepoint(row);
}

pub(super) fn savepoint_failed(
    history: &mut History,
    trigger: SavepointId,
    reason: &SavepointError,
) {
    let Some(mut row) = history.savepoint(trigger).cloned() else { return };
    row.state = SavepointState::Failed;
    row.reason = Some(reason.to_string());
    history.put_savepoint(row);
}
