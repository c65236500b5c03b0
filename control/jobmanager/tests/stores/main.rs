//! The stores: one contract for each trait, run against every implementation, and what each of them
//! promises beyond.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod artifacts;
mod contract;
mod dir;
mod embedded;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod proxy;
mod rows;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "postgres")]
#[path = "../common/postgres.rs"]
mod server;
