//! Real clusters of real processes that are killed, stopped and cut off from each other while a job runs, and
//! what must be true of its output and of what the cluster leaves behind.
//!
//! - [`job`]: the job `chaos_job` in a cluster
//! - [`oracle`]: what the job `chaos_job` must write
//! - [`cluster`]: the processes ([`part`]): JobManagers and TaskManagers of the command `tidemill`
//! - [`database`]: PostgreSQL for JobManagers
//! - `bucket`: S3 for checkpoints and programs (feature `s3`)
//! - [`proxy`]: links that can be cut or hung
//! - [`faults`]: what goes wrong, seeded
//! - `servers`: PostgreSQL and S3 under two JobManagers (features `s3` and `postgres`)
//! - [`run`]: one run of chaos
//! - [`hosts`]: several hosts on one machine, by network namespaces
//! - [`http`]: asking REST
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a harness of real processes in real time: it sleeps, and starts threads"
)]

#[cfg(feature = "s3")]
pub mod bucket;
pub mod cluster;
pub mod database;
pub mod faults;
pub mod hosts;
pub mod http;
pub mod job;
pub mod oracle;
pub mod part;
pub mod proxy;
pub mod run;
#[cfg(all(feature = "s3", feature = "postgres"))]
pub mod servers;
