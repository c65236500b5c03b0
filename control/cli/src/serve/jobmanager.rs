//! `tidemill jobmanager`.

use std::path::Path;
use std::time::Duration;

use tidemill_coordination::MasterSettings;
use tidemill_jobmanager::{JobManager, JobManagerConfig, JobManagerError, Limits};
use tidemill_protocol::StateSettings;
use tidemill_protocol::auth::Key;
use tracing::info;

use super::signals::Shutdown;
use super::{data_dir, stores};
use crate::exit::Failure;
use crate::secrets::{self, Missing};
use crate::settings::Settings;

impl From<JobManagerError> for Failure {
    fn from(e: JobManagerError) -> Self {
        match e {
            JobManagerError::Setting(_) => Failure::usage(e.to_string()),
            _ => Failure::here(e.to_string()),
        }
    }
}

pub(super) async fn serve(settings: &Settings, shutdown: Shutdown) -> Result<(), Failure> {
    let data_dir = data_dir::open(settings)?;
    let _lock = data_dir::lock(&data_dir)?;
    let secret = secrets::cluster(settings, &data_dir, Missing::Make)?;
    let config = config(settings, &data_dir, secret)?;
    config.check()?;
    let stores = stores::open(settings, &data_dir).await?;
    let manager = JobManager::start(config, stores).await?;
    shutdown.wait().await;
    manager.stop().await;
    info!("the JobManager has ended; jobs go on");
    Ok(())
}

/// What the settings say.
///
/// # Errors
/// What cannot be.
pub(super) fn config(
    settings: &Settings,
    data_dir: &Path,
    secret: Key,
) -> Result<JobManagerConfig, Failure> {
    let checkpoints = stores::checkpoints(settings, data_dir)?;
    Ok(JobManagerConfig {
        bind: settings.address("jobmanager.bind"),
        rest_port: settings.number("jobmanager.rest_port"),
        control_port: settings.number("jobmanager.control_port"),
        control_address: control_address(settings),
        token: secrets::token(settings)?,
        insecure: settings.is("security.insecure"),
        jobs: jobs(settings, MasterSettings::new(checkpoints.clone())),
        limits: limits(settings),
        checkpoints,
        ..JobManagerConfig::new(data_dir.to_owned(), secret)
    })
}

/// Under which others reach the control port: what is given, or where all addresses are bound, the
/// host's name.
fn control_address(settings: &Settings) -> Option<String> {
    if let Some(given) = settings.text_of("jobmanager.control_address") {
        return Some(given.to_owned());
    }
    let port: u16 = settings.number("jobmanager.control_port");
    let all = settings.address("jobmanager.bind").is_unspecified();
    let name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    (all && port != 0).then(|| format!("{}:{port}", name()))
}

fn jobs(settings: &Settings, base: MasterSettings) -> MasterSettings {
    let ms = |time: Duration| time.as_millis() as u64;
    let state = match settings.text_of("state.backend") {
        Some("rocksdb") => {
            let bytes = settings.bytes("state.rocksdb_memory").unwrap_or(0);
            StateSettings::Rocksdb { memory_mib: bytes >> 20 }
        }
        _ => StateSettings::Heap,
    };
    let tolerated = settings.count("checkpoints.tolerated_failures");
    MasterSettings {
        state,
        checkpoint_interval_ms: settings.time_or_never("checkpoints.interval").map(ms),
        checkpoint_timeout_ms: ms(settings.time("checkpoints.timeout")),
        min_pause_ms: ms(settings.time("checkpoints.min_pause")),
        tolerated_failures: tolerated.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        keep: settings.number("checkpoints.keep"),
        attach_timeout_ms: ms(settings.time("jobmanager.attach_timeout")),
        deploy_timeout_ms: ms(settings.time("jobmanager.deploy_timeout")),
        stop_timeout_ms: ms(settings.time("jobmanager.stop_timeout")),
        heartbeat_ms: ms(settings.time("jobmanager.heartbeat_interval")),
        ..base
    }
}

fn limits(settings: &Settings) -> Limits {
    let time = |key| settings.time(key);
    Limits {
        artifact_bytes: settings.bytes("jobmanager.artifact_limit").unwrap_or(0),
        plan_timeout: time("jobmanager.plan_timeout"),
        heartbeat_interval: time("jobmanager.heartbeat_interval"),
        heartbeat_timeout: time("jobmanager.heartbeat_timeout"),
        reconnect_timeout: time("jobmanager.reconnect_timeout"),
        adopt_timeout: time("jobmanager.adopt_timeout"),
        stop_grace: time("jobmanager.stop_grace"),
        client_silence: time("jobmanager.client_silence"),
        request_timeout: time("jobmanager.request_timeout"),
        record_timeout: time("jobmanager.record_timeout"),
        rest_connections: settings.number("jobmanager.rest_connections"),
        control_connections: settings.number("jobmanager.control_connections"),
        jobs_kept: settings.number("jobmanager.jobs_kept"),
        parallelism: settings.number("jobmanager.max_parallelism"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Given;

    #[test]
    fn defaults_of_the_table_are_those_of_the_library() {
        let settings = Settings::load(&Given::default()).expect("defaults");
        let dir = tempfile::tempdir().expect("tempdir");
        let ours = config(&settings, dir.path(), Key::from_secret("s")).expect("config");
        let theirs = JobManagerConfig::new(dir.path().to_owned(), Key::from_secret("s"));
        assert_eq!(format!("{:#?}", ours.limits), format!("{:#?}", theirs.limits));
        assert_eq!(format!("{:#?}", ours.jobs), format!("{:#?}", theirs.jobs));
        assert_eq!(ours.bind, theirs.bind);
        assert_eq!((ours.rest_port, ours.control_port), (theirs.rest_port, theirs.control_port));
        assert_eq!(format!("{:?}", ours.checkpoints), format!("{:?}", theirs.checkpoints));
        assert!(ours.check().is_ok());
    }
}
