//! What JobManagers keep outside of their processes: rows and the term of who may write them. Its laws
//! are those of the contract (`tidemill_jobmanager::metadata`): all or nothing, upserts, and a write with
//! another term than the present one is fenced.

use std::collections::BTreeMap;
use tidemill_base::Micros;
use tidemill_coordination::{Assigned, JobStatus, SavepointId, Submission};
use tidemill_protocol::{Attempt, RestoreFrom};

/// A leader that has not stood for election for so long may be replaced.
const LEASE_US: Micros = 3_000_000;

/// State of a checkpoint's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    InProgress,
    Completed { savepoint: bool },
    Over,
}

/// All rows of a job.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) status: JobStatus,
    pub(super) attempt: Attempt,
    pub(super) workers: Vec<Assigned>,
    pub(super) submission: Submission,
    pub(super) initial: Option<RestoreFrom>,
    pub(super) checkpoints: BTreeMap<u64, Row>,
    /// Savepoints that were asked for, and their epoch where they are complete; `None` inside: failed.
    pub(super) savepoints: BTreeMap<SavepointId, Option<Option<u64>>>,
}

impl Record {
    /// Complete checkpoints that are kept, oldest first.
    pub(super) fn completed(&self) -> Vec<u64> {
        let complete = |row: &Row| matches!(row, Row::Completed { .. });
        self.checkpoints.iter().filter(|(_, row)| complete(row)).map(|(&epoch, _)| epoch).collect()
    }
}

/// A change of one job's rows.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Job(Box<Record>),
    Checkpoint(u64, Row),
    Savepoint(SavepointId, Option<Option<u64>>),
}

/// Changes of one job, all or nothing.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    pub(super) job: usize,
    pub(super) changes: Vec<Change>,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata {
    pub(super) term: u64,
    leader: Option<(usize, u32)>,
    heard: Micros,
    pub(super) jobs: BTreeMap<usize, Record>,
}

/// The term that wrote it is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fenced;

impl Metadata {
    /// One JobManager, in one life, stands for election.
    pub(super) fn campaign(&mut self, now: Micros, who: (usize, u32)) -> Option<u64> {
        if self.leader == Some(who) {
            self.heard = now;
            return Some(self.term);
        }
        if self.leader.is_some() && now < self.heard + LEASE_US {
            return None;
        }
        self.term += 1;
        (self.leader, self.heard) = (Some(who), now);
        Some(self.term)
    }

    /// # Errors
    /// For a term that is over.
    pub(super) fn write(&mut self, term: u64, changes: &[Changes]) -> Result<(), Fenced> {
        if term != self.term {
            return Err(Fenced);
        }
        for Changes { job, changes } in changes {
            for change in changes {
                self.change(*job, change);
            }
        }
        Ok(())
    }

    fn change(&mut self, job: usize, change: &Change) {
        if let Change::Job(record) = change {
            let known = self.jobs.remove(&job);
            let mut record = (**record).clone();
            // The head alone: other rows have changes of their own.
            if let Some(known) = known {
                record.checkpoints = known.checkpoints;
                record.savepoints = known.savepoints;
            }
            self.jobs.insert(job, record);
            return;
        }
        let Some(record) = self.jobs.get_mut(&job) else { return };
        match change {
            Change::Job(_) => {}
            Change::Checkpoint(epoch, row) => {
                record.checkpoints.insert(*epoch, *row);
            }
            Change::Savepoint(id, state) => {
                record.savepoints.insert(*id, *state);
            }
        }
    }
}
