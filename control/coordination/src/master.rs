//! The master of one job: slots, worker processes, deployment, checkpoints, failure, restart, end.
//! Pure: what happens comes in as events with the time, what is to be done goes out as effects.
//!
//! ```text
//!   Assembling --all workers there, time come--> Deploying --all ready--> Running --> Over
//!       ^                                            |                      |
//!       +---- failure, worker lost, rescale ---------+----------------------+
//!   Adopting --all workers back with the attempt--> Running      (after a JobManager's restart)
//! ```
//!
//! Invariants
//!   M1  Attempt numbers strictly increase; a worker is deployed to one attempt at a time, and to a new
//!       one only after it has stopped the one before, or has never run one.
//!   M2  All workers of an attempt together have exactly the slots that the plan wants.
//!   M3  Events of an earlier attempt change nothing, but for damage that it found in a checkpoint. A worker
//!       tells it before it has stopped, and so before the next attempt is deployed.
//!   M4  An epoch is never triggered twice, over all attempts; who carries the effects out records
//!       `CheckpointFact::Triggered` before the triggers go out.
//!   M5  An attempt starts from the newest complete checkpoint that is not known to be damaged, or from
//!       what the user gave where there is none. Where there was something to start from and all of it is
//!       damaged, the job is over: it never begins anew by itself.
//!   M6  After `Done` nothing goes out, and every worker was stopped.
//!   M7  Every savepoint asked for is answered once.
//!
//! Not here: when a checkpoint is complete (coordinator.rs), when to try again (restart.rs).

mod event;
mod running;
mod workers;

#[cfg(test)]
mod tests;

pub use event::{Assigned, CheckpointFact, Effect, JobStatus, MasterEvent, MasterSettings};

use std::collections::BTreeSet;

use tidemill_plan::SubtaskId;
use tidemill_protocol::{Attempt, RestoreFrom, TaskFailure, ToWorker, WorkerSays};

use crate::submission::Submission;
use crate::{
    Config, Decision, Epoch, Event, Micros, Outcome, Restarts, SavepointError, SavepointId, Store,
};
use running::Running;
use workers::Workers;

/// Where a job stands; see the module's picture.
#[derive(Clone, Debug)]
enum Phase {
    Assembling {
        /// The restart strategy's pause.
        not_before: Micros,
    },
    Deploying {
        deadline: Micros,
        ready: BTreeSet<u32>,
    },
    Running(Box<Running>),
    Adopting {
        deadline: Micros,
        back: BTreeSet<u32>,
    },
    Over,
}

/// Decides for one job; see the module's invariants.
#[derive(Clone, Debug)]
pub struct Master {
    settings: MasterSettings,
    submission: Submission,
    phase: Phase,
    status: JobStatus,
    /// The attempt that runs or is being prepared.
    attempt: Attempt,
    workers: Workers,
    restarts: Restarts,
    declared: crate::manifest::Declared,
    next_epoch: Epoch,
    /// Complete epochs of this store that are kept, oldest first.
    completed: Vec<Epoch>,
    /// What the user gave to start from.
    initial: Option<RestoreFrom>,
    /// Savepoints asked for while nothing runs.
    waiting: Vec<(SavepointId, bool)>,
    /// Subtasks that finished before all workers were ready.
    early: BTreeSet<(Attempt, SubtaskId)>,
    /// A rescale that waits for a checkpoint to start from.
    rescale: Option<Box<Submission>>,
    chance: u64,
}

/// What the metadata store says of a job that a JobManager left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// Its last attempt, which may still run.
    pub attempt: Attempt,
    /// The workers that the attempt was deployed to.
    pub workers: Vec<Assigned>,
    /// Its complete checkpoints, oldest first.
    pub completed: Vec<Epoch>,
    /// An epoch above all that are stored, or recorded as triggered: none is triggered before that is
    /// recorded. What the workers have seen raises it.
    pub first_epoch: Epoch,
    /// What the user gave to start from.
    pub initial: Option<RestoreFrom>,
}

/// Numbers of savepoints that a master asks for itself.
const OWN_SAVEPOINT: SavepointId = SavepointId::MAX;

impl Master {
    /// A new job; slots are asked for by the first event (`Tick`). Epochs begin at `first_epoch`, and above
    /// the checkpoint that it starts from: what sinks made visible of that names its epochs.
    pub fn new(
        settings: MasterSettings,
        submission: Submission,
        first_epoch: Epoch,
        initial: Option<RestoreFrom>,
    ) -> Self {
        let restarts = Restarts::new(submission.settings.restart.clone());
        let first_worker = settings.first_worker;
        let above = initial.as_ref().map_or(0, |from| from.epoch + 1);
        Master {
            chance: settings.seed | 1,
            settings,
            submission,
            phase: Phase::Assembling { not_before: 0 },
            status: JobStatus::Scheduling,
            attempt: 0,
            workers: Workers::from(first_worker),
            restarts,
            declared: Default::default(),
            next_epoch: first_epoch.max(above),
            completed: Vec::new(),
            initial,
            waiting: Vec::new(),
            early: BTreeSet::new(),
            rescale: None,
        }
    }

    /// A job that another JobManager left behind: where all its workers attach with its attempt before
    /// `deadline` it goes on, otherwise it is restarted.
    pub fn adopt(
        settings: MasterSettings,
        submission: Submission,
        left: LeftBehind,
        deadline: Micros,
    ) -> Self {
        let mut master = Master::new(settings, submission, left.first_epoch, left.initial);
        master.attempt = left.attempt;
        master.completed = left.completed;
        master.workers.known(&left.workers, deadline);
        master.phase = Phase::Adopting { deadline, back: BTreeSet::new() };
        master.status = JobStatus::Restarting;
        master
    }

    /// Where the job stands.
    pub fn status(&self) -> JobStatus {
        self.status
    }

    /// The attempt that runs or is being prepared.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The submission that is run.
    pub fn submission(&self) -> &Submission {
        &self.submission
    }

    /// Complete epochs that are kept, oldest first.
    pub fn completed(&self) -> &[Epoch] {
        &self.completed
    }

    /// The job's workers, each with its agent and slots.
    pub fn workers(&self) -> Vec<Assigned> {
        self.workers.assigned()
    }

    /// Slots that the plan wants.
    pub fn slots(&self) -> u32 {
        self.submission.plan.slots()
    }

    /// Nothing was told to it for so long, although something may have happened: what workers had to do in time, they
    /// may have done. Everything that waits for somebody waits so much longer.
    pub fn slept(&mut self, gap: Micros) {
        self.workers.slept(gap);
        match &mut self.phase {
            Phase::Deploying { deadline, .. } | Phase::Adopting { deadline, .. } => {
                *deadline += gap
            }
            Phase::Assembling { .. } | Phase::Running(_) | Phase::Over => {}
        }
    }

    /// Handles one event and appends what is to be done.
    pub fn on(&mut self, now: Micros, event: MasterEvent, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Over) {
            return self.refuse(event, out);
        }
        match event {
            MasterEvent::SlotsGranted(grants) => {
                let attach_by = now + self.settings.attach_timeout_ms * 1_000;
                let parallelism = self.submission.plan.parallelism();
                self.workers.grant(grants, attach_by, parallelism, out);
            }
            MasterEvent::SlotsDenied => self.workers.denied(now),
            MasterEvent::WorkerAttached { worker, address, running } => {
                self.attached(now, worker, address, running, out);
            }
            MasterEvent::WorkerLost { worker, reason } => self.lost(now, worker, &reason, out),
            MasterEvent::Said { worker, says } => self.said(now, worker, says, out),
            MasterEvent::ManifestStored { epoch } => self.stored(now, epoch, out),
            MasterEvent::ManifestFailed { epoch, reason } => {
                out.push(Effect::Discard { epoch });
                self.coordinate(now, Event::ManifestFailed { epoch, reason }, out);
            }
            MasterEvent::ManifestInDoubt { epoch, reason } => {
                let cause =
                    format!("whether checkpoint {epoch} is complete is not known: {reason}");
                self.fail(now, Failure::of(cause), out);
            }
            MasterEvent::Cancel => self.cancel(now, out),
            MasterEvent::Savepoint { id } => self.savepoint(now, id, false, out),
            MasterEvent::StopWithSavepoint { id } => self.savepoint(now, id, true, out),
            MasterEvent::Rescale(submission) => self.ask_rescale(now, submission, out),
            MasterEvent::Tick => {}
        }
        self.advance(now, out);
        self.wake(now, out);
    }

    fn refuse(&self, event: MasterEvent, out: &mut Vec<Effect>) {
        match event {
            MasterEvent::Savepoint { id } | MasterEvent::StopWithSavepoint { id } => {
                out.push(Effect::SavepointFailed { id, reason: SavepointError::JobEnded });
            }
            MasterEvent::WorkerAttached { worker, .. } => {
                out.push(Effect::Send { worker, message: ToWorker::Shutdown });
            }
            _ => {}
        }
    }

    fn set_status(&mut self, status: JobStatus, out: &mut Vec<Effect>) {
        if self.status != status {
            self.status = status;
            out.push(Effect::Status(status));
        }
    }

    /// What time and the workers' states allow now.
    fn advance(&mut self, now: Micros, out: &mut Vec<Effect>) {
        for (worker, reason) in self.workers.overdue(now) {
            self.lost(now, worker, &reason, out);
        }
        match &self.phase {
            Phase::Assembling { not_before } => {
                let not_before = *not_before;
                self.workers.fit(now, self.slots(), out);
                if now >= not_before && self.workers.are_idle_with(self.slots()) {
                    self.deploy(now, out);
                }
            }
            Phase::Deploying { deadline, .. } if now >= *deadline => {
                let limit = self.settings.deploy_timeout_ms;
                let cause = format!("not all tasks ran {limit} ms after their deployment");
                self.fail(now, Failure::of(cause), out);
            }
            Phase::Adopting { deadline, .. } if now >= *deadline => {
                let cause = "not all workers came back after the JobManager's restart".to_owned();
                self.fail(now, Failure::of(cause), out);
            }
            Phase::Running(running) if running.wake_at().is_some_and(|at| now >= at) => {
                self.coordinate(now, Event::Tick, out);
            }
            _ => {}
        }
    }

    fn wake(&self, now: Micros, out: &mut Vec<Effect>) {
        let phase = match &self.phase {
            Phase::Assembling { not_before } => Some(*not_before),
            Phase::Deploying { deadline, .. } | Phase::Adopting { deadline, .. } => Some(*deadline),
            Phase::Running(running) => running.wake_at(),
            Phase::Over => return,
        };
        // What is due was done by now; what waits for somebody needs no clock.
        let deadlines = [phase, self.workers.next_deadline()].into_iter().flatten();
        if let Some(at) = deadlines.filter(|&at| at > now).min() {
            out.push(Effect::WakeAt(at));
        }
    }

    fn deploy(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let restore = self.restore_from();
        let workers = self.workers.assigned();
        out.push(Effect::AttemptStarted {
            attempt: self.attempt,
            workers,
            restored: restore.clone(),
        });
        self.declared = Default::default();
        self.workers.deploy(self.attempt, &self.submission, &self.settings, restore.as_ref(), out);
        let deadline = now + self.settings.deploy_timeout_ms * 1_000;
        self.phase = Phase::Deploying { deadline, ready: BTreeSet::new() };
        self.set_status(JobStatus::Deploying, out);
    }

    /// M5.
    fn restore_from(&self) -> Option<RestoreFrom> {
        let newest = self.completed.last();
        let own = newest.map(|&epoch| RestoreFrom { store: self.settings.store.clone(), epoch });
        own.or_else(|| self.initial.clone())
    }

    fn attached(
        &mut self,
        now: Micros,
        worker: u32,
        address: String,
        running: Option<tidemill_protocol::RunningAttempt>,
        out: &mut Vec<Effect>,
    ) {
        let heartbeat_ms = self.settings.heartbeat_ms;
        let current = running.as_ref().is_some_and(|r| r.attempt == self.attempt);
        let halted = matches!(self.phase, Phase::Assembling { .. });
        let go_on = current && !halted;
        let stop_by = now + self.settings.stop_timeout_ms * 1_000;
        if !self.workers.attach(worker, address, running.is_some(), go_on, stop_by) {
            out.push(Effect::Send { worker, message: ToWorker::Shutdown });
            return;
        }
        let message = ToWorker::Attached { heartbeat_ms, go_on };
        out.push(Effect::Send { worker, message });
        let Some(running) = running else {
            return self.came_back_empty(now, worker, out);
        };
        if !go_on {
            if !halted {
                let cause = format!("worker {worker} came back with attempt {}", running.attempt);
                self.fail(now, Failure { worker: Some(worker), ..Failure::of(cause) }, out);
            }
            return;
        }
        self.next_epoch = self.next_epoch.max(running.last_epoch + 1);
        self.declared.add(&running.states);
        if let Some(failure) = running.failure.clone() {
            return self.fail(now, Failure::by(worker, failure), out);
        }
        self.came_back(now, worker, &running, out);
    }

    /// A worker attached without an attempt. Where it should have one its process was replaced behind
    /// our back, or it lost its deployment.
    fn came_back_empty(&mut self, now: Micros, worker: u32, out: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Assembling { .. }) {
            let cause = format!("worker {worker} came back without its attempt");
            self.fail(now, Failure { worker: Some(worker), ..Failure::of(cause) }, out);
        }
    }

    fn lost(&mut self, now: Micros, worker: u32, reason: &str, out: &mut Vec<Effect>) {
        if !self.workers.lose(worker) {
            return;
        }
        // Its process may still be there, out of reach: the agent is to end it.
        out.push(Effect::StopWorker { worker });
        if !matches!(self.phase, Phase::Assembling { .. }) {
            let cause = format!("worker {worker} is lost: {reason}");
            self.fail(now, Failure { worker: Some(worker), ..Failure::of(cause) }, out);
        }
    }

    fn said(&mut self, now: Micros, worker: u32, says: WorkerSays, out: &mut Vec<Effect>) {
        match says {
            WorkerSays::Stopped { attempt } => self.workers.stopped(worker, attempt),
            WorkerSays::Ready { attempt, states } if attempt == self.attempt => {
                self.declared.add(&states);
                self.ready(now, worker, out);
            }
            WorkerSays::Failed { attempt, failure } if attempt == self.attempt => {
                self.fail(now, Failure::by(worker, failure), out);
            }
            // Another worker may have felt the end of the attempt before the cause was told.
            WorkerSays::Failed { attempt, failure } if attempt < self.attempt => {
                if let Some(epoch) = failure.damaged_epoch
                    && !self.damaged(epoch, out)
                {
                    self.fail_for_good(&failure.message, out);
                }
            }
            says => self.report(now, worker, says, out),
        }
    }

    fn ready(&mut self, now: Micros, worker: u32, out: &mut Vec<Effect>) {
        let all = self.workers.count();
        let Phase::Deploying { ready, .. } = &mut self.phase else { return };
        ready.insert(worker);
        if ready.len() == all {
            self.run(now, out);
        }
    }

    /// This attempt is over: stop what runs, decide whether and when to try again.
    fn fail(&mut self, now: Micros, failure: Failure, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Assembling { .. } | Phase::Over) {
            return;
        }
        out.push(Effect::AttemptFailed {
            attempt: self.attempt,
            task: failure.task,
            worker: failure.worker,
            cause: failure.cause.clone(),
        });
        let left = failure.damaged.is_none_or(|epoch| self.damaged(epoch, out));
        self.end_running(now, &failure.cause, out);
        if matches!(self.phase, Phase::Over) {
            // A cancelled attempt that waited for its last commit ends the job (M6).
            return;
        }
        if self.status == JobStatus::Cancelling {
            return self.finish(Ok(Outcome::Cancelled), out);
        }
        if !left {
            return self.fail_for_good(&failure.cause, out);
        }
        if failure.fatal {
            return self.finish(Err(failure.cause), out);
        }
        let chance = self.chance();
        match self.restarts.on_failure(now, chance) {
            Decision::GiveUp { reason } => {
                self.finish(Err(format!("{} ({reason})", failure.cause)), out);
            }
            Decision::RestartAt(at) => {
                self.halt(now, out);
                self.phase = Phase::Assembling { not_before: at };
                self.set_status(JobStatus::Restarting, out);
            }
        }
    }

    /// A checkpoint that cannot be restored is not tried again. False: it was the last one (M5).
    fn damaged(&mut self, epoch: Epoch, out: &mut Vec<Effect>) -> bool {
        let before = self.restore_from();
        let own = self.completed.contains(&epoch);
        self.completed.retain(|&e| e != epoch);
        // Own epochs are above that of what the job was started from.
        self.initial.take_if(|from| !own && from.epoch == epoch);
        out.push(Effect::Damaged { epoch });
        before.is_none() || self.restore_from().is_some()
    }

    /// M5.
    fn fail_for_good(&mut self, cause: &str, out: &mut Vec<Effect>) {
        let remedy = "no whole checkpoint is left to go on from: submit the program anew from a savepoint, or without \
                      one if it may begin from the start";
        self.finish(Err(format!("{cause}; {remedy}")), out);
    }

    /// Ends the coordinator of a running attempt, answering its savepoints.
    fn end_running(&mut self, now: Micros, cause: &str, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Running(_)) {
            self.coordinate(now, Event::Failed { reason: cause.to_owned() }, out);
        }
    }

    /// Orders every worker to stop; the next attempt gets a number of its own (M1).
    fn halt(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let stop_by = now + self.settings.stop_timeout_ms * 1_000;
        self.workers.halt(self.attempt, stop_by, out);
        self.attempt += 1;
    }

    fn cancel(&mut self, now: Micros, out: &mut Vec<Effect>) {
        self.set_status(JobStatus::Cancelling, out);
        if matches!(self.phase, Phase::Running(_)) {
            self.coordinate(now, Event::CancelRequested, out);
        } else {
            self.finish(Ok(Outcome::Cancelled), out);
        }
    }

    fn savepoint(&mut self, now: Micros, id: SavepointId, stop: bool, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Running(_)) {
            let event = if stop {
                Event::StopWithSavepoint { id }
            } else {
                Event::SavepointRequested { id }
            };
            self.coordinate(now, event, out);
        } else if self.waiting.len() >= crate::SAVEPOINTS_QUEUED_MAX {
            let reason = SavepointError::QueueFull { waiting: self.waiting.len() };
            out.push(Effect::SavepointFailed { id, reason });
        } else if self.waiting.iter().all(|w| w.0 != id) {
            self.waiting.push((id, stop));
        }
    }

    fn ask_rescale(&mut self, now: Micros, submission: Box<Submission>, out: &mut Vec<Effect>) {
        if self.status == JobStatus::Cancelling {
            return;
        }
        let fresh = matches!(self.phase, Phase::Running(_)) && self.completed.is_empty();
        self.rescale = Some(submission);
        if fresh {
            // There is nothing to start from yet: take it first.
            self.coordinate(now, Event::SavepointRequested { id: OWN_SAVEPOINT }, out);
        } else {
            self.do_rescale(now, out);
        }
    }

    /// Moves to the new plan from the newest complete checkpoint: other workers, since a process has
    /// its parallelism for life.
    fn do_rescale(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let Some(submission) = self.rescale.take() else { return };
        self.end_running(now, "the job is rescaled", out);
        if matches!(self.phase, Phase::Over) {
            return;
        }
        self.submission = *submission;
        self.halt(now, out);
        self.workers.stop_all(out);
        self.phase = Phase::Assembling { not_before: now };
        self.set_status(JobStatus::Rescaling, out);
    }

    fn finish(&mut self, outcome: Result<Outcome, String>, out: &mut Vec<Effect>) {
        self.workers.stop_all(out);
        for (id, _) in std::mem::take(&mut self.waiting) {
            out.push(Effect::SavepointFailed { id, reason: SavepointError::JobEnded });
        }
        self.phase = Phase::Over;
        let status = match &outcome {
            Ok(Outcome::Finished) => JobStatus::Finished,
            Ok(Outcome::Stopped(_)) => JobStatus::Stopped,
            Ok(Outcome::Cancelled) => JobStatus::Cancelled,
            Err(_) => JobStatus::Failed,
        };
        self.set_status(status, out);
        out.push(Effect::Done { outcome });
    }

    /// Settings of an attempt's coordinator.
    fn coordination(&self) -> Config {
        let job = &self.submission.settings;
        let interval = job.checkpoint_interval_ms.or(self.settings.checkpoint_interval_ms);
        Config {
            interval_us: interval.filter(|&ms| ms > 0).map(|ms| ms * 1_000),
            timeout_us: self.settings.checkpoint_timeout_ms.max(1) * 1_000,
            min_pause_us: self.settings.min_pause_ms * 1_000,
            tolerated_failures: self.settings.tolerated_failures,
            aligned_timeout_ms: job.aligned_timeout_ms,
            store: Store::Durable,
            writers: self.workers.count().max(1) as u32,
            first_epoch: self.next_epoch.max(1),
        }
    }

    fn chance(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }
}

/// Why an attempt is over.
#[derive(Clone, Debug)]
struct Failure {
    cause: String,
    task: Option<String>,
    worker: Option<u32>,
    fatal: bool,
    damaged: Option<Epoch>,
}

impl Failure {
    fn of(cause: String) -> Self {
        Failure { cause, task: None, worker: None, fatal: false, damaged: None }
    }

    fn by(worker: u32, failure: TaskFailure) -> Self {
        Failure {
            cause: failure.message,
            task: failure.task,
            worker: Some(worker),
            fatal: failure.fatal && failure.damaged_epoch.is_none(),
            damaged: failure.damaged_epoch,
        }
    }
}
