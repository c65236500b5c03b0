//! One deployment in a worker process: the production tasks of its slots, its snapshot writer, and its
//! connections to the slots of other processes.
//!
//! ```text
//!   Waiting for peers --all there, connected--> Building, slot by slot --> Running
//! ```
//! What the shell (`engine/api`, `job/worker/deployed.rs`) does with threads happens here step by step.

use crate::rng::Rng;
use crate::world::seat::Seat;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tidemill::job::checkpoint::states_of;
use tidemill::job::restore::load_epoch;
use tidemill_base::clock::ManualClock;
use tidemill_base::{Barrier, BarrierKind, Clock, Error, Micros, Severity};
use tidemill_net::link::LinkOptions;
use tidemill_net::transport::memory::MemoryTransport;
use tidemill_plan::SubtaskId;
use tidemill_protocol::{
    Attempt, BarrierMode, Deployment, RunningAttempt, SubtaskStates, TaskFailure, ToWorker,
    WorkerSays,
};
use tidemill_ring::Doorbell;
use tidemill_runtime::context::{SubtaskInfo, TaskEvent};
use tidemill_runtime::deploy::{Blueprint, DeployOptions, JobPlan, SlotPart, deploy_part};
use tidemill_runtime::remote::{Peer, Pump};
use tidemill_runtime::slot::{Command, Round, Slot};
use tidemill_runtime::task::Progress;
use tidemill_snapshot as snapshot;
use tidemill_snapshot::{ChunkKey, MemoryStore, SnapshotStore, WriterCore};

/// How long peers have to come up.
const PEERS_TIMEOUT_US: Micros = 20_000_000;

/// Jobs that may wait for the snapshot writer.
const WRITER_QUEUE: usize = 64;

/// A slot that is not built yet.
struct Unbuilt {
    blueprints: Vec<Blueprint>,
    pump: Option<Pump<MemoryTransport>>,
    doorbell: Arc<Doorbell>,
}

enum State {
    Waiting { parts: Vec<SlotPart>, doorbells: Vec<Arc<Doorbell>>, deadline: Micros },
    Up { unbuilt: VecDeque<Unbuilt>, seats: Vec<Seat> },
}

/// See the module.
pub(super) struct Deployed {
    pub(super) deployment: Deployment,
    state: State,
    weights: Vec<Vec<u64>>,
    reweigh_in: u64,
    writer: WriterCore,
    jobs: VecDeque<snapshot::Job>,
    operators: Vec<Vec<u64>>,
    /// Of how many of its operators the writer knows that they are done.
    told: BTreeMap<SubtaskId, usize>,
    states: Vec<SubtaskStates>,
    finished: BTreeSet<SubtaskId>,
    last_epoch: u64,
    ready: bool,
    /// Reports that are not sent yet.
    pub(super) out: VecDeque<WorkerSays>,
}

fn failure(error: &Error) -> TaskFailure {
    let fatal = error.severity() == Severity::FailJob;
    TaskFailure { message: error.to_string(), task: None, fatal, damaged_epoch: None }
}

/// A deployment that could not be.
pub(super) fn failed(attempt: Attempt, failure: TaskFailure) -> RunningAttempt {
    RunningAttempt {
        attempt,
        ready: false,
        states: Vec::new(),
        finished: Vec::new(),
        last_epoch: 0,
        failure: Some(failure),
    }
}

/// What a deployment is made with.
pub(super) struct Place<'a> {
    pub(super) plan: &'a JobPlan,
    pub(super) options: DeployOptions,
    /// The job's own store, and the one that it is restored from.
    pub(super) stores: (MemoryStore, Option<MemoryStore>),
    pub(super) now: Micros,
}

impl Deployed {
    /// Loads what is to be restored and waits for the peers.
    ///
    /// # Errors
    /// As it is reported to the JobManager.
    pub(super) fn start(place: Place<'_>, deployment: Deployment) -> Result<Self, TaskFailure> {
        let (store, from) = place.stores;
        let mut options = place.options;
        if let (Some(restore), Some(from)) = (&deployment.restore, from) {
            let loaded = load_epoch(Arc::new(from), restore.epoch, place.plan, false);
            options.restored = Some(loaded.map_err(|(e, damaged)| TaskFailure {
                damaged_epoch: damaged.then_some(restore.epoch),
                ..failure(&e)
            })?);
        }
        let own = deployment.own.range();
        let doorbells: Vec<_> = own.clone().map(|_| Doorbell::new()).collect();
        let parts = deploy_part(place.plan, &doorbells, &options, own).map_err(|e| failure(&e))?;
        let ids = |ops: &Vec<usize>| ops.iter().map(|&o| place.plan.operator_ids[o]).collect();
        Ok(Deployed {
            writer: WriterCore::new(Arc::new(store), deployment.writer),
            operators: place.plan.tasks.iter().map(|t| ids(&t.operators)).collect(),
            told: BTreeMap::new(),
            state: State::Waiting { parts, doorbells, deadline: place.now + PEERS_TIMEOUT_US },
            weights: Vec::new(),
            reweigh_in: 0,
            jobs: VecDeque::new(),
            states: Vec::new(),
            finished: BTreeSet::new(),
            last_epoch: deployment.restore.as_ref().map_or(0, |r| r.epoch),
            ready: false,
            out: VecDeque::new(),
            deployment,
        })
    }

    pub(super) fn attempt(&self) -> Attempt {
        self.deployment.attempt
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// When waiting for peers ends.
    pub(super) fn gives_up_at(&self) -> Option<Micros> {
        match &self.state {
            State::Waiting { deadline, .. } => Some(*deadline),
            State::Up { .. } => None,
        }
    }

    /// As it is told to a JobManager that was away.
    pub(super) fn running(&self) -> RunningAttempt {
        RunningAttempt {
            attempt: self.attempt(),
            ready: self.ready,
            states: self.states.clone(),
            finished: self.finished.iter().copied().collect(),
            last_epoch: self.last_epoch,
            failure: None,
        }
    }

    /// Does what the JobManager orders for this attempt.
    pub(super) fn order(&mut self, order: &ToWorker, now: Micros) {
        match *order {
            ToWorker::Trigger { attempt, epoch, mode, savepoint } if attempt == self.attempt() => {
                self.last_epoch = self.last_epoch.max(epoch);
                self.jobs.push_back(snapshot::Job::Begin { epoch, expect: Vec::new() });
                let kind = match mode {
                    _ if savepoint => BarrierKind::Savepoint,
                    BarrierMode::Aligned => BarrierKind::Aligned { timeout: None },
                    BarrierMode::AlignedFor(0) => BarrierKind::Unaligned,
                    BarrierMode::AlignedFor(ms) => {
                        BarrierKind::Aligned { timeout: Some(ms * 1_000) }
                    }
                };
                self.command(Command::Trigger(Barrier { epoch, triggered_at: now, kind }));
            }
            ToWorker::Finish { attempt, epoch } if attempt == self.attempt() => {
                self.jobs.push_back(snapshot::Job::Finish { epoch });
            }
            ToWorker::Commit { attempt, epoch } if attempt == self.attempt() => {
                self.command(Command::Commit(epoch));
            }
            ToWorker::Abort { attempt, epoch } if attempt == self.attempt() => {
                self.command(Command::Abort(epoch));
                self.jobs.push_back(snapshot::Job::Abort { epoch });
            }
            _ => {}
        }
    }

    fn command(&mut self, command: Command) {
        if let State::Up { seats, .. } = &mut self.state {
            seats.iter_mut().for_each(|seat| seat.commands.push_back(command));
        }
    }

    /// One thing happens in the process; whether anything did.
    ///
    /// # Errors
    /// What ends the attempt.
    pub(super) fn step(&mut self, rng: &mut Rng, clock: &ManualClock) -> Result<bool, TaskFailure> {
        if self.reweigh_in == 0 {
            self.reweigh_in = rng.pick(&[128, 512, 2_048]);
            self.reweigh(rng);
        }
        self.reweigh_in -= 1;
        match rng.below(100) {
            0..70 => self.step_slot(rng, clock),
            70..76 => {
                let State::Up { seats, .. } = &mut self.state else { return Ok(false) };
                if seats.is_empty() {
                    return Ok(false);
                }
                let at = rng.index(seats.len());
                seats[at].command(clock).map_err(|e| failure(&e))
            }
            76..90 => Ok(self.carry(rng.index(self.slots()), rng.between(1, 8) as usize)),
            _ => Ok(self.write()),
        }
    }

    fn slots(&self) -> usize {
        self.deployment.own.count.max(1) as usize
    }

    /// For a while not all are equally fast.
    fn reweigh(&mut self, rng: &mut Rng) {
        let State::Up { seats, .. } = &self.state else { return };
        self.weights.clear();
        for seat in seats {
            let slot = rng.pick(&[1, 1, 4, 20]);
            let weights = (0..seat.slot.len()).map(|_| slot * rng.pick(&[0, 1, 1, 1, 20]));
            self.weights.push(weights.collect());
        }
    }

    fn step_slot(&mut self, rng: &mut Rng, clock: &ManualClock) -> Result<bool, TaskFailure> {
        let failed = |e| failure(&e);
        let State::Up { unbuilt, seats } = &mut self.state else { return Ok(false) };
        if !unbuilt.is_empty() && rng.percent(20) {
            return self.build_one().map(|()| true);
        }
        let total: u64 = self.weights.iter().flatten().sum();
        let mut ticket = rng.below(total.max(1));
        for (seat, weights) in seats.iter_mut().zip(&self.weights) {
            for (task, &weight) in weights.iter().enumerate() {
                if ticket >= weight {
                    ticket -= weight;
                    continue;
                }
                if seat.pump.is_some() && rng.percent(40) {
                    let round = seat.pump(clock.now()).map_err(failed)?;
                    return Ok(matches!(round, Round::Worked));
                }
                let progress = seat.step_task(task, clock).map_err(failed)?;
                return Ok(progress == Progress::Worked);
            }
        }
        Ok(false)
    }

    fn build_one(&mut self) -> Result<(), TaskFailure> {
        let State::Up { unbuilt, seats } = &mut self.state else { return Ok(()) };
        let Some(Unbuilt { blueprints, pump, doorbell }) = unbuilt.pop_front() else {
            return Ok(());
        };
        let tasks: tidemill::Result<Vec<_>> =
            blueprints.into_iter().map(Blueprint::build).collect();
        let tasks = tasks.map_err(|e| failure(&e))?;
        let declared: Vec<_> = tasks
            .iter()
            .map(|t| (t.context.info.clone(), t.context.states.borrow().clone()))
            .collect();
        self.states.extend(states_of(&declared));
        self.weights.push(vec![1; tasks.len()]);
        seats.push(Seat::new(Slot::new(tasks), pump, doorbell));
        if unbuilt.is_empty() {
            self.ready = true;
            let (attempt, states) = (self.attempt(), self.states.clone());
            self.out.push_back(WorkerSays::Ready { attempt, states });
        }
        Ok(())
    }

    /// Does everything that can be done; whether anything was, and when something else may be.
    ///
    /// # Errors
    /// What ends the attempt.
    pub(super) fn settle(
        &mut self,
        clock: &ManualClock,
    ) -> Result<(bool, Option<Micros>), TaskFailure> {
        let failed = |e| failure(&e);
        let mut worked = false;
        let mut until: Vec<Micros> = Vec::new();
        if let State::Up { unbuilt, .. } = &self.state
            && !unbuilt.is_empty()
        {
            self.build_one()?;
            worked = true;
        }
        if let State::Up { seats, .. } = &mut self.state {
            for seat in seats {
                worked |= seat.command(clock).map_err(failed)?;
                worked |= seat.is_moving();
                match seat.pump(clock.now()).map_err(failed)? {
                    Round::Worked => worked = true,
                    Round::Idle { until: u } => until.extend(u),
                }
                for i in 0..seat.slot.len() {
                    match seat.step_task(i, clock).map_err(failed)? {
                        Progress::Worked => worked = true,
                        Progress::Idle { until: u } | Progress::Blocked { until: u } => {
                            until.extend(u);
                        }
                        Progress::Finished => {}
                    }
                }
            }
        }
        for slot in 0..self.slots() {
            worked |= self.carry(slot, usize::MAX);
        }
        worked |= self.write();
        Ok((worked, until.into_iter().min()))
    }

    /// The writer does its next job.
    pub(super) fn write(&mut self) -> bool {
        let Some(job) = self.jobs.pop_front() else { return false };
        let attempt = self.attempt();
        let mut events = Vec::new();
        self.writer.on(job, &mut events);
        for event in events {
            match event {
                snapshot::Event::Finished { epoch, part } => {
                    let part = Box::new(part);
                    self.out.push_back(WorkerSays::Written { attempt, epoch, part });
                }
                snapshot::Event::Failed { epoch, error } => {
                    let reason = error.to_string();
                    self.out.push_back(WorkerSays::WriteFailed { attempt, epoch, reason });
                }
                _ => {}
            }
        }
        true
    }

    /// Carries at most `most` events of each task of a slot; whether any was.
    fn carry(&mut self, slot: usize, most: usize) -> bool {
        let mut carried = false;
        let State::Up { seats, .. } = &self.state else { return false };
        let tasks = seats.get(slot).map_or(0, |seat| seat.slot.len());
        for i in 0..tasks {
            for _ in 0..most {
                let State::Up { seats, .. } = &mut self.state else { return false };
                let Some(event) = seats[slot].slot.pop_event(i) else { break };
                let context = seats[slot].slot.context(i).clone();
                if let Err(event) = self.deliver(&context.info, event) {
                    context.outbox.put_back(event);
                    break;
                }
                carried = true;
            }
        }
        carried
    }

    fn offer(&mut self, job: snapshot::Job) -> Result<(), snapshot::Job> {
        if self.jobs.len() >= WRITER_QUEUE {
            return Err(job);
        }
        self.jobs.push_back(job);
        Ok(())
    }

    fn deliver(&mut self, info: &SubtaskInfo, event: TaskEvent) -> Result<(), TaskEvent> {
        let attempt = self.attempt();
        let subtask = SubtaskId::new(info.task as u32, info.subtask);
        let says = match event {
            TaskEvent::Entry { epoch, section, payload, records } => {
                let key = ChunkKey {
                    operator: section.operator,
                    subtask: info.subtask,
                    kind: section.kind,
                    state: section.state,
                };
                return match self.offer(snapshot::Job::Chunk { epoch, key, payload, records }) {
                    Err(snapshot::Job::Chunk { payload, .. }) => {
                        Err(TaskEvent::Entry { epoch, section, payload, records })
                    }
                    _ => Ok(()),
                };
            }
            TaskEvent::File { epoch, source } => {
                return match self.offer(snapshot::Job::Share { epoch, source }) {
                    Err(snapshot::Job::Share { epoch, source }) => {
                        Err(TaskEvent::File { epoch, source })
                    }
                    _ => Ok(()),
                };
            }
            TaskEvent::Acknowledged { epoch } => {
                // Where the queue is full it goes on from there, as in production.
                let operators = self.operators[info.task as usize].clone();
                let told = self.told.remove(&subtask).unwrap_or(0);
                for (nth, operator) in operators.into_iter().enumerate().skip(told) {
                    let done = snapshot::SubtaskId { operator, subtask: info.subtask };
                    let job = snapshot::Job::SubtaskDone { epoch, subtask: done };
                    if self.offer(job).is_err() {
                        self.told.insert(subtask, nth);
                        return Err(event);
                    }
                }
                WorkerSays::Acked { attempt, epoch, subtask }
            }
            TaskEvent::Committed { epoch } => WorkerSays::CommitAcked { attempt, epoch, subtask },
            TaskEvent::Finished => {
                self.finished.insert(subtask);
                WorkerSays::SubtaskFinished { attempt, subtask }
            }
        };
        self.out.push_back(says);
        Ok(())
    }

    /// The slots stop where they stand. What the writer has begun it may still do.
    pub(super) fn stop(mut self, rng: &mut Rng) {
        let more = rng.index(self.jobs.len() + 1);
        (0..more).for_each(|_| {
            self.write();
        });
    }
}

/// How connections between workers deliver.
pub(super) type Faults = tidemill_net::transport::memory::Faults;

/// Connects all slots of an attempt whose workers all wait for each other.
pub(super) fn connect(
    group: &mut [&mut Deployed],
    mut faults: impl FnMut() -> Faults,
    now: Micros,
) {
    let mut taken = Vec::new();
    for deployed in group.iter_mut() {
        let up = State::Up { unbuilt: VecDeque::new(), seats: Vec::new() };
        if let State::Waiting { parts, doorbells, .. } = std::mem::replace(&mut deployed.state, up)
        {
            taken.extend(parts.into_iter().zip(doorbells));
        }
    }
    taken.sort_by_key(|(part, _)| part.slot);
    let mut transports: Vec<_> = taken.iter().map(|_| MemoryTransport::new()).collect();
    // In the order of both slots, which is that of each slot's partners.
    let index: BTreeMap<u32, usize> =
        taken.iter().enumerate().map(|(i, (part, _))| (part.slot, i)).collect();
    for a in 0..taken.len() {
        for peer in taken[a].0.remote.keys().filter_map(|peer| index.get(peer).copied()) {
            if a < peer {
                let (left, right) = transports.split_at_mut(peer);
                MemoryTransport::connect(&mut left[a], &mut right[0], [faults(), faults()]);
            }
        }
    }
    for ((part, doorbell), transport) in taken.into_iter().zip(transports) {
        let SlotPart { slot: own, blueprints, remote } = part;
        let partners: Vec<_> = remote
            .into_iter()
            .map(|(slot, channels)| {
                let session = own.min(slot) << 16 | own.max(slot);
                (Peer { slot, address: String::from("memory"), session }, channels)
            })
            .collect();
        let pump = (!partners.is_empty())
            .then(|| Pump::new(own, transport, partners, LinkOptions::default(), now));
        let owner = group.iter_mut().find(|d| d.deployment.own.range().contains(&own));
        if let Some(Deployed { state: State::Up { unbuilt, .. }, .. }) = owner {
            unbuilt.push_back(Unbuilt { blueprints, pump, doorbell });
        }
    }
}

/// Whether everything that a checkpoint names is there and whole.
pub(super) fn verify(store: &MemoryStore, epoch: u64) -> Result<(), String> {
    let manifest = store.load_manifest(epoch).map_err(|e| e.to_string())?;
    snapshot::verify(store, &manifest).map_err(|e| e.to_string())
}
