//! A cluster that does what a master asks for, with faults, and looks whether it asks for the right
//! things.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_coordination::{
    Assigned, CheckpointFact, Effect, JobSettings, JobStatus, LeftBehind, Master, MasterEvent,
    MasterSettings, Pool, RestartStrategy, Submission,
};
use tidemill_plan::{Edge, LogicalGraph, OperatorKind, OperatorSpec, SubtaskId};
use tidemill_protocol::{
    AgentId, Attempt, Deployment, JobId, RunningAttempt, StoreSettings, ToWorker, WorkerId,
    WorkerSays,
};
use tidemill_snapshot::{ObjectInfo, WorkerPart};

const AGENTS: u8 = 3;
const SLOTS: u32 = 2;
const PARALLELISM: u32 = 4;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug)]
enum Happening {
    /// To the master, unless the JobManager that it is meant for is gone.
    Master {
        incarnation: u32,
        event: Box<MasterEvent>,
    },
    /// From a worker, over one of its connections.
    Report {
        worker: u32,
        connection: u32,
        says: Box<WorkerSays>,
    },
    /// To a worker, over one of its connections.
    Order {
        worker: u32,
        connection: u32,
        message: Box<ToWorker>,
        incarnation: u32,
    },
    Connect {
        worker: u32,
    },
    StopProcess {
        worker: u32,
    },
    JobManagerBack,
    AgentBack {
        agent: u8,
    },
    Fault,
}

#[derive(Default)]
struct Process {
    agent: u8,
    connection: u32,
    connected: bool,
    running: Option<RunningAttempt>,
    subtasks: Vec<SubtaskId>,
}

pub(crate) struct World {
    rng: Rng,
    talk: bool,
    now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    master: Option<Master>,
    incarnation: u32,
    pool: Pool,
    processes: BTreeMap<u32, Process>,
    wake: Option<u64>,
    faults: bool,
    /// What the metadata store holds: complete epochs, the last attempt.
    pub(crate) rows: Vec<u64>,
    attempt: (Attempt, Vec<Assigned>),
    /// The highest epoch in its history.
    recorded: u64,
    /// What has been seen: epochs by the trigger that workers got, attempts.
    triggers: BTreeMap<u64, (u32, Attempt)>,
    deployed: BTreeMap<Attempt, BTreeMap<u32, Deployment>>,
    pub(crate) restarts: usize,
    pub(crate) adoptions: usize,
    last_completed_at: u64,
}

fn agent(n: u8) -> AgentId {
    AgentId::from_bytes([n; 16])
}

fn submission() -> Submission {
    let mut graph = LogicalGraph::new("life").with_parallelism(PARALLELISM);
    let source = graph.add_operator(OperatorSpec::new("in", OperatorKind::Source).stateful());
    let sink = graph.add_operator(OperatorSpec::new("out", OperatorKind::Sink).stateful());
    graph.connect(Edge::hash(source, sink));
    let settings = JobSettings {
        checkpoint_interval_ms: Some(500),
        aligned_timeout_ms: Some(100),
        restart: RestartStrategy::default(),
        state: None,
    };
    let stores = vec!["dir".into()];
    Submission { stores, protocol: 1, version: "0".into(), settings, plan: graph.plan().unwrap() }
}

fn settings(incarnation: u32) -> MasterSettings {
    MasterSettings {
        first_worker: incarnation * 1_000,
        checkpoint_timeout_ms: 3_000,
        tolerated_failures: None,
        attach_timeout_ms: 2_000,
        deploy_timeout_ms: 5_000,
        stop_timeout_ms: 1_000,
        ..MasterSettings::new(StoreSettings::Dir { path: "/chk".into() })
    }
}

impl World {
    pub(crate) fn new(seed: u64, talk: bool) -> Self {
        let mut pool = Pool::default();
        (0..AGENTS).for_each(|n| pool.register(agent(n), SLOTS, []));
        let mut world = World {
            rng: Rng(seed),
            talk,
            now: 1,
            sequence: 0,
            queue: BTreeMap::new(),
            master: Some(Master::new(settings(0), submission(), 1, None)),
            incarnation: 0,
            pool,
            processes: BTreeMap::new(),
            wake: Some(1),
            faults: true,
            rows: Vec::new(),
            attempt: (0, Vec::new()),
            recorded: 0,
            triggers: BTreeMap::new(),
            deployed: BTreeMap::new(),
            restarts: 0,
            adoptions: 0,
            last_completed_at: 0,
        };
        let first = world.rng.below(3_000_000);
        world.later(first, Happening::Fault);
        world
    }

    fn later(&mut self, us: u64, what: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + us, self.sequence), what);
    }

    fn delay(&mut self) -> u64 {
        if self.rng.one_in(20) { self.rng.below(400_000) } else { 100 + self.rng.below(5_000) }
    }

    fn say(&self, what: &dyn std::fmt::Debug) {
        if self.talk {
            eprintln!("{:>10} {what:?}", self.now);
        }
    }

    /// Runs for so many microseconds of virtual time.
    pub(crate) fn run(&mut self, us: u64, faults: bool) {
        self.faults = faults;
        let end = self.now + us;
        loop {
            let next = self.queue.first_key_value().map(|(&(at, _), _)| at);
            let wake = self.wake.filter(|_| self.master.is_some());
            let Some(at) = [next, wake].into_iter().flatten().min().filter(|&at| at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            if wake.is_some_and(|w| w <= at) {
                self.wake = None;
                self.tell(MasterEvent::Tick);
            } else if let Some((_, what)) = self.queue.pop_first() {
                self.happen(what);
            }
        }
        self.now = end;
    }

    fn happen(&mut self, what: Happening) {
        self.say(&what);
        match what {
            Happening::Master { incarnation, event } => {
                if incarnation == self.incarnation {
                    self.stored_if(&event);
                    self.tell(*event);
                }
            }
            Happening::Report { worker, connection, says } => {
                let live = self.processes.get(&worker).is_some_and(|p| p.connection == connection);
                if live {
                    self.tell(MasterEvent::Said { worker, says: *says });
                }
            }
            Happening::Order { worker, connection, message, incarnation } => {
                let live = |p: &Process| p.connected && p.connection == connection;
                if self.processes.get(&worker).is_some_and(live) {
                    self.obey(worker, *message, incarnation);
                }
            }
            Happening::Connect { worker } => self.connect(worker),
            Happening::StopProcess { worker } => self.end_process(worker),
            Happening::JobManagerBack => self.job_manager_back(),
            Happening::AgentBack { agent: n } => self.pool.register(agent(n), SLOTS, []),
            Happening::Fault => self.fault(),
        }
    }

    /// A row in the metadata store is what makes an epoch complete.
    fn stored_if(&mut self, event: &MasterEvent) {
        if let MasterEvent::ManifestStored { epoch } = *event {
            assert!(self.rows.iter().all(|&e| e < epoch), "epoch {epoch} after {:?}", self.rows);
            self.rows.push(epoch);
            self.recorded = self.recorded.max(epoch);
            self.last_completed_at = self.now;
        }
    }

    fn tell(&mut self, event: MasterEvent) {
        let Some(master) = &mut self.master else { return };
        let mut effects = Vec::new();
        let before = master.status();
        master.on(self.now, event, &mut effects);
        if before == JobStatus::Restarting && master.status() == JobStatus::Running {
            let same = effects.iter().all(|e| !matches!(e, Effect::AttemptStarted { .. }));
            self.adoptions += usize::from(same && self.incarnation > 0);
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        self.say(&effect);
        let incarnation = self.incarnation;
        match effect {
            Effect::Acquire { slots } => {
                let answer = match self.pool.find(slots) {
                    Ok(grants) => MasterEvent::SlotsGranted(grants),
                    Err(_) => MasterEvent::SlotsDenied,
                };
                self.later(0, Happening::Master { incarnation, event: Box::new(answer) });
            }
            Effect::StartWorker { worker, agent: on, slots, .. } => {
                let id = WorkerId { job: JobId::from_bytes([0; 16]), number: worker };
                assert!(!self.processes.contains_key(&worker), "worker {worker} twice");
                if !self.pool.take(&on, id, slots) {
                    let event = MasterEvent::WorkerLost { worker, reason: "no slots".into() };
                    return self
                        .later(0, Happening::Master { incarnation, event: Box::new(event) });
                }
                let n = (0..AGENTS).find(|&n| agent(n) == on).unwrap();
                self.processes.insert(worker, Process { agent: n, ..Process::default() });
                let delay = self.delay() + 20_000;
                if !self.faults || !self.rng.one_in(30) {
                    self.later(delay, Happening::Connect { worker });
                }
            }
            Effect::StopWorker { worker } => {
                let delay = self.delay();
                self.later(delay, Happening::StopProcess { worker });
            }
            Effect::Send { worker, message } => {
                let Some(process) = self.processes.get(&worker) else { return };
                let connection = process.connection;
                let message = Box::new(message);
                self.in_order(
                    worker,
                    Happening::Order { worker, connection, message, incarnation },
                );
            }
            Effect::StoreManifest { manifest } => {
                let epoch = manifest.epoch;
                let event = if self.faults && self.rng.one_in(10) {
                    MasterEvent::ManifestFailed { epoch, reason: "disk".into() }
                } else {
                    MasterEvent::ManifestStored { epoch }
                };
                let delay = self.delay();
                self.later(delay, Happening::Master { incarnation, event: Box::new(event) });
            }
            Effect::AttemptStarted { attempt, workers, restored } => {
                assert!(attempt >= self.attempt.0, "attempt {attempt} after {}", self.attempt.0);
                assert!(!self.deployed.contains_key(&attempt), "attempt {attempt} twice");
                self.deployed.insert(attempt, BTreeMap::new());
                assert_eq!(workers.iter().map(|w| w.slots).sum::<u32>(), PARALLELISM, "M2");
                assert_eq!(restored.map(|r| r.epoch), self.rows.last().copied(), "M5");
                self.attempt = (attempt, workers);
            }
            Effect::Checkpoint(CheckpointFact::Triggered { epoch, .. }) => {
                self.recorded = self.recorded.max(epoch);
            }
            Effect::AttemptFailed { .. } => self.restarts += 1,
            Effect::Done { outcome } => panic!("the job ended: {outcome:?}"),
            Effect::WakeAt(at) => self.wake = Some(at),
            _ => {}
        }
    }

    /// Messages of one direction of a connection stay in order.
    fn in_order(&mut self, worker: u32, what: Happening) {
        let order = matches!(what, Happening::Order { .. });
        let same = |h: &Happening| match h {
            Happening::Order { worker: w, .. } => order && *w == worker,
            Happening::Report { worker: w, .. } => !order && *w == worker,
            _ => false,
        };
        let last = self.queue.iter().filter(|(_, h)| same(h)).map(|(&(at, _), _)| at).max();
        let delay = self.delay();
        let after = last.map_or(0, |at| at.saturating_sub(self.now));
        self.later(delay.max(after), what);
    }

    fn report(&mut self, worker: u32, says: WorkerSays) {
        let Some(process) = self.processes.get(&worker) else { return };
        if process.connected {
            let connection = process.connection;
            self.in_order(worker, Happening::Report { worker, connection, says: Box::new(says) });
        }
    }

    fn connect(&mut self, worker: u32) {
        let up = self.master.is_some();
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if !up {
            return self.later(50_000, Happening::Connect { worker });
        }
        process.connection += 1;
        process.connected = true;
        let running = process.running.clone();
        let address = format!("host:{worker}");
        self.tell(MasterEvent::WorkerAttached { worker, address, running });
    }

    fn obey(&mut self, worker: u32, message: ToWorker, incarnation: u32) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        let running = process.running.as_ref().map(|r| r.attempt);
        match message {
            ToWorker::Attached { go_on, .. } => {
                if let Some(attempt) = running.filter(|_| !go_on) {
                    process.running = None;
                    self.report(worker, WorkerSays::Stopped { attempt });
                }
            }
            ToWorker::Deploy(d) => self.deploy(worker, *d),
            ToWorker::Stop { attempt } => {
                process.running.take_if(|r| r.attempt == attempt);
                self.report(worker, WorkerSays::Stopped { attempt });
            }
            ToWorker::Trigger { attempt, epoch, .. } if running == Some(attempt) => {
                let of = *self.triggers.entry(epoch).or_insert((incarnation, attempt));
                assert_eq!(of, (incarnation, attempt), "M4: epoch {epoch} twice");
                let process = self.processes.get_mut(&worker).unwrap();
                if let Some(r) = &mut process.running {
                    r.last_epoch = epoch;
                }
                for subtask in process.subtasks.clone() {
                    self.report(worker, WorkerSays::Acked { attempt, epoch, subtask });
                }
            }
            ToWorker::Finish { attempt, epoch } if running == Some(attempt) => {
                if self.faults && self.rng.one_in(20) {
                    let reason = "full".into();
                    self.report(worker, WorkerSays::WriteFailed { attempt, epoch, reason });
                    return;
                }
                let name = format!("worker-{worker}.data");
                let object = ObjectInfo { name, bytes: 0, crc32: 0, chunks: 0 };
                let part =
                    Box::new(WorkerPart { object, subtasks: Vec::new(), shared: Vec::new() });
                self.report(worker, WorkerSays::Written { attempt, epoch, part });
            }
            ToWorker::Commit { attempt, epoch } if running == Some(attempt) => {
                assert!(self.rows.contains(&epoch), "epoch {epoch} is committed but not complete");
                for subtask in process.subtasks.clone() {
                    self.report(worker, WorkerSays::CommitAcked { attempt, epoch, subtask });
                }
            }
            ToWorker::Shutdown => self.end_process(worker),
            _ => {}
        }
    }

    fn deploy(&mut self, worker: u32, d: Deployment) {
        let attempt = d.attempt;
        assert!(self.triggers.values().all(|t| t.1 <= attempt), "an old deployment");
        let all = self.deployed.entry(attempt).or_default();
        let mine: BTreeSet<u32> = d.own.range().collect();
        for (other, theirs) in all.iter().filter(|(o, _)| **o != worker) {
            assert!(
                theirs.own.range().all(|s| !mine.contains(&s)),
                "slots of {other} and {worker}"
            );
        }
        all.insert(worker, d.clone());
        let process = self.processes.get_mut(&worker).unwrap();
        assert!(process.running.is_none(), "M1: worker {worker} runs {:?}", process.running);
        process.running = Some(RunningAttempt {
            attempt,
            ready: true,
            states: Vec::new(),
            finished: Vec::new(),
            last_epoch: 0,
            failure: None,
        });
        let task = |t: u32| mine.iter().map(move |&s| SubtaskId::new(t, s));
        process.subtasks = task(0).chain(task(1)).collect();
        self.report(worker, WorkerSays::Ready { attempt, states: Vec::new() });
    }

    fn end_process(&mut self, worker: u32) {
        let id = WorkerId { job: JobId::from_bytes([0; 16]), number: worker };
        self.pool.release(&id);
        if self.processes.remove(&worker).is_some() {
            self.tell(MasterEvent::WorkerLost { worker, reason: "it ended".into() });
        }
    }

    fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let next = 100_000 + self.rng.below(2_500_000);
        self.later(next, Happening::Fault);
        let workers: Vec<u32> = self.processes.keys().copied().collect();
        let pick = |rng: &mut Rng| {
            (!workers.is_empty()).then(|| workers[rng.below(workers.len() as u64) as usize])
        };
        match self.rng.below(8) {
            0 | 1 => {
                if let Some(worker) = pick(&mut self.rng) {
                    self.end_process(worker);
                }
            }
            2 | 3 => {
                if let Some(worker) = pick(&mut self.rng) {
                    self.disconnect(worker);
                    let delay = self.delay();
                    self.later(delay, Happening::Connect { worker });
                }
            }
            4 => {
                let n = self.rng.below(u64::from(AGENTS)) as u8;
                self.pool.lose(&agent(n));
                for worker in
                    workers.into_iter().filter(|w| self.processes[w].agent == n).collect::<Vec<_>>()
                {
                    self.end_process(worker);
                }
                let delay = self.rng.below(1_000_000);
                self.later(delay, Happening::AgentBack { agent: n });
            }
            _ => self.crash_job_manager(),
        }
    }

    fn disconnect(&mut self, worker: u32) {
        if let Some(process) = self.processes.get_mut(&worker) {
            process.connected = false;
            process.connection += 1;
        }
    }

    fn crash_job_manager(&mut self) {
        if self.master.take().is_none() {
            return;
        }
        self.incarnation += 1;
        for worker in self.processes.keys().copied().collect::<Vec<_>>() {
            self.disconnect(worker);
            let delay = self.delay();
            self.later(delay, Happening::Connect { worker });
        }
        let away = 10_000 + self.rng.below(1_500_000);
        self.later(away, Happening::JobManagerBack);
    }

    fn job_manager_back(&mut self) {
        if self.master.is_some() {
            return;
        }
        let (attempt, workers) = self.attempt.clone();
        let keep = self.rows.len().saturating_sub(3);
        let left = LeftBehind {
            attempt,
            workers: workers.clone(),
            completed: self.rows[keep..].to_vec(),
            first_epoch: self.recorded + 1,
            initial: None,
        };
        let deadline = self.now + 2_000_000;
        self.master = Some(Master::adopt(settings(self.incarnation), submission(), left, deadline));
        // Processes that nobody knows are ended by their agents.
        let known: BTreeSet<u32> = workers.iter().map(|w| w.worker).collect();
        for worker in
            self.processes.keys().copied().filter(|w| !known.contains(w)).collect::<Vec<_>>()
        {
            self.end_process(worker);
        }
        self.tell(MasterEvent::Tick);
    }

    /// After the faults the job runs and completes checkpoints.
    pub(crate) fn check_progress(&self) {
        let master = self.master.as_ref().unwrap();
        assert_eq!(master.status(), JobStatus::Running);
        let quiet = self.now - self.last_completed_at;
        assert!(quiet < 3_000_000, "no checkpoint for {quiet} us");
        assert_eq!(self.pool.free(), u32::from(AGENTS) * SLOTS - PARALLELISM, "leaked slots");
        assert_eq!(self.processes.len(), master.workers().len(), "leaked processes");
    }
}
