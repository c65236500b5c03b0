//! What a JobManager is told when it starts, and why it may refuse to.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use tidemill_coordination::MasterSettings;
use tidemill_protocol::StoreSettings;
use tidemill_protocol::auth::Key;

/// Settings of a JobManager.
#[derive(Clone, Debug)]
pub struct JobManagerConfig {
    /// Address that REST and the control port listen at.
    pub bind: IpAddr,
    /// Port of REST; 0: any free one.
    pub rest_port: u16,
    /// Port for agents and workers; 0: any free one.
    pub control_port: u16,
    /// `host:port` under which agents and workers reach the control port when this JobManager leads;
    /// `None`: `bind` and the control port.
    pub control_address: Option<String>,
    /// Uploads that are not accepted yet lie here. Of this JobManager alone.
    pub data_dir: PathBuf,
    /// The cluster secret.
    pub secret: Key,
    /// What REST wants as `Authorization: Bearer`; `None`: nothing.
    pub token: Option<String>,
    /// Serve another address than loopback without a token.
    pub insecure: bool,
    /// Where jobs' checkpoints go: each job gets a directory, or a prefix, of its own in it.
    pub checkpoints: StoreSettings,
    /// Settings of jobs that do not say otherwise. The store in it is not looked at.
    pub jobs: MasterSettings,
    /// Bounds and times.
    pub limits: Limits,
}

/// Bounds and times of a JobManager.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest program that may be submitted, in bytes.
    pub artifact_bytes: u64,
    /// What a program may take to tell its plan.
    pub plan_timeout: Duration,
    /// How often agents and workers are asked to say that they live.
    pub heartbeat_interval: Duration,
    /// Who is silent for so long counts as lost.
    pub heartbeat_timeout: Duration,
    /// Who does not come back for so long after its connection broke counts as lost.
    pub reconnect_timeout: Duration,
    /// How long workers of an earlier JobManager are waited for.
    pub adopt_timeout: Duration,
    /// What a worker's process gets to end by itself.
    pub stop_grace: Duration,
    /// A client that sends no whole request header, or no further part of a body, for so long is
    /// given up.
    pub client_silence: Duration,
    /// What a whole request may take, an upload included.
    pub request_timeout: Duration,
    /// How long the row of a new job may take to be written; then the job is not accepted.
    pub record_timeout: Duration,
    /// Open REST connections; further ones wait.
    pub rest_connections: usize,
    /// Open control connections; further ones wait.
    pub control_connections: usize,
    /// Jobs that are over and still shown; of more, the oldest are forgotten.
    pub jobs_kept: usize,
    /// The highest parallelism that may be asked for.
    pub parallelism: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            artifact_bytes: 512 << 20,
            plan_timeout: Duration::from_secs(30),
            heartbeat_interval: Duration::from_millis(500),
            heartbeat_timeout: Duration::from_secs(5),
            reconnect_timeout: Duration::from_secs(2),
            adopt_timeout: Duration::from_secs(10),
            stop_grace: Duration::from_secs(5),
            client_silence: Duration::from_secs(20),
            request_timeout: Duration::from_secs(600),
            record_timeout: Duration::from_secs(20),
            rest_connections: 512,
            control_connections: 4_096,
            jobs_kept: 1_000,
            parallelism: 32_768,
        }
    }
}

impl JobManagerConfig {
    /// Defaults: loopback, the usual ports, checkpoints below `data_dir`.
    pub fn new(data_dir: PathBuf, secret: Key) -> Self {
        let path = data_dir.join("checkpoints").display().to_string();
        let checkpoints = StoreSettings::Dir { path };
        JobManagerConfig {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            rest_port: 8081,
            control_port: 6123,
            control_address: None,
            data_dir,
            secret,
            token: None,
            insecure: false,
            jobs: MasterSettings::new(checkpoints.clone()),
            checkpoints,
            limits: Limits::default(),
        }
    }

    /// Checks settings against each other.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), JobManagerError> {
        let refuse = |text: String| Err(JobManagerError::Setting(text));
        if self.token.as_deref().is_some_and(|t| t.trim().is_empty()) {
            return refuse("the token is empty: give one, or none at all".into());
        }
        if !self.bind.to_canonical().is_loopback() && self.token.is_none() && !self.insecure {
            return refuse(format!(
                "jobmanager.bind = {}: other machines reach this address, and whoever submits a job \
                 runs programs here; give a token (security.token_file), or allow it by \
                 security.insecure",
                self.bind
            ));
        }
        if let StoreSettings::S3 { bucket, .. } = &self.checkpoints
            && !tidemill_protocol::store_kinds().iter().any(|kind| kind == "s3")
        {
            return refuse(format!(
                "checkpoints are to go to the bucket '{bucket}', but this JobManager was built without S3: \
                 build it with the feature 's3', or give a directory that all hosts share"
            ));
        }
        let limits = &self.limits;
        if limits.heartbeat_timeout < limits.heartbeat_interval * 2 {
            return refuse(format!(
                "jobmanager.heartbeat_timeout = {:?} is less than two heartbeats of {:?}: raise it",
                limits.heartbeat_timeout, limits.heartbeat_interval
            ));
        }
        if limits.artifact_bytes == 0 || limits.parallelism == 0 || limits.rest_connections == 0 {
            return refuse("a limit of 0 lets nothing through: raise it".into());
        }
        Ok(())
    }
}

/// Why a JobManager does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum JobManagerError {
    /// A setting that cannot be.
    #[error("{0}")]
    Setting(String),
    /// An address that cannot be had.
    #[error("cannot listen at {address}: {source}; choose a free port of this machine")]
    Listen {
        /// Which.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("the data directory {path}: {source}")]
    DataDir {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A store cannot be used, and trying again does not help.
    #[error("{0}")]
    Store(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> JobManagerConfig {
        JobManagerConfig::new("data".into(), Key::from_secret("s"))
    }

    #[test]
    fn loopback_needs_nothing_and_other_addresses_a_token_or_a_word() {
        assert!(config().check().is_ok());
        let open = JobManagerConfig { bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED), ..config() };
        let error = open.check().expect_err("no token").to_string();
        assert!(error.contains("security.token_file") && error.contains("0.0.0.0"), "{error}");
        assert!(JobManagerConfig { insecure: true, ..open.clone() }.check().is_ok());
        assert!(JobManagerConfig { token: Some("t".into()), ..open.clone() }.check().is_ok());
        assert!(JobManagerConfig { token: Some(" ".into()), ..open }.check().is_err());
    }

    #[test]
    fn a_timeout_lets_a_heartbeat_be_missed() {
        let mut short = config();
        short.limits.heartbeat_timeout = short.limits.heartbeat_interval;
        let error = short.check().expect_err("too short").to_string();
        assert!(error.contains("heartbeat_timeout"), "{error}");
    }
}
