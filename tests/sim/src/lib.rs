//! Deterministic simulation: the engine's own tasks, channels, coordinator and snapshot writer on
//! a virtual clock, scheduled by one seed, with crashes, failing storage and restores at another
//! parallelism. What sinks have committed at the end must be what a naive oracle computes.
//!
//! - [`scenario`]: everything that a seed decides
//! - [`jobs`]: the jobs under test, composed through the public API, with their oracles
//! - [`source`], [`ledger`]: the world outside: input in splits, a store with transactions
//! - [`world`]: the scheduler
//! - [`cluster`]: the same tasks under the masters of a cluster, with JobManagers, agents and workers that
//!   fail and mistake each other for dead
//! - [`rng`]: chance, seeded
//!
//! A failing seed prints the line that replays it.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod jobs;
pub mod ledger;
pub mod rng;
pub mod scenario;
pub mod source;
pub mod world;

pub use scenario::Scenario;
pub use world::{Report, run};
