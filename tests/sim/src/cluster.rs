//! A cluster in one thread: production masters, pools, failure detectors and coordinators decide for jobs
//! whose tasks are the production ones, on a virtual clock, with everything between them late, lost or
//! told twice, and JobManagers that lead without knowing that they do not any more.
//!
//! ```text
//!   users --ask--> JobManagers --rows, by term--> metadata
//!                   |       ^
//!            orders |       | reports           connections break, hosts are cut off, processes are
//!                   v       |                   killed or stand still
//!                  agents, workers --tasks--> ledger, checkpoints
//! ```
//! Checked while it runs
//!   V1  The manifest of an epoch whose row is written is there and whole, and no two attempts write one
//!       (M4); sinks commit only epochs with a row.
//!   V2  An attempt's number is deployed by one JobManager, once, on slots that fit together (M1, M2),
//!       from the newest complete checkpoint (M5).
//!   V3  A savepoint is answered once, and `done` means that it is there (M7).
//!   V4  What sinks committed in the end is what the oracle computes, over jobs that were stopped and
//!       started again from their savepoints, too; of a cancelled job, nothing that it does not compute.
//!   V5  After the last fault jobs finish in time; then no slot is taken and no process left.
//!
//! Not here: the service's own threads and stores (control/jobmanager has its tests).

mod checks;
mod deployed;
mod faults;
mod hosts;
mod manager;
mod metadata;
mod network;
mod outside;
pub mod scenario;
mod wire;

use crate::jobs::{Kind, oracle, settled};
use crate::ledger::Ledger;
use crate::rng::Rng;
use crate::scenario::Scenario;
use hosts::{Host, Process};
use manager::{Manager, Out, Written};
use metadata::{Metadata, Record};
use network::{Connection, End, Far};
pub use scenario::ClusterScenario;
use std::collections::{BTreeMap, BTreeSet};
use tidemill_base::clock::ManualClock;
use tidemill_base::{Clock, Micros};
use tidemill_coordination::{Outcome, SavepointId};
use tidemill_protocol::{Attempt, Deployment, RestoreFrom};
use tidemill_snapshot::MemoryStore;
use wire::{AgentSays, ConnectionId, ManagerKey, Message, WorkerKey};

/// Iterations of a run after which it is taken for stuck.
const ITERATIONS_MAX: u64 = 4_000_000;

/// After the last fault the jobs are done within this time.
const PATIENCE_US: Micros = 400_000_000;

/// What a run did, for statistics and to compare runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash over everything that happened, in order.
    pub trace: u64,
    /// Iterations of the scheduler.
    pub iterations: u64,
    /// Things that went wrong on purpose.
    pub faults: u64,
    /// Attempts that were deployed.
    pub attempts: u64,
    /// Attempts that went on under another JobManager.
    pub adopted: u64,
    /// Rows of complete checkpoints.
    pub checkpoints: u64,
    /// Savepoints that were taken.
    pub savepoints: u64,
    /// Jobs that were moved to another parallelism.
    pub rescaled: u64,
    /// Jobs that users ended, and started again.
    pub restarted: u64,
    /// Terms of leadership.
    pub terms: u64,
    /// Writes of leaders that were none any more.
    pub fenced: u64,
    /// Orders that a leader gave after another one had been elected.
    pub stale_orders: u64,
    /// Rows committed by sinks.
    pub rows: u64,
}

impl Report {
    /// Adds another run's.
    pub fn add(&mut self, other: &Report) {
        self.iterations += other.iterations;
        self.faults += other.faults;
        self.attempts += other.attempts;
        self.adopted += other.adopted;
        self.checkpoints += other.checkpoints;
        self.savepoints += other.savepoints;
        self.rescaled += other.rescaled;
        self.restarted += other.restarted;
        self.terms += other.terms;
        self.fenced += other.fenced;
        self.stale_orders += other.stale_orders;
        self.rows += other.rows;
    }
}

/// What happens at some time.
#[derive(Clone, Debug)]
enum Happening {
    Deliver {
        connection: ConnectionId,
        to: End,
        message: Message,
    },
    Down {
        connection: ConnectionId,
        to: End,
    },
    Beat {
        connection: ConnectionId,
    },
    Dial {
        far: Far,
    },
    EndProcess {
        worker: WorkerKey,
    },
    AgentBack {
        host: usize,
    },
    ManagerBack {
        at: usize,
    },
    Campaign {
        manager: ManagerKey,
    },
    Elected {
        manager: ManagerKey,
        term: Option<u64>,
    },
    Loaded {
        manager: ManagerKey,
        term: u64,
        records: BTreeMap<usize, Record>,
    },
    Look {
        manager: ManagerKey,
    },
    Write {
        manager: ManagerKey,
        term: u64,
    },
    Wrote {
        manager: ManagerKey,
        term: u64,
        how: Written,
    },
    Manifest {
        manager: ManagerKey,
        of: (u64, usize, u64),
        result: Result<(), String>,
    },
    Retained {
        manager: ManagerKey,
        term: u64,
        job: usize,
        deleted: Vec<u64>,
    },
    Store {
        manager: ManagerKey,
        term: u64,
        work: Box<outside::Work>,
    },
    Fault,
    Ask,
    /// Whoever wants a job to run looks whether it does.
    Want {
        family: usize,
    },
}

/// A JobManager's process.
struct Seat {
    up: Option<Manager>,
    life: u32,
    stopped_until: Micros,
    metadata_away_until: Micros,
}

/// What somebody wants to be computed, by one job after the other.
struct Family<'a> {
    scenario: &'a Scenario,
    ledger: Ledger,
    /// The job that was submitted last, and by which JobManager's term it was taken in.
    last: Option<usize>,
    parallelism: u32,
    /// Nothing more is wanted: all was computed, or users cancelled it.
    done: bool,
    /// All was computed.
    whole: bool,
}

/// A job.
struct Submitted {
    family: usize,
    store: MemoryStore,
    /// Who took it in.
    by: (ManagerKey, u64),
    initial: Option<RestoreFrom>,
    outcome: Option<Result<Outcome, String>>,
}

struct World<'a> {
    scenario: &'a ClusterScenario,
    rng: Rng,
    clock: ManualClock,
    queue: BTreeMap<(Micros, u64), Happening>,
    sequence: u64,
    metadata: Metadata,
    managers: Vec<Seat>,
    hosts: Vec<Host>,
    processes: BTreeMap<WorkerKey, Process>,
    /// Workers that were ever started.
    ever: BTreeSet<WorkerKey>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    /// Until when nothing gets through between a host and a JobManager.
    parted: BTreeMap<(usize, usize), Micros>,
    families: Vec<Family<'a>>,
    submitted: Vec<Submitted>,
    next_savepoint: SavepointId,
    /// Asked of whom, and how often answered.
    asked: BTreeMap<SavepointId, (ManagerKey, u64, u32)>,
    deployments: BTreeMap<(usize, Attempt), BTreeMap<u32, Deployment>>,
    deployers: BTreeMap<(usize, Attempt), ManagerKey>,
    triggers: BTreeMap<(usize, u64), (ManagerKey, Attempt)>,
    /// Whose order is being obeyed.
    orderer: Option<ManagerKey>,
    report: Report,
    violations: Vec<String>,
    /// What happened last, for people.
    story: std::collections::VecDeque<String>,
    talk: bool,
}

/// Plays a scenario to its end. `talk`: says everything that happens.
///
/// # Errors
/// What went wrong.
pub fn run(scenario: &ClusterScenario, talk: bool) -> Result<Report, String> {
    let families = scenario.jobs.iter().map(|scenario| Family {
        scenario,
        ledger: Ledger::with_rows(),
        last: None,
        parallelism: scenario.lives[0].parallelism,
        done: false,
        whole: false,
    });
    let seat = || Seat { up: None, life: 0, stopped_until: 0, metadata_away_until: 0 };
    let mut world = World {
        scenario,
        rng: Rng::new(scenario.seed ^ 0x63_6c75),
        clock: ManualClock::new(),
        queue: BTreeMap::new(),
        sequence: 0,
        metadata: Metadata::default(),
        managers: (0..scenario.managers).map(|_| seat()).collect(),
        hosts: scenario.agents.iter().map(|&slots| Host::new(slots)).collect(),
        processes: BTreeMap::new(),
        ever: BTreeSet::new(),
        connections: BTreeMap::new(),
        next_connection: 1,
        parted: BTreeMap::new(),
        families: families.collect(),
        submitted: Vec::new(),
        next_savepoint: 1,
        asked: BTreeMap::new(),
        deployments: BTreeMap::new(),
        deployers: BTreeMap::new(),
        triggers: BTreeMap::new(),
        orderer: None,
        report: Report::default(),
        violations: Vec::new(),
        story: Default::default(),
        talk,
    };
    world.clock.advance(1);
    world.begin();
    let played = world.play().and_then(|()| world.compare());
    world.report.terms = world.metadata.term;
    match played {
        Ok(()) => Ok(world.report),
        Err(e) => {
            let story: Vec<String> = world.story.into_iter().collect();
            Err(format!("{e}\nbefore that:\n  {}", story.join("\n  ")))
        }
    }
}

impl World<'_> {
    fn begin(&mut self) {
        for at in 0..self.managers.len() {
            self.manager_back(at);
        }
        for host in 0..self.hosts.len() {
            let pause = self.rng.below(600_000);
            self.later(pause, Happening::Dial { far: Far::Agent(host, 0) });
        }
        for family in 0..self.families.len() {
            let pause = self.rng.below(1_500_000);
            self.later(pause, Happening::Want { family });
        }
        let first = self.rng.below(self.scenario.fault_us) + 300_000;
        self.later(first, Happening::Fault);
        if let Some(us) = self.scenario.ask_us {
            let first = self.rng.below(us) + 300_000;
            self.later(first, Happening::Ask);
        }
    }

    fn at(&mut self, at: Micros, what: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), what);
    }

    fn later(&mut self, us: Micros, what: Happening) {
        self.at(self.clock.now() + us, what);
    }

    fn log(&mut self, what: impl FnOnce() -> String) {
        let text = format!("{:>12} {}", self.clock.now(), what());
        if self.talk {
            eprintln!("{text}");
        }
        self.story.push_back(text);
        if self.story.len() > 60 {
            self.story.pop_front();
        }
    }

    fn note(&mut self, what: u64) {
        self.report.trace = tidemill_base::hash::hash_u64(self.report.trace.wrapping_add(what));
    }

    fn play(&mut self) -> Result<(), String> {
        let mut idle = 0;
        for iteration in 1.. {
            self.report.iterations = iteration;
            if let Some(violation) = self.first_violation() {
                return Err(violation);
            }
            if self.is_over() {
                return Ok(());
            }
            let late = self.clock.now() > self.scenario.quiet_at + PATIENCE_US;
            if iteration > ITERATIONS_MAX || late {
                return Err(format!("not done after {iteration} iterations\n{}", self.picture()));
            }
            let step_us = self.families[0].scenario.step_us;
            self.clock.advance(self.rng.below(step_us + 1));
            let choice = self.rng.below(100);
            self.note(choice);
            let did = if choice < 30 && self.happen_if_due() { true } else { self.step() };
            idle = if did { 0 } else { idle + 1 };
            if idle > 20 {
                idle = 0;
                self.settle();
            }
        }
        Ok(())
    }

    fn happen_if_due(&mut self) -> bool {
        let now = self.clock.now();
        match self.queue.first_entry() {
            Some(first) if first.key().0 <= now => {
                let what = first.remove();
                self.happen(what);
                true
            }
            _ => false,
        }
    }

    /// Something happens in some worker; true if it did.
    fn step(&mut self) -> bool {
        let now = self.clock.now();
        let runs = |p: &Process| p.stopped_until <= now && p.deployed.is_some();
        let keys: Vec<WorkerKey> =
            self.processes.iter().filter(|(_, p)| runs(p)).map(|(&key, _)| key).collect();
        if keys.is_empty() {
            return false;
        }
        let key = self.rng.pick(&keys);
        let clock = self.clock.clone();
        let Some(deployed) = self.processes.get_mut(&key).and_then(|p| p.deployed.as_mut()) else {
            return false;
        };
        let did = deployed.step(&mut self.rng, &clock);
        self.after_step(key, did).unwrap_or(true)
    }

    /// Does everything that can be done, and where that is nothing moves the time to what is next.
    fn settle(&mut self) {
        let clock = self.clock.clone();
        let now = clock.now();
        let (mut worked, mut next) = (self.happen_if_due(), Vec::new());
        for key in self.processes.keys().copied().collect::<Vec<_>>() {
            let Some(p) = self.processes.get_mut(&key) else { continue };
            if p.stopped_until > now {
                next.push(p.stopped_until);
                continue;
            }
            let Some(deployed) = &mut p.deployed else { continue };
            let (attempt, waits) = (deployed.attempt(), deployed.is_waiting());
            if deployed.gives_up_at().is_some_and(|at| now >= at) {
                let e = tidemill_base::Error::attempt("not all peers came");
                let failure = tidemill_protocol::TaskFailure {
                    message: e.to_string(),
                    task: None,
                    fatal: false,
                    damaged_epoch: None,
                };
                self.after_step::<()>(key, Err(failure));
                worked = true;
                continue;
            }
            next.extend(deployed.gives_up_at());
            let did = deployed.settle(&clock);
            match self.after_step(key, did) {
                Some((did, until)) => {
                    worked |= did;
                    next.extend(until);
                }
                None => worked = true,
            }
            if waits {
                self.meet(key.0, attempt);
            }
        }
        if worked {
            return;
        }
        next.extend(self.queue.first_key_value().map(|(key, _)| key.0));
        if let Some(at) = next.into_iter().min() {
            self.clock.advance(at.saturating_sub(now));
        }
    }

    fn happen(&mut self, what: Happening) {
        if let Happening::Deliver { connection, to, .. } | Happening::Down { connection, to } = what
        {
            let far = self.connections.get(&connection).map(|c| (c.manager, c.far));
            if self.arrived(connection, to, &what)
                && let Some((manager, far)) = far
            {
                self.deliver(connection, to, manager, far, what);
            }
            return;
        }
        match what {
            Happening::Deliver { .. } | Happening::Down { .. } => {}
            Happening::Beat { connection } => self.beat(connection),
            Happening::Dial { far } => self.dial(far),
            Happening::EndProcess { worker } => {
                self.log(|| format!("{worker:?} is ended"));
                self.end_process(worker);
            }
            Happening::AgentBack { host } => self.agent_back(host),
            Happening::ManagerBack { at } => self.manager_back(at),
            Happening::Fault => self.fault(),
            Happening::Ask => self.ask(),
            Happening::Want { family } => self.want(family),
            Happening::Store { manager, term, work } => self.do_store(manager, term, *work),
            Happening::Write { manager, term } => self.do_write(manager, term),
            what => self.tell_manager(what),
        }
    }

    fn deliver(
        &mut self,
        connection: ConnectionId,
        to: End,
        manager: ManagerKey,
        far: Far,
        what: Happening,
    ) {
        if self.talk {
            self.log(|| format!("{far:?} <- {to:?} {manager:?} {what:?}"));
        }
        let Happening::Deliver { message, .. } = what else {
            return match to {
                End::Far => self.far_down(far, connection),
                End::Manager => self.tell(manager, |m, now, _| m.down(now, connection)),
            };
        };
        match (message, far) {
            (Message::WorkerSays(says), Far::Worker(key)) => {
                self.tell(manager, |m, now, out| match *says {
                    says @ tidemill_protocol::WorkerSays::Attach { .. } => {
                        m.worker_up(now, key, connection, says, out);
                    }
                    says => m.worker_said(now, key, connection, says, out),
                });
            }
            (Message::AgentSays(says), Far::Agent(host, life)) => {
                let id = hosts::agent_id(host, life);
                self.tell(manager, |m, now, out| m.agent_said(now, &id, connection, says, out));
            }
            (Message::ToWorker(order), Far::Worker(key)) => {
                let current = self.metadata.term;
                let stale = self.managers[manager.0].up.as_ref().and_then(|m| m.term);
                self.report.stale_orders += u64::from(stale.is_some_and(|term| term < current));
                self.orderer = Some(manager);
                self.tell_worker(key, *order);
            }
            (Message::ToAgent(order), Far::Agent(host, life))
                if self.hosts[host].alive && self.hosts[host].life == life =>
            {
                self.tell_agent(host, order);
            }
            _ => {}
        }
    }

    fn beat(&mut self, connection: ConnectionId) {
        let Some(c) = self.connections.get(&connection) else { return };
        let far = c.far;
        if !self.is_open(connection, End::Far) {
            return;
        }
        if self.far_stopped_until(far) <= self.clock.now() {
            let message = match far {
                Far::Agent(..) => Message::AgentSays(AgentSays::Heartbeat),
                Far::Worker(_) => {
                    Message::WorkerSays(Box::new(tidemill_protocol::WorkerSays::Heartbeat))
                }
            };
            self.say(connection, End::Manager, message);
        }
        self.later(300_000, Happening::Beat { connection });
    }

    /// Tells a JobManager something and does what comes out.
    fn tell(&mut self, key: ManagerKey, what: impl FnOnce(&mut Manager, Micros, &mut Vec<Out>)) {
        let now = self.clock.now();
        let Some(manager) = self.managers[key.0].up.as_mut().filter(|m| m.key == key) else {
            return;
        };
        let mut out = Vec::new();
        what(manager, now, &mut out);
        let term = manager.term;
        for out in out {
            self.carry_out(key, term, out);
        }
    }

    /// Jobs are done, and everything that belonged to them is gone.
    fn is_over(&self) -> bool {
        let settled = || {
            let Some(leader) = self.leader() else { return false };
            let all: u32 = self.hosts.iter().filter(|h| h.alive).map(|h| h.slots).sum();
            self.processes.is_empty() && (leader.pool.total(), leader.pool.free()) == (all, all)
        };
        self.families.iter().all(|family| family.done)
            && self.clock.now() >= self.calm_at()
            && settled()
    }

    /// When the last of what went wrong is over.
    fn calm_at(&self) -> Micros {
        let managers = self.managers.iter().map(|m| m.stopped_until.max(m.metadata_away_until));
        let hosts = self.hosts.iter().map(|h| h.stopped_until);
        managers.chain(hosts).chain(self.parted.values().copied()).max().unwrap_or(0)
    }

    /// Nothing goes wrong any more.
    fn is_quiet(&self) -> bool {
        self.clock.now() >= self.scenario.quiet_at || self.families.iter().all(|f| f.done)
    }

    fn compare(&mut self) -> Result<(), String> {
        for family in &self.families {
            let scenario = family.scenario;
            let sinks = 0..scenario.kind.sinks();
            let committed: Vec<_> = sinks.map(|sink| family.ledger.committed(sink)).collect();
            self.report.rows += committed.iter().map(|rows| rows.len() as u64).sum::<u64>();
            // What a schedule decides adds up only in the end.
            let partial = !matches!(scenario.kind, Kind::Late | Kind::Ticks);
            for (sink, rows) in settled(scenario.kind, committed).iter().enumerate() {
                let wanted = oracle(scenario, sink);
                if family.whole {
                    crate::world::compare(sink, rows, &wanted)?;
                } else if partial {
                    no_more_than(sink, rows, &wanted)?;
                }
            }
        }
        self.check_answers()
    }
}

/// Whether all rows are among the wanted ones, each as often at most; both are sorted.
fn no_more_than(sink: usize, got: &[String], wanted: &[String]) -> Result<(), String> {
    let mut left = wanted.iter();
    match got.iter().find(|row| !left.by_ref().any(|w| w == *row)) {
        Some(row) => Err(format!("sink {sink}: '{row}' of a cancelled job is one too many")),
        None => Ok(()),
    }
}
