//! Agents and worker processes: what they do with what they are told.

use super::deployed::{Deployed, Place, connect, failed};
use super::network::{End, Far};
use super::wire::{AgentSays, ConnectionId, Message, StartWorker, ToAgent, WorkerKey};
use super::{Happening, World};
use crate::jobs::{Parts, compose};
use std::collections::{BTreeMap, BTreeSet};
use tidemill_base::{Clock, Micros};
use tidemill_protocol::{AgentId, Attempt, Deployment, TaskFailure, ToWorker, WorkerSays};
use tidemill_runtime::deploy::DeployOptions;

/// A host with its agent.
pub(super) struct Host {
    pub(super) slots: u32,
    pub(super) life: u32,
    pub(super) alive: bool,
    pub(super) stopped_until: Micros,
    connection: Option<ConnectionId>,
    next_manager: usize,
    /// Ends that are told on the next connection, too.
    ended: Vec<WorkerKey>,
}

impl Host {
    pub(super) fn new(slots: u32) -> Self {
        Host {
            slots,
            life: 0,
            alive: true,
            stopped_until: 0,
            connection: None,
            next_manager: 0,
            ended: Vec::new(),
        }
    }
}

/// A worker process.
pub(super) struct Process {
    pub(super) host: usize,
    slots: u32,
    parallelism: u32,
    pub(super) stopped_until: Micros,
    connection: Option<ConnectionId>,
    next_manager: usize,
    pub(super) deployed: Option<Deployed>,
    failed: Option<(Attempt, TaskFailure)>,
}

/// An agent in one of its lives, as it names itself.
pub(super) fn agent_id(host: usize, life: u32) -> AgentId {
    let mut bytes = [0; 16];
    (bytes[0], bytes[1]) = (host as u8, life as u8);
    bytes[2] = (life >> 8) as u8;
    AgentId::from_bytes(bytes)
}

impl World<'_> {
    pub(super) fn host_of(&self, far: Far) -> Option<usize> {
        match far {
            Far::Agent(host, _) => Some(host),
            Far::Worker(key) => self.processes.get(&key).map(|p| p.host),
        }
    }

    pub(super) fn far_stopped_until(&self, far: Far) -> Micros {
        match far {
            Far::Agent(host, _) => self.hosts[host].stopped_until,
            Far::Worker(key) => self.processes.get(&key).map_or(0, |p| p.stopped_until),
        }
    }

    /// Tries to connect to the next JobManager.
    pub(super) fn dial(&mut self, far: Far) {
        let now = self.clock.now();
        let count = self.managers.len();
        let (there, connected, next) = match far {
            Far::Agent(host, life) => {
                let h = &mut self.hosts[host];
                h.next_manager += 1;
                (h.alive && h.life == life, h.connection.is_some(), h.next_manager)
            }
            Far::Worker(key) => {
                let Some(p) = self.processes.get_mut(&key) else { return };
                p.next_manager += 1;
                (true, p.connection.is_some(), p.next_manager)
            }
        };
        if !there || connected {
            return;
        }
        let at = next % count;
        let stopped = self.far_stopped_until(far) > now;
        let parted = self
            .host_of(far)
            .and_then(|host| self.parted.get(&(host, at)))
            .is_some_and(|&t| t > now);
        let leads = self.managers[at].up.as_ref().filter(|m| m.leading).map(|m| m.key);
        let reached = self.managers[at].stopped_until <= now && !parted && !stopped;
        let Some(manager) = leads.filter(|_| reached) else {
            let pause = 20_000 + self.rng.below(480_000);
            return self.later(pause, Happening::Dial { far });
        };
        let id = self.connect(manager, far);
        self.greet(far, id);
    }

    /// The first message of a connection: all that depends on nothing that was said before.
    fn greet(&mut self, far: Far, id: ConnectionId) {
        match far {
            Far::Agent(host, life) => {
                let workers: BTreeMap<WorkerKey, u32> = self
                    .processes
                    .iter()
                    .filter(|(_, p)| p.host == host)
                    .map(|(&key, p)| (key, p.slots))
                    .collect();
                let h = &mut self.hosts[host];
                h.connection = Some(id);
                let agent = agent_id(host, life);
                let mut says = vec![AgentSays::Register { agent, slots: h.slots, workers }];
                says.extend(std::mem::take(&mut h.ended).into_iter().map(AgentSays::Exited));
                for says in says {
                    self.say(id, End::Manager, Message::AgentSays(says));
                }
            }
            Far::Worker(key) => {
                let Some(p) = self.processes.get_mut(&key) else { return };
                p.connection = Some(id);
                let running = p.deployed.as_ref().map(Deployed::running);
                let failure = p.failed.clone().map(|(attempt, f)| failed(attempt, f));
                let says = WorkerSays::Attach {
                    worker: super::wire::worker_id(key),
                    pid: key.1,
                    data_address: format!("worker:{}", key.1),
                    running: running.or(failure),
                };
                self.say(id, End::Manager, Message::WorkerSays(Box::new(says)));
            }
        }
    }

    /// A connection of theirs has ended.
    pub(super) fn far_down(&mut self, far: Far, id: ConnectionId) {
        let connection = match far {
            Far::Agent(host, life) if self.hosts[host].life == life => {
                &mut self.hosts[host].connection
            }
            Far::Agent(..) => return,
            Far::Worker(key) => match self.processes.get_mut(&key) {
                Some(p) => &mut p.connection,
                None => return,
            },
        };
        if connection.take_if(|c| *c == id).is_some() {
            let pause = 1_000 + self.rng.below(40_000);
            self.later(pause, Happening::Dial { far });
        }
    }

    /// An agent is told something.
    pub(super) fn tell_agent(&mut self, host: usize, message: ToAgent) {
        match message {
            ToAgent::Registered { keep } => {
                let keep: BTreeSet<WorkerKey> = keep.into_iter().collect();
                let mine = self.processes.iter().filter(|(_, p)| p.host == host);
                let gone: Vec<WorkerKey> =
                    mine.map(|(&key, _)| key).filter(|key| !keep.contains(key)).collect();
                for key in gone {
                    self.later(1_000, Happening::EndProcess { worker: key });
                }
            }
            ToAgent::Start(start) => self.start_process(host, start),
            ToAgent::Stop(worker) => {
                // Gently first: it may go on for a while.
                let grace = self.rng.below(50_000);
                self.later(grace, Happening::EndProcess { worker });
            }
        }
    }

    fn start_process(&mut self, host: usize, start: StartWorker) {
        let StartWorker { worker, slots, parallelism } = start;
        if !self.processes.contains_key(&worker) {
            if !self.ever.insert(worker) {
                // Told again after it had ended.
                return self.agent_says(host, AgentSays::Exited(worker));
            }
            let process = Process {
                host,
                slots,
                parallelism,
                stopped_until: 0,
                connection: None,
                next_manager: 0,
                deployed: None,
                failed: None,
            };
            self.processes.insert(worker, process);
            let pause = 2_000 + self.rng.below(40_000);
            self.later(pause, Happening::Dial { far: Far::Worker(worker) });
        }
        self.agent_says(host, AgentSays::Started(worker));
    }

    pub(super) fn agent_says(&mut self, host: usize, says: AgentSays) {
        if let Some(id) = self.hosts[host].connection {
            self.say(id, End::Manager, Message::AgentSays(says));
        }
    }

    /// A worker's process ends, however.
    pub(super) fn end_process(&mut self, worker: WorkerKey) {
        let Some(p) = self.processes.remove(&worker) else { return };
        if let Some(id) = p.connection {
            self.close(id, End::Far);
        }
        let host = &mut self.hosts[p.host];
        if host.alive {
            host.ended.push(worker);
            self.agent_says(p.host, AgentSays::Exited(worker));
        }
    }

    pub(super) fn kill_agent(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        if !h.alive {
            return;
        }
        (h.alive, h.stopped_until) = (false, 0);
        h.ended.clear();
        if let Some(id) = h.connection.take() {
            self.close(id, End::Far);
        }
        let mine = self.processes.iter().filter(|(_, p)| p.host == host);
        for key in mine.map(|(&key, _)| key).collect::<Vec<_>>() {
            self.end_process(key);
        }
        let pause = self.rng.below(3_000_000);
        self.later(pause, Happening::AgentBack { host });
    }

    pub(super) fn agent_back(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.life += 1;
        h.alive = true;
        let life = h.life;
        self.dial(Far::Agent(host, life));
    }

    /// A worker says something; lost where it is not connected.
    pub(super) fn worker_says(&mut self, key: WorkerKey, says: WorkerSays) {
        if let Some(id) = self.processes.get(&key).and_then(|p| p.connection) {
            self.say(id, End::Manager, Message::WorkerSays(Box::new(says)));
        }
    }

    /// Sends what a deployment reports, or ends it.
    pub(super) fn after_step<T>(
        &mut self,
        key: WorkerKey,
        did: Result<T, TaskFailure>,
    ) -> Option<T> {
        let p = self.processes.get_mut(&key)?;
        let reports = p.deployed.as_mut().map(|d| std::mem::take(&mut d.out)).unwrap_or_default();
        for says in reports {
            self.worker_says(key, says);
        }
        match did {
            Ok(did) => Some(did),
            Err(failure) => {
                let deployed = self.processes.get_mut(&key)?.deployed.take()?;
                let attempt = deployed.attempt();
                deployed.stop(&mut self.rng);
                self.fail(key, attempt, failure);
                None
            }
        }
    }

    fn fail(&mut self, key: WorkerKey, attempt: Attempt, failure: TaskFailure) {
        self.log(|| format!("{key:?} attempt {attempt} failed: {}", failure.message));
        if let Some(epoch) = failure.damaged_epoch {
            self.violation(format!("checkpoint {epoch} of job {} is damaged", key.0));
        }
        if let Some(p) = self.processes.get_mut(&key) {
            p.failed = Some((attempt, failure.clone()));
        }
        self.worker_says(key, WorkerSays::Failed { attempt, failure });
    }

    /// A worker is told something.
    pub(super) fn tell_worker(&mut self, key: WorkerKey, order: ToWorker) {
        match order {
            ToWorker::Attached { go_on: false, .. } => self.stop_all(key),
            ToWorker::Deploy(deployment) => self.deploy(key, *deployment),
            ToWorker::Stop { attempt } => self.stop(key, attempt),
            ToWorker::Shutdown => self.end_process(key),
            order => {
                self.check_order(key, &order);
                let now = self.clock.now();
                if let Some(d) = self.processes.get_mut(&key).and_then(|p| p.deployed.as_mut()) {
                    d.order(&order, now);
                }
            }
        }
    }

    fn stop(&mut self, key: WorkerKey, attempt: Attempt) {
        let Some(p) = self.processes.get_mut(&key) else { return };
        if let Some(deployed) = p.deployed.take_if(|d| d.attempt() == attempt) {
            deployed.stop(&mut self.rng);
        }
        p.failed.take_if(|f| f.0 == attempt);
        self.worker_says(key, WorkerSays::Stopped { attempt });
    }

    fn stop_all(&mut self, key: WorkerKey) {
        let Some(p) = self.processes.get_mut(&key) else { return };
        let mut attempts: Vec<Attempt> = p.failed.take().map(|f| f.0).into_iter().collect();
        if let Some(deployed) = p.deployed.take() {
            attempts.push(deployed.attempt());
            deployed.stop(&mut self.rng);
        }
        for attempt in attempts {
            self.worker_says(key, WorkerSays::Stopped { attempt });
        }
    }

    fn deploy(&mut self, key: WorkerKey, deployment: Deployment) {
        self.check_deployment(key, &deployment);
        let (job, attempt) = (key.0, deployment.attempt);
        let now = self.clock.now();
        let Some(p) = self.processes.get_mut(&key) else { return };
        p.failed = None;
        if let Some(old) = p.deployed.take() {
            let running = old.attempt();
            old.stop(&mut self.rng);
            self.violation(format!("M1: {key:?} is deployed to {attempt} and runs {running}"));
        }
        let parallelism = self.processes[&key].parallelism;
        let submitted = &self.submitted[job];
        let family = &self.families[submitted.family];
        let parts = Parts {
            scenario: family.scenario,
            ledger: family.ledger.clone(),
            parallelism,
            life: u64::from(attempt) ^ (job as u64) << 20,
        };
        let (physical, plan) = match compose(&parts).plans() {
            Ok(plans) => plans,
            Err(e) => return self.violation(format!("compose: {e}")),
        };
        if physical.fingerprint() != deployment.plan_hash {
            return self.violation(format!("{key:?} is deployed with another plan"));
        }
        let from = deployment.restore.as_ref().and_then(|r| self.store(&r.store)).cloned();
        let options =
            DeployOptions { attempt, channel: family.scenario.channel, ..DeployOptions::default() };
        let stores = (submitted.store.clone(), from);
        match Deployed::start(Place { plan: &plan, options, stores, now }, deployment) {
            Ok(deployed) => {
                if let Some(p) = self.processes.get_mut(&key) {
                    p.deployed = Some(deployed);
                }
                self.meet(job, attempt);
            }
            Err(failure) => self.fail(key, attempt, failure),
        }
    }

    /// Connects the workers of an attempt, where all of them wait for each other and none stands still.
    pub(super) fn meet(&mut self, job: usize, attempt: Attempt) {
        let now = self.clock.now();
        let waits = |p: &Process| {
            let d = p.deployed.as_ref().filter(|d| d.attempt() == attempt && d.is_waiting())?;
            (p.stopped_until <= now).then(|| d.deployment.peers.clone())
        };
        let mine = |key: &WorkerKey| key.0 == job;
        let Some(peers) =
            self.processes.iter().filter(|(k, _)| mine(k)).find_map(|(_, p)| waits(p))
        else {
            return;
        };
        let wanted: BTreeSet<WorkerKey> = peers.iter().map(|p| (job, p.worker)).collect();
        let there = |key: &WorkerKey| {
            self.processes.get(key).and_then(waits).is_some_and(|theirs| theirs == peers)
        };
        if !wanted.iter().all(there) {
            return;
        }
        let mut rng = self.rng.fork();
        let wires = self.families[self.submitted[job].family].scenario.wires;
        let quiet = self.is_quiet();
        let faults = || {
            let mut faults = wires.map(|w| w.faults).unwrap_or_default();
            faults.seed = rng.draw();
            let cut = !quiet && rng.percent(10);
            faults.cut_at = cut.then(|| rng.below(60_000));
            faults
        };
        let mut group: Vec<&mut Deployed> = self
            .processes
            .iter_mut()
            .filter(|(key, _)| wanted.contains(key))
            .filter_map(|(_, p)| p.deployed.as_mut())
            .collect();
        connect(&mut group, faults, now);
    }
}
