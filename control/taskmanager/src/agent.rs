//! The agent: one task that hears everything and decides; others connect, fetch, run and watch.
//!
//! Invariants
//!   A1  Each connection begins with `Register`, which names the workers that run; nothing else is
//!       said before.
//!   A2  Slots of a worker are free again when its process group is gone, not before. A start that
//!       only waits for workers which are ending waits with them.
//!   A3  A worker's end is told at least once to the JobManager of each connection, whether it happened
//!       while there was none or was told on one that broke.
//!   A4  When the agent ends by itself, its workers have ended before it.

use crate::cache::Cache;
use crate::data_dir::DataDir;
use crate::link::{self, Connector, chance};
use crate::process::Spawner;
use crate::slots::{Slots, allowed_cpus};
use crate::worker::{self, Shared, Stop, Task, WorkerEvent};
use crate::{AgentConfig, AgentError, logs, memory, plan, user};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tidemill_protocol::{
    AgentId, AgentSays, ExitStatus, LogRequest, PlanError, PlanErrorKind, PlanRequest,
    RunningWorker, StartWorker, ToAgent, WorkerId,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

/// What the agent hears.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection stands.
    Up { outbox: mpsc::Sender<AgentSays>, local: IpAddr },
    /// The JobManager said something.
    Message(ToAgent),
    /// The connection is gone.
    Down,
}

const EVENTS: usize = 256;
/// Programs that run for their plans at the same time; further ones wait.
const PLANS_MAX: usize = 4;
/// Ends of workers that are told again after a reconnect (A3); of more, the oldest are forgotten.
const ENDS_MAX: usize = 256;
/// The part of the memory limit that workers get where no setting says how much.
const MEMORY_PERCENT: u64 = 80;
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Until the JobManager says how often it wants to hear.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// For workers whose job is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

/// Serves an agent until `shutdown` resolves; then ends its workers, and returns.
///
/// # Errors
/// Settings that cannot be, and a data directory that cannot be used. A JobManager that is not there
/// is none: it is looked for until it is.
pub async fn run(
    config: AgentConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let (mut agent, mut ended) = Agent::new(config)?;
    let (events, mut heard) = mpsc::channel(EVENTS);
    let (connector, silence) = (agent.connector.clone(), agent.config.limits.jobmanager_timeout);
    let mut link = JoinSet::new();
    link.spawn(async move { link::keep(&connector, &events, silence).await });
    let mut sweep = interval(SWEEP_EVERY);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            Some(event) = heard.recv() => agent.on(event),
            Some(event) = ended.recv() => agent.on_worker(event),
            Some(_) = agent.tasks.join_next() => {}
            Some(_) = agent.requests.join_next() => {}
            _ = agent.heartbeat.tick(), if agent.outbox.is_some() => agent.beat(),
            _ = sweep.tick() => agent.sweep(),
            () = &mut shutdown => break,
        }
    }
    info!("ending {} workers", agent.workers.len());
    agent.waiting.clear();
    agent.stop_all(agent.config.limits.stop_grace);
    while !agent.workers.is_empty() {
        tokio::select! {
            Some(event) = ended.recv() => agent.on_worker(event),
            Some(event) = heard.recv() => if let Event::Down = event { agent.outbox = None },
        }
    }
    // State directories are removed by the tasks.
    agent.requests.abort_all();
    while agent.tasks.join_next().await.is_some() {}
    Ok(())
}

#[derive(Debug)]
struct Worker {
    slots: Vec<u32>,
    pid: Option<u32>,
    ending: bool,
    orders: mpsc::UnboundedSender<Stop>,
}

struct Agent {
    config: AgentConfig,
    id: AgentId,
    host: String,
    memory_bytes: u64,
    connector: Arc<Connector>,
    shared: Arc<Shared>,
    slots: Slots,
    workers: BTreeMap<WorkerId, Worker>,
    /// A2: in the order of their requests.
    waiting: VecDeque<StartWorker>,
    worker_events: mpsc::UnboundedSender<WorkerEvent>,
    /// Workers' tasks: awaited at the end.
    tasks: JoinSet<()>,
    /// Plans and logs: given up at the end.
    requests: JoinSet<()>,
    plans: Arc<Semaphore>,
    /// While connected.
    outbox: Option<mpsc::Sender<AgentSays>>,
    /// This side's address of the last connection.
    local: Option<IpAddr>,
    /// Connections so far.
    connection: u64,
    /// Workers' ends, each with the connection that it was told on last (A3).
    ends: VecDeque<(Option<u64>, AgentSays)>,
    heartbeat: Interval,
}

impl Agent {
    fn new(
        config: AgentConfig,
    ) -> Result<(Self, mpsc::UnboundedReceiver<WorkerEvent>), AgentError> {
        if config.jobmanagers.is_empty() {
            let how = "no JobManager is named: give --jobmanager HOST:PORT, e.g. 127.0.0.1:6123";
            return Err(AgentError::Setting(how.into()));
        }
        if config.slots == 0 {
            return Err(AgentError::Setting("taskmanager.slots is 0: give at least 1".into()));
        }
        let system = |what| move |source| AgentError::System { what, source };
        let user = user::resolve(config.worker_user.as_deref())?;
        let data = DataDir::open(&config.data_dir)?;
        let id = AgentId::from_bytes(chance().map_err(system("no random numbers"))?);
        let connector = Connector::new(config.jobmanagers.clone(), config.secret.clone());
        let connector = Arc::new(connector);
        let limits = &config.limits;
        let cache = Cache::open(
            data.artifacts(),
            limits.cache_bytes,
            limits.artifact_bytes,
            connector.clone(),
        );
        let shared = Shared {
            spawner: Spawner::start().map_err(system("no thread for starting programs"))?,
            cache: cache.map_err(system("the artifacts of the data directory"))?,
            data,
            user,
            secret: config.secret.clone(),
            jobmanagers: config.jobmanagers.clone(),
            bind: config.bind.clone(),
            log_bytes: limits.log_bytes,
        };
        let memory_bytes =
            config.memory_bytes.unwrap_or_else(|| memory::memory_limit() / 100 * MEMORY_PERCENT);
        let host = config.host.clone().unwrap_or_else(host_name);
        let (worker_events, ended) = mpsc::unbounded_channel();
        let agent = Agent {
            id,
            host,
            memory_bytes,
            connector,
            shared: Arc::new(shared),
            slots: Slots::new(config.slots, allowed_cpus(), config.first_cpu),
            workers: BTreeMap::new(),
            waiting: VecDeque::new(),
            worker_events,
            tasks: JoinSet::new(),
            requests: JoinSet::new(),
            plans: Arc::new(Semaphore::new(PLANS_MAX)),
            outbox: None,
            local: None,
            connection: 0,
            ends: VecDeque::new(),
            heartbeat: interval(HEARTBEAT),
            config,
        };
        info!("TaskManager {} with {} slots", agent.id, agent.slots.total());
        Ok((agent, ended))
    }

    fn say(&mut self, message: AgentSays) {
        if matches!(message, AgentSays::Exited { .. }) {
            // Whether the connection takes it to the other side is not known: A3.
            self.ends.push_back((self.outbox.as_ref().map(|_| self.connection), message.clone()));
            if self.ends.len() > ENDS_MAX {
                self.ends.pop_front();
            }
        }
        self.send(message);
    }

    fn send(&mut self, message: AgentSays) {
        let Some(outbox) = &self.outbox else { return };
        if outbox.try_send(message).is_err() {
            // Full: nothing was read on the other side for a thousand messages. The link ends with
            // its outbox, and everything is told anew by the next one's `Register`.
            warn!("the JobManager does not take messages: giving it up");
            self.outbox = None;
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Up { outbox, local } => {
                self.outbox = Some(outbox);
                self.connection += 1;
                self.local = Some(local);
                let register = self.register();
                self.say(register);
            }
            Event::Down => {
                self.outbox = None;
                // Their askers are gone.
                self.requests.abort_all();
            }
            Event::Message(message) => self.on_message(message),
        }
    }

    fn on_message(&mut self, message: ToAgent) {
        match message {
            ToAgent::Registered { heartbeat_ms, keep } => self.on_registered(heartbeat_ms, &keep),
            ToAgent::Plan(request) => self.plan(request),
            ToAgent::Start(start) => self.start(start),
            ToAgent::Stop { worker, grace_ms } => {
                self.stop(&worker, Duration::from_millis(grace_ms));
            }
            ToAgent::Log(request) => self.read_log(request),
            ToAgent::Heartbeat => {}
            ToAgent::Forget { job } => {
                self.ends.retain(|(_, end)| {
                    !matches!(end, AgentSays::Exited { worker, .. } if worker.job == job)
                });
                logs::forget(&self.shared.data.logs(), job.as_str());
            }
        }
    }

    fn register(&self) -> AgentSays {
        let running = |(worker, known): (&WorkerId, &Worker)| {
            let slots = known.slots.len() as u32;
            Some(RunningWorker { worker: worker.clone(), slots, pid: known.pid? })
        };
        AgentSays::Register {
            agent: self.id.clone(),
            host: self.host.clone(),
            address: self.address(),
            slots: self.slots.total(),
            release: env!("CARGO_PKG_VERSION").into(),
            memory_bytes: self.memory_bytes,
            workers: self.workers.iter().filter_map(running).collect(),
        }
    }

    /// Under which other hosts reach this agent's workers.
    fn address(&self) -> String {
        if let Some(address) = &self.config.address {
            return address.clone();
        }
        let unspecified = self.config.bind.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        match self.local {
            Some(local) if unspecified => local.to_string(),
            _ => self.config.bind.clone(),
        }
    }

    fn on_registered(&mut self, heartbeat_ms: u64, keep: &[WorkerId]) {
        self.heartbeat = interval(Duration::from_millis(heartbeat_ms.max(1)));
        self.heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let known = |id: &WorkerId| keep.contains(id);
        self.waiting.retain(|start| known(&start.worker));
        let gone: Vec<WorkerId> = self.workers.keys().filter(|id| !known(id)).cloned().collect();
        for worker in gone {
            info!("{worker} is not known to the JobManager any more: ending it");
            self.stop(&worker, ORPHAN_GRACE);
        }
        let here = Some(self.connection);
        let untold = self.ends.iter_mut().filter(|(told, _)| *told != here);
        let untold: Vec<AgentSays> = untold
            .map(|(told, end)| {
                *told = here;
                end.clone()
            })
            .collect();
        untold.into_iter().for_each(|end| self.send(end));
    }

    fn beat(&mut self) {
        let pids = self.workers.values().filter_map(|w| w.pid).chain([std::process::id()]);
        let memory_bytes = memory::resident(pids);
        self.say(AgentSays::Heartbeat { memory_bytes });
    }

    fn plan(&mut self, request: PlanRequest) {
        let Some(outbox) = self.outbox.clone() else { return };
        let (shared, plans) = (self.shared.clone(), self.plans.clone());
        self.requests.spawn(async move {
            let Ok(_turn) = plans.acquire().await else { return };
            let result = match shared.cache.get(&request.artifact).await {
                Err(message) => Err(PlanError { kind: PlanErrorKind::Agent, message }),
                Ok(lease) => plan::run(&shared.spawner, lease.path(), shared.user, &request).await,
            };
            let _ = outbox.send(AgentSays::Planned { request: request.request, result }).await;
        });
    }

    fn read_log(&mut self, request: LogRequest) {
        let Some(outbox) = self.outbox.clone() else { return };
        let logs = self.shared.data.logs();
        self.requests.spawn(async move {
            let LogRequest { request, job, bytes } = request;
            let read = move || logs::read_end(&logs, job.as_str(), bytes.min(LOG_BYTES_MAX));
            let result = tokio::task::spawn_blocking(read).await;
            let result = result.unwrap_or_else(|e| Err(e.to_string()));
            let _ = outbox.send(AgentSays::Log { request, result }).await;
        });
    }

    /// Starts a worker, or puts it behind those that are ending.
    fn start(&mut self, start: StartWorker) {
        let id = &start.worker;
        if let Some(known) = self.workers.get(id) {
            // Asked twice: told twice.
            if let Some(pid) = known.pid {
                self.say(AgentSays::Started { worker: id.clone(), pid });
            }
            return;
        }
        if self.waiting.iter().any(|waits| waits.worker == *id) {
            return;
        }
        let ending = self.workers.values().filter(|w| w.ending).map(|w| w.slots.len() as u32);
        let queued: u32 = self.waiting.iter().map(|w| w.slots).sum();
        let room = (self.slots.free() + ending.sum::<u32>()).saturating_sub(queued);
        if start.slots == 0 || start.slots > room {
            let why = format!(
                "it wants {} slots, {room} of this TaskManager's {} are free",
                start.slots,
                self.slots.total()
            );
            let (worker, status) = (id.clone(), ExitStatus::NotStarted(why));
            return self.say(AgentSays::Exited { worker, status, last_words: String::new() });
        }
        self.waiting.push_back(start);
        self.start_waiting();
    }

    fn start_waiting(&mut self) {
        while let Some(start) = self.waiting.pop_front() {
            let Some(slots) = self.slots.take(start.slots) else {
                self.waiting.push_front(start);
                return;
            };
            let worker = start.worker.clone();
            let task = Task {
                cpus: self.slots.cpus_of(&slots),
                memory_bytes: self.memory_bytes / u64::from(self.slots.total())
                    * u64::from(start.slots),
                address: self.address(),
                start,
            };
            let (orders, heard) = mpsc::unbounded_channel();
            let run = worker::run(self.shared.clone(), task, heard, self.worker_events.clone());
            self.tasks.spawn(run);
            self.workers.insert(worker, Worker { slots, pid: None, ending: false, orders });
        }
    }

    fn stop(&mut self, id: &WorkerId, grace: Duration) {
        if let Some(at) = self.waiting.iter().position(|start| start.worker == *id) {
            self.waiting.remove(at);
            let status = ExitStatus::NotStarted("stopped before there were slots".into());
            let worker = id.clone();
            return self.say(AgentSays::Exited { worker, status, last_words: String::new() });
        }
        match self.workers.get_mut(id) {
            Some(worker) => {
                worker.ending = true;
                // A task that does not hear has ended, and its event is on the way.
                let _ = worker.orders.send(Stop { grace });
            }
            None => debug!("{id} is to be stopped and does not run here"),
        }
    }

    fn stop_all(&mut self, grace: Duration) {
        let all: Vec<WorkerId> = self.workers.keys().cloned().collect();
        all.iter().for_each(|id| self.stop(id, grace));
    }

    fn on_worker(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Started { worker, pid } => {
                if let Some(known) = self.workers.get_mut(&worker) {
                    known.pid = Some(pid);
                }
                self.say(AgentSays::Started { worker, pid });
            }
            WorkerEvent::Exited { worker, status, last_words } => {
                if let Some(gone) = self.workers.remove(&worker) {
                    self.slots.give_back(&gone.slots);
                }
                self.say(AgentSays::Exited { worker, status, last_words });
                self.start_waiting();
            }
        }
    }

    fn sweep(&self) {
        let retention = self.config.limits.log_retention;
        let runs = |job: &str| self.workers.keys().any(|id| id.job.as_str() == job);
        #[expect(clippy::disallowed_methods, reason = "files carry the time of the system")]
        let now = std::time::SystemTime::now();
        if let Err(e) = logs::sweep(&self.shared.data.logs(), now, retention, runs) {
            warn!("old logs cannot be removed: {e}");
        }
    }
}

/// The most that a log's answer carries.
const LOG_BYTES_MAX: u64 = 8 << 20;

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
