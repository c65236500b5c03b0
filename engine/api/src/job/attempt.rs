//! One attempt of an embedded job: workers, snapshot writer and coordinator, from start to end.
//!
//! Slots send what their tasks say over one channel; this thread feeds it to the coordinator and
//! does what the coordinator asks for. Snapshot entries go straight to the writer.

use super::carrier::{Carrier, Message, operators_of, watched};
use super::checkpoint::Declared;
use super::progress::{Progress, Watched};
use super::requests::{Pending, Requests};
use super::signal;
use super::state::StateHome;
use crate::metrics::JobMetrics;
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Barrier, BarrierKind, Clock, Error, Result};
use tidemill_coordination::{Action, Coordinator, EpochKind, Event, Outcome};
use tidemill_plan::PhysicalPlan;
use tidemill_runtime::context::{Restored, TaskEvent};
use tidemill_runtime::deploy::{DeployOptions, JobPlan, deploy};
use tidemill_runtime::slot::Command;
use tidemill_runtime::worker::{EventSink, Worker, WorkerOptions};
use tidemill_snapshot as snapshot;
use tidemill_snapshot::{SnapshotStore, SnapshotWriter};

/// What an attempt needs.
pub(crate) struct Setup<'a> {
    pub(crate) physical: &'a PhysicalPlan,
    pub(crate) plan: &'a JobPlan,
    pub(crate) clock: &'a SystemClock,
    pub(crate) store: Option<Arc<dyn SnapshotStore>>,
    pub(crate) state: &'a StateHome,
    pub(crate) restored: Option<Arc<Restored>>,
    pub(crate) coordination: tidemill_coordination::Config,
    pub(crate) keep: usize,
    pub(crate) attempt: u32,
    pub(crate) metrics: &'a JobMetrics,
    pub(crate) progress: bool,
    pub(crate) signals: bool,
    pub(crate) requests: &'a Requests,
}

/// How an attempt ended.
pub(crate) struct Ended {
    pub(crate) outcome: Result<Outcome>,
    pub(crate) last_epoch: u64,
    pub(crate) completed: Option<u64>,
    pub(crate) checkpoints: u64,
    pub(crate) running_us: u64,
    pub(crate) watched: Vec<Watched>,
}

struct Attempt<'a> {
    setup: &'a Setup<'a>,
    coordinator: Coordinator,
    worker: Worker,
    writer: Option<SnapshotWriter>,
    declared: Declared,
    parts: BTreeMap<u64, snapshot::WorkerPart>,
    savepoints: std::collections::BTreeSet<u64>,
    committing: Option<u64>,
    wake_at: Option<u64>,
    checkpoints: u64,
    progress: Progress,
    failure: Option<Error>,
    running_since: u64,
    pending: Pending<'a>,
}

/// Runs an attempt to its end.
pub(crate) fn run(setup: &Setup<'_>) -> Result<Ended> {
    let slots = setup.plan.slots();
    let doorbells: Vec<_> = (0..slots).map(|_| tidemill_ring::Doorbell::new()).collect();
    // Removed when the attempt has ended, after the threads that use it.
    let state = setup.state.attempt(setup.attempt)?;
    let options = DeployOptions {
        attempt: setup.attempt,
        restored: setup.restored.clone(),
        state: state.backend.clone(),
        ..DeployOptions::default()
    };
    let blueprints = deploy(setup.plan, &doorbells, &options)?;
    let watched = watched(&blueprints);
    let restored = setup.restored.as_ref().map(|r| r.epoch);
    setup.metrics.attempt(setup.clock.now(), restored, &watched);
    let (messages_tx, messages) = unbounded();
    let (writer_tx, writer_events) = unbounded();
    let writer = match &setup.store {
        Some(store) => {
            let options = snapshot::WriterOptions::for_worker(0);
            let started = SnapshotWriter::start(options, store.clone(), writer_tx);
            Some(started.map_err(|e| Error::job(e.to_string()))?)
        }
        None => None,
    };
    let operators = operators_of(setup.plan);
    let sinks = (0..slots).map(|_| -> Box<dyn EventSink> {
        Box::new(Carrier {
            messages: messages_tx.clone(),
            writer: writer.as_ref().map(SnapshotWriter::sender),
            operators: Arc::clone(&operators),
            told: BTreeMap::new(),
        })
    });
    let coordinator =
        Coordinator::new(setup.coordination.clone()).map_err(|e| Error::job(e.to_string()))?;
    let running_since = setup.clock.now();
    let worker = Worker::start(
        blueprints,
        &doorbells,
        sinks.collect(),
        setup.clock,
        WorkerOptions::for_slots(slots),
    )?;
    let mut attempt = Attempt {
        setup,
        coordinator,
        worker,
        writer,
        declared: Declared::default(),
        parts: BTreeMap::new(),
        savepoints: Default::default(),
        committing: None,
        wake_at: None,
        checkpoints: 0,
        progress: Progress::new(watched),
        failure: None,
        running_since,
        pending: Pending::new(setup.requests),
    };
    let outcome = attempt.serve(slots, &messages, &writer_events);
    Ok(attempt.end(outcome))
}

impl Attempt<'_> {
    fn serve(
        &mut self,
        slots: usize,
        messages: &Receiver<Message>,
        writer: &Receiver<snapshot::Event>,
    ) -> Result<Outcome> {
        // Slots that are ready run at once: what their tasks say waits until all are.
        let (mut ready, mut early) = (0, Vec::new());
        while ready < slots {
            match messages.recv() {
                Ok(Message::Ready(subtasks)) => {
                    self.declared.add(&subtasks);
                    ready += 1;
                }
                Ok(Message::Failed(error)) => return Err(error),
                Ok(message) => early.push(message),
                Err(_) => return Err(Error::attempt("a slot ended before it was ready")),
            }
        }
        let subtasks = self.setup.physical.subtasks().collect();
        let mut done = self.tell(Event::Started { subtasks })?;
        for message in early {
            done = self.on_message(message)?.or(done);
        }
        let mut next_line = self.setup.clock.now();
        let mut cancelled = false;
        while done.is_none() {
            let now = self.setup.clock.now();
            if self.setup.progress && now >= next_line {
                let restored = self.setup.restored.as_ref().map(|r| r.epoch);
                let completed = self.coordinator.completed_epoch().or(restored);
                let line = self.progress.line(self.setup.physical.job(), now, completed);
                super::console::tell(format_args!("{line}"));
                next_line = now + 1_000_000;
            }
            if self.setup.signals && signal::asked() && !cancelled {
                cancelled = true;
                done = self.tell(Event::CancelRequested)?;
                continue;
            }
            if let Some(request) = self.pending.next() {
                done = self.tell(request)?;
                continue;
            }
            let due = self.wake_at.map_or(100_000, |at| at.saturating_sub(now)).min(100_000);
            crossbeam_channel::select! {
                recv(messages) -> message => match message {
                    Ok(message) => done = self.on_message(message)?,
                    Err(_) => return Err(Error::attempt("all slots have ended")),
                },
                recv(writer) -> event => match event {
                    Ok(event) => done = self.on_writer(event)?,
                    Err(_) => match messages.recv_timeout(Duration::from_micros(due)) {
                        Ok(message) => done = self.on_message(message)?,
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => {
                            return Err(Error::attempt("all slots have ended"));
                        }
                    },
                },
                default(Duration::from_micros(due)) => {}
            }
            if done.is_none() && self.wake_at.is_some_and(|at| at <= self.setup.clock.now()) {
                self.wake_at = None;
                done = self.tell(Event::Tick)?;
            }
        }
        done.ok_or_else(|| Error::attempt("the job ended without an outcome"))
    }

    fn on_message(&mut self, message: Message) -> Result<Option<Outcome>> {
        match message {
            Message::Ready(_) => Ok(None),
            Message::Failed(error) => Err(error),
            Message::Task(subtask, event) => match event {
                TaskEvent::Acknowledged { epoch } => self.tell(Event::Acked { epoch, subtask }),
                TaskEvent::Committed { epoch } => self.tell(Event::CommitAcked { epoch, subtask }),
                TaskEvent::Finished => self.tell(Event::SubtaskFinished { subtask }),
                TaskEvent::Entry { .. } | TaskEvent::File { .. } => Ok(None),
            },
        }
    }

    fn on_writer(&mut self, event: snapshot::Event) -> Result<Option<Outcome>> {
        match event {
            snapshot::Event::Finished { epoch, part } => {
                self.parts.insert(epoch, part);
                self.tell(Event::WriterFinished { epoch, writer: 0 })
            }
            snapshot::Event::Failed { error: snapshot::Error::InDoubt(report), .. } => {
                Err(Error::attempt(report.to_string()))
            }
            snapshot::Event::Failed { epoch, error } => {
                tracing::warn!("checkpoint {epoch} failed: {error}");
                let reason = error.to_string();
                if self.committing == Some(epoch) {
                    self.tell(Event::ManifestFailed { epoch, reason })
                } else {
                    self.tell(Event::WriterFailed { epoch, writer: 0, reason })
                }
            }
            snapshot::Event::Committed { epoch } => {
                self.checkpoints += 1;
                self.tell(Event::ManifestStored { epoch })
            }
            snapshot::Event::RetainFailed(error) => {
                tracing::warn!("old checkpoints could not be deleted: {error}");
                Ok(None)
            }
            snapshot::Event::Aborted { .. } | snapshot::Event::Retained(_) => Ok(None),
        }
    }

    /// Tells the coordinator and does what it asks for.
    fn tell(&mut self, event: Event) -> Result<Option<Outcome>> {
        let mut actions = Vec::new();
        let now = self.setup.clock.now();
        self.coordinator
            .on(now, event, &mut actions)
            .map_err(|e| Error::attempt(format!("checkpoint coordination: {e}")))?;
        let mut outcome = None;
        for action in actions {
            self.setup.metrics.on(&action, now);
            if let Some(o) = self.act(action)? {
                outcome = Some(o);
            }
        }
        Ok(outcome)
    }

    fn act(&mut self, action: Action) -> Result<Option<Outcome>> {
        match action {
            Action::Trigger { epoch, kind, aligned_timeout_ms } => {
                if kind.savepoint().is_some() {
                    self.savepoints.insert(epoch);
                }
                self.write(snapshot::Job::Begin { epoch, expect: Vec::new() });
                let kind = match (kind, aligned_timeout_ms) {
                    (kind, None) if kind.savepoint().is_some() => BarrierKind::Savepoint,
                    (EpochKind::Periodic, Some(0)) => BarrierKind::Unaligned,
                    (_, timeout) => BarrierKind::Aligned { timeout: timeout.map(|ms| ms * 1_000) },
                };
                let triggered_at = self.setup.clock.now();
                let barrier = Barrier { epoch, triggered_at, kind };
                self.worker.command(Command::Trigger(barrier));
            }
            Action::FinishObjects { epoch } => self.write(snapshot::Job::Finish { epoch }),
            Action::StoreManifest { epoch } => self.store_manifest(epoch)?,
            Action::Commit { epoch } => self.worker.command(Command::Commit(epoch)),
            Action::Abort { epoch, reason } => {
                tracing::warn!("checkpoint {epoch} is given up: {reason}");
                self.worker.command(Command::Abort(epoch));
                self.write(snapshot::Job::Abort { epoch });
                self.parts.remove(&epoch);
            }
            Action::Retain => self.write(snapshot::Job::Retain {
                policy: snapshot::Policy { keep: self.setup.keep },
                in_flight: Default::default(),
                suspect: Default::default(),
            }),
            Action::JobDone { outcome } => return Ok(Some(outcome)),
            Action::FailJob { reason } => return Err(Error::attempt(reason.to_string())),
            Action::WakeAt { at } => self.wake_at = Some(at),
            Action::SavepointDone { id, epoch } => {
                if let Some(store) = &self.setup.store {
                    self.pending.done(id, &super::restore::place_of(&**store, epoch));
                }
            }
            Action::SavepointFailed { id, reason } => self.pending.failed(id, &reason.to_string()),
        }
        Ok(None)
    }

    fn store_manifest(&mut self, epoch: u64) -> Result<()> {
        let part = self.parts.remove(&epoch).ok_or_else(|| {
            Error::attempt(format!("checkpoint {epoch} has no data object to put in its manifest"))
        })?;
        self.setup
            .metrics
            .written(epoch, part.object.bytes + part.shared.iter().map(|f| f.bytes).sum::<u64>());
        let created = self.setup.clock.wall_ms();
        let savepoint = self.savepoints.remove(&epoch);
        let manifest = self.declared.manifest(self.setup.physical, epoch, created, savepoint, part);
        self.committing = Some(epoch);
        self.write(snapshot::Job::Commit { manifest: Box::new(manifest) });
        Ok(())
    }

    fn write(&mut self, job: snapshot::Job) {
        if let Some(writer) = &self.writer {
            // Only fails when the writer has been shut down, which only `end` does.
            let _ = writer.sender().send(job);
        }
    }

    fn end(mut self, outcome: Result<Outcome>) -> Ended {
        let running_us = self.setup.clock.now().saturating_sub(self.running_since);
        self.worker.stop();
        self.setup.metrics.ended(self.setup.clock.now());
        if let Some(writer) = self.writer.take() {
            writer.shutdown();
        }
        Ended {
            outcome: outcome.and_then(|o| self.failure.take().map_or(Ok(o), Err)),
            last_epoch: self.coordinator.last_epoch(),
            completed: self.coordinator.completed_epoch(),
            checkpoints: self.checkpoints,
            running_us,
            watched: self.progress.watched,
        }
    }
}
