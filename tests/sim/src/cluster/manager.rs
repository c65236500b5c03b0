//! A JobManager around the production masters, pool and failure detector: what its service
//! (`control/jobmanager`, service.rs) does between connections, rows and masters, by the same invariants
//! J1 to J3, as a state machine. What takes time goes out and comes back as an event.
//!
//! Not here: what happens to what goes out (network.rs, outside.rs).

mod jobs;
mod peers;

use super::metadata::{Change, Changes, Record, Row};
use super::wire::{ConnectionId, ManagerKey, Message, StartWorker, WorkerKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tidemill_base::Micros;
use tidemill_coordination::{
    Assigned, Detector, JobStatus, Master, MasterEvent, MasterSettings, Outcome, Pool, SavepointId,
    Submission,
};
use tidemill_protocol::{AgentId, Attempt, RestoreFrom, StoreSettings, ToWorker};
use tidemill_snapshot::Manifest;

pub(super) use jobs::store_of;

/// As the JobManager's limits are by default.
const HEARTBEAT_TIMEOUT_US: Micros = 5_000_000;
const RECONNECT_TIMEOUT_US: Micros = 2_000_000;
const ADOPT_TIMEOUT_US: Micros = 10_000_000;

/// Somebody who says that it lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    Agent(AgentId),
    Worker(WorkerKey),
}

/// What follows a write.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Accept { job: usize },
    Release { job: usize, hold: u64 },
    Commit { job: usize, epoch: u64 },
    Over { job: usize, clear: bool },
    Nothing,
}

/// Rows on their way to the store.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) changes: Changes,
    pub(super) then: Then,
    expires: Option<Micros>,
    doubtful: bool,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    Fenced,
    /// Not done, for sure.
    Unavailable,
    InDoubt,
}

/// What goes out.
#[derive(Debug)]
pub(super) enum Out {
    Send {
        connection: ConnectionId,
        message: Message,
    },
    Close {
        connection: ConnectionId,
    },
    /// Writes the first that waits.
    Write,
    PutManifest {
        job: usize,
        manifest: Box<Manifest>,
        within: Micros,
    },
    Discard {
        job: usize,
        epoch: u64,
    },
    Retain {
        job: usize,
        whole: BTreeSet<u64>,
        in_flight: BTreeSet<u64>,
    },
    /// Deletes all but these.
    Clear {
        job: usize,
        kept: BTreeSet<u64>,
    },
    /// Facts for whoever watches.
    Fact(Fact),
}

/// What a master decided, to be checked.
#[derive(Debug)]
pub(super) enum Fact {
    Attempt {
        job: usize,
        attempt: Attempt,
        workers: Vec<Assigned>,
        restored: Option<RestoreFrom>,
    },
    #[expect(dead_code, reason = "told in the story of a failure")]
    AttemptFailed {
        job: usize,
        cause: String,
    },
    Adopted,
    SavepointDone {
        job: usize,
        id: SavepointId,
        epoch: u64,
    },
    SavepointFailed {
        job: usize,
        id: SavepointId,
    },
    RescaleFailed,
    Over {
        job: usize,
        outcome: Result<Outcome, String>,
    },
    Damaged {
        job: usize,
        epoch: u64,
    },
}

struct Agent {
    connection: Option<ConnectionId>,
    starting: BTreeMap<WorkerKey, StartWorker>,
}

/// A job and what is set going for it.
struct Job {
    /// `None`: it is over.
    master: Option<Master>,
    accepted: bool,
    record: Record,
    changes: Vec<Change>,
    connections: BTreeMap<u32, ConnectionId>,
    placed: BTreeMap<u32, (AgentId, u32)>,
    /// J2.
    held: Option<(u64, Vec<(u32, ToWorker)>)>,
    holds: u64,
    /// J3: the epoch between manifest and row, and until when that may take.
    committing: Option<(u64, bool, Micros)>,
    /// J3: what the master hears later.
    frozen: Option<VecDeque<MasterEvent>>,
    wake: Option<Micros>,
    triggered: Micros,
    retaining: bool,
}

/// See the module.
pub(super) struct Manager {
    pub(super) key: ManagerKey,
    pub(super) term: Option<u64>,
    pub(super) leading: bool,
    settings: MasterSettings,
    pub(super) pool: Pool,
    detector: Detector<Peer>,
    absent: BTreeMap<Peer, Micros>,
    agents: BTreeMap<AgentId, Agent>,
    jobs: BTreeMap<usize, Job>,
    pub(super) writes: VecDeque<Write>,
    pub(super) writing: bool,
}

impl Manager {
    pub(super) fn new(key: ManagerKey, settings: MasterSettings) -> Self {
        Manager {
            key,
            term: None,
            leading: false,
            settings,
            pool: Pool::default(),
            detector: Detector::new(HEARTBEAT_TIMEOUT_US),
            absent: BTreeMap::new(),
            agents: BTreeMap::new(),
            jobs: BTreeMap::new(),
            writes: VecDeque::new(),
            writing: false,
        }
    }

    /// The store said who leads. True: it is this one, newly.
    pub(super) fn elected(&mut self, term: Option<u64>, out: &mut Vec<Out>) -> bool {
        match term {
            None => {
                self.follow(out);
                false
            }
            Some(term) if self.term == Some(term) => false,
            Some(term) => {
                self.forget_all(out);
                self.term = Some(term);
                true
            }
        }
    }

    /// J1.
    pub(super) fn follow(&mut self, out: &mut Vec<Out>) {
        if self.term.take().is_some() {
            self.forget_all(out);
        }
    }

    fn forget_all(&mut self, out: &mut Vec<Out>) {
        self.leading = false;
        let agents = self.agents.values().filter_map(|a| a.connection);
        let workers = self.jobs.values().flat_map(|job| job.connections.values().copied());
        out.extend(agents.chain(workers).map(|connection| Out::Close { connection }));
        self.agents.clear();
        self.jobs.clear();
        self.absent.clear();
        self.pool = Pool::default();
        self.detector = Detector::new(HEARTBEAT_TIMEOUT_US);
        self.writes.clear();
    }

    /// What an earlier leader left.
    pub(super) fn loaded(
        &mut self,
        now: Micros,
        records: BTreeMap<usize, Record>,
        out: &mut Vec<Out>,
    ) {
        self.leading = true;
        for (id, record) in records {
            self.restore_job(now, id, record, out);
        }
    }

    /// What the clock says.
    pub(super) fn look(&mut self, now: Micros, out: &mut Vec<Out>) {
        if !self.leading {
            return;
        }
        self.look_for_silence(now, out);
        let due: Vec<usize> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.accepted && job.frozen.is_none())
            .filter(|(_, job)| job.wake.is_some_and(|at| now >= at))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            self.drive(now, id, MasterEvent::Tick, out);
        }
    }

    /// When the next job wants to be looked at.
    pub(super) fn wake_at(&self) -> Option<Micros> {
        self.jobs.values().filter(|job| job.frozen.is_none()).filter_map(|job| job.wake).min()
    }

    fn write(
        &mut self,
        job: usize,
        changes: Vec<Change>,
        then: Then,
        expires: Option<Micros>,
        out: &mut Vec<Out>,
    ) {
        if changes.is_empty() && matches!(then, Then::Nothing) {
            return;
        }
        let changes = Changes { job, changes };
        self.writes.push_back(Write { changes, then, expires, doubtful: false });
        if !self.writing {
            self.writing = true;
            out.push(Out::Write);
        }
    }

    /// The outcome of the first write.
    pub(super) fn wrote(&mut self, now: Micros, term: u64, how: Written, out: &mut Vec<Out>) {
        self.writing = false;
        if self.term != Some(term) {
            // J1.
        } else {
            match how {
                Written::Done => {
                    if let Some(write) = self.writes.pop_front() {
                        self.written(now, write.then, out);
                    }
                }
                Written::Fenced => self.follow(out),
                Written::Unavailable | Written::InDoubt => {
                    if let (Written::InDoubt, Some(first)) = (how, self.writes.front_mut()) {
                        first.doubtful = true;
                    }
                    self.expire(now, out);
                }
            }
        }
        if !self.writes.is_empty() && !self.writing {
            self.writing = true;
            out.push(Out::Write);
        }
    }

    fn written(&mut self, now: Micros, then: Then, out: &mut Vec<Out>) {
        match then {
            Then::Accept { job } => {
                if let Some(j) = self.jobs.get_mut(&job) {
                    j.accepted = true;
                }
                self.drive(now, job, MasterEvent::Tick, out);
            }
            Then::Release { job, hold } => self.release(job, hold, out),
            Then::Commit { job, epoch } => self.committed(now, job, epoch, out),
            Then::Over { job, clear: true } => {
                let Some(j) = self.jobs.get(&job) else { return };
                let savepoint = |row: &Row| matches!(row, Row::Completed { savepoint: true });
                let rows = j.record.checkpoints.iter();
                let mut kept: BTreeSet<u64> =
                    rows.filter(|(_, row)| savepoint(row)).map(|(&epoch, _)| epoch).collect();
                kept.extend(self.starting_points(job));
                out.push(Out::Clear { job, kept });
            }
            Then::Over { .. } | Then::Nothing => {}
        }
    }

    /// Gives up what is late and certain not to have been written.
    fn expire(&mut self, now: Micros, out: &mut Vec<Out>) {
        let late = |w: &Write| !w.doubtful && w.expires.is_some_and(|at| now >= at);
        while let Some(at) = self.writes.iter().position(late) {
            if let Some(Write { then: Then::Commit { job, epoch }, .. }) = self.writes.remove(at) {
                self.not_committed(now, job, epoch, "its row is not written".into(), out);
            }
        }
    }

    /// Epochs of a job's store that other jobs would restart from.
    fn starting_points(&self, job: usize) -> Vec<u64> {
        let store = store_of(job);
        let live = self.jobs.values().filter(|j| j.master.is_some());
        let initial = live.filter_map(|j| j.record.initial.as_ref());
        initial.filter(|from| from.store == store).map(|from| from.epoch).collect()
    }

    /// Whether it knows the job, and that it is not over.
    pub(super) fn runs(&self, job: usize) -> bool {
        self.leading && self.jobs.get(&job).is_some_and(|j| j.master.is_some() && j.accepted)
    }

    /// For people: what its jobs wait for.
    pub(super) fn picture(&self) -> String {
        let live = self.jobs.iter().filter(|(_, job)| job.master.is_some());
        let job = |(id, job): (&usize, &Job)| {
            format!(
                "job {id}: {:?}, wake at {:?}, held {}, committing {:?}, frozen {}, placed {:?}, attached {:?}",
                job.master.as_ref().map(Master::status),
                job.wake,
                job.held.is_some(),
                job.committing,
                job.frozen.is_some(),
                job.placed.keys().collect::<Vec<_>>(),
                job.connections.keys().collect::<Vec<_>>(),
            )
        };
        let jobs: Vec<String> = live.map(job).collect();
        format!("{} writes wait, {}", self.writes.len(), jobs.join("; "))
    }

    /// Where a job stands.
    pub(super) fn status(&self, job: usize) -> Option<JobStatus> {
        self.jobs.get(&job).and_then(|j| j.master.as_ref()).map(Master::status)
    }

    /// Takes a new job in; it begins when its row is written.
    pub(super) fn submit(
        &mut self,
        job: usize,
        submission: Submission,
        initial: Option<RestoreFrom>,
        out: &mut Vec<Out>,
    ) {
        let record = Record {
            status: JobStatus::Scheduling,
            attempt: 0,
            workers: Vec::new(),
            submission: submission.clone(),
            initial: initial.clone(),
            checkpoints: BTreeMap::new(),
            savepoints: BTreeMap::new(),
        };
        let master = Master::new(self.settings_of(job), submission, 1, initial);
        let change = Change::Job(Box::new(record.clone()));
        let new = Job { accepted: false, ..Job::new(record, Some(master)) };
        self.jobs.insert(job, new);
        self.write(job, vec![change], Then::Accept { job }, None, out);
    }

    fn settings_of(&self, job: usize) -> MasterSettings {
        let term = self.term.unwrap_or(0);
        MasterSettings {
            store: store_of(job),
            first_worker: (term * 4_096) as u32,
            seed: term ^ (job as u64) << 8,
            ..self.settings.clone()
        }
    }
}

/// The settings of all masters of a run.
pub(super) fn master_settings(
    keep: usize,
    timeout_ms: u64,
    tolerated: Option<u32>,
) -> MasterSettings {
    MasterSettings {
        keep,
        checkpoint_timeout_ms: timeout_ms,
        tolerated_failures: tolerated,
        ..MasterSettings::new(StoreSettings::Dir { path: "/".into() })
    }
}
