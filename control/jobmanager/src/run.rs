//! A JobManager from its settings to its end.

use std::net::SocketAddr;
use std::sync::Arc;

use tidemill_base::clock::SystemClock;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::info;

use crate::config::{JobManagerConfig, JobManagerError};
use crate::control::{self, Control};
use crate::rest::{self, App};
use crate::service::{Files, Leadership, Parts, Service};
use crate::stores::Stores;

/// Events of peers that wait for the service.
const PEER_EVENTS: usize = 4_096;
/// Requests of REST that wait for the service.
const ASKS: usize = 256;

/// A JobManager that serves. Dropped, it ends at once, as if killed: jobs go on.
#[derive(Debug)]
pub struct JobManager {
    rest: SocketAddr,
    control: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    service: JoinHandle<()>,
    servers: [JoinHandle<()>; 2],
}

impl JobManager {
    /// Binds, and serves from then on; it leads when it is elected.
    ///
    /// # Errors
    /// Settings that cannot be, addresses that cannot be had, a data directory that cannot be used.
    pub async fn start(config: JobManagerConfig, stores: Stores) -> Result<Self, JobManagerError> {
        config.check()?;
        let uploads = config.data_dir.join("uploads");
        clean(&uploads).await.map_err(|source| JobManagerError::DataDir {
            path: uploads.display().to_string(),
            source,
        })?;
        let (rest_listener, rest) = listen(&config, config.rest_port).await?;
        let (control_listener, control) = listen(&config, config.control_port).await?;
        let address = config.control_address.clone().unwrap_or_else(|| control.to_string());
        info!("REST at http://{rest}, TaskManagers at {control}");
        let config = Arc::new(config);
        let (leadership, led) = watch::channel(Leadership::Following { leader: None });
        let (events, peers) = mpsc::channel(PEER_EVENTS);
        let (asks, asked) = mpsc::channel(ASKS);
        let files = Files::new(stores.artifacts.clone());
        let app = App::new(config.clone(), stores.clone(), files.clone(), asks, led.clone());
        let shared = Control {
            secret: config.secret.clone(),
            artifacts: stores.artifacts.clone(),
            leadership: led,
            events,
            connections: config.limits.control_connections,
            heartbeat: config.limits.heartbeat_interval,
        };
        let parts = Parts { config, stores, clock: SystemClock::new(), address, leadership, files };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            // An error is the handle's end, which means the same.
            let _ = stopped.await;
        };
        let service = tokio::spawn(Service::run(parts, peers, asked, shutdown));
        let servers = [
            tokio::spawn(rest::serve(rest_listener, app)),
            tokio::spawn(control::serve(control_listener, Arc::new(shared))),
        ];
        Ok(JobManager { rest, control, stop: Some(stop), service, servers })
    }

    /// Where REST listens.
    pub fn rest_address(&self) -> SocketAddr {
        self.rest
    }

    /// Where agents and workers connect.
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// Ends; running jobs go on and are found by the next JobManager.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        let _ = (&mut self.service).await;
    }
}

impl Drop for JobManager {
    fn drop(&mut self) {
        self.service.abort();
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

/// Serves until `shutdown` resolves.
///
/// # Errors
/// As [`JobManager::start`].
pub async fn run(
    config: JobManagerConfig,
    stores: Stores,
    shutdown: impl Future<Output = ()>,
) -> Result<(), JobManagerError> {
    let manager = JobManager::start(config, stores).await?;
    shutdown.await;
    manager.stop().await;
    Ok(())
}

/// An empty directory for uploads: what an earlier process left is of no use.
async fn clean(uploads: &std::path::Path) -> std::io::Result<()> {
    match tokio::fs::remove_dir_all(uploads).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    tokio::fs::create_dir_all(uploads).await
}

async fn listen(
    config: &JobManagerConfig,
    port: u16,
) -> Result<(TcpListener, SocketAddr), JobManagerError> {
    let address = SocketAddr::new(config.bind, port);
    let failed = |source| JobManagerError::Listen { address: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
