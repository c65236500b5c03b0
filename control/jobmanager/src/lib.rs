//! The JobManager: takes jobs by REST, gives them slots, watches over them, and finds them again after a
//! restart. It holds no operator code and never runs a user's.
//!
//! | to | use |
//! | --- | --- |
//! | serve | [`JobManager::start`] or [`run()`], with [`JobManagerConfig`] and [`Stores`] |
//! | keep jobs | [`MetadataStore`] |
//! | keep programs | [`ArtifactStore`] |
//! | keep checkpoints | `tidemill_snapshot::SnapshotStore`, opened by [`SnapshotOpener`] |
//!
//! One task, the service, owns everything about jobs and lets a `tidemill_coordination::Master` decide
//! for each; REST and control port only talk to it. See `docs/adr/0008-cluster.md`.
#![forbid(unsafe_code)]

mod arguments;
mod config;
mod control;
pub mod metadata;
mod program;
mod refusal;
mod rest;
mod run;
mod service;
mod stores;

pub use config::{JobManagerConfig, JobManagerError, Limits};
pub use metadata::{ArtifactStore, MetadataStore};
pub use run::{JobManager, run};
pub use stores::{SnapshotOpener, Stores, open_store};
