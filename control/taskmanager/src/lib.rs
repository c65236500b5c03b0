//! The TaskManager's agent: owns slots of a host, runs programs for their plans, starts and watches
//! the worker processes that the JobManager asks for.
//!
//! [`run`] serves one agent until it is told to end. Several may run in one process, each with a data
//! directory of its own. The agent executes no user code itself: what it runs are other processes, in
//! process groups of their own, that end with it.
//!
//! ```text
//!   JobManager <--- link.rs: one connection, made anew for ever ---> agent.rs: decides
//!                                                                      |        |
//!                                                    worker.rs: a task a worker |
//!                                                       |     |         plan.rs: `program plan`
//!                                      cache.rs: artifacts    process.rs: one thread that spawns
//! ```
#![deny(unsafe_code)]

mod agent;
mod cache;
mod config;
mod data_dir;
mod link;
mod logs;
mod memory;
mod plan;
mod process;
mod slots;
mod user;
mod worker;

pub use agent::run;
pub use config::{AgentConfig, AgentError, Limits};
pub use memory::memory_limit;
