//! What must never happen, looked at from outside; see the invariants of the module above.

use super::World;
use super::deployed::verify;
use super::metadata::{Change, Changes, Row};
use super::wire::WorkerKey;
use std::collections::BTreeMap;
use tidemill_coordination::{Assigned, SavepointId};
use tidemill_protocol::{Attempt, Deployment, RestoreFrom, ToWorker};
use tidemill_snapshot::SnapshotStore;

impl World<'_> {
    pub(super) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(super) fn first_violation(&self) -> Option<String> {
        let ledgers = self.families.iter().find_map(|family| family.ledger.first_violation());
        self.violations.first().cloned().or(ledgers)
    }

    /// V1: what a row says is complete is there.
    pub(super) fn check_rows(&mut self, written: &Changes) {
        for change in &written.changes {
            let Change::Checkpoint(epoch, Row::Completed { .. }) = *change else { continue };
            let submitted = &self.submitted[written.job];
            let family = submitted.family;
            if let Err(e) = verify(&submitted.store, epoch) {
                self.violation(format!("V1: epoch {epoch} has a row, but {e}"));
            }
            self.families[family].ledger.complete(epoch);
            self.report.checkpoints += 1;
        }
    }

    /// V2, as the master decides.
    pub(super) fn check_attempt(
        &mut self,
        term: u64,
        job: usize,
        attempt: Attempt,
        workers: &[Assigned],
        restored: Option<RestoreFrom>,
    ) {
        if term != self.metadata.term {
            // Its row will be fenced: nothing of it goes out.
            return;
        }
        self.report.attempts += 1;
        let Some(record) = self.metadata.jobs.get(&job) else { return };
        let newest = record.completed().last().copied();
        let initial = record.initial.as_ref().map(|r| r.epoch);
        let got = restored.map(|r| r.epoch);
        if got != newest.or(initial) {
            self.violation(format!(
                "M5: attempt {attempt} of job {job} starts from {got:?}, rows say {newest:?}"
            ));
        }
        let slots: u32 = workers.iter().map(|w| w.slots).sum();
        if slots == 0 {
            self.violation(format!("M2: attempt {attempt} of job {job} has no slots"));
        }
    }

    /// V2, as workers see it.
    pub(super) fn check_deployment(&mut self, key: WorkerKey, deployment: &Deployment) {
        let of = (key.0, deployment.attempt);
        let Some(by) = self.orderer else { return };
        let first = *self.deployers.entry(of).or_insert(by);
        if first != by {
            self.violation(format!("M1: {of:?} is deployed by {first:?} and by {by:?}"));
        }
        let recorded = self.metadata.jobs.get(&key.0).map(|r| r.attempt);
        if recorded.is_none_or(|attempt| attempt < deployment.attempt) {
            self.violation(format!("J2: {of:?} is deployed, rows say {recorded:?}"));
        }
        let all: &mut BTreeMap<u32, Deployment> = self.deployments.entry(of).or_default();
        let mut wrong = Vec::new();
        for (other, theirs) in all.iter().filter(|(other, _)| **other != key.1) {
            let mine = deployment.own.range();
            if theirs.own.range().any(|slot| mine.contains(&slot)) {
                wrong.push(format!("M2: workers {other} and {} share slots in {of:?}", key.1));
            }
            if theirs.peers != deployment.peers || theirs.restore != deployment.restore {
                wrong.push(format!("M2: workers of {of:?} are told different things"));
            }
        }
        all.insert(key.1, deployment.clone());
        self.violations.extend(wrong);
    }

    /// V1: orders about epochs.
    pub(super) fn check_order(&mut self, key: WorkerKey, order: &ToWorker) {
        let job = key.0;
        match *order {
            ToWorker::Trigger { attempt, epoch, .. } => {
                let runs = self.processes.get(&key).and_then(|p| p.deployed.as_ref());
                let Some(by) =
                    self.orderer.filter(|_| runs.is_some_and(|d| d.attempt() == attempt))
                else {
                    return;
                };
                let first = *self.triggers.entry((job, epoch)).or_insert((by, attempt));
                if first != (by, attempt) {
                    self.violation(format!(
                        "M4: epoch {epoch} of job {job} by {first:?} and {by:?}, attempt {attempt}"
                    ));
                }
            }
            ToWorker::Commit { attempt, epoch } => {
                let runs = self.processes.get(&key).and_then(|p| p.deployed.as_ref());
                if runs.is_none_or(|d| d.attempt() != attempt) {
                    return;
                }
                let row = self.metadata.jobs.get(&job).and_then(|r| r.checkpoints.get(&epoch));
                let complete = matches!(row, Some(Row::Completed { .. } | Row::Over));
                if !complete {
                    self.violation(format!("V1: {key:?} is to commit {epoch}, its row: {row:?}"));
                }
            }
            _ => {}
        }
    }

    /// V3.
    pub(super) fn check_savepoint(&mut self, job: usize, id: SavepointId, epoch: Option<u64>) {
        let Some(asked) = self.asked.get_mut(&id) else {
            return self.violation(format!("M7: savepoint {id} was not asked for"));
        };
        asked.2 += 1;
        if asked.2 > 1 {
            self.violation(format!("M7: savepoint {id} is answered twice"));
        }
        let Some(epoch) = epoch else { return };
        self.report.savepoints += 1;
        let manifest = self.submitted[job].store.load_manifest(epoch);
        if !manifest.as_ref().is_ok_and(|m| m.savepoint) {
            self.violation(format!("V3: savepoint {id} is epoch {epoch}, which is none"));
        }
        let row = self.metadata.jobs.get(&job).and_then(|r| r.checkpoints.get(&epoch));
        if row != Some(&Row::Completed { savepoint: true }) {
            self.violation(format!("V3: savepoint {id} is epoch {epoch}, whose row is {row:?}"));
        }
    }

    /// V3: what was asked of a JobManager that led to the end is answered.
    pub(super) fn check_answers(&self) -> Result<(), String> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let mine = |asked: &(super::ManagerKey, u64, u32)| {
            asked.0 == leader.key && Some(asked.1) == leader.term
        };
        match self.asked.iter().find(|(_, asked)| mine(asked) && asked.2 != 1) {
            Some((id, asked)) => Err(format!("M7: savepoint {id} has {} answers", asked.2)),
            None => Ok(()),
        }
    }
}
