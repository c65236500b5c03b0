//! TaskManagers' agents and workers' connections: who is there, who is lost, who is asked what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_coordination::{JobStatus, MasterEvent, Micros, Submission};
use tidemill_protocol::{
    AgentId, AgentSays, JobId, LogRequest, PlanError, PlanErrorKind, PlanRequest, RunningAttempt,
    RunningWorker, StartWorker, ToAgent, ToWorker, WorkerId, WorkerSays,
};
use tracing::{debug, info, warn};

use super::event::{LogPart, Reply};
use super::{Peer, PeerEvent, Service};
use crate::control::{ConnectionId, Outbox};
use crate::refusal::Refusal;

/// Bytes of a worker's last words that are kept.
const LAST_WORDS_MAX: usize = 2_000;
/// What fetching the program may take beyond the plan's own time.
const FETCH_TIMEOUT_US: Micros = 60_000_000;
/// What reading a log may take.
const LOG_TIMEOUT_US: Micros = 5_000_000;

/// A TaskManager that registered and is not lost.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) host: String,
    pub(crate) address: String,
    pub(crate) slots: u32,
    pub(crate) release: String,
    pub(crate) memory_limit: u64,
    pub(crate) memory_used: u64,
    pub(crate) registered_ms: i64,
    pub(crate) heard: Micros,
    /// `None` while its connection is broken.
    pub(crate) outbox: Option<Outbox<ToAgent>>,
    /// Starts that it has not answered: said again when it comes back.
    starting: BTreeMap<WorkerId, StartWorker>,
}

impl Agent {
    fn send(&self, message: ToAgent) -> bool {
        self.outbox.as_ref().is_some_and(|o| o.send(message))
    }
}

/// Something that an agent was asked.
pub(super) struct Request {
    agent: AgentId,
    deadline: Micros,
    wanted: Wanted,
}

enum Wanted {
    Plan(Reply<Submission>),
    Log(Arc<Logs>),
}

/// Parts of a log that are coming in; answered when the last request is over.
struct Logs {
    parts: Mutex<Vec<LogPart>>,
    reply: Option<Reply<Vec<LogPart>>>,
}

impl Logs {
    fn add(&self, part: LogPart) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let parts = std::mem::take(self.parts.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(reply) = self.reply.take() {
            // Who asked may be gone.
            let _ = reply.send(Ok(parts));
        }
    }
}

impl Service {
    pub(super) fn on_peer(&mut self, event: PeerEvent) {
        if !self.leads() {
            // J1: its outbox is dropped, its connection ends, and it finds the leader.
            return;
        }
        match event {
            PeerEvent::AgentUp { register, outbox } => self.agent_up(*register, outbox),
            PeerEvent::AgentSaid { agent, connection, says } => {
                let current = self.agents.get(&agent).and_then(|a| a.outbox.as_ref());
                if current.is_some_and(|o| o.connection == connection) {
                    self.agent_said(&agent, says);
                }
            }
            PeerEvent::AgentDown { agent, connection, reason } => {
                self.agent_down(&agent, connection, &reason);
            }
            PeerEvent::WorkerUp { worker, address, running, outbox } => {
                self.worker_up(worker, address, running, outbox);
            }
            PeerEvent::WorkerSaid { worker, connection, says } => {
                self.worker_said(worker, connection, says);
            }
            PeerEvent::WorkerDown { worker, connection, reason } => {
                self.worker_down(worker, connection, &reason);
            }
        }
    }

    fn agent_up(&mut self, register: AgentSays, outbox: Outbox<ToAgent>) {
        let AgentSays::Register { agent, host, address, slots, release, memory_bytes, workers } =
            register
        else {
            return;
        };
        let known = self.agents.remove(&agent);
        info!(
            "TaskManager {agent} on {host} with {slots} slots{}",
            if known.is_some() { " is back" } else { "" }
        );
        if release != env!("CARGO_PKG_VERSION") {
            warn!(
                "TaskManager {agent} on {host} is release {release}, this JobManager {}",
                env!("CARGO_PKG_VERSION")
            );
        }
        let starting = known.as_ref().map(|a| a.starting.clone()).unwrap_or_default();
        let mine = |w: &RunningWorker| self.is_assigned(&w.worker, &agent);
        let keep: Vec<WorkerId> =
            workers.iter().filter(|w| mine(w)).map(|w| w.worker.clone()).collect();
        let held: Vec<(WorkerId, u32)> = self.assigned_to(&agent).collect();
        for (worker, _) in &held {
            if let Some(job) = self.jobs.get_mut(&worker.job) {
                job.runs_on(worker.number, &host);
            }
        }
        self.pool.register(agent.clone(), slots, held);
        let heartbeat_ms = self.config.limits.heartbeat_interval.as_millis() as u64;
        let entry = Agent {
            host,
            address,
            slots,
            release,
            memory_limit: memory_bytes,
            memory_used: 0,
            registered_ms: known.map_or_else(|| self.wall_ms(), |a| a.registered_ms),
            heard: self.now(),
            outbox: Some(outbox),
            starting,
        };
        let keep = keep.into_iter().chain(entry.starting.keys().cloned()).collect();
        entry.send(ToAgent::Registered { heartbeat_ms, keep });
        for start in entry.starting.values() {
            entry.send(ToAgent::Start(start.clone()));
        }
        self.agents.insert(agent.clone(), entry);
        self.heard(Peer::Agent(agent));
    }

    /// Hears of somebody.
    fn heard(&mut self, peer: Peer) {
        self.absent.remove(&peer);
        self.detector.heard(self.now(), &peer);
    }

    fn agent_said(&mut self, id: &AgentId, says: AgentSays) {
        let now = self.now();
        self.heard(Peer::Agent(id.clone()));
        let Some(agent) = self.agents.get_mut(id) else { return };
        agent.heard = now;
        match says {
            AgentSays::Heartbeat { memory_bytes } => agent.memory_used = memory_bytes,
            AgentSays::Started { worker, pid } => {
                agent.starting.remove(&worker);
                debug!("{worker} runs as process {pid} on {}", agent.host);
            }
            AgentSays::Exited { worker, status, last_words } => {
                agent.starting.remove(&worker);
                let host = agent.host.clone();
                let mut reason = format!("its process on {host} ended: {status}");
                let words = end_of(last_words.trim(), LAST_WORDS_MAX);
                if !words.is_empty() {
                    reason = format!("{reason}; its last words: {words}");
                }
                self.worker_lost(&worker, reason);
            }
            AgentSays::Planned { request, result } => self.planned(request, result),
            AgentSays::Log { request, result } => self.log_read(id, request, result),
            AgentSays::Register { .. } => warn!("TaskManager {id} registers twice on a connection"),
        }
    }

    fn agent_down(&mut self, id: &AgentId, connection: ConnectionId, reason: &str) {
        let now = self.now();
        let Some(agent) = self.agents.get_mut(id) else { return };
        if agent.outbox.as_ref().is_none_or(|o| o.connection != connection) {
            return;
        }
        agent.outbox = None;
        warn!("the connection to TaskManager {id} on {} is gone: {reason}", agent.host);
        self.absent.insert(Peer::Agent(id.clone()), now);
        let asked = |r: &Request| r.agent == *id;
        let gone: Vec<u64> =
            self.requests.iter().filter(|(_, r)| asked(r)).map(|(&n, _)| n).collect();
        for number in gone {
            let why = "the TaskManager that was asked is gone; try again".to_owned();
            self.give_up(number, Refusal::unavailable(why));
        }
    }

    fn agent_lost(&mut self, id: &AgentId, how: &str) {
        let peer = Peer::Agent(id.clone());
        self.absent.remove(&peer);
        self.detector.forget(&peer);
        let Some(agent) = self.agents.remove(id) else { return };
        warn!("TaskManager {id} on {} is lost: {how}", agent.host);
        let workers = self.pool.lose(id);
        for worker in workers {
            self.worker_lost(&worker, format!("TaskManager {id} on {} is lost: {how}", agent.host));
        }
    }

    fn worker_lost(&mut self, worker: &WorkerId, reason: String) {
        let peer = Peer::Worker(worker.clone());
        self.absent.remove(&peer);
        self.detector.forget(&peer);
        self.note_cause(worker, &reason);
        self.drive(&worker.job, MasterEvent::WorkerLost { worker: worker.number, reason });
    }

    /// Its peers may have felt a worker's end before its agent told it: their attempt has failed already, by a
    /// broken connection, and the cause is recorded too.
    fn note_cause(&mut self, worker: &WorkerId, reason: &str) {
        let Some(job) = self.jobs.get(&worker.job) else { return };
        let attempt = job.row().attempt;
        let failed = job.history.record().exceptions.last().is_some_and(|e| e.attempt == attempt);
        let waits = job.is_live() && job.row().status == JobStatus::Restarting;
        if !failed || !waits || !job.placed.contains_key(&worker.number) {
            return;
        }
        let host = job.host_of(worker.number).map(str::to_owned);
        let cause = format!("worker {} is lost: {reason}", worker.number);
        let at_ms = self.wall_ms();
        self.with(&worker.job, |history, _| history.exception(at_ms, attempt, None, host, cause));
    }

    fn worker_up(
        &mut self,
        worker: WorkerId,
        address: String,
        running: Option<RunningAttempt>,
        outbox: Outbox<ToWorker>,
    ) {
        let Some(job) = self.jobs.get_mut(&worker.job).filter(|job| job.is_live()) else {
            info!("{worker} attaches, but the job is over or unknown: it is ended");
            outbox.send(ToWorker::Shutdown);
            return;
        };
        debug!(
            "{worker} attached from {address}, running {:?}",
            running.as_ref().map(|r| r.attempt)
        );
        job.outboxes.insert(worker.number, outbox);
        self.heard(Peer::Worker(worker.clone()));
        let event = MasterEvent::WorkerAttached { worker: worker.number, address, running };
        self.drive(&worker.job, event);
    }

    fn worker_said(&mut self, worker: WorkerId, connection: ConnectionId, says: WorkerSays) {
        let now = self.now();
        let Some(job) = self.jobs.get_mut(&worker.job) else { return };
        if job.outboxes.get(&worker.number).is_none_or(|o| o.connection != connection) {
            return;
        }
        match says {
            WorkerSays::Metrics { attempt, tasks, text } => {
                job.measured(now, worker.number, attempt, tasks, text);
            }
            WorkerSays::Heartbeat => {}
            says => {
                let event = MasterEvent::Said { worker: worker.number, says };
                self.drive(&worker.job, event);
            }
        }
        // It may have been given up by what it said.
        let there =
            self.jobs.get(&worker.job).is_some_and(|j| j.outboxes.contains_key(&worker.number));
        if there {
            self.heard(Peer::Worker(worker));
        }
    }

    fn worker_down(&mut self, worker: WorkerId, connection: ConnectionId, reason: &str) {
        let now = self.now();
        let Some(job) = self.jobs.get_mut(&worker.job) else { return };
        if job.outboxes.get(&worker.number).is_none_or(|o| o.connection != connection) {
            return;
        }
        job.outboxes.remove(&worker.number);
        debug!("the connection to {worker} is gone: {reason}");
        self.absent.insert(Peer::Worker(worker), now);
    }

    pub(super) fn look_for_silence(&mut self, now: Micros) {
        let limits = &self.config.limits;
        let (silence, grace) = (limits.heartbeat_timeout, limits.reconnect_timeout);
        for peer in self.detector.silent(now) {
            self.lose(peer, &format!("nothing was heard for {} ms", silence.as_millis()));
        }
        let grace_us = grace.as_micros() as Micros;
        let late = |&(_, &since): &(&Peer, &Micros)| now.saturating_sub(since) >= grace_us;
        let late: Vec<Peer> =
            self.absent.iter().filter(late).map(|(peer, _)| peer.clone()).collect();
        for peer in late {
            let how =
                format!("its connection broke and did not come back for {} ms", grace.as_millis());
            self.lose(peer, &how);
        }
    }

    fn lose(&mut self, peer: Peer, how: &str) {
        match peer {
            Peer::Agent(id) => self.agent_lost(&id, how),
            Peer::Worker(worker) => self.worker_lost(&worker, how.to_owned()),
        }
    }

    /// Forgets a worker's connection: what was sent is still written.
    pub(super) fn hang_up(&mut self, worker: &WorkerId) {
        let peer = Peer::Worker(worker.clone());
        self.absent.remove(&peer);
        self.detector.forget(&peer);
        if let Some(job) = self.jobs.get_mut(&worker.job) {
            job.outboxes.remove(&worker.number);
            // Shown until the next attempt begins; those of the last one stay.
            if let Some(last) = job.metrics.get_mut(&worker.number) {
                last.end();
            }
        }
    }

    /// A worker's process is to be started.
    pub(super) fn start_worker(&mut self, agent: &AgentId, start: StartWorker) {
        let taken = self.pool.take(agent, start.worker.clone(), start.slots);
        match self.agents.get_mut(agent) {
            Some(entry) if taken => {
                entry.starting.insert(start.worker.clone(), start.clone());
                entry.send(ToAgent::Start(start));
            }
            // Its master gives it up when it does not attach.
            _ => warn!("{} cannot be started: TaskManager {agent} is gone", start.worker),
        }
    }

    /// A worker's process is to end.
    pub(super) fn stop_worker(&mut self, worker: &WorkerId) {
        self.pool.release(worker);
        let grace_ms = self.config.limits.stop_grace.as_millis() as u64;
        if let Some(job) = self.jobs.get(&worker.job)
            && let Some(agent) =
                job.placed.get(&worker.number).and_then(|p| self.agents.get_mut(&p.agent))
        {
            agent.starting.remove(worker);
            agent.send(ToAgent::Stop { worker: worker.clone(), grace_ms });
        }
        if let Some(outbox) =
            self.jobs.get(&worker.job).and_then(|j| j.outboxes.get(&worker.number))
        {
            outbox.send(ToWorker::Shutdown);
        }
        self.hang_up(worker);
    }

    /// Tells all agents that a job is over.
    pub(super) fn forget_logs(&self, job: &JobId) {
        for agent in self.agents.values() {
            agent.send(ToAgent::Forget { job: job.clone() });
        }
    }

    fn request(&mut self, agent: AgentId, timeout_us: Micros, wanted: Wanted) -> u64 {
        let number = self.next_request;
        self.next_request += 1;
        let deadline = self.now() + timeout_us;
        self.requests.insert(number, Request { agent, deadline, wanted });
        number
    }

    fn give_up(&mut self, number: u64, why: Refusal) {
        if let Some(Request { wanted: Wanted::Plan(reply), .. }) = self.requests.remove(&number) {
            let _ = reply.send(Err(why));
        }
    }

    pub(super) fn look_at_requests(&mut self, now: Micros) {
        let late = |r: &Request| {
            now >= r.deadline || matches!(&r.wanted, Wanted::Plan(reply) if reply.is_closed())
        };
        let late: Vec<u64> =
            self.requests.iter().filter(|(_, r)| late(r)).map(|(&n, _)| n).collect();
        for number in late {
            self.give_up(
                number,
                Refusal::unavailable("the TaskManager that was asked does not answer; try again"),
            );
        }
    }

    /// Asks the agent with the fewest requests for a plan.
    pub(super) fn ask_plan(&mut self, mut request: PlanRequest, reply: Reply<Submission>) {
        let load = |id: &AgentId| self.requests.values().filter(|r| r.agent == *id).count();
        let there = self.agents.iter().filter(|(_, a)| a.outbox.is_some());
        let Some(agent) = there.map(|(id, _)| id).min_by_key(|id| load(id)).cloned() else {
            let _ = reply.send(Err(Refusal::no_slots(request.parallelism.unwrap_or(1), 0)));
            return;
        };
        let limit = self.config.limits.plan_timeout;
        request.timeout_ms = limit.as_millis() as u64;
        let timeout_us = limit.as_micros() as Micros + FETCH_TIMEOUT_US;
        request.request = self.request(agent.clone(), timeout_us, Wanted::Plan(reply));
        let number = request.request;
        if !self.agents.get(&agent).is_some_and(|a| a.send(ToAgent::Plan(request))) {
            self.give_up(
                number,
                Refusal::unavailable("the TaskManager that was asked is gone; try again"),
            );
        }
    }

    fn planned(&mut self, request: u64, result: Result<String, PlanError>) {
        let Some(Request { wanted: Wanted::Plan(reply), .. }) = self.requests.remove(&request)
        else {
            return;
        };
        let limit = self.config.limits.plan_timeout.as_secs_f64();
        let answer = match result {
            Ok(json) => Submission::from_json(&json).map_err(Refusal::unprocessable),
            Err(PlanError { kind: PlanErrorKind::TimedOut, .. }) => {
                Err(Refusal::unprocessable(format!(
                    "the program's plan did not finish within {limit} s: it must not do the job's work before job::main; raise jobmanager.plan_timeout if it needs longer"
                )))
            }
            Err(PlanError { kind, message }) => {
                let what = match kind {
                    PlanErrorKind::Crashed => "the program crashed while it was asked for its plan",
                    PlanErrorKind::Unreadable => "the program's plan cannot be read",
                    PlanErrorKind::Agent => "the program gives no plan",
                    PlanErrorKind::Program | PlanErrorKind::TimedOut => "the program refuses",
                };
                Err(Refusal::unprocessable(format!("{what}: {}", message.trim())))
            }
        };
        let _ = reply.send(answer);
    }

    /// Asks all TaskManagers for the end of a job's log.
    pub(super) fn ask_logs(&mut self, job: &JobId, bytes: u64, reply: Reply<Vec<LogPart>>) {
        let logs = Arc::new(Logs { parts: Mutex::default(), reply: Some(reply) });
        let there: Vec<AgentId> = self
            .agents
            .iter()
            .filter(|(_, a)| a.outbox.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for agent in there {
            let request = self.request(agent.clone(), LOG_TIMEOUT_US, Wanted::Log(logs.clone()));
            let ask = ToAgent::Log(LogRequest { request, job: job.clone(), bytes });
            if !self.agents.get(&agent).is_some_and(|a| a.send(ask)) {
                self.requests.remove(&request);
            }
        }
    }

    fn log_read(&mut self, id: &AgentId, request: u64, result: Result<String, String>) {
        let Some(Request { wanted: Wanted::Log(logs), .. }) = self.requests.remove(&request) else {
            return;
        };
        // A TaskManager that never ran the job has no log of it.
        if let (Ok(text), Some(agent)) = (result, self.agents.get(id)) {
            logs.add(LogPart { task_manager: id.clone(), host: agent.host.clone(), text });
        }
    }
}

/// The end of a text, at most so many bytes.
fn end_of(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}
