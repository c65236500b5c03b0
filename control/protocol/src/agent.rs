//! Messages between a TaskManager's agent and the JobManager.

use crate::{AgentId, ArtifactHash, JobId, WorkerId};
use serde::{Deserialize, Serialize};

/// From an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentSays {
    /// First message of a connection, and again after each reconnect.
    Register {
        /// This life of the agent.
        agent: AgentId,
        /// Its host's name, for people.
        host: String,
        /// Where other workers reach its workers: an address or a name.
        address: String,
        /// How many slots it has.
        slots: u32,
        /// Release of the binary.
        release: String,
        /// Memory that its workers may use together, in bytes; 0: not limited.
        memory_bytes: u64,
        /// Workers that run already: the JobManager was away.
        workers: Vec<RunningWorker>,
    },
    /// It lives. Sent several times within the JobManager's timeout.
    Heartbeat {
        /// Resident memory of agent and workers, in bytes.
        memory_bytes: u64,
    },
    /// The answer to [`ToAgent::Plan`].
    Planned {
        /// The request's number.
        request: u64,
        /// The submission as JSON, or why there is none.
        result: Result<String, PlanError>,
    },
    /// A worker's process runs; it will attach by itself.
    Started {
        /// Which.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
    },
    /// A worker's process could not be started, or has ended.
    Exited {
        /// Which.
        worker: WorkerId,
        /// How.
        status: ExitStatus,
        /// The last lines that it wrote.
        last_words: String,
    },
    /// The answer to [`ToAgent::Log`].
    Log {
        /// The request's number.
        request: u64,
        /// The text, or why there is none.
        result: Result<String, String>,
    },
}

/// A worker that an agent watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningWorker {
    /// Which.
    pub worker: WorkerId,
    /// How many of the agent's slots it has.
    pub slots: u32,
    /// Its process id.
    pub pid: u32,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It never ran.
    NotStarted(String),
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(signal) => write!(f, "signal {signal}"),
            ExitStatus::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

/// Why a program gave no plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanError {
    /// Which kind.
    pub kind: PlanErrorKind,
    /// For the user: what the program wrote, or what went wrong.
    pub message: String,
}

/// Kinds of [`PlanError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanErrorKind {
    /// The program refused its arguments or its graph: the user's to mend.
    Program,
    /// It took longer than the limit.
    TimedOut,
    /// It was killed by a signal, or panicked.
    Crashed,
    /// It printed something that is no submission.
    Unreadable,
    /// The agent could not run it.
    Agent,
}

/// To an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// The answer to [`AgentSays::Register`].
    Registered {
        /// Send a heartbeat this often, in milliseconds.
        heartbeat_ms: u64,
        /// End all workers but these: their jobs are gone.
        keep: Vec<WorkerId>,
    },
    /// Run the program for its plan.
    Plan(PlanRequest),
    /// Start a worker process.
    Start(StartWorker),
    /// End a worker's process: ask it, and kill it after the grace.
    Stop {
        /// Which.
        worker: WorkerId,
        /// How long it may take, in milliseconds.
        grace_ms: u64,
    },
    /// Send the end of a job's log.
    Log(LogRequest),
    /// It lives. Sent about once a second, so that an agent notices a silent JobManager.
    Heartbeat,
    /// A job is over: its logs and files may be removed by the agent's retention.
    Forget {
        /// Which.
        job: JobId,
    },
}

/// Run `program plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Number of the request, for the answer.
    pub request: u64,
    /// The program; fetched where it is not in the agent's cache.
    pub artifact: ArtifactHash,
    /// Its arguments.
    pub args: Vec<String>,
    /// Overrides what the program says.
    pub parallelism: Option<u32>,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
}

/// Start a worker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartWorker {
    /// Who it will be.
    pub worker: WorkerId,
    /// The job's name, for logs.
    pub job_name: String,
    /// The program.
    pub artifact: ArtifactHash,
    /// Its arguments.
    pub args: Vec<String>,
    /// Overrides what the program says.
    pub parallelism: Option<u32>,
    /// How many of the agent's slots it gets.
    pub slots: u32,
}

/// Ask for a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// Number of the request, for the answer.
    pub request: u64,
    /// Whose.
    pub job: JobId,
    /// At most so many bytes from the end.
    pub bytes: u64,
}

/// First message of a connection with the role `Artifact`; the answer is `length u64` in
/// little-endian and the file's bytes, or a closed connection where the artifact is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRequest {
    /// Which file.
    pub artifact: ArtifactHash,
}
