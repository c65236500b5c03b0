//! A job in the service: its master, its history, and what is set going for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidemill_coordination::{
    Epoch, JobStatus, LeftBehind, Master, MasterEvent, MasterSettings, Micros, SavepointError,
};
use tidemill_protocol::{AgentId, Attempt, JobId, StartWorker, TaskCounters, ToWorker, WorkerId};
use tidemill_snapshot::Manifest;
use tracing::{info, warn};

use super::Service;
use super::event::{NewJob, Reply, Then};
use super::files::Pin;
use super::history::History;
use super::view::WorkerMetrics;
use crate::control::Outbox;
use crate::metadata::{Change, JobRecord, JobRow, SavepointState};
use crate::refusal::Refusal;
use crate::stores::of_job;

/// Worker numbers that one term of leadership may use for a job.
const WORKERS_A_TERM: u64 = 4_096;
/// Messages that wait for J2 or J3.
const HELD_MAX: usize = 10_000;

/// Workers whose hosts are remembered.
const HOSTS_MAX: usize = 2_048;

/// A worker of a job.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) agent: AgentId,
    pub(crate) slots: u32,
}

/// See the module.
pub(crate) struct Job {
    pub(crate) history: History,
    /// `None`: the job is over.
    pub(crate) master: Option<Master>,
    /// J4: its row is being written.
    pub(super) accepted: bool,
    wake: Option<Micros>,
    pub(crate) outboxes: BTreeMap<u32, Outbox<ToWorker>>,
    pub(crate) placed: BTreeMap<u32, Placed>,
    /// Hosts of workers, also of the last ones that are gone.
    hosts: BTreeMap<u32, String>,
    /// J2: the row of a deployment or of an epoch is being written, these messages wait for it.
    held: Option<(u64, Vec<(u32, ToWorker)>)>,
    /// How often messages had to wait.
    holds: u64,
    /// J3: the epoch whose outcome is to come.
    pub(super) committing: Option<Box<Committing>>,
    /// J3: since when the master hears nothing, and what it hears later.
    frozen: Option<(Micros, VecDeque<MasterEvent>)>,
    pub(crate) metrics: BTreeMap<u32, WorkerMetrics>,
    /// When the last epoch was triggered.
    triggered: Micros,
    /// Retention is at work.
    pub(super) retaining: bool,
    /// J5; until it is over for any later JobManager too.
    file: Option<Pin>,
}

/// An epoch between its manifest and its row.
pub(super) struct Committing {
    pub(super) epoch: Epoch,
    pub(super) manifest: Arc<Manifest>,
    /// After that it is given up, if that is certain.
    pub(super) expires: Micros,
}

impl Job {
    fn new(history: History, master: Option<Master>, file: Option<Pin>) -> Self {
        Job {
            history,
            master,
            accepted: true,
            wake: None,
            outboxes: BTreeMap::new(),
            placed: BTreeMap::new(),
            hosts: BTreeMap::new(),
            held: None,
            holds: 0,
            committing: None,
            frozen: None,
            metrics: BTreeMap::new(),
            triggered: 0,
            retaining: false,
            file,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.master.is_some()
    }

    pub(super) fn wake_at(&self) -> Option<Micros> {
        self.wake.filter(|_| self.accepted && self.frozen.is_none())
    }

    pub(crate) fn row(&self) -> &JobRow {
        &self.history.record().job
    }

    /// Slots that the job wants and has not got.
    pub(crate) fn missing_slots(&self) -> u32 {
        let Some(master) = &self.master else { return 0 };
        let have: u32 = self.placed.values().map(|p| p.slots).sum();
        master.slots().saturating_sub(have)
    }

    pub(super) fn runs_on(&mut self, worker: u32, host: &str) {
        self.hosts.insert(worker, host.to_owned());
        while self.hosts.len() > HOSTS_MAX {
            self.hosts.pop_first();
        }
    }

    pub(super) fn host_of(&self, worker: u32) -> Option<&str> {
        self.hosts.get(&worker).map(String::as_str)
    }

    pub(super) fn triggered(&mut self, now: Micros) {
        self.triggered = now;
    }

    pub(super) fn triggered_at(&self) -> Micros {
        self.triggered
    }

    /// The job is over.
    pub(super) fn end(&mut self) {
        self.master = None;
        self.wake = None;
        self.held = None;
        self.outboxes.clear();
        self.placed.clear();
        self.metrics.values_mut().for_each(WorkerMetrics::end);
    }

    pub(super) fn measured(
        &mut self,
        now: Micros,
        worker: u32,
        attempt: Attempt,
        tasks: Vec<TaskCounters>,
        text: String,
    ) {
        if self.master.as_ref().is_some_and(|m| m.attempt() == attempt) {
            let before = self.metrics.remove(&worker);
            self.metrics.insert(worker, WorkerMetrics::new(now, attempt, tasks, text, before));
        }
    }
}

impl Service {
    fn settings_of(&self, row: &JobRow) -> MasterSettings {
        let term = self.term.unwrap_or(0);
        let mut seed = [0; 8];
        // Without chance restarts are only less spread.
        let _ = getrandom::fill(&mut seed);
        MasterSettings {
            store: row.store.clone(),
            allow_dropped_state: row.allow_dropped_state,
            heartbeat_ms: self.config.limits.heartbeat_interval.as_millis() as u64,
            first_worker: (term.wrapping_mul(WORKERS_A_TERM) % u64::from(u32::MAX / 2)) as u32,
            seed: u64::from_le_bytes(seed),
            ..self.config.jobs.clone()
        }
    }

    /// J4: the job begins when its row is written.
    pub(super) fn submit(&mut self, new: NewJob, reply: Reply<JobId>) {
        let wanted = new.submission.plan.slots();
        let free = self.free_slots();
        if wanted > free {
            let _ = reply.send(Err(Refusal::no_slots(wanted, free)));
            return;
        }
        let mut bytes = [0; 16];
        if let Err(e) = getrandom::fill(&mut bytes) {
            let _ = reply.send(Err(Refusal::unavailable(format!("no random numbers: {e}"))));
            return;
        }
        let id = JobId::from_bytes(bytes);
        let row = JobRow {
            id: id.clone(),
            name: new.submission.plan.job().to_owned(),
            submitted_ms: self.wall_ms(),
            ended_ms: None,
            artifact: new.artifact,
            args: new.args,
            store: of_job(&self.config.checkpoints, id.as_str()),
            allow_dropped_state: new.allow_dropped_state,
            initial: new.initial.clone(),
            status: JobStatus::Scheduling,
            cause: None,
            attempt: 0,
            workers: Vec::new(),
            submission: new.submission,
        };
        let (settings, submission) = (self.settings_of(&row), row.submission.clone());
        let file = Some(self.files.pin(&row.artifact));
        let mut history = History::new(JobRecord::new(row));
        let master = Master::new(settings, submission, history.next_epoch(), new.initial);
        history.head();
        history.status(JobStatus::Scheduling, self.wall_ms());
        let changes = history.take();
        let job = Job { accepted: false, ..Job::new(history, Some(master), file) };
        self.jobs.insert(id.clone(), job);
        if let Some(term) = self.term {
            self.recorder.write(term, changes, Then::Accepted { job: id, reply }, None);
        }
    }

    /// Slots that a new job may have: free, and not wanted by another one already.
    pub(crate) fn free_slots(&self) -> u32 {
        let wanted: u32 = self.jobs.values().map(Job::missing_slots).sum();
        self.pool.free().saturating_sub(wanted)
    }

    pub(super) fn on_written(&mut self, then: Then) {
        match then {
            Then::Accepted { job, reply } => self.accepted(job, reply),
            Then::Release { job, hold } => self.release(&job, hold),
            Then::Committed { job, epoch } => self.committed(&job, epoch),
            Then::Over { job, clear } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.file = None;
                }
                if clear {
                    self.clear_checkpoints(&job);
                }
                self.forget_logs(&job);
                self.forget_oldest();
            }
        }
    }

    pub(super) fn on_unwritten(&mut self, then: Then, reason: &str) {
        match then {
            Then::Accepted { job, reply } => {
                self.jobs.remove(&job);
                let _ = reply
                    .send(Err(Refusal::unavailable(format!("the job is not recorded: {reason}"))));
            }
            Then::Release { job, .. } => {
                // The store refuses the row: the job cannot go on.
                warn!("job {job}: its attempt, or an epoch, is not recorded: {reason}");
                self.drive(&job, MasterEvent::Cancel);
            }
            Then::Over { job, .. } => warn!("job {job}: its end is not recorded: {reason}"),
            Then::Committed { job, epoch } => {
                self.not_committed(&job, epoch, format!("its row is not written: {reason}"));
            }
        }
    }

    fn accepted(&mut self, id: JobId, reply: Reply<JobId>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if reply.send(Ok(id.clone())).is_err() {
            // Whoever asked was told that it failed, or is gone.
            self.jobs.remove(&id);
            return self.note(vec![Change::ForgetJob(id)]);
        }
        job.accepted = true;
        info!("job {id} ({}) is accepted", job.row().name);
        self.drive(&id, MasterEvent::Tick);
        self.forget_oldest();
    }

    /// A job that an earlier JobManager left.
    pub(super) fn restore_job(&mut self, record: JobRecord) {
        let id = record.job.id.clone();
        let mut history = History::new(record);
        let row = history.record().job.clone();
        if row.status.is_over() {
            self.jobs.insert(id, Job::new(history, None, None));
            return;
        }
        self.answer_orphans(&mut history);
        let settings = self.settings_of(&row);
        let first_epoch = history.next_epoch();
        let master = if row.workers.is_empty() {
            Master::new(settings, row.submission.clone(), first_epoch, row.initial.clone())
        } else {
            let left = LeftBehind {
                attempt: row.attempt,
                workers: row.workers.clone(),
                completed: history.completed(),
                first_epoch,
                initial: row.initial.clone(),
            };
            let deadline = self.now() + self.config.limits.adopt_timeout.as_micros() as Micros;
            Master::adopt(settings, row.submission.clone(), left, deadline)
        };
        info!(
            "job {id} ({}) is waited for: attempt {}, {} workers",
            row.name,
            row.attempt,
            row.workers.len()
        );
        let file = self.files.pin(&row.artifact);
        let mut job = Job::new(history, Some(master), Some(file));
        job.placed = row
            .workers
            .iter()
            .map(|w| (w.worker, Placed { agent: w.agent.clone(), slots: w.slots }))
            .collect();
        self.jobs.insert(id.clone(), job);
        self.drive(&id, MasterEvent::Tick);
        if row.status == JobStatus::Cancelling {
            self.drive(&id, MasterEvent::Cancel);
        }
    }

    /// Savepoints and checkpoints that the earlier JobManager had not finished.
    fn answer_orphans(&self, history: &mut History) {
        let open = |s: &SavepointState| *s == SavepointState::InProgress;
        let savepoints: Vec<_> =
            history.record().savepoints.iter().filter(|s| open(&s.state)).cloned().collect();
        let why = "the JobManager was restarted meanwhile; ask again";
        for mut row in savepoints {
            row.state = SavepointState::Failed;
            row.reason = Some(why.to_owned());
            history.put_savepoint(row);
        }
        let epochs: Vec<u64> = history.record().checkpoints.iter().map(|c| c.epoch).collect();
        for epoch in epochs {
            super::effects::fail_checkpoint(history, epoch, why);
        }
    }

    /// Tells a job's master, and does what it asks for.
    pub(super) fn drive(&mut self, id: &JobId, event: MasterEvent) {
        let now = self.now();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(job) = self.jobs.get_mut(id) else { return };
            if let Some((_, later)) = &mut job.frozen {
                if later.len() < HELD_MAX {
                    later.push_back(event);
                }
                continue;
            }
            let Some(master) = &mut job.master else {
                refuse_late(job, event);
                continue;
            };
            let mut effects = Vec::new();
            master.on(now, event, &mut effects);
            job.wake = None;
            for effect in effects {
                self.carry_out(id, effect, &mut events);
            }
        }
        self.write_changes(id);
    }

    fn write_changes(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get_mut(id) {
            let changes = job.history.take();
            self.note(changes);
        }
    }

    pub(super) fn set_wake(&mut self, id: &JobId, at: Micros) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.wake = Some(job.wake.map_or(at, |known| known.min(at)));
        }
    }

    /// J2: holds what follows until the row is written.
    pub(super) fn hold(&mut self, id: &JobId) {
        let Some(term) = self.term else { return };
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.holds += 1;
        let hold = job.holds;
        let waiting = job.held.take().map(|(_, waiting)| waiting).unwrap_or_default();
        job.held = Some((hold, waiting));
        let changes = job.history.take();
        self.recorder.write(term, changes, Then::Release { job: id.clone(), hold }, None);
    }

    /// An attempt failed before its deployment went out: nobody is to begin it.
    pub(super) fn forget_deployments(&mut self, id: &JobId) {
        if let Some((_, waiting)) = self.jobs.get_mut(id).and_then(|job| job.held.as_mut()) {
            waiting.retain(|(_, message)| !matches!(message, ToWorker::Deploy(_)));
        }
    }

    /// The row is written: what waited goes out, unless a later row is to be written first.
    fn release(&mut self, id: &JobId, hold: u64) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.held.as_ref().is_none_or(|(held, _)| *held != hold) {
            return;
        }
        for (worker, message) in job.held.take().map(|(_, waiting)| waiting).unwrap_or_default() {
            self.send(id, worker, message);
        }
    }

    pub(super) fn send(&mut self, id: &JobId, worker: u32, message: ToWorker) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let Some((_, waiting)) = &mut job.held {
            let Some(message) = held_back(waiting, worker, message) else { return };
            return self.send_now(id, worker, message);
        }
        self.send_now(id, worker, message);
    }

    fn send_now(&mut self, id: &JobId, worker: u32, message: ToWorker) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let Some(outbox) = job.outboxes.get(&worker)
            && !outbox.send(message)
        {
            // It is gone or does not read: its connection ends, and it attaches anew.
            job.outboxes.remove(&worker);
            let peer = super::Peer::Worker(WorkerId { job: id.clone(), number: worker });
            let now = self.now();
            self.absent.insert(peer, now);
        }
    }

    /// J3: while a commit is in doubt, a failed attempt waits.
    pub(super) fn freeze(&mut self, id: &JobId) {
        let now = self.now();
        if let Some(job) = self.jobs.get_mut(id)
            && job.committing.is_some()
            && job.frozen.is_none()
        {
            warn!(
                "job {id}: its next attempt waits until it is known whether a checkpoint is complete"
            );
            job.frozen = Some((now, VecDeque::new()));
        }
    }

    /// The outcome of a commit is known: the master hears of it first, then of what came meanwhile.
    pub(super) fn settle(&mut self, id: &JobId, outcome: MasterEvent) {
        let now = self.now();
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.committing = None;
        let (since, later) = job.frozen.take().unwrap_or((now, VecDeque::new()));
        if let Some(master) = &mut job.master {
            // The answers to what it had asked for are in `later`.
            master.slept(now.saturating_sub(since));
        }
        self.drive(id, outcome);
        for event in later {
            self.drive(id, event);
        }
    }

    pub(super) fn start(
        &mut self,
        id: &JobId,
        worker: u32,
        agent: AgentId,
        slots: u32,
        parallelism: u32,
    ) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.placed.insert(worker, Placed { agent: agent.clone(), slots });
        if let Some(agent) = self.agents.get(&agent) {
            job.runs_on(worker, &agent.host);
        }
        let row = job.row();
        let start = StartWorker {
            worker: WorkerId { job: id.clone(), number: worker },
            job_name: row.name.clone(),
            artifact: row.artifact.clone(),
            args: row.args.clone(),
            parallelism: Some(parallelism),
            slots,
        };
        self.start_worker(&agent, start);
    }

    pub(super) fn stop(&mut self, id: &JobId, worker: u32) {
        self.stop_worker(&WorkerId { job: id.clone(), number: worker });
        if let Some(job) = self.jobs.get_mut(id) {
            job.placed.remove(&worker);
        }
    }

    pub(super) fn is_assigned(&self, worker: &WorkerId, agent: &AgentId) -> bool {
        let job = self.jobs.get(&worker.job).filter(|job| job.is_live());
        job.and_then(|job| job.placed.get(&worker.number)).is_some_and(|p| p.agent == *agent)
    }

    pub(super) fn assigned_to(&self, agent: &AgentId) -> impl Iterator<Item = (WorkerId, u32)> {
        self.jobs.iter().filter(|(_, job)| job.is_live()).flat_map(move |(id, job)| {
            let mine = job.placed.iter().filter(move |(_, p)| p.agent == *agent);
            mine.map(move |(&number, p)| (WorkerId { job: id.clone(), number }, p.slots))
        })
    }

    /// Forgets the oldest of the jobs that are over, beyond those that are kept.
    pub(super) fn forget_oldest(&mut self) {
        let over = self.jobs.values().filter(|job| !job.is_live());
        let mut over: Vec<(i64, JobId)> =
            over.map(|job| (job.row().ended_ms.unwrap_or(0), job.row().id.clone())).collect();
        over.sort();
        let excess = over.len().saturating_sub(self.config.limits.jobs_kept);
        for (_, id) in over.into_iter().take(excess) {
            self.jobs.remove(&id);
            self.note(vec![Change::ForgetJob(id)]);
        }
    }
}

/// J2: puts a message to those that wait for a row, or gives it back because it waits for nothing: what lets a worker
/// go on, and what ends it or its attempt. What such a message is about is not begun any more, so nothing piles up
/// while the metadata store is away.
fn held_back(
    waiting: &mut Vec<(u32, ToWorker)>,
    worker: u32,
    message: ToWorker,
) -> Option<ToWorker> {
    match message {
        ToWorker::Attached { .. } | ToWorker::Shutdown => return Some(message),
        ToWorker::Stop { attempt } => {
            waiting.retain(|(to, held)| *to != worker || attempt_of(held) > Some(attempt));
            return Some(message);
        }
        ToWorker::Abort { epoch, .. } => {
            let begins =
                |m: &ToWorker| matches!(m, ToWorker::Trigger { epoch: e, .. } if *e == epoch);
            let before = waiting.len();
            waiting.retain(|(to, held)| *to != worker || !begins(held));
            if waiting.len() < before {
                return None;
            }
        }
        _ => {}
    }
    if waiting.len() < HELD_MAX {
        waiting.push((worker, message));
    } else {
        warn!("worker {worker} is not told something: {HELD_MAX} messages wait for a row already");
    }
    None
}

fn attempt_of(message: &ToWorker) -> Option<Attempt> {
    match message {
        ToWorker::Deploy(deployment) => Some(deployment.attempt),
        ToWorker::Trigger { attempt, .. }
        | ToWorker::Finish { attempt, .. }
        | ToWorker::Commit { attempt, .. }
        | ToWorker::Abort { attempt, .. }
        | ToWorker::Stop { attempt } => Some(*attempt),
        ToWorker::Attached { .. } | ToWorker::Heartbeat | ToWorker::Shutdown => None,
    }
}

/// Events for a job that is over: what asked for an answer gets it.
fn refuse_late(job: &mut Job, event: MasterEvent) {
    let (MasterEvent::Savepoint { id } | MasterEvent::StopWithSavepoint { id }) = event else {
        return;
    };
    super::effects::savepoint_failed(&mut job.history, id, &SavepointError::JobEnded);
}

/// What a master's effects tell it at once.
pub(super) type Events = VecDeque<MasterEvent>;
