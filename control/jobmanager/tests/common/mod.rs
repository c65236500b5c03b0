//! A JobManager with TaskManagers and workers in the test's hands, and a client that may send anything.
#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod gated;
pub(crate) mod http;
pub(crate) mod kept;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod task_manager;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_coordination::{JobSettings, RestartStrategy, Submission};
use tidemill_jobmanager::{JobManager, JobManagerConfig};
use tidemill_plan::{Edge, LogicalGraph, OperatorKind, OperatorSpec};
use tidemill_protocol::auth::Key;

pub(crate) use gated::Gate;
pub(crate) use http::{Response, multipart, request};
pub(crate) use kept::Kept;
pub(crate) use task_manager::{Behaviour, TaskManager};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn secret() -> Key {
    Key::from_secret("a secret of tests")
}

/// What a program would print of itself.
pub(crate) fn submission(parallelism: u32, checkpoint_interval_ms: Option<u64>) -> Submission {
    let mut graph = LogicalGraph::new("a job").with_parallelism(parallelism);
    let source = graph.add_operator(OperatorSpec::new("in", OperatorKind::Source).stateful());
    let sink = graph.add_operator(OperatorSpec::new("out", OperatorKind::Sink).stateful());
    graph.connect(Edge::hash(source, sink));
    Submission {
        stores: vec!["dir".into()],
        protocol: tidemill_protocol::VERSION,
        version: "0.1.0".into(),
        settings: JobSettings {
            checkpoint_interval_ms,
            aligned_timeout_ms: Some(1_000),
            restart: RestartStrategy::FixedDelay { attempts: 10, delay_us: 20_000 },
            state: None,
        },
        plan: graph.plan().unwrap(),
    }
}

/// A file that passes for a program of this machine.
pub(crate) fn program(name: &str) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    elf(machine, &format!("{name} {}", tidemill_protocol::program_marker!("0.1.0")))
}

pub(crate) fn elf(machine: u16, text: &str) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
    file.extend_from_slice(&machine.to_le_bytes());
    file.resize(5_000, 0);
    file.extend_from_slice(text.as_bytes());
    file
}

/// A JobManager and what it keeps.
pub(crate) struct Cluster {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) kept: Kept,
    pub(crate) manager: JobManager,
    pub(crate) token: Option<String>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(set: impl FnOnce(&mut JobManagerConfig)) -> Self {
        Self::over(Arc::new(TempDir::new().unwrap()), Kept::memory(), set).await
    }

    /// A JobManager over what another one left.
    pub(crate) async fn over(
        dir: Arc<TempDir>,
        kept: Kept,
        set: impl FnOnce(&mut JobManagerConfig),
    ) -> Self {
        let mut config = JobManagerConfig::new(dir.path().to_owned(), secret());
        (config.rest_port, config.control_port) = (0, 0);
        config.limits.heartbeat_interval = Duration::from_millis(100);
        config.limits.reconnect_timeout = Duration::from_millis(500);
        config.limits.adopt_timeout = Duration::from_secs(5);
        config.jobs.stop_timeout_ms = 500;
        set(&mut config);
        let token = config.token.clone();
        let stores = kept.stores().await;
        let manager = JobManager::start(config, stores).await.unwrap();
        let cluster = Cluster { dir, kept, manager, token };
        cluster
            .until("it leads", |c| async move { c.get("/").await.json()["role"] == "leader" })
            .await;
        cluster
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let mut headers = headers.to_vec();
        let authorization = self.token.as_ref().map(|t| format!("Bearer {t}"));
        headers.extend(authorization.iter().map(|a| ("Authorization", a.as_str())));
        request(self.manager.rest_address(), method, path, &headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"").await
    }

    pub(crate) async fn post(&self, path: &str) -> Response {
        self.send("POST", path, &[], b"").await
    }

    pub(crate) async fn post_json(&self, path: &str, body: &str) -> Response {
        self.send("POST", path, &[("Content-Type", "application/json")], body.as_bytes()).await
    }

    pub(crate) async fn submit(&self, fields: &[(&str, &[u8])]) -> Response {
        let (kind, body) = multipart(fields);
        self.send("POST", "/jobs/submit", &[("Content-Type", &kind)], &body).await
    }

    /// Submits a program; the job's id.
    pub(crate) async fn run(&self, fields: &[(&str, &[u8])]) -> String {
        let file = program("a program");
        let fields: Vec<_> =
            [("job_file", &file[..])].into_iter().chain(fields.iter().copied()).collect();
        let answer = self.submit(&fields).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let id = answer.json()["job_id"].as_str().unwrap().to_owned();
        assert_eq!(answer.header("location"), Some(&*format!("/jobs/{id}")));
        id
    }

    pub(crate) async fn job(&self, id: &str) -> Value {
        let answer = self.get(&format!("/jobs/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Waits until a job has a status; the job.
    pub(crate) async fn until_status(&self, id: &str, status: &str) -> Value {
        let what = format!("job {id} is {status}");
        self.until(&what, |c| async move { c.job(id).await["status"] == status }).await;
        self.job(id).await
    }

    /// Waits until something is so.
    pub(crate) async fn until<'a, F: Future<Output = bool>>(
        &'a self,
        what: &str,
        so: impl Fn(&'a Cluster) -> F,
    ) {
        eventually(what, || so(self)).await;
    }

    /// Nothing of uploads is left.
    pub(crate) fn assert_no_upload(&self) {
        let uploads = std::fs::read_dir(self.dir.path().join("uploads")).unwrap();
        assert_eq!(uploads.count(), 0, "an upload was left behind");
    }

    pub(crate) async fn artifacts(&self) -> usize {
        self.kept.artifacts.list().await.unwrap().len()
    }
}

pub(crate) fn task_managers(
    cluster: &Cluster,
    count: u8,
    behaviour: Behaviour,
) -> Vec<TaskManager> {
    let behaviour = Arc::new(behaviour);
    let start = |n| TaskManager::start(cluster.manager.control_address(), n, 4, behaviour.clone());
    (1..=count).map(start).collect()
}

pub(crate) async fn with_task_managers(count: u8) -> (Cluster, Vec<TaskManager>) {
    let cluster = Cluster::start().await;
    let managers = task_managers(&cluster, count, Behaviour::default());
    let all = count as usize;
    cluster
        .until("all registered", |c| async move {
            c.get("/cluster/metrics").await.json()["active_task_managers"] == all
        })
        .await;
    (cluster, managers)
}

/// Waits until something is so.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, so: impl Fn() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !so().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
