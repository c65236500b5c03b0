//! `tidemill local`: a JobManager and TaskManagers in this process.
//!
//! Invariants
//!   O1  When this process ends, however it does, its workers end: they are its children, and ask the kernel
//!       for that.
//!   O2  A start with the data directory of an earlier one finds that one's jobs. Its workers are gone, so
//!       nothing is waited for: jobs start again from their newest checkpoints at once.
//!   O3  A TaskManager that cannot start, or ends, ends all: half a cluster is not what was asked for.

use std::path::Path;
use std::time::Duration;

use tidemill_jobmanager::{JobManager, JobManagerConfig};
use tidemill_protocol::auth::Key;
use tidemill_taskmanager::{AgentConfig, AgentError};
use tokio::task::JoinSet;
use tracing::{Instrument, info, info_span};

use super::signals::Shutdown;
use super::{data_dir, jobmanager, stores, taskmanager};
use crate::exit::Failure;
use crate::secrets::{self, Missing};
use crate::settings::Settings;

/// The part of the memory limit that workers get.
const MEMORY_PERCENT: u64 = 80;

pub(super) async fn serve(settings: &Settings, shutdown: Shutdown) -> Result<(), Failure> {
    let data_dir = data_dir::open(settings)?;
    let _lock = data_dir::lock(&data_dir)?;
    let secret = secrets::cluster(settings, &data_dir, Missing::Make)?;
    let mut config = jobmanager::config(settings, &data_dir, secret.clone())?;
    adapt(&mut config, settings);
    config.check()?;
    let stores = stores::open(settings, &data_dir).await?;
    let manager = JobManager::start(config, stores).await?;
    let (stop, mut agents) = start_agents(settings, &data_dir, &secret, &manager);
    let (count, slots) = (agents.len(), settings.number::<u32>("taskmanager.slots"));
    info!(
        "a cluster of {count} TaskManagers with {} slots, in {}",
        count as u32 * slots,
        data_dir.display()
    );
    let ended = tokio::select! {
        () = shutdown.wait() => Ok(()),
        Some(end) = agents.join_next() => Err(why(end)),
    };
    // The JobManager first: workers that end are no failures of their jobs then.
    manager.stop().await;
    drop(stop);
    while agents.join_next().await.is_some() {}
    info!("the cluster has ended; its jobs are in {}", data_dir.display());
    ended
}

/// What is different where all ends together (O2).
fn adapt(config: &mut JobManagerConfig, settings: &Settings) {
    if !settings.is_given("jobmanager.control_port") {
        config.control_port = 0;
    }
    if !settings.is_given("jobmanager.adopt_timeout") {
        config.limits.adopt_timeout = Duration::ZERO;
    }
}

type Ended = Result<Result<(), AgentError>, tokio::task::JoinError>;

/// O3.
fn why(end: Ended) -> Failure {
    match end {
        Ok(Ok(())) => Failure::here("a TaskManager has ended by itself"),
        Ok(Err(e)) => e.into(),
        Err(e) => Failure::here(format!("a TaskManager has ended: {e}")),
    }
}

fn start_agents(
    settings: &Settings,
    data_dir: &Path,
    secret: &Key,
    manager: &JobManager,
) -> (tokio::sync::watch::Sender<()>, JoinSet<Result<(), AgentError>>) {
    let (stop, stopped) = tokio::sync::watch::channel(());
    let count: u32 = settings.number("local.taskmanagers");
    let memory = settings
        .bytes("taskmanager.memory")
        .unwrap_or_else(|| tidemill_taskmanager::memory_limit() / 100 * MEMORY_PERCENT);
    let mut agents = JoinSet::new();
    let mut control = manager.control_address();
    if control.ip().is_unspecified() {
        control.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    for n in 0..count {
        let base = taskmanager::config(
            settings,
            data_dir.join(format!("taskmanager-{n}")),
            secret.clone(),
        );
        let config = AgentConfig {
            jobmanagers: vec![control.to_string()],
            first_cpu: base.first_cpu + (n * base.slots) as usize,
            memory_bytes: Some(memory / u64::from(count)),
            ..base
        };
        let mut stopped = stopped.clone();
        let shutdown = async move {
            // An error is the sender's end: what is waited for.
            let _ = stopped.wait_for(|()| false).await;
        };
        let run = tidemill_taskmanager::run(config, shutdown);
        agents.spawn(run.instrument(info_span!("taskmanager", n)));
    }
    (stop, agents)
}
