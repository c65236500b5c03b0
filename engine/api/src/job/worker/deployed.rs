//! One deployment: the slots of an attempt that this process runs, with their snapshot writer.
//!
//! Invariants
//!   K4  A report is made after what it tells has happened: `Written` after the object is durable,
//!       `Acked` after all of the subtask's entries are with the writer.
//!   K5  After a failure nothing of the attempt runs in this process.
//!   K6  Nothing of a checkpoint is used unverified. Damage that is found while tasks are built fails the
//!       attempt and is told, so that the next one starts from an older checkpoint. A place in which no
//!       checkpoint at all is to be seen says nothing of any: it is mounted wrongly, and tried again.

use super::super::carrier::{Carrier, Message, operators_of, watched};
use super::super::checkpoint::states_of;
use super::super::options::State;
use super::super::progress::Watched;
use super::super::restore;
use super::super::state::{AttemptState, StateHome};
use super::control::Bound;
use crate::metrics::JobMetrics;
use crossbeam_channel::{Receiver, unbounded};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemill_base::clock::SystemClock;
use tidemill_base::{
    Barrier, BarrierKind, Clock, Error, Micros, Severity, WATERMARK_MAX, WATERMARK_MIN,
};
use tidemill_net::mesh::MeshPlan;
use tidemill_net::{AttemptKey, Identity, Listener};
use tidemill_plan::{PhysicalPlan, SubtaskId};
use tidemill_protocol::auth::{Key, attempt_key};
use tidemill_protocol::{
    ArtifactHash, Attempt, BarrierMode, Deployment, RestoreFrom, RunningAttempt, StateSettings,
    StoreError, StoreSettings, SubtaskStates, TaskCounters, TaskFailure, ToWorker, WorkerSays,
    WorkerSettings, find_store, open_store,
};
use tidemill_runtime::context::{Damage, Restored, TaskEvent};
use tidemill_runtime::deploy::{DeployOptions, JobPlan, SlotPart, deploy_part};
use tidemill_runtime::slot::Command;
use tidemill_runtime::worker::{EventSink, Worker, WorkerOptions};
use tidemill_snapshot::{self as snapshot, SnapshotStore, SnapshotWriter};

/// How long peers have to come up, in microseconds.
const PEERS_TIMEOUT_US: Micros = 20_000_000;

/// What all deployments of a process share.
pub(super) struct Place {
    pub(super) listener: Listener,
    pub(super) key: Key,
    /// See [`build`].
    pub(super) build: [u8; 32],
    pub(super) clock: SystemClock,
    /// Attempts that were told to end meanwhile.
    pub(super) bound: Bound,
}

/// See the module.
pub(super) struct Deployed {
    attempt: Attempt,
    worker: Worker,
    writer: Option<SnapshotWriter>,
    pub(super) messages: Receiver<Message>,
    pub(super) writer_events: Receiver<snapshot::Event>,
    /// Slots that have not said yet that they run.
    building: usize,
    states: Vec<SubtaskStates>,
    finished: BTreeSet<SubtaskId>,
    last_epoch: u64,
    metrics: JobMetrics,
    watched: Vec<Watched>,
    clock: SystemClock,
    /// The checkpoint that it started from, and whether that proved to be damaged (K6).
    restored: Option<(u64, Damage)>,
    /// Removed when all else has ended.
    _state: (AttemptState, StateHome),
}

/// A deployment that could not be, as it is told to a JobManager that was away.
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

fn failure(error: &Error) -> TaskFailure {
    let message = error.to_string();
    // Errors of tasks begin with "task 'name' (subtask n)".
    let task = message
        .strip_prefix("task '")
        .and_then(|rest| rest.split_once("): "))
        .map(|(place, _)| format!("task '{place})"));
    TaskFailure { message, task, fatal: error.severity() == Severity::FailJob, damaged_epoch: None }
}

impl Deployed {
    /// Loads what is to be restored, connects to the peers and starts the slots.
    pub(super) fn start(
        place: &Place,
        settings: &WorkerSettings,
        physical: &PhysicalPlan,
        plan: &JobPlan,
        deployment: &Deployment,
    ) -> Result<Self, TaskFailure> {
        check_plan(physical, deployment)?;
        let restored = load(plan, deployment)?;
        let store = deployment.store.as_ref().map(open).transpose()?;
        let error = |e: Error| failure(&e);
        let own = deployment.own.range();
        let doorbells: Vec<_> = own.clone().map(|_| tidemill_ring::Doorbell::new()).collect();
        let state = state_of(settings, deployment).map_err(error)?;
        let from = restored.as_ref().map(|r| (r.epoch, r.damage.clone()));
        let options = DeployOptions {
            attempt: deployment.attempt,
            restored,
            state: state.0.backend.clone(),
            ..DeployOptions::default()
        };
        let parts = deploy_part(plan, &doorbells, &options, own.clone()).map_err(error)?;
        let connections = connect(place, settings, deployment, &parts).map_err(error)?;
        let watched = watched(parts.iter().map(|p| &p.blueprints));
        let metrics = JobMetrics::new(physical.job(), place.clock.now());
        let epoch = deployment.restore.as_ref().map(|r| r.epoch);
        metrics.attempt(place.clock.now(), epoch, &watched);
        let (messages_tx, messages) = unbounded();
        let (writer_tx, writer_events) = unbounded();
        let writer = match store {
            Some(store) => {
                let options = snapshot::WriterOptions::for_worker(deployment.writer);
                let started = SnapshotWriter::start(options, store, writer_tx);
                Some(started.map_err(|e| error(Error::attempt(e.to_string())))?)
            }
            None => None,
        };
        let operators = operators_of(plan);
        let building = parts.len();
        let sinks = parts.iter().map(|_| -> Box<dyn EventSink> {
            Box::new(Carrier {
                messages: messages_tx.clone(),
                writer: writer.as_ref().map(SnapshotWriter::sender),
                operators: Arc::clone(&operators),
                told: BTreeMap::new(),
            })
        });
        let sinks = sinks.collect();
        let options = WorkerOptions::on_cpus(building, &settings.cpus);
        let worker =
            Worker::start_connected(parts, connections, &doorbells, sinks, &place.clock, options)
                .map_err(error)?;
        Ok(Deployed {
            attempt: deployment.attempt,
            worker,
            writer,
            messages,
            writer_events,
            building,
            states: Vec::new(),
            finished: BTreeSet::new(),
            last_epoch: epoch.unwrap_or(0),
            metrics,
            watched,
            clock: place.clock.clone(),
            restored: from,
            _state: state,
        })
    }

    pub(super) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Whether all its subtasks have finished.
    pub(super) fn is_finished(&self) -> bool {
        self.finished.len() == self.watched.len()
    }

    /// As it is told to a JobManager that was away.
    pub(super) fn running(&self) -> RunningAttempt {
        RunningAttempt {
            attempt: self.attempt,
            ready: self.building == 0,
            states: self.states.clone(),
            finished: self.finished.iter().copied().collect(),
            last_epoch: self.last_epoch,
            failure: None,
        }
    }

    /// What a slot says.
    pub(super) fn on_slot(&mut self, message: Message) -> Result<Option<WorkerSays>, TaskFailure> {
        let attempt = self.attempt;
        let says = match message {
            Message::Ready(subtasks) => {
                self.states.extend(states_of(&subtasks));
                self.building = self.building.saturating_sub(1);
                if self.building > 0 {
                    return Ok(None);
                }
                WorkerSays::Ready { attempt, states: self.states.clone() }
            }
            Message::Failed(error) => {
                let damaged = self.restored.as_ref().filter(|(_, damage)| damage.is_noted());
                let damaged_epoch = damaged.map(|(epoch, _)| *epoch);
                return Err(TaskFailure { damaged_epoch, ..failure(&error) });
            }
            Message::Task(subtask, event) => match event {
                TaskEvent::Acknowledged { epoch } => WorkerSays::Acked { attempt, epoch, subtask },
                TaskEvent::Committed { epoch } => {
                    WorkerSays::CommitAcked { attempt, epoch, subtask }
                }
                TaskEvent::Finished => {
                    self.finished.insert(subtask);
                    WorkerSays::SubtaskFinished { attempt, subtask }
                }
                TaskEvent::Entry { .. } | TaskEvent::File { .. } => return Ok(None),
            },
        };
        Ok(Some(says))
    }

    /// What the snapshot writer says.
    pub(super) fn on_writer(
        &mut self,
        event: snapshot::Event,
    ) -> Result<Option<WorkerSays>, TaskFailure> {
        let attempt = self.attempt;
        Ok(match event {
            snapshot::Event::Finished { epoch, part } => {
                Some(WorkerSays::Written { attempt, epoch, part: Box::new(part) })
            }
            snapshot::Event::Failed { epoch, error } => {
                eprintln!("checkpoint {epoch}: {error}");
                Some(WorkerSays::WriteFailed { attempt, epoch, reason: error.to_string() })
            }
            _ => None,
        })
    }

    /// Does what the JobManager orders for this attempt.
    pub(super) fn order(&mut self, order: &ToWorker) {
        match *order {
            ToWorker::Trigger { attempt, epoch, mode, savepoint } if attempt == self.attempt => {
                self.last_epoch = self.last_epoch.max(epoch);
                self.write(snapshot::Job::Begin { epoch, expect: Vec::new() });
                let kind = match mode {
                    _ if savepoint => BarrierKind::Savepoint,
                    BarrierMode::Aligned => BarrierKind::Aligned { timeout: None },
                    BarrierMode::AlignedFor(0) => BarrierKind::Unaligned,
                    BarrierMode::AlignedFor(ms) => {
                        BarrierKind::Aligned { timeout: Some(ms * 1_000) }
                    }
                };
                let triggered_at = self.clock.now();
                self.worker.command(Command::Trigger(Barrier { epoch, triggered_at, kind }));
            }
            ToWorker::Finish { attempt, epoch } if attempt == self.attempt => {
                self.write(snapshot::Job::Finish { epoch });
            }
            ToWorker::Commit { attempt, epoch } if attempt == self.attempt => {
                self.worker.command(Command::Commit(epoch));
            }
            ToWorker::Abort { attempt, epoch } if attempt == self.attempt => {
                self.worker.command(Command::Abort(epoch));
                self.write(snapshot::Job::Abort { epoch });
            }
            _ => {}
        }
    }

    fn write(&self, job: snapshot::Job) {
        if let Some(writer) = &self.writer {
            // Only fails when the writer has been shut down, which only `stop` does.
            let _ = writer.sender().send(job);
        }
    }

    /// Counters for the JobManager.
    pub(super) fn counters(&self, now: Micros) -> WorkerSays {
        self.metrics.sample(now);
        let rates = self.metrics.rates();
        let tasks = self.watched.iter().zip(rates).map(|(w, (busy, backpressured))| TaskCounters {
            subtask: SubtaskId::new(w.task as u32, w.subtask),
            task: w.name.to_string(),
            source: w.is_source,
            records_in: w.metrics.records_in.get(),
            records_out: w.metrics.records_out.get(),
            bytes_out: w.metrics.bytes_out.get(),
            watermark_ms: Some(w.metrics.watermark())
                .filter(|w| ![WATERMARK_MIN, WATERMARK_MAX].contains(w)),
            busy,
            backpressured,
        });
        let tasks = tasks.collect();
        let text = self.metrics.render_tasks(now);
        WorkerSays::Metrics { attempt: self.attempt, tasks, text }
    }

    /// Stops the slots where they stand, and the writer.
    pub(super) fn stop(self) {
        self.worker.stop();
        if let Some(writer) = self.writer {
            writer.shutdown();
        }
    }
}

/// The program must give the plan that the JobManager holds: it may depend on its host.
fn check_plan(physical: &PhysicalPlan, deployment: &Deployment) -> Result<(), TaskFailure> {
    let own = physical.fingerprint();
    if own == deployment.plan_hash {
        return Ok(());
    }
    let wanted = deployment.plan_hash;
    Err(failure(&Error::job(format!(
        "the program's plan here ({own:016x}) is not the one that was submitted ({wanted:016x}): a job's \
         graph must depend on its arguments alone, not on the host, the time or chance"
    ))))
}

/// Where the deployment keeps keyed state.
fn state_of(
    settings: &WorkerSettings,
    deployment: &Deployment,
) -> tidemill_base::Result<(AttemptState, StateHome)> {
    let (state, memory_mib) = match deployment.state {
        StateSettings::Heap => (State::Heap, 0),
        StateSettings::Rocksdb { memory_mib } => (State::RocksDb, memory_mib as usize),
    };
    let home = StateHome::open(state, Some(&settings.state_dir), memory_mib)?;
    Ok((home.attempt(deployment.attempt)?, home))
}

/// The checkpoint store that a deployment names.
fn open(settings: &StoreSettings) -> Result<Arc<dyn SnapshotStore>, TaskFailure> {
    open_store(settings).map_err(unopened)
}

/// The store in which a checkpoint is to be found.
fn find(from: &RestoreFrom) -> Result<Arc<dyn SnapshotStore>, TaskFailure> {
    find_store(&from.store).map_err(|e| match (e, &from.store) {
        (
            StoreError::Snapshot(tidemill_snapshot::Error::Missing(_)),
            StoreSettings::Dir { path },
        ) => failure(&restore::not_there(path, from.epoch)),
        (e, _) => unopened(e),
    })
}

fn unopened(e: StoreError) -> TaskFailure {
    let (message, never) = (e.to_string(), !matches!(e, StoreError::Snapshot(_)));
    failure(&if never { Error::job(message) } else { Error::attempt(message) })
}

/// The part of a checkpoint that the deployment starts from.
fn load(plan: &JobPlan, deployment: &Deployment) -> Result<Option<Arc<Restored>>, TaskFailure> {
    let Some(from) = &deployment.restore else { return Ok(None) };
    let store = find(from)?;
    // State by key is verified as each subtask reads its share of it (K6).
    let loaded = restore::load_epoch(store, from.epoch, plan, deployment.allow_dropped_state);
    loaded.map(Some).map_err(|(e, damaged)| TaskFailure {
        damaged_epoch: damaged.then_some(from.epoch),
        ..failure(&e)
    })
}

/// Connections to the slots of other workers.
fn connect(
    place: &Place,
    settings: &WorkerSettings,
    deployment: &Deployment,
    parts: &[SlotPart],
) -> tidemill_base::Result<Vec<tidemill_net::Connection>> {
    let mut peers = BTreeMap::new();
    for peer in deployment.peers.iter().filter(|p| p.worker != settings.worker.number) {
        let address = super::resolve(&peer.address, 0)?;
        peers.extend(peer.slots.range().map(|slot| (slot, address)));
    }
    let pairs: BTreeSet<(u32, u32)> =
        parts.iter().flat_map(|p| p.remote.keys().map(|&peer| (p.slot, peer))).collect();
    let key = attempt_key(&place.key, deployment.attempt);
    let identity = Identity {
        job: settings.worker.job.bytes(),
        attempt: deployment.attempt,
        build: place.build,
        key: AttemptKey::new(*key.bytes()),
    };
    let plan = MeshPlan {
        identity: &identity,
        local: deployment.own.range(),
        pairs: &pairs,
        peers: &peers,
        timeout_us: PEERS_TIMEOUT_US,
    };
    let ended = || place.bound.is_past(deployment.attempt);
    place.listener.connect(&plan, &place.clock, &ended)
}

/// What the ends of a connection must share: the program file, byte for byte, and the plan that it gave.
/// The agent knows the file's hash already.
pub(super) fn build(
    physical: &PhysicalPlan,
    file: Option<&ArtifactHash>,
) -> tidemill_base::Result<[u8; 32]> {
    let file = match file {
        Some(known) => known.bytes(),
        None => own_hash()?,
    };
    let mut hasher = Sha256::new();
    hasher.update(file);
    hasher.update(physical.fingerprint().to_le_bytes());
    Ok(hasher.finalize().into())
}

/// Of the program file that runs.
fn own_hash() -> tidemill_base::Result<[u8; 32]> {
    use std::io::Read as _;
    let cannot = |e| Error::attempt(format!("cannot read this program's own file: {e}"));
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open("/proc/self/exe").map_err(cannot)?;
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece).map_err(cannot)? {
            0 => break,
            n => hasher.update(&piece[..n]),
        }
    }
    Ok(hasher.finalize().into())
}
