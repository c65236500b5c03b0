//! A running attempt: between its workers and its checkpoint coordinator.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_plan::SubtaskId;
use tidemill_protocol::{BarrierMode, RunningAttempt, ToWorker, WorkerSays};
use tidemill_snapshot::WorkerPart;

use super::event::{CheckpointFact, Effect, JobStatus};
use super::{Failure, Master, OWN_SAVEPOINT, Phase};
use crate::{Action, Coordinator, Epoch, EpochKind, Event, Micros, SavepointError};

/// What a running attempt knows beside its coordinator.
#[derive(Clone, Debug)]
pub(super) struct Running {
    coordinator: Coordinator,
    wake_at: Option<Micros>,
    /// Workers' parts of the pending epoch.
    parts: BTreeMap<u32, WorkerPart>,
    /// The pending epoch: why, and since when.
    pending: Option<(Epoch, EpochKind, Micros)>,
}

impl Running {
    pub(super) fn wake_at(&self) -> Option<Micros> {
        self.wake_at
    }
}

impl Master {
    /// All workers have built their tasks.
    pub(super) fn run(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let coordinator = match Coordinator::new(self.coordination()) {
            Ok(coordinator) => coordinator,
            Err(e) => return self.finish(Err(e.to_string()), out),
        };
        self.phase = Phase::Running(Box::new(Running {
            coordinator,
            wake_at: None,
            parts: BTreeMap::new(),
            pending: None,
        }));
        self.set_status(JobStatus::Running, out);
        let subtasks: BTreeSet<SubtaskId> = self.submission.plan.subtasks().collect();
        self.coordinate(now, Event::Started { subtasks }, out);
        let attempt = self.attempt;
        for (_, subtask) in std::mem::take(&mut self.early).into_iter().filter(|e| e.0 == attempt) {
            self.coordinate(now, Event::SubtaskFinished { subtask }, out);
        }
        for (id, stop) in std::mem::take(&mut self.waiting) {
            self.savepoint(now, id, stop, out);
        }
    }

    /// A worker came back with the attempt that it should have.
    pub(super) fn came_back(
        &mut self,
        now: Micros,
        worker: u32,
        running: &RunningAttempt,
        out: &mut Vec<Effect>,
    ) {
        let all = self.workers.count();
        match &mut self.phase {
            Phase::Adopting { back, .. } if running.ready => {
                back.insert(worker);
                if back.len() == all {
                    self.adopted(now, out);
                }
            }
            Phase::Deploying { ready, .. } if running.ready => {
                ready.insert(worker);
                if ready.len() == all {
                    self.run(now, out);
                }
            }
            Phase::Running(attempt) => {
                let pending = attempt.coordinator.pending_epoch();
                self.resume(now, worker, pending, out);
            }
            _ => {}
        }
        for &subtask in &running.finished {
            // Coming back may have ended the attempt: the next one has its own ends (M3).
            if self.attempt == running.attempt {
                self.subtask_finished(now, subtask, out);
            }
        }
    }

    /// All workers are back after a JobManager's restart: what was pending is given up, what was
    /// complete is committed again (which changes nothing where it had been).
    fn adopted(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let newest = self.completed.last().copied().unwrap_or(0);
        let attempt = self.attempt;
        let seen = self.next_epoch;
        for worker in self.workers.numbers().collect::<Vec<_>>() {
            for epoch in newest + 1..seen {
                let message = ToWorker::Abort { attempt, epoch };
                out.push(Effect::Send { worker, message });
            }
            if newest > 0 {
                let message = ToWorker::Commit { attempt, epoch: newest };
                out.push(Effect::Send { worker, message });
            }
        }
        self.run(now, out);
    }

    /// Orders and reports may have been lost with the connection: the pending epoch is given up, or,
    /// where it is complete, committed again. While its manifest is being stored nothing can have been
    /// lost that it needs: all have written, and what follows is said to those who are connected then.
    fn resume(&mut self, now: Micros, worker: u32, pending: Option<Epoch>, out: &mut Vec<Effect>) {
        let Some(epoch) = pending else { return };
        let attempt = self.attempt;
        let Phase::Running(running) = &self.phase else { return };
        match running.coordinator.phase() {
            crate::Phase::Storing => return,
            crate::Phase::Committing => {
                out.push(Effect::Send { worker, message: ToWorker::Commit { attempt, epoch } });
                return;
            }
            _ => {}
        }
        let reason = format!("worker {worker} lost its connection to the JobManager meanwhile");
        let writer = self.workers.place(worker).unwrap_or(0);
        self.coordinate(now, Event::WriterFailed { epoch, writer, reason }, out);
    }

    /// What a worker says about a running attempt.
    pub(super) fn report(
        &mut self,
        now: Micros,
        worker: u32,
        says: WorkerSays,
        out: &mut Vec<Effect>,
    ) {
        let current = self.attempt;
        let Some(writer) = self.workers.place(worker) else { return };
        let event = match says {
            WorkerSays::Acked { attempt, epoch, subtask } if attempt == current => {
                Event::Acked { epoch, subtask }
            }
            WorkerSays::CommitAcked { attempt, epoch, subtask } if attempt == current => {
                Event::CommitAcked { epoch, subtask }
            }
            WorkerSays::SubtaskFinished { attempt, subtask } if attempt == current => {
                return self.subtask_finished(now, subtask, out);
            }
            WorkerSays::Written { attempt, epoch, part } if attempt == current => {
                if let Phase::Running(running) = &mut self.phase
                    && running.coordinator.pending_epoch() == Some(epoch)
                {
                    running.parts.insert(writer, *part);
                }
                Event::WriterFinished { epoch, writer }
            }
            WorkerSays::WriteFailed { attempt, epoch, reason } if attempt == current => {
                Event::WriterFailed { epoch, writer, reason }
            }
            _ => return,
        };
        self.coordinate(now, event, out);
    }

    /// A subtask may finish before all workers are ready: that is told to the coordinator later.
    fn subtask_finished(&mut self, now: Micros, subtask: SubtaskId, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Running(_)) {
            self.coordinate(now, Event::SubtaskFinished { subtask }, out);
        } else {
            self.early.insert((self.attempt, subtask));
        }
    }

    /// The commit point of an epoch has been passed.
    pub(super) fn stored(&mut self, now: Micros, epoch: Epoch, out: &mut Vec<Effect>) {
        // Also where the attempt is over by now: what is complete is what the next one starts from.
        if self.completed.last().is_none_or(|&last| last < epoch) {
            self.completed.push(epoch);
        }
        self.coordinate(now, Event::ManifestStored { epoch }, out);
    }

    /// Tells the coordinator and translates what it asks for.
    pub(super) fn coordinate(&mut self, now: Micros, event: Event, out: &mut Vec<Effect>) {
        let Phase::Running(running) = &mut self.phase else { return };
        let mut actions = Vec::new();
        if let Err(illegal) = running.coordinator.on(now, event, &mut actions) {
            return self.fail(now, Failure::of(illegal.to_string()), out);
        }
        self.next_epoch = self.next_epoch.max(running.coordinator.last_epoch() + 1);
        for action in actions {
            self.act(now, action, out);
        }
    }

    fn act(&mut self, now: Micros, action: Action, out: &mut Vec<Effect>) {
        let attempt = self.attempt;
        match action {
            Action::Trigger { epoch, kind, aligned_timeout_ms } => {
                self.trigger(now, epoch, kind, aligned_timeout_ms, out);
            }
            Action::FinishObjects { epoch } => {
                self.broadcast(out, |_| ToWorker::Finish { attempt, epoch });
            }
            Action::StoreManifest { epoch } => self.store_manifest(epoch, out),
            Action::Commit { epoch } => {
                self.broadcast(out, |_| ToWorker::Commit { attempt, epoch });
                if let Phase::Running(running) = &mut self.phase
                    && let Some((_, _, since)) = running.pending.take()
                {
                    let duration_us = now.saturating_sub(since);
                    out.push(Effect::Checkpoint(CheckpointFact::Completed { epoch, duration_us }));
                }
            }
            Action::Abort { epoch, reason } => {
                self.broadcast(out, |_| ToWorker::Abort { attempt, epoch });
                if let Phase::Running(running) = &mut self.phase {
                    running.parts.clear();
                    running.pending = None;
                }
                let reason = reason.to_string();
                out.push(Effect::Checkpoint(CheckpointFact::Failed { epoch, reason }));
                out.push(Effect::Discard { epoch });
            }
            Action::Retain => {
                let over = self.completed.len().saturating_sub(self.settings.keep.max(1));
                self.completed.drain(..over);
                out.push(Effect::Retain { keep: self.completed.clone() });
            }
            Action::SavepointDone { id: OWN_SAVEPOINT, .. } => self.do_rescale(now, out),
            Action::SavepointDone { id, epoch } => out.push(Effect::SavepointDone { id, epoch }),
            Action::SavepointFailed { id: OWN_SAVEPOINT, reason } => {
                self.rescale_failed(&reason, out)
            }
            Action::SavepointFailed { id, reason } => {
                out.push(Effect::SavepointFailed { id, reason });
            }
            Action::JobDone { outcome } => self.finish(Ok(outcome), out),
            Action::FailJob { reason } => self.fail(now, Failure::of(reason.to_string()), out),
            Action::WakeAt { at } => {
                if let Phase::Running(running) = &mut self.phase {
                    running.wake_at = Some(at);
                }
            }
        }
    }

    /// The checkpoint that a rescale was to start from failed: it is asked for again by the user.
    fn rescale_failed(&mut self, reason: &SavepointError, out: &mut Vec<Effect>) {
        if self.rescale.take().is_some() {
            out.push(Effect::RescaleFailed { reason: reason.to_string() });
        }
    }

    fn trigger(
        &mut self,
        now: Micros,
        epoch: Epoch,
        kind: EpochKind,
        aligned_timeout_ms: Option<u64>,
        out: &mut Vec<Effect>,
    ) {
        if let Phase::Running(running) = &mut self.phase {
            running.parts.clear();
            running.pending = Some((epoch, kind, now));
        }
        out.push(Effect::Checkpoint(CheckpointFact::Triggered { epoch, kind }));
        let attempt = self.attempt;
        let mode = match (kind, aligned_timeout_ms) {
            (EpochKind::Periodic, Some(ms)) => BarrierMode::AlignedFor(ms),
            _ => BarrierMode::Aligned,
        };
        let savepoint = kind.savepoint().is_some();
        self.broadcast(out, |_| ToWorker::Trigger { attempt, epoch, mode, savepoint });
    }

    fn store_manifest(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        let Phase::Running(running) = &mut self.phase else { return };
        let parts = std::mem::take(&mut running.parts);
        let savepoint = running
            .pending
            .and_then(|(_, kind, _)| kind.savepoint())
            .is_some_and(|id| id != OWN_SAVEPOINT);
        let plan = &self.submission.plan;
        let manifest = self.declared.manifest(plan, epoch, 0, savepoint, parts.into_values());
        out.push(Effect::StoreManifest { manifest: Box::new(manifest) });
    }

    fn broadcast(&self, out: &mut Vec<Effect>, message: impl Fn(u32) -> ToWorker) {
        for worker in self.workers.numbers() {
            out.push(Effect::Send { worker, message: message(worker) });
        }
    }
}
