//! Whole jobs that fail, stop, and start again: restores into the same and into another program,
//! at another parallelism, from damaged checkpoints, with full disks.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bomb;
mod branches;
mod changed;
mod common;
mod damaged;
mod files;
mod full_disk;
mod panics;
mod rescale;
mod start;
