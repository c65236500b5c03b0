//! What an agent gives to a worker process: one line of JSON on its standard input, which then stays
//! open for as long as the agent lives.

use crate::auth::KEY_BYTES;
use crate::{ArtifactHash, WorkerId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Settings of a worker process.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSettings {
    /// Who it is.
    pub worker: WorkerId,
    /// Control addresses of the JobManagers, `host:port`; not empty.
    pub jobmanagers: Vec<String>,
    /// The job's key ([`crate::auth::job_key`]).
    pub job_key: [u8; KEY_BYTES],
    /// How many slots it has.
    pub slots: u32,
    /// The CPU of each of its slots; empty: the worker chooses.
    pub cpus: Vec<usize>,
    /// The address that its slots listen at for other workers: an IP address, or `address:port`.
    pub bind: String,
    /// The host name or address under which other workers reach it.
    pub address: String,
    /// A directory of its own for state on disk; made by the agent, removed by it at the end.
    pub state_dir: PathBuf,
    /// Memory that it may use, in bytes; 0: not limited.
    pub memory_bytes: u64,
    /// The program file that it runs, where the agent has verified it; otherwise the worker reads itself.
    #[serde(default)]
    pub artifact: Option<ArtifactHash>,
}

impl std::fmt::Debug for WorkerSettings {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerSettings")
            .field("worker", &self.worker)
            .field("jobmanagers", &self.jobmanagers)
            .field("slots", &self.slots)
            .field("cpus", &self.cpus)
            .field("bind", &self.bind)
            .field("address", &self.address)
            .field("state_dir", &self.state_dir)
            .field("memory_bytes", &self.memory_bytes)
            .field("artifact", &self.artifact)
            .finish_non_exhaustive()
    }
}
