//! Messages between a worker process and the JobManager.
//!
//! A worker attaches once and is deployed any number of times: each deployment is an attempt of the
//! job. What names an attempt that is not the worker's present one is ignored by both sides.

use crate::{Attempt, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidemill_plan::SubtaskId;
use tidemill_snapshot::{StateEntry, WorkerPart};

/// From a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerSays {
    /// First message of a connection, and again after each reconnect.
    Attach {
        /// Who.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
        /// Where other workers reach its slots, `host:port`.
        data_address: String,
        /// What it runs: the JobManager was away.
        running: Option<RunningAttempt>,
    },
    /// All subtasks of the attempt run.
    Ready {
        /// Of the deployment.
        attempt: Attempt,
        /// The states that they declared.
        states: Vec<SubtaskStates>,
    },
    /// A subtask's part of an epoch is with the writer.
    Acked {
        /// Of the deployment.
        attempt: Attempt,
        /// The epoch.
        epoch: u64,
        /// Who.
        subtask: SubtaskId,
    },
    /// A subtask has committed an epoch.
    CommitAcked {
        /// Of the deployment.
        attempt: Attempt,
        /// The epoch.
        epoch: u64,
        /// Who.
        subtask: SubtaskId,
    },
    /// A subtask has come to the end of its input.
    SubtaskFinished {
        /// Of the deployment.
        attempt: Attempt,
        /// Who.
        subtask: SubtaskId,
    },
    /// The worker's data object of an epoch is durable.
    Written {
        /// Of the deployment.
        attempt: Attempt,
        /// The epoch.
        epoch: u64,
        /// What it holds.
        part: Box<WorkerPart>,
    },
    /// The worker's data object of an epoch could not be made durable.
    WriteFailed {
        /// Of the deployment.
        attempt: Attempt,
        /// The epoch.
        epoch: u64,
        /// Why.
        reason: String,
    },
    /// The attempt cannot go on.
    Failed {
        /// Of the deployment.
        attempt: Attempt,
        /// What happened.
        failure: TaskFailure,
    },
    /// The attempt's tasks have stopped, as ordered.
    Stopped {
        /// Of the deployment.
        attempt: Attempt,
    },
    /// Counters, about once a second.
    Metrics {
        /// Of the deployment.
        attempt: Attempt,
        /// One entry a subtask.
        tasks: Vec<TaskCounters>,
        /// The worker's metrics as Prometheus text.
        text: String,
    },
    /// It lives.
    Heartbeat,
}

/// An attempt that a worker runs while it attaches anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningAttempt {
    /// Which.
    pub attempt: Attempt,
    /// Whether all its subtasks have been built.
    pub ready: bool,
    /// The states that they declared.
    pub states: Vec<SubtaskStates>,
    /// Subtasks that have come to the end of their input.
    pub finished: Vec<SubtaskId>,
    /// The highest epoch that it was told to take; 0: none.
    pub last_epoch: u64,
    /// Why it failed, if it did.
    pub failure: Option<TaskFailure>,
}

/// What a subtask's operator declared, as manifests describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskStates {
    /// Operator id.
    pub operator: u64,
    /// Its states.
    pub states: Vec<StateEntry>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailure {
    /// For people: thing, value, remedy.
    pub message: String,
    /// The task and subtask, where one is to blame.
    pub task: Option<String>,
    /// No restart helps.
    pub fatal: bool,
    /// The checkpoint that was to be restored is damaged: restore the one before.
    pub damaged_epoch: Option<u64>,
}

/// Counters of a subtask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskCounters {
    /// Who.
    pub subtask: SubtaskId,
    /// The task's name.
    pub task: String,
    /// Whether it reads a source.
    pub source: bool,
    /// Records taken in, for a source: emitted.
    pub records_in: u64,
    /// Records sent on.
    pub records_out: u64,
    /// Bytes sent on.
    pub bytes_out: u64,
    /// Event time, milliseconds; `None` before the first.
    pub watermark_ms: Option<i64>,
    /// Parts of the last second, 0 to 1.
    pub busy: f64,
    /// Parts of the last second, 0 to 1.
    pub backpressured: f64,
}

/// To a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// The answer to [`WorkerSays::Attach`].
    Attached {
        /// Send a heartbeat this often, in milliseconds.
        heartbeat_ms: u64,
        /// Whether what runs may go on; otherwise it is to be stopped.
        go_on: bool,
    },
    /// Run these slots of an attempt. An attempt that runs is stopped first.
    Deploy(Box<Deployment>),
    /// Send barriers from all sources.
    Trigger {
        /// Of the deployment.
        attempt: Attempt,
        /// The epoch.
        epoch: u64,
        /// How tasks align.
        mode: BarrierMode,
        /// Complete in itself: no shared files.
        savepoint: bool,
    },
    /// All subtasks have acknowledged: close the data object.
    Finish {
        /// Of the deployment.
        attempt: Attempt,
        /// The epoch.
        epoch: u64,
    },
    /// The epoch is complete.
    Commit {
        /// Of the deployment.
        attempt: Attempt,
        /// The epoch.
        epoch: u64,
    },
    /// The epoch will never be.
    Abort {
        /// Of the deployment.
        attempt: Attempt,
        /// The epoch.
        epoch: u64,
    },
    /// Stop the attempt's tasks where they stand, and wait for the next deployment.
    Stop {
        /// Of the deployment.
        attempt: Attempt,
    },
    /// It lives. Sent about once a second, so that a worker notices a silent JobManager.
    Heartbeat,
    /// End the process.
    Shutdown,
}

/// How tasks align on a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BarrierMode {
    /// For ever.
    Aligned,
    /// For so many milliseconds, then unaligned; 0: at once.
    AlignedFor(u64),
}

/// One worker's part of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Number of the attempt; above all earlier ones.
    pub attempt: Attempt,
    /// Number of slots of the whole job; slot i hosts subtask i of every task.
    pub slots: u32,
    /// This worker's slots.
    pub own: SlotRange,
    /// All workers of the attempt, this one too.
    pub peers: Vec<Peer>,
    /// Number of this worker's data object in each checkpoint.
    pub writer: u32,
    /// Hash of the plan that the JobManager holds; the worker refuses to run another.
    pub plan_hash: u64,
    /// Where checkpoints go; `None`: nowhere.
    pub store: Option<StoreSettings>,
    /// What to start from.
    pub restore: Option<RestoreFrom>,
    /// Restore although operators with state are gone.
    pub allow_dropped_state: bool,
    /// Where keyed state lives.
    pub state: StateSettings,
    /// Free settings, by name.
    pub properties: BTreeMap<String, String>,
}

/// Slots `first..first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl SlotRange {
    /// As a range.
    pub fn range(self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }
}

/// A worker of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its number.
    pub worker: u32,
    /// Its slots.
    pub slots: SlotRange,
    /// Where they are reached, `host:port`.
    pub address: String,
}

/// A checkpoint store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreSettings {
    /// A directory that all hosts share.
    Dir {
        /// Absolute.
        path: String,
    },
    /// A bucket. Credentials come from the worker's environment.
    S3 {
        /// Its name.
        bucket: String,
        /// What all names begin with; ends with `/` unless empty.
        prefix: String,
        /// Another endpoint than the region's, e.g. `http://127.0.0.1:9000`.
        endpoint: Option<String>,
        /// The region.
        region: Option<String>,
        /// Bucket in the path instead of the host name.
        path_style: bool,
    },
}

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreFrom {
    /// Where.
    pub store: StoreSettings,
    /// Which.
    pub epoch: u64,
}

/// Where keyed state lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateSettings {
    /// Tables in memory.
    #[default]
    Heap,
    /// RocksDB behind a write-back cache.
    Rocksdb {
        /// Memory of each slot, in MiB.
        memory_mib: u64,
    },
}
