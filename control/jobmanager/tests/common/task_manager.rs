//! An agent with its workers, as far as a JobManager sees them: they speak the protocol and do what a
//! test tells them, without any process.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_coordination::Submission;
use tidemill_plan::SubtaskId;
use tidemill_protocol::auth::{Answer, Client, Key, Role, job_key};
use tidemill_protocol::{
    AgentId, AgentSays, ArtifactHash, ArtifactRequest, Attempt, Deployment, ExitStatus, Frames,
    PlanError, PlanRequest, RunningAttempt, RunningWorker, StartWorker, StoreSettings,
    SubtaskStates, TaskCounters, TaskFailure, ToAgent, ToWorker, WorkerId, WorkerSays, frame,
};
use tidemill_snapshot::{DirStore, ObjectBuilder, SnapshotStore, WorkerPart, object_name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::secret;

/// What a program answers when it is asked for its plan; `None`: nothing, for ever.
type Planner = dyn Fn(&PlanRequest) -> Option<Result<Submission, PlanError>> + Send + Sync;

/// How workers of a test behave.
pub(crate) struct Behaviour {
    pub(crate) plan: Box<Planner>,
    /// Workers do not answer triggers.
    pub(crate) silent_checkpoints: std::sync::atomic::AtomicBool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour::planning(|request| {
            Some(Ok(super::submission(request.parallelism.unwrap_or(2), None)))
        })
    }
}

impl Behaviour {
    pub(crate) fn planning(
        plan: impl Fn(&PlanRequest) -> Option<Result<Submission, PlanError>> + Send + Sync + 'static,
    ) -> Self {
        Behaviour { plan: Box::new(plan), silent_checkpoints: Default::default() }
    }
}

/// What a worker runs.
#[derive(Clone)]
struct Deployed {
    deployment: Deployment,
    ready: bool,
    last_epoch: u64,
}

struct Worker {
    slots: u32,
    orders: mpsc::UnboundedSender<Order>,
}

enum Order {
    Say(Box<dyn FnOnce(Attempt) -> WorkerSays + Send>),
    Exit,
}

struct Shared {
    id: AgentId,
    behaviour: Arc<Behaviour>,
    /// Where the JobManager is; changes when it comes back elsewhere.
    address: watch::Receiver<SocketAddr>,
    workers: Mutex<BTreeMap<WorkerId, Worker>>,
    /// What the agent sends.
    outbox: Mutex<Option<mpsc::UnboundedSender<AgentSays>>>,
    /// What was seen, for tests.
    deployments: Mutex<Vec<Deployment>>,
    commits: Mutex<Vec<u64>>,
    starts: Mutex<Vec<StartWorker>>,
    forgotten: Mutex<usize>,
}

/// See the module. Dropped, it is gone with all its workers, as a host that loses power.
pub(crate) struct TaskManager {
    shared: Arc<Shared>,
    address: watch::Sender<SocketAddr>,
    task: JoinHandle<()>,
}

impl Drop for TaskManager {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.lock().clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Worker>> {
        self.workers.lock().unwrap()
    }
}

impl TaskManager {
    pub(crate) fn start(
        address: SocketAddr,
        number: u8,
        slots: u32,
        behaviour: Arc<Behaviour>,
    ) -> Self {
        let (tell, address) = watch::channel(address);
        let shared = Arc::new(Shared {
            id: AgentId::from_bytes([number; 16]),
            behaviour,
            address,
            workers: Mutex::default(),
            outbox: Mutex::default(),
            deployments: Mutex::default(),
            commits: Mutex::default(),
            starts: Mutex::default(),
            forgotten: Mutex::default(),
        });
        let task = tokio::spawn(agent(shared.clone(), slots));
        TaskManager { shared, address: tell, task }
    }

    /// The JobManager is elsewhere from now on.
    pub(crate) fn move_to(&self, address: SocketAddr) {
        self.address.send_replace(address);
    }

    pub(crate) fn behaviour(&self) -> &Behaviour {
        &self.shared.behaviour
    }

    pub(crate) fn id(&self) -> &AgentId {
        &self.shared.id
    }

    pub(crate) fn workers(&self) -> Vec<WorkerId> {
        self.shared.lock().keys().cloned().collect()
    }

    pub(crate) fn deployments(&self) -> Vec<Deployment> {
        self.shared.deployments.lock().unwrap().clone()
    }

    pub(crate) fn commits(&self) -> Vec<u64> {
        self.shared.commits.lock().unwrap().clone()
    }

    pub(crate) fn starts(&self) -> Vec<StartWorker> {
        self.shared.starts.lock().unwrap().clone()
    }

    pub(crate) fn forgotten(&self) -> usize {
        *self.shared.forgotten.lock().unwrap()
    }

    /// A worker's process ends by a signal.
    pub(crate) fn kill(&self, worker: &WorkerId) {
        let status = ExitStatus::Signal(9);
        exit(&self.shared, worker, status, "the last words");
    }

    /// A worker says something of its attempt.
    pub(crate) fn say(
        &self,
        worker: &WorkerId,
        says: impl FnOnce(Attempt) -> WorkerSays + Send + 'static,
    ) {
        let workers = self.shared.lock();
        let _ = workers[worker].orders.send(Order::Say(Box::new(says)));
    }

    /// A worker's task fails.
    pub(crate) fn fail(&self, worker: &WorkerId, message: &str, damaged_epoch: Option<u64>) {
        let message = message.to_owned();
        let task = Some("in (1/2)".to_owned());
        self.say(worker, move |attempt| WorkerSays::Failed {
            attempt,
            failure: TaskFailure { message, task, fatal: false, damaged_epoch },
        });
    }
}

/// A connection that has shown its role.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) frames: Frames,
}

impl Connection {
    /// # Errors
    /// What the JobManager said instead of a welcome.
    pub(crate) async fn open(address: SocketAddr, role: Role, key: Key) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let mut connection = Connection { stream, frames: Frames::default() };
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).unwrap();
        let client = Client::new(key, role, nonce);
        connection.write(client.hello()).await;
        let ended = || "the connection was closed".to_owned();
        let answer: Answer = connection.read().await.ok_or_else(ended)?;
        let proof = client.on_challenge(&answer).map_err(|e| e.to_string())?;
        connection.write(&proof).await;
        let verdict: Answer = connection.read().await.ok_or_else(ended)?;
        client.on_verdict(&verdict).map_err(|e| e.to_string())?;
        Ok(connection)
    }

    pub(crate) async fn write<T: Serialize>(&mut self, message: &T) {
        // A peer that is gone is noticed by reading.
        let _ = self.stream.write_all(&frame::encode(message).unwrap()).await;
    }

    /// `None`: the connection is gone. May be given up in the middle.
    pub(crate) async fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut piece = [0; 16 << 10];
        loop {
            if let Some(message) = self.frames.take().unwrap() {
                return Some(message);
            }
            match self.stream.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.frames.push(&piece[..n]),
            }
        }
    }
}

/// Fetches a program as agents do.
pub(crate) async fn fetch(address: SocketAddr, artifact: ArtifactHash) -> Option<Vec<u8>> {
    let mut connection = Connection::open(address, Role::Artifact, secret()).await.unwrap();
    connection.write(&ArtifactRequest { artifact }).await;
    let length = connection.stream.read_u64_le().await.ok()?;
    let mut bytes = vec![0; length as usize];
    connection.stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

async fn agent(shared: Arc<Shared>, slots: u32) {
    let mut place = shared.address.clone();
    loop {
        let address = *place.borrow_and_update();
        if let Ok(connection) = Connection::open(address, Role::Agent, secret()).await {
            serve(&shared, connection, slots, &mut place).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn serve(
    shared: &Arc<Shared>,
    mut connection: Connection,
    slots: u32,
    moved: &mut watch::Receiver<SocketAddr>,
) {
    let (outbox, mut waiting) = mpsc::unbounded_channel();
    *shared.outbox.lock().unwrap() = Some(outbox);
    let workers = shared
        .lock()
        .iter()
        .map(|(worker, w)| RunningWorker { worker: worker.clone(), slots: w.slots, pid: 1 })
        .collect();
    let register = AgentSays::Register {
        agent: shared.id.clone(),
        host: format!("host-{}", &shared.id.as_str()[..2]),
        address: "127.0.0.1".into(),
        slots,
        release: env!("CARGO_PKG_VERSION").into(),
        memory_bytes: 1 << 30,
        workers,
    };
    connection.write(&register).await;
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            message = connection.read() => match message {
                Some(message) => on_agent(shared, message),
                None => return,
            },
            Some(says) = waiting.recv() => connection.write(&says).await,
            _ = beat.tick() => connection.write(&AgentSays::Heartbeat { memory_bytes: 1 << 20 }).await,
            _ = moved.changed() => return,
        }
    }
}

fn tell(shared: &Shared, says: AgentSays) {
    if let Some(outbox) = &*shared.outbox.lock().unwrap() {
        let _ = outbox.send(says);
    }
}

fn on_agent(shared: &Arc<Shared>, message: ToAgent) {
    match message {
        ToAgent::Registered { keep, .. } => {
            let gone: Vec<WorkerId> =
                shared.lock().keys().filter(|w| !keep.contains(w)).cloned().collect();
            gone.iter().for_each(|w| exit(shared, w, ExitStatus::Code(0), ""));
        }
        ToAgent::Plan(request) => {
            if let Some(result) = (shared.behaviour.plan)(&request) {
                let result = result.map(|s| serde_json::to_string(&s).unwrap());
                tell(shared, AgentSays::Planned { request: request.request, result });
            }
        }
        ToAgent::Start(start) => {
            shared.starts.lock().unwrap().push(start.clone());
            let (orders, heard) = mpsc::unbounded_channel();
            let worker = start.worker.clone();
            shared.lock().insert(worker.clone(), Worker { slots: start.slots, orders });
            tell(shared, AgentSays::Started { worker: worker.clone(), pid: 1 });
            tokio::spawn(run_worker(shared.clone(), worker, heard));
        }
        ToAgent::Stop { worker, .. } => exit(shared, &worker, ExitStatus::Code(0), ""),
        ToAgent::Log(request) => {
            let result = Ok(format!("log of job {}", request.job));
            tell(shared, AgentSays::Log { request: request.request, result });
        }
        ToAgent::Heartbeat => {}
        ToAgent::Forget { .. } => *shared.forgotten.lock().unwrap() += 1,
    }
}

fn exit(shared: &Shared, worker: &WorkerId, status: ExitStatus, last_words: &str) {
    let gone = shared.lock().remove(worker);
    if let Some(gone) = gone {
        let _ = gone.orders.send(Order::Exit);
        let (worker, last_words) = (worker.clone(), last_words.to_owned());
        tell(shared, AgentSays::Exited { worker, status, last_words });
    }
}

async fn run_worker(shared: Arc<Shared>, id: WorkerId, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut deployed: Option<Deployed> = None;
    let mut place = shared.address.clone();
    loop {
        let address = *place.borrow_and_update();
        let key = job_key(&secret(), &id.job);
        if let Ok(mut connection) = Connection::open(address, Role::Worker(id.clone()), key).await {
            let running = deployed.as_ref().map(|d| RunningAttempt {
                attempt: d.deployment.attempt,
                ready: d.ready,
                states: states(&shared, d),
                finished: Vec::new(),
                last_epoch: d.last_epoch,
                failure: None,
            });
            let data_address = format!("127.0.0.1:{}", 10_000 + id.number);
            connection
                .write(&WorkerSays::Attach { worker: id.clone(), pid: 1, data_address, running })
                .await;
            if attached(&shared, connection, &mut orders, &mut deployed, &mut place).await {
                return exit(&shared, &id, ExitStatus::Code(0), "");
            }
        }
        // The JobManager is away.
        tokio::select! {
            () = sleep(Duration::from_millis(20)) => {}
            order = orders.recv() => if !matches!(order, Some(Order::Say(_))) { return },
        }
    }
}

/// True: the process is to end.
async fn attached(
    shared: &Arc<Shared>,
    mut connection: Connection,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    deployed: &mut Option<Deployed>,
    moved: &mut watch::Receiver<SocketAddr>,
) -> bool {
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            message = connection.read() => match message {
                Some(ToWorker::Shutdown) => return true,
                Some(message) => for says in on_worker(shared, message, deployed) {
                    connection.write(&says).await;
                },
                None => return false,
            },
            order = orders.recv() => match order {
                Some(Order::Say(says)) => if let Some(d) = deployed {
                    connection.write(&says(d.deployment.attempt)).await;
                },
                // The process is gone.
                Some(Order::Exit) | None => return true,
            },
            _ = beat.tick() => {
                connection.write(&WorkerSays::Heartbeat).await;
                if let Some(d) = deployed.as_ref().filter(|d| d.ready) {
                    connection.write(&metrics(shared, d)).await;
                }
            },
            _ = moved.changed() => return false,
        }
    }
}

/// Subtasks of a deployment's slots.
fn subtasks(shared: &Shared, d: &Deployment) -> Vec<SubtaskId> {
    let plan = plan_of(shared, d);
    d.own.range().flat_map(|slot| plan.plan.subtasks_in_slot(slot).collect::<Vec<_>>()).collect()
}

fn plan_of(shared: &Shared, d: &Deployment) -> Submission {
    let request = PlanRequest {
        request: 0,
        artifact: ArtifactHash::from_bytes([0; 32]),
        args: Vec::new(),
        parallelism: Some(d.slots),
        timeout_ms: 0,
    };
    (shared.behaviour.plan)(&request).unwrap().unwrap()
}

fn states(shared: &Shared, d: &Deployed) -> Vec<SubtaskStates> {
    let plan = plan_of(shared, &d.deployment).plan;
    plan.operators().map(|o| SubtaskStates { operator: o.id.get(), states: Vec::new() }).collect()
}

fn metrics(shared: &Shared, d: &Deployed) -> WorkerSays {
    let counters = |subtask: SubtaskId| TaskCounters {
        subtask,
        task: format!("task {}", subtask.task.0),
        source: subtask.task.0 == 0,
        records_in: 10,
        records_out: 20,
        bytes_out: 30,
        watermark_ms: Some(40),
        busy: 0.5,
        backpressured: 0.25,
    };
    let tasks = subtasks(shared, &d.deployment).into_iter().map(counters).collect();
    let text = "# HELP a_total counts\n# TYPE a_total counter\na_total{job=\"a job\"} 1\n".into();
    WorkerSays::Metrics { attempt: d.deployment.attempt, tasks, text }
}

fn on_worker(
    shared: &Shared,
    message: ToWorker,
    deployed: &mut Option<Deployed>,
) -> Vec<WorkerSays> {
    let current = deployed.as_ref().map(|d| d.deployment.attempt);
    match message {
        ToWorker::Attached { go_on, .. } => match deployed.take() {
            Some(d) if go_on => *deployed = Some(d),
            Some(d) => return vec![WorkerSays::Stopped { attempt: d.deployment.attempt }],
            None => {}
        },
        ToWorker::Deploy(deployment) => {
            shared.deployments.lock().unwrap().push((*deployment).clone());
            let d = Deployed { deployment: *deployment, ready: true, last_epoch: 0 };
            let says =
                WorkerSays::Ready { attempt: d.deployment.attempt, states: states(shared, &d) };
            *deployed = Some(d);
            return vec![says];
        }
        ToWorker::Trigger { attempt, epoch, .. } if current == Some(attempt) => {
            let Some(d) = deployed else { return Vec::new() };
            d.last_epoch = epoch;
            if shared.behaviour.silent_checkpoints.load(std::sync::atomic::Ordering::SeqCst) {
                return Vec::new();
            }
            let all = subtasks(shared, &d.deployment).into_iter();
            return all.map(|subtask| WorkerSays::Acked { attempt, epoch, subtask }).collect();
        }
        ToWorker::Finish { attempt, epoch } if current == Some(attempt) => {
            let Some(d) = deployed else { return Vec::new() };
            return vec![match write_object(shared, &d.deployment, epoch) {
                Ok(part) => WorkerSays::Written { attempt, epoch, part: Box::new(part) },
                Err(reason) => WorkerSays::WriteFailed { attempt, epoch, reason },
            }];
        }
        ToWorker::Commit { attempt, epoch } if current == Some(attempt) => {
            let Some(d) = deployed else { return Vec::new() };
            shared.commits.lock().unwrap().push(epoch);
            let all = subtasks(shared, &d.deployment).into_iter();
            return all
                .map(|subtask| WorkerSays::CommitAcked { attempt, epoch, subtask })
                .collect();
        }
        ToWorker::Stop { attempt } => {
            *deployed = None;
            return vec![WorkerSays::Stopped { attempt }];
        }
        _ => {}
    }
    Vec::new()
}

/// A data object as a worker with no state writes it.
fn write_object(shared: &Shared, d: &Deployment, epoch: u64) -> Result<WorkerPart, String> {
    let Some(StoreSettings::Dir { path }) = &d.store else { return Err("no directory".into()) };
    let store = DirStore::create(Path::new(path)).map_err(|e| e.to_string())?;
    let mut object = ObjectBuilder::new(object_name(d.writer));
    let mut file = store.begin(epoch, &object_name(d.writer)).map_err(|e| e.to_string())?;
    file.append(&object.header()).map_err(|e| e.to_string())?;
    file.finish().map_err(|e| e.to_string())?;
    let plan = plan_of(shared, d).plan;
    for task in plan.tasks() {
        for operator in &task.operators {
            for subtask in d.own.range().filter(|&s| s < task.parallelism) {
                let operator = operator.id.get();
                object.subtask_done(tidemill_snapshot::SubtaskId { operator, subtask });
            }
        }
    }
    Ok(object.finish(Vec::new()))
}
