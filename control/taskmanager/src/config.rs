//! What an agent is told when it starts, and why it may refuse to.

use std::path::PathBuf;
use std::time::Duration;
use tidemill_protocol::auth::Key;

/// Settings of an agent.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Control addresses of the JobManagers, `host:port`; at least one.
    pub jobmanagers: Vec<String>,
    /// The cluster secret.
    pub secret: Key,
    /// How many slots it offers; at least one.
    pub slots: u32,
    /// Index of the allowed CPU that its first slot is pinned to: agents that share a host count on.
    pub first_cpu: usize,
    /// Memory of all its workers together, in bytes; `None`: 80% of what the host or its control
    /// group allows.
    pub memory_bytes: Option<u64>,
    /// The host's name for people; `None`: what the kernel says.
    pub host: Option<String>,
    /// The address that its workers listen at for other workers.
    pub bind: String,
    /// The address under which other hosts reach its workers. `None`: `bind`, or where that is
    /// unspecified (`0.0.0.0`), the address that the connection to the JobManager has on this side.
    pub address: Option<String>,
    /// Artifacts, logs and workers' state. Of this agent alone.
    pub data_dir: PathBuf,
    /// User that programs run as, a name or `uid:gid`; wants root. `None`: as the agent.
    pub worker_user: Option<String>,
    /// Bounds and times.
    pub limits: Limits,
}

/// Bounds and times of an agent.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest program file, in bytes.
    pub artifact_bytes: u64,
    /// Program files kept for the next job, in bytes; those in use are kept beyond.
    pub cache_bytes: u64,
    /// Log files of one worker, in bytes.
    pub log_bytes: u64,
    /// How long a job's logs are kept after its end.
    pub log_retention: Duration,
    /// A JobManager that is silent for so long is given up, and looked for again.
    pub jobmanager_timeout: Duration,
    /// What workers get to end by themselves when the agent stops.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            artifact_bytes: 1 << 30,
            cache_bytes: 4 << 30,
            log_bytes: 16 << 20,
            log_retention: Duration::from_secs(24 * 3600),
            jobmanager_timeout: Duration::from_secs(10),
            stop_grace: Duration::from_secs(10),
        }
    }
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A setting that cannot be.
    #[error("{0}")]
    Setting(String),
    /// The data directory cannot be used.
    #[error("the data directory {path}: {what}")]
    DataDir {
        /// Which.
        path: String,
        /// Why, and what to do.
        what: String,
    },
    /// The system refuses something that every agent needs.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}
