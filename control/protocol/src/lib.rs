//! What JobManager, TaskManager agents and worker processes say to each other.
//!
//! - [`AgentSays`] and [`ToAgent`]: an agent and the JobManager.
//! - [`WorkerSays`] and [`ToWorker`]: a worker process and the JobManager.
//! - [`Frames`]: messages as length-prefixed JSON on a byte stream, decoded incrementally.
//! - [`Handshake`](auth): who connects proves that it knows the secret, and so does who answers;
//!   the secret itself is never sent.
//! - [`marker`]: how a program file is recognised without running it.
//!
//! Pure: no I/O but the helpers in [`frame`], [`open_store`] and its like, no clock, no chance of its own. One
//! [`VERSION`] stands for all of it; peers of another version are refused by the handshake.
#![forbid(unsafe_code)]

mod agent;
pub mod auth;
pub mod frame;
mod ids;
pub mod marker;
mod settings;
mod store;
mod worker;

pub use agent::{
    AgentSays, ArtifactRequest, ExitStatus, LogRequest, PlanError, PlanErrorKind, PlanRequest,
    RunningWorker, StartWorker, ToAgent,
};
pub use frame::{FRAME_BYTES_MAX, Frames};
pub use ids::{AgentId, ArtifactHash, Attempt, IdError, JobId, WorkerId};
pub use settings::WorkerSettings;
#[cfg(feature = "s3")]
pub use store::s3_settings;
pub use store::{StoreError, create_store, find_store, open_store, path_style, store_kinds};
pub use worker::{
    BarrierMode, Deployment, Peer, RestoreFrom, RunningAttempt, SlotRange, StateSettings,
    StoreSettings, SubtaskStates, TaskCounters, TaskFailure, ToWorker, WorkerSays,
};

/// Version of all messages. Increased by any change that an older peer would misread.
pub const VERSION: u32 = 1;
