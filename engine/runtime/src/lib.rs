//! The engine: tasks that step, the channels between them, and the slots that run them.
//!
//! Everything except `worker.rs` is synchronous, knows no executor, and takes time as an input:
//! production steps it from pinned glommio executors, the simulation from a seeded schedule.
//!
//! - [`channel`], [`output`], [`gate`]: both ends of a channel
//! - [`align`]: barrier alignment, pure
//! - [`stage`]: fused operators of a chain
//! - [`blocking`]: calls that block, made beside the core
//! - [`source`], [`sink`], [`operator`]: heads and ends of chains
//! - [`skew`]: how far sources may run ahead of each other in event time
//! - [`window`]: window operators
//! - [`task`]: a head and its chain, as the slot sees it
//! - [`slot`]: one core's tasks
//! - [`backend`]: where keyed state is kept
//! - [`native`]: checkpoints as the files of RocksDB
//! - [`deploy`]: from a job's tasks and edges to the channels and subtasks of each slot
//! - [`remote`]: channels between this slot and slots of other processes
//! - [`worker`]: the pinned executors; the only module that knows glommio

#![deny(unsafe_code)]

pub mod align;
pub mod backend;
pub mod blame;
pub mod blocking;
pub mod channel;
#[cfg(any(debug_assertions, feature = "check"))]
pub mod check;
pub mod context;
pub mod deploy;
pub mod gate;
pub mod join;
pub mod keyed_snapshot;
#[cfg(feature = "rocksdb")]
pub mod native;
#[cfg(not(feature = "rocksdb"))]
#[path = "native_absent.rs"]
pub mod native;
pub mod operator;
pub mod output;
pub mod process;
pub mod remote;
pub mod sink;
pub mod skew;
pub mod slot;
pub mod source;
pub mod stage;
pub mod task;
pub mod watermark;
pub mod window;
pub mod worker;
