//! Jobs under the whole control plane: the command `tidemill` as JobManager and TaskManagers, and their worker
//! processes, on this machine. What is measured is how fast jobs start, and what they feel of failures.
//!
//! The job is this very program: a JobManager asks it for its plan, agents start it as a worker. Its
//! sinks tell when records arrive ([`beacon`]), on a clock that all processes share.

pub mod beacon;
mod cluster;
mod http;
pub mod job;
mod recovery;
mod restart;
mod statistics;
mod submit;

pub use cluster::{Managed, Settings};
pub use recovery::recovery;
pub use restart::jobmanager_restart;
pub use submit::submit;

use tidemill::Error;

/// Something that should have worked.
fn broken(what: impl std::fmt::Display) -> Error {
    Error::attempt(what.to_string())
}
