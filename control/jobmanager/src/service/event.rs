//! What the service hears: from peers, from REST, and from what it has set going itself.

use tidemill_coordination::{Epoch, Submission};
use tidemill_protocol::{
    AgentId, AgentSays, ArtifactHash, JobId, RestoreFrom, RunningAttempt, ToAgent, ToWorker,
    WorkerId, WorkerSays,
};
use tidemill_snapshot::Retained;
use tokio::sync::oneshot;

use super::Service;
use crate::control::{ConnectionId, Outbox};
use crate::metadata::{JobRecord, Lead, MetadataError, Term};
use crate::refusal::Refusal;

/// From the control port.
#[derive(Debug)]
pub(crate) enum PeerEvent {
    /// An agent has registered.
    AgentUp { register: Box<AgentSays>, outbox: Outbox<ToAgent> },
    /// It said something else.
    AgentSaid { agent: AgentId, connection: ConnectionId, says: AgentSays },
    /// Its connection is gone.
    AgentDown { agent: AgentId, connection: ConnectionId, reason: String },
    /// A worker has attached.
    WorkerUp {
        worker: WorkerId,
        address: String,
        running: Option<RunningAttempt>,
        outbox: Outbox<ToWorker>,
    },
    /// It said something else.
    WorkerSaid { worker: WorkerId, connection: ConnectionId, says: WorkerSays },
    /// Its connection is gone.
    WorkerDown { worker: WorkerId, connection: ConnectionId, reason: String },
}

/// Whether this JobManager acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leadership {
    /// It does.
    Leading,
    /// It does not, or not yet.
    Following {
        /// The leader's control port, where known.
        leader: Option<String>,
    },
}

/// An answer to come.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// From REST.
pub(crate) enum Ask {
    /// What a program says of itself.
    Plan {
        artifact: ArtifactHash,
        args: Vec<String>,
        parallelism: Option<u32>,
        reply: Reply<Submission>,
    },
    /// A new job.
    Submit { new: Box<NewJob>, reply: Reply<JobId> },
    /// End a job.
    Cancel { job: JobId, reply: Reply<()> },
    /// Take a savepoint; the number of the request is answered.
    Savepoint { job: JobId, stop: bool, reply: Reply<u64> },
    /// Move a job to another parallelism.
    Rescale { job: JobId, submission: Box<Submission>, reply: Reply<()> },
    /// The ends of a job's logs.
    Logs { job: JobId, bytes: u64, reply: Reply<Vec<LogPart>> },
    /// Look at what there is.
    Look(Box<dyn FnOnce(&Service) + Send>),
}

/// A job that passed all checks.
pub(crate) struct NewJob {
    pub(crate) artifact: ArtifactHash,
    pub(crate) args: Vec<String>,
    pub(crate) submission: Submission,
    pub(crate) initial: Option<RestoreFrom>,
    pub(crate) allow_dropped_state: bool,
}

/// A TaskManager's part of a job's log.
#[derive(Debug, serde::Serialize)]
pub(crate) struct LogPart {
    pub(crate) task_manager: AgentId,
    pub(crate) host: String,
    pub(crate) text: String,
}

/// What to do when a write is written, or never will be.
#[derive(Debug)]
pub(crate) enum Then {
    /// A job is accepted.
    Accepted { job: JobId, reply: Reply<JobId> },
    /// An attempt may be deployed, or an epoch triggered: its number is known to any later JobManager.
    Release { job: JobId, hold: u64 },
    /// A job's end is known to any later JobManager: what it left may go.
    Over { job: JobId, clear: bool },
    /// The commit point of an epoch.
    Committed { job: JobId, epoch: Epoch },
}

/// From what the service has set going.
#[derive(Debug)]
pub(crate) enum Done {
    /// The election's news.
    Elected(Lead),
    /// What an earlier leader left.
    Loaded { term: Term, result: Result<Vec<JobRecord>, MetadataError> },
    /// A write is there.
    Written { term: Term, then: Then },
    /// A write is not there and never will be.
    Unwritten { term: Term, then: Then, reason: String },
    /// Another JobManager leads.
    Fenced { term: Term },
    /// A manifest is stored, or never will count.
    Manifest { term: Term, job: JobId, epoch: Epoch, result: Result<(), String> },
    /// Old checkpoints were deleted.
    Retained { term: Term, job: JobId, result: Result<Retained, String> },
    /// What a finished job left is not deleted yet: the time has come to try again.
    NotCleared { term: Term, job: JobId },
}
