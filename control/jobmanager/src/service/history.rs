//! A job's record in memory and its changes on the way to the metadata store. Pure.
//!
//! Invariants
//!   H1  What is in memory is what the store has once all changes taken are written.
//!   H2  Each list is bounded: what leaves it in memory leaves it in the store. A complete checkpoint
//!       that is not expired, and a savepoint, never leave.

use tidemill_coordination::JobStatus;
use tidemill_protocol::Attempt;

use crate::metadata::{
    Change, CheckpointRow, CheckpointState, ExceptionRow, JobRecord, SavepointRow, StatusRow,
};

/// H2.
pub(super) const CHECKPOINTS_MAX: usize = 200;
pub(super) const EXCEPTIONS_MAX: usize = 100;
const SAVEPOINTS_MAX: usize = 1_000;
const STATUSES_MAX: usize = 1_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    record: JobRecord,
    changes: Vec<Change>,
    head_changed: bool,
}

impl History {
    pub(super) fn new(record: JobRecord) -> Self {
        History { record, changes: Vec::new(), head_changed: false }
    }

    pub(crate) fn record(&self) -> &JobRecord {
        &self.record
    }

    /// Changes of the head: all of it is written.
    pub(super) fn head(&mut self) -> &mut crate::metadata::JobRow {
        self.head_changed = true;
        &mut self.record.job
    }

    /// What has changed since the last call, in order (H1).
    pub(super) fn take(&mut self) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.changes);
        if std::mem::take(&mut self.head_changed) {
            changes.insert(0, Change::Job(Box::new(self.record.job.clone())));
        }
        changes
    }

    pub(super) fn status(&mut self, status: JobStatus, at_ms: i64) {
        if self.record.job.status == status && !self.record.statuses.is_empty() {
            return;
        }
        self.head().status = status;
        if status.is_over() {
            self.record.job.ended_ms = Some(at_ms);
        }
        let number = self.record.statuses.last().map_or(0, |s| s.number + 1);
        let row = StatusRow { number, status, at_ms };
        if self.record.statuses.len() < STATUSES_MAX || status.is_over() {
            self.changes.push(Change::Status(self.record.job.id.clone(), row.clone()));
            self.record.statuses.push(row);
        }
    }

    pub(super) fn exception(
        &mut self,
        at_ms: i64,
        attempt: Attempt,
        task: Option<String>,
        host: Option<String>,
        message: String,
    ) {
        let id = self.record.job.id.clone();
        let number = self.record.exceptions.last().map_or(0, |e| e.number + 1);
        let row = ExceptionRow { number, at_ms, attempt, task, host, message };
        self.changes.push(Change::Exception(id.clone(), row.clone()));
        self.record.exceptions.push(row);
        while self.record.exceptions.len() > EXCEPTIONS_MAX {
            let gone = self.record.exceptions.remove(0);
            self.changes.push(Change::ForgetException(id.clone(), gone.number));
        }
    }

    pub(super) fn checkpoint(&self, epoch: u64) -> Option<&CheckpointRow> {
        self.record.checkpoints.iter().find(|c| c.epoch == epoch)
    }

    /// Puts a checkpoint's row, to be written with the next changes.
    pub(super) fn put_checkpoint(&mut self, row: CheckpointRow) {
        self.changes.push(Change::Checkpoint(self.record.job.id.clone(), row.clone()));
        self.saw_checkpoint(row);
    }

    /// Puts a checkpoint's row that the store has already.
    pub(super) fn saw_checkpoint(&mut self, row: CheckpointRow) {
        let rows = &mut self.record.checkpoints;
        match rows.iter().position(|c| c.epoch >= row.epoch) {
            Some(at) if rows[at].epoch == row.epoch => rows[at] = row,
            Some(at) => rows.insert(at, row),
            None => rows.push(row),
        }
        let dispensable = |c: &CheckpointRow| {
            !matches!(c.state, CheckpointState::Completed | CheckpointState::InProgress)
        };
        while self.record.checkpoints.len() > CHECKPOINTS_MAX
            && let Some(at) = self.record.checkpoints.iter().position(dispensable)
        {
            let gone = self.record.checkpoints.remove(at);
            let id = self.record.job.id.clone();
            self.changes.push(Change::ForgetCheckpoint(id, gone.epoch));
        }
    }

    /// Changes a checkpoint that is known.
    pub(super) fn change_checkpoint(
        &mut self,
        epoch: u64,
        change: impl FnOnce(&mut CheckpointRow),
    ) {
        if let Some(mut row) = self.checkpoint(epoch).cloned() {
            let before = row.clone();
            change(&mut row);
            if row != before {
                self.put_checkpoint(row);
            }
        }
    }

    pub(super) fn savepoint(&self, trigger: u64) -> Option<&SavepointRow> {
        self.record.savepoints.iter().find(|s| s.trigger == trigger)
    }

    pub(super) fn savepoints_full(&self) -> bool {
        self.record.savepoints.len() >= SAVEPOINTS_MAX
    }

    pub(super) fn put_savepoint(&mut self, row: SavepointRow) {
        self.changes.push(Change::Savepoint(self.record.job.id.clone(), row.clone()));
        match self.record.savepoints.iter_mut().find(|s| s.trigger == row.trigger) {
            Some(known) => *known = row,
            None => self.record.savepoints.push(row),
        }
    }

    /// Complete epochs, oldest first.
    pub(super) fn completed(&self) -> Vec<u64> {
        let complete = |c: &&CheckpointRow| c.state == CheckpointState::Completed;
        self.record.checkpoints.iter().filter(complete).map(|c| c.epoch).collect()
    }

    /// An epoch above all that were ever recorded, and above the one that the job was started from: sinks name
    /// by it what they write, beside what the job before has written.
    pub(super) fn next_epoch(&self) -> u64 {
        let own = self.record.checkpoints.last().map_or(0, |c| c.epoch);
        let initial = self.record.job.initial.as_ref().map_or(0, |from| from.epoch);
        own.max(initial) + 1
    }
}
