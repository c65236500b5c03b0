//! What is kept of a job. All times are wall clock, milliseconds since 1970.

use serde::{Deserialize, Serialize};
use tidemill_coordination::{Assigned, JobStatus, Submission};
use tidemill_protocol::{ArtifactHash, Attempt, JobId, RestoreFrom, StoreSettings};

/// A job's head: one row a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    /// Which.
    pub id: JobId,
    /// Its name, as the program says.
    pub name: String,
    /// When it was accepted.
    pub submitted_ms: i64,
    /// When it was over.
    pub ended_ms: Option<i64>,
    /// Its program.
    pub artifact: ArtifactHash,
    /// The program's arguments.
    pub args: Vec<String>,
    /// What it runs: changed by a rescale.
    pub submission: Submission,
    /// Where its checkpoints go.
    pub store: StoreSettings,
    /// Restore although operators with state are gone.
    pub allow_dropped_state: bool,
    /// What the user gave to start from.
    pub initial: Option<RestoreFrom>,
    /// Where it stands.
    pub status: JobStatus,
    /// Why it failed, if it did.
    pub cause: Option<String>,
    /// Its last attempt.
    pub attempt: Attempt,
    /// The workers that the attempt was deployed to.
    pub workers: Vec<Assigned>,
}

/// A change of status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRow {
    /// Number in the job's history, from 0.
    pub number: u64,
    /// To what.
    pub status: JobStatus,
    /// When.
    pub at_ms: i64,
}

/// What became of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckpointState {
    /// It was triggered.
    InProgress,
    /// It is complete: with the writing of this it became so.
    Completed,
    /// It never will be.
    Failed,
    /// It was complete and proved damaged.
    Damaged,
    /// It was complete and was deleted by retention.
    Expired,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRow {
    /// Which.
    pub epoch: u64,
    /// What became of it.
    pub state: CheckpointState,
    /// Kept until deleted by hand.
    pub savepoint: bool,
    /// When it was triggered.
    pub triggered_ms: i64,
    /// From trigger to commit point, milliseconds.
    pub duration_ms: Option<u64>,
    /// Bytes of its data objects.
    pub object_bytes: u64,
    /// Bytes of shared files that it references.
    pub shared_bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Where it lies, once complete.
    pub location: Option<String>,
    /// Why it failed, if it did.
    pub reason: Option<String>,
}

/// What became of a savepoint that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SavepointState {
    /// It is being taken.
    InProgress,
    /// It is complete.
    Completed,
    /// There is none.
    Failed,
}

/// A savepoint that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavepointRow {
    /// Number of the request; never used twice by a job.
    pub trigger: u64,
    /// The job ends with it.
    pub stop: bool,
    /// When it was asked for.
    pub requested_ms: i64,
    /// What became of it.
    pub state: SavepointState,
    /// Its epoch, once complete.
    pub epoch: Option<u64>,
    /// Where it lies, once complete.
    pub location: Option<String>,
    /// Why there is none.
    pub reason: Option<String>,
}

/// Why an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionRow {
    /// Number in the job's history, from 0.
    pub number: u64,
    /// When.
    pub at_ms: i64,
    /// Of which attempt.
    pub attempt: Attempt,
    /// The task, where one is to blame.
    pub task: Option<String>,
    /// The host of the worker, where one is to blame.
    pub host: Option<String>,
    /// What happened.
    pub message: String,
}

/// Everything of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its head.
    pub job: JobRow,
    /// In the order of their numbers.
    pub statuses: Vec<StatusRow>,
    /// In the order of their epochs.
    pub checkpoints: Vec<CheckpointRow>,
    /// In the order of their requests.
    pub savepoints: Vec<SavepointRow>,
    /// In the order of their numbers.
    pub exceptions: Vec<ExceptionRow>,
}

impl JobRecord {
    /// A job with no history yet.
    pub fn new(job: JobRow) -> Self {
        JobRecord {
            job,
            statuses: Vec::new(),
            checkpoints: Vec::new(),
            savepoints: Vec::new(),
            exceptions: Vec::new(),
        }
    }
}
