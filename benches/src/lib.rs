//! Workloads that measure the engine through its public API, as a user would write them.
//!
//! Inputs and checksums are defined so that other systems can run the same: integers are `u64` and
//! wrap, `mix` is splitmix64, `fnv` is FNV-1a 64, `row(p1..pk)` folds `h = mix(h + p)`. The
//! checksum of a run is the wrapping sum of a digest over its output rows.

#![deny(unsafe_code)]

pub mod allocations;
pub mod cluster;
pub mod definitions;
pub mod managed;
pub mod report;
pub mod tally;
pub mod workloads;
