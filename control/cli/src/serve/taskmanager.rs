//! `tidemill taskmanager`.

use std::net::ToSocketAddrs;
use std::path::PathBuf;

use tidemill_protocol::auth::Key;
use tidemill_taskmanager::{AgentConfig, AgentError, Limits};
use tracing::info;

use super::data_dir;
use super::signals::Shutdown;
use crate::exit::Failure;
use crate::secrets::{self, Missing};
use crate::settings::Settings;

impl From<AgentError> for Failure {
    fn from(e: AgentError) -> Self {
        match e {
            AgentError::Setting(_) | AgentError::DataDir { .. } => Failure::usage(e.to_string()),
            AgentError::System { .. } => Failure::here(e.to_string()),
        }
    }
}

pub(super) async fn serve(settings: &Settings, shutdown: Shutdown) -> Result<(), Failure> {
    let data_dir = data_dir::open(settings)?;
    let secret = secrets::cluster(settings, &data_dir, Missing::Refuse)?;
    check_bind(settings)?;
    let config = AgentConfig {
        jobmanagers: settings.list("taskmanager.jobmanagers"),
        bind: settings.address("taskmanager.bind").to_string(),
        address: settings.text_of("taskmanager.address").map(str::to_owned),
        ..config(settings, data_dir.join("taskmanager"), secret)
    };
    tidemill_taskmanager::run(config, shutdown.wait()).await?;
    info!("the TaskManager has ended, and its workers with it");
    Ok(())
}

/// What the settings say of every TaskManager; it knows no JobManager, and binds to loopback.
pub(super) fn config(settings: &Settings, data_dir: PathBuf, secret: Key) -> AgentConfig {
    let bytes = |key| settings.bytes(key).unwrap_or(0);
    AgentConfig {
        jobmanagers: Vec::new(),
        secret,
        slots: settings.number("taskmanager.slots"),
        first_cpu: settings.number("taskmanager.first_cpu"),
        memory_bytes: settings.bytes("taskmanager.memory"),
        host: settings.text_of("taskmanager.host").map(str::to_owned),
        bind: "127.0.0.1".into(),
        address: None,
        data_dir,
        worker_user: settings.text_of("taskmanager.worker_user").map(str::to_owned),
        limits: Limits {
            artifact_bytes: bytes("taskmanager.artifact_limit"),
            cache_bytes: bytes("taskmanager.cache_size"),
            log_bytes: bytes("taskmanager.log_size"),
            log_retention: settings.time("taskmanager.log_retention"),
            jobmanager_timeout: settings.time("taskmanager.jobmanager_timeout"),
            stop_grace: settings.time("taskmanager.stop_grace"),
        },
    }
}

/// A JobManager elsewhere means that workers elsewhere will want to connect to those here.
fn check_bind(settings: &Settings) -> Result<(), Failure> {
    if settings.is_given("taskmanager.bind") {
        return Ok(());
    }
    let elsewhere = |address: &String| {
        address.to_socket_addrs().is_ok_and(|mut all| all.any(|a| !a.ip().is_loopback()))
    };
    match settings.list("taskmanager.jobmanagers").into_iter().find(elsewhere) {
        None => Ok(()),
        Some(address) => Err(Failure::usage(format!(
            "the JobManager {address} is not on this machine, but workers here would listen on loopback alone: give \
             --bind 0.0.0.0, or one address of this host, so that workers of other hosts reach them (or --bind \
             127.0.0.1, where there are none)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Given;

    #[test]
    fn defaults_of_the_table_are_those_of_the_library() {
        let settings = Settings::load(&Given::default()).expect("defaults");
        let ours = config(&settings, "data".into(), Key::from_secret("s"));
        assert_eq!(format!("{:#?}", ours.limits), format!("{:#?}", Limits::default()));
        assert_eq!((ours.slots, ours.memory_bytes), (4, None));
    }

    #[test]
    fn a_job_manager_elsewhere_wants_a_word_about_the_bind() {
        let with = |flags: &[(&str, &str)]| {
            let flags = flags.iter().map(|(k, v)| ((*k).into(), (*v).into(), "--set".into()));
            let given = Given { flags: flags.collect(), ..Given::default() };
            check_bind(&Settings::load(&given).expect("settings"))
        };
        assert!(with(&[]).is_ok());
        let there = ("taskmanager.jobmanagers", "192.0.2.1:6123");
        let error = with(&[there]).expect_err("loopback").to_string();
        assert!(error.contains("192.0.2.1:6123") && error.contains("--bind 0.0.0.0"), "{error}");
        assert!(with(&[there, ("taskmanager.bind", "127.0.0.1")]).is_ok());
        assert!(with(&[there, ("taskmanager.bind", "0.0.0.0")]).is_ok());
    }
}
