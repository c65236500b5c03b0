//! Real clusters of real processes that are killed, stopped and cut off from each other while a job runs, and
//! what must be true of its output and of what the cluster leaves behind.
//!
//! - [`oracle`]: what the job `chaos_job` must write
//! - [`cluster`]: the processes: JobManagers and TaskManagers of the command `tidemill`
//! - [`proxy`]: links that can be cut or hung
//! - [`faults`]: what goes wrong, seeded
//! - [`hosts`]: several hosts on one machine, by network namespaces
//! - [`http`]: asking REST
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a harness of real processes in real time: it sleeps, and starts threads"
)]

pub mod cluster;
pub mod faults;
pub mod hosts;
pub mod http;
pub mod oracle;
pub mod proxy;
pub mod run;
