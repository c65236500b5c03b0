//! What a [`Master`](super::Master) is told, and what it asks for.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidemill_protocol::{
    AgentId, Attempt, RestoreFrom, RunningAttempt, StateSettings, StoreSettings, ToWorker,
    WorkerSays,
};
use tidemill_snapshot::Manifest;

use crate::pool::Grant;
use crate::submission::Submission;
use crate::{Epoch, EpochKind, Micros, Outcome, SavepointError, SavepointId};

/// Settings of a [`Master`](super::Master).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterSettings {
    /// Where checkpoints go.
    pub store: StoreSettings,
    /// Where keyed state lives, where the job does not say.
    pub state: StateSettings,
    /// Restore although operators with state are gone.
    pub allow_dropped_state: bool,
    /// From one checkpoint's start to the next one's, where the job does not say.
    pub checkpoint_interval_ms: Option<u64>,
    /// From a checkpoint's trigger to its completion.
    pub checkpoint_timeout_ms: u64,
    /// The least time from one checkpoint's end to the next one's start.
    pub min_pause_ms: u64,
    /// How many checkpoints in a row may fail before the attempt does; `None`: any number.
    pub tolerated_failures: Option<u32>,
    /// Complete checkpoints that are kept.
    pub keep: usize,
    /// From a worker's start until it has attached, milliseconds.
    pub attach_timeout_ms: u64,
    /// From deployment until all subtasks run; restoring is part of it.
    pub deploy_timeout_ms: u64,
    /// From an order to stop until it is obeyed; then the process is ended.
    pub stop_timeout_ms: u64,
    /// How often workers say that they live.
    pub heartbeat_ms: u64,
    /// Number of the first worker that this master starts. A JobManager chooses it so that no number
    /// is used twice in a job's life: by its term of leadership.
    pub first_worker: u32,
    /// Chance for the jitter of restarts.
    pub seed: u64,
}

impl MasterSettings {
    /// Defaults, with checkpoints in `store`.
    pub fn new(store: StoreSettings) -> Self {
        MasterSettings {
            store,
            state: StateSettings::Heap,
            allow_dropped_state: false,
            checkpoint_interval_ms: Some(10_000),
            checkpoint_timeout_ms: 600_000,
            min_pause_ms: 0,
            tolerated_failures: Some(3),
            keep: 3,
            attach_timeout_ms: 30_000,
            deploy_timeout_ms: 600_000,
            stop_timeout_ms: 5_000,
            heartbeat_ms: 500,
            first_worker: 0,
            seed: 1,
        }
    }
}

/// What happened. Events may come late, twice and out of order; those of an earlier attempt or of an
/// unknown worker are ignored.
#[derive(Clone, Debug)]
pub enum MasterEvent {
    /// The answer to [`Effect::Acquire`]: these slots are the job's.
    SlotsGranted(Vec<Grant>),
    /// The answer to [`Effect::Acquire`]: not now.
    SlotsDenied,
    /// A worker's connection stands, for the first time or again.
    WorkerAttached {
        /// Its number.
        worker: u32,
        /// Where its slots are reached.
        address: String,
        /// What it runs.
        running: Option<RunningAttempt>,
    },
    /// A worker's process has ended, or its host is silent.
    WorkerLost {
        /// Its number.
        worker: u32,
        /// How that is known.
        reason: String,
    },
    /// A worker said something else than that it attaches.
    Said {
        /// Its number.
        worker: u32,
        /// What.
        says: WorkerSays,
    },
    /// The manifest is stored and the row that makes the epoch complete is written.
    ManifestStored {
        /// The epoch.
        epoch: Epoch,
    },
    /// The epoch is not complete and never will be.
    ManifestFailed {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// It is not known whether the epoch is complete: the attempt has to be restored from what the
    /// stores say.
    ManifestInDoubt {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// The user wants the job's end.
    Cancel,
    /// The user wants a savepoint.
    Savepoint {
        /// The caller's number for it.
        id: SavepointId,
    },
    /// The user wants a savepoint and then the job's end.
    StopWithSavepoint {
        /// The caller's number for it.
        id: SavepointId,
    },
    /// The user wants another parallelism: the same program's submission at that parallelism.
    Rescale(Box<Submission>),
    /// Time passed.
    Tick,
}

/// Where a job stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobStatus {
    /// It waits for slots and worker processes.
    Scheduling,
    /// Workers build their tasks.
    Deploying,
    /// Records flow.
    Running,
    /// An attempt failed; the next is being prepared.
    Restarting,
    /// It is being moved to another parallelism.
    Rescaling,
    /// Its end was asked for.
    Cancelling,
    /// All input was read, all output committed.
    Finished,
    /// It stopped with a savepoint.
    Stopped,
    /// It was cancelled.
    Cancelled,
    /// It failed for good.
    Failed,
}

impl JobStatus {
    /// Whether nothing follows.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Stopped | Self::Cancelled | Self::Failed)
    }
}

impl fmt::Display for JobStatus {
    /// As in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduling => "SCHEDULING",
            Self::Deploying => "DEPLOYING",
            Self::Running => "RUNNING",
            Self::Restarting => "RESTARTING",
            Self::Rescaling => "RESCALING",
            Self::Cancelling => "CANCELLING",
            Self::Finished => "FINISHED",
            Self::Stopped => "STOPPED",
            Self::Cancelled => "CANCELLED",
            Self::Failed => "FAILED",
        })
    }
}

/// A worker of an attempt, as it is stored to be found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Its number.
    pub worker: u32,
    /// Its agent.
    pub agent: AgentId,
    /// Its slots.
    pub slots: u32,
}

/// A fact about a checkpoint, for the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointFact {
    /// It began.
    Triggered {
        /// Which.
        epoch: Epoch,
        /// Why.
        kind: EpochKind,
    },
    /// It is complete.
    Completed {
        /// Which.
        epoch: Epoch,
        /// From trigger to commit point.
        duration_us: Micros,
    },
    /// It never will be.
    Failed {
        /// Which.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
}

/// What is to be done, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Find slots; answer with `SlotsGranted` or `SlotsDenied`.
    Acquire {
        /// How many.
        slots: u32,
    },
    /// Have a worker process started. Its slots are the job's already.
    StartWorker {
        /// Its number.
        worker: u32,
        /// On whose slots.
        agent: AgentId,
        /// How many.
        slots: u32,
        /// Of the submission to run.
        parallelism: u32,
    },
    /// End a worker's process, gently where it listens, and free its slots.
    StopWorker {
        /// Its number.
        worker: u32,
    },
    /// Send a message. Where the worker is not connected it is dropped.
    Send {
        /// To whom.
        worker: u32,
        /// What.
        message: ToWorker,
    },
    /// Store a manifest, then the row that makes the epoch complete.
    StoreManifest {
        /// The whole.
        manifest: Box<Manifest>,
    },
    /// An epoch will not be complete: its objects may be deleted.
    Discard {
        /// Which.
        epoch: Epoch,
    },
    /// Delete the job's complete checkpoints but these and savepoints.
    Retain {
        /// Oldest first.
        keep: Vec<Epoch>,
    },
    /// A checkpoint is damaged: remember that it is of no use.
    Damaged {
        /// Which.
        epoch: Epoch,
    },
    /// The status changed.
    Status(JobStatus),
    /// An attempt is deployed to these workers.
    AttemptStarted {
        /// Its number.
        attempt: Attempt,
        /// Its workers.
        workers: Vec<Assigned>,
        /// What it starts from.
        restored: Option<RestoreFrom>,
    },
    /// An attempt has ended by a failure.
    AttemptFailed {
        /// Its number.
        attempt: Attempt,
        /// The task, where one is to blame.
        task: Option<String>,
        /// The worker, where one is to blame.
        worker: Option<u32>,
        /// Why.
        cause: String,
    },
    /// For the history.
    Checkpoint(CheckpointFact),
    /// A savepoint is complete.
    SavepointDone {
        /// The caller's number.
        id: SavepointId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A savepoint will not be.
    SavepointFailed {
        /// The caller's number.
        id: SavepointId,
        /// Why.
        reason: SavepointError,
    },
    /// A rescale will not be; the job goes on as it was.
    RescaleFailed {
        /// Why.
        reason: String,
    },
    /// Send `Tick` then; replaces any earlier one.
    WakeAt(Micros),
    /// The job is over; nothing follows.
    Done {
        /// How; the cause of a failure otherwise.
        outcome: Result<Outcome, String>,
    },
}
