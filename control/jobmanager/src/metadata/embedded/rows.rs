//! Rows in the file's tables.

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_protocol::JobId;

use super::file::{Failure, undone};
use crate::metadata::{Change, JobRecord};

type Jobs = TableDefinition<'static, &'static str, (u64, &'static [u8])>;
type Rows = TableDefinition<'static, (&'static str, u64), &'static [u8]>;

const JOBS: Jobs = TableDefinition::new("jobs");
const STATUSES: Rows = TableDefinition::new("statuses");
const CHECKPOINTS: Rows = TableDefinition::new("checkpoints");
const SAVEPOINTS: Rows = TableDefinition::new("savepoints");
const EXCEPTIONS: Rows = TableDefinition::new("exceptions");

/// Makes the tables.
pub(super) fn make(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.open_table(JOBS)?;
    for rows in [STATUSES, CHECKPOINTS, SAVEPOINTS, EXCEPTIONS] {
        transaction.open_table(rows)?;
    }
    Ok(())
}

/// Applies changes in order.
pub(super) fn apply(transaction: &WriteTransaction, changes: &[Change]) -> Result<(), Failure> {
    let mut tables = Tables::open(transaction)?;
    changes.iter().try_for_each(|change| tables.apply(change))
}

struct Tables<'t> {
    jobs: Table<'t, &'static str, (u64, &'static [u8])>,
    statuses: Table<'t, (&'static str, u64), &'static [u8]>,
    checkpoints: Table<'t, (&'static str, u64), &'static [u8]>,
    savepoints: Table<'t, (&'static str, u64), &'static [u8]>,
    exceptions: Table<'t, (&'static str, u64), &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, Failure> {
        let rows = |table| transaction.open_table(table).map_err(undone);
        Ok(Tables {
            jobs: transaction.open_table(JOBS).map_err(undone)?,
            statuses: rows(STATUSES)?,
            checkpoints: rows(CHECKPOINTS)?,
            savepoints: rows(SAVEPOINTS)?,
            exceptions: rows(EXCEPTIONS)?,
        })
    }

    fn apply(&mut self, change: &Change) -> Result<(), Failure> {
        match change {
            Change::Job(row) => self.put_job(&row.id, &json(row)?),
            Change::Status(job, row) if self.knows(job)? => {
                put(&mut self.statuses, job, row.number, row)
            }
            Change::Checkpoint(job, row) if self.knows(job)? => {
                put(&mut self.checkpoints, job, row.epoch, row)
            }
            Change::Savepoint(job, row) if self.knows(job)? => {
                put(&mut self.savepoints, job, row.trigger, row)
            }
            Change::Exception(job, row) if self.knows(job)? => {
                put(&mut self.exceptions, job, row.number, row)
            }
            // Of a job that was forgotten.
            Change::Status(..)
            | Change::Checkpoint(..)
            | Change::Savepoint(..)
            | Change::Exception(..) => Ok(()),
            Change::ForgetCheckpoint(job, epoch) => remove(&mut self.checkpoints, job, *epoch),
            Change::ForgetException(job, number) => remove(&mut self.exceptions, job, *number),
            Change::ForgetJob(job) => self.forget(job),
        }
    }

    fn knows(&self, job: &JobId) -> Result<bool, Failure> {
        Ok(self.jobs.get(job.as_str()).map_err(undone)?.is_some())
    }

    /// A new job stands behind all others.
    fn put_job(&mut self, job: &JobId, row: &[u8]) -> Result<(), Failure> {
        let known = self.jobs.get(job.as_str()).map_err(undone)?.map(|known| known.value().0);
        let number = match known {
            Some(number) => number,
            None => {
                let mut last = 0;
                for entry in self.jobs.iter().map_err(undone)? {
                    last = last.max(entry.map_err(undone)?.1.value().0);
                }
                last + 1
            }
        };
        self.jobs.insert(job.as_str(), (number, row)).map_err(undone)?;
        Ok(())
    }

    fn forget(&mut self, job: &JobId) -> Result<(), Failure> {
        self.jobs.remove(job.as_str()).map_err(undone)?;
        let all = (job.as_str(), 0)..=(job.as_str(), u64::MAX);
        for rows in
            [&mut self.statuses, &mut self.checkpoints, &mut self.savepoints, &mut self.exceptions]
        {
            rows.retain_in(all.clone(), |_, _| false).map_err(undone)?;
        }
        Ok(())
    }
}

fn json(row: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(row).map_err(|e| Failure::Refused(e.to_string()))
}

fn put(
    rows: &mut Table<'_, (&'static str, u64), &'static [u8]>,
    job: &JobId,
    key: u64,
    row: &impl Serialize,
) -> Result<(), Failure> {
    rows.insert((job.as_str(), key), &*json(row)?).map_err(undone)?;
    Ok(())
}

fn remove(
    rows: &mut Table<'_, (&'static str, u64), &'static [u8]>,
    job: &JobId,
    key: u64,
) -> Result<(), Failure> {
    rows.remove((job.as_str(), key)).map_err(undone)?;
    Ok(())
}

/// Everything, as Y4 wants it.
pub(super) fn load(transaction: &ReadTransaction) -> Result<Vec<JobRecord>, Failure> {
    let mut jobs = Vec::new();
    for entry in transaction.open_table(JOBS).map_err(undone)?.iter().map_err(undone)? {
        let (id, row) = entry.map_err(undone)?;
        let (number, row) = row.value();
        jobs.push((number, read(id.value(), row)?));
    }
    jobs.sort_by_key(|(number, _)| *number);
    let records = jobs.into_iter().map(|(_, job)| {
        let mut record = JobRecord::new(job);
        let id = record.job.id.as_str().to_owned();
        record.statuses = rows_of(transaction, STATUSES, &id)?;
        record.checkpoints = rows_of(transaction, CHECKPOINTS, &id)?;
        record.savepoints = rows_of(transaction, SAVEPOINTS, &id)?;
        record.exceptions = rows_of(transaction, EXCEPTIONS, &id)?;
        Ok(record)
    });
    records.collect()
}

fn rows_of<T: DeserializeOwned>(
    transaction: &ReadTransaction,
    rows: Rows,
    job: &str,
) -> Result<Vec<T>, Failure> {
    let rows = transaction.open_table(rows).map_err(undone)?;
    let found = rows.range((job, 0)..=(job, u64::MAX)).map_err(undone)?;
    found.map(|entry| read(job, entry.map_err(undone)?.1.value())).collect()
}

fn read<T: DeserializeOwned>(job: &str, row: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(row).map_err(|e| {
        Failure::Refused(format!(
            "a row of job {job} cannot be read ({e}): use the version that wrote it"
        ))
    })
}
