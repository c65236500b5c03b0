//! Decisions about running jobs, without acting on them: a job's life on a cluster ([`Master`]), when to
//! take a checkpoint and when it is complete ([`Coordinator`]), when to start again after a failure
//! ([`Restarts`]), who gets which slots ([`Pool`]), who has fallen silent ([`Detector`]).
//!
//! Pure: time and chance come with the call, what is to be done goes out as [`Action`]s and
//! [`Effect`]s, and the caller (a program that runs its job embedded, or a JobManager) does it.
#![forbid(unsafe_code)]

mod config;
mod coordinator;
mod detector;
mod event;
mod manifest;
mod master;
mod pool;
mod restart;
mod submission;
mod table;

pub use config::{Config, ConfigError, Store};
pub use coordinator::{Coordinator, FINAL_RETRY_US, Illegal, SAVEPOINTS_QUEUED_MAX};
pub use detector::Detector;
pub use event::{
    AbortReason, Action, EpochKind, Event, FailReason, Missing, Outcome, SavepointError,
};
pub use manifest::Declared;
pub use master::{
    Assigned, CheckpointFact, Effect, JobStatus, LeftBehind, Master, MasterEvent, MasterSettings,
};
pub use pool::{Grant, NoSlots, Pool};
pub use restart::{Backoff, Decision, RestartStrategy, Restarts};
pub use submission::{JobSettings, Submission};
pub use table::{EventName, Phase, Rule, matrix, rule};

/// Microseconds on the caller's clock, from any fixed origin.
pub type Micros = u64;

/// Number of a checkpoint, from 1; strictly increasing over the life of a job.
pub type Epoch = u64;

/// The caller's number for a requested savepoint.
pub type SavepointId = u64;
