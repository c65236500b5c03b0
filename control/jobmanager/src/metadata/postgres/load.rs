//! Everything, in one snapshot of the database.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use tidemill_protocol::{ArtifactHash, Attempt};
use tokio_postgres::types::FromSql;
use tokio_postgres::{IsolationLevel, Row, Transaction};

use super::election;
use super::failure::{Failure, text};
use super::session::Session;
use crate::metadata::{
    CheckpointRow, ExceptionRow, JobRecord, JobRow, SavepointRow, StatusRow, Term,
};

/// What all writes before it left (Y4), if the term is this candidate's.
pub(super) async fn load(
    session: &mut Session,
    me: &str,
    term: Term,
) -> Result<Vec<JobRecord>, Failure> {
    let transaction = session
        .client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    election::check(&transaction, &session.server, me, term).await?;
    let jobs = "SELECT job_id, name, status, cause, submitted_at, ended_at, attempt, artifact, args, \
                allow_dropped_state, initial::text, store::text, workers::text, submission::text \
                FROM tidemill.jobs ORDER BY number";
    let rows = transaction.query_typed(jobs, &[]).await?;
    let mut records = Vec::with_capacity(rows.len());
    for row in &rows {
        records.push(JobRecord::new(job(row)?));
    }
    fill(&transaction, &mut records).await?;
    Ok(records)
}

/// The histories, each in the order of its numbers.
async fn fill(transaction: &Transaction<'_>, records: &mut [JobRecord]) -> Result<(), Failure> {
    let statuses = "SELECT job_id, number, status, at FROM tidemill.status_history ORDER BY number";
    let checkpoints = "SELECT job_id, epoch, state, savepoint, triggered_at, duration_ms, object_bytes, \
                       shared_bytes, records, location, reason FROM tidemill.checkpoints ORDER BY epoch";
    let savepoints = "SELECT job_id, trigger_id, stop, requested_at, state, epoch, location, reason \
                      FROM tidemill.savepoints ORDER BY trigger_id";
    let exceptions = "SELECT job_id, number, at, attempt, task, host, message \
                      FROM tidemill.exceptions ORDER BY number";
    let places: BTreeMap<String, usize> =
        records.iter().enumerate().map(|(at, r)| (r.job.id.to_string(), at)).collect();
    let place = |row: &Row| -> Result<Option<usize>, Failure> {
        Ok(places.get(get::<&str>(row, 0)?).copied())
    };
    for row in transaction.query_typed(statuses, &[]).await? {
        if let Some(at) = place(&row)? {
            records[at].statuses.push(status(&row)?);
        }
    }
    for row in transaction.query_typed(checkpoints, &[]).await? {
        if let Some(at) = place(&row)? {
            records[at].checkpoints.push(checkpoint(&row)?);
        }
    }
    for row in transaction.query_typed(savepoints, &[]).await? {
        if let Some(at) = place(&row)? {
            records[at].savepoints.push(savepoint(&row)?);
        }
    }
    for row in transaction.query_typed(exceptions, &[]).await? {
        if let Some(at) = place(&row)? {
            records[at].exceptions.push(exception(&row)?);
        }
    }
    Ok(())
}

fn job(row: &Row) -> Result<JobRow, Failure> {
    let artifact: &str = get(row, 7)?;
    Ok(JobRow {
        id: get::<&str>(row, 0)?.parse().map_err(|e| unreadable(row, 0, &e))?,
        name: get(row, 1)?,
        status: name(row, 2)?,
        cause: get(row, 3)?,
        submitted_ms: ms(row, 4)?,
        ended_ms: optional_ms(row, 5)?,
        attempt: attempt(row, 6)?,
        artifact: artifact.parse::<ArtifactHash>().map_err(|e| unreadable(row, 7, &e))?,
        args: get(row, 8)?,
        allow_dropped_state: get(row, 9)?,
        initial: get::<Option<&str>>(row, 10)?.map(|text| json(row, 10, text)).transpose()?,
        store: json(row, 11, get(row, 11)?)?,
        workers: json(row, 12, get(row, 12)?)?,
        submission: json(row, 13, get(row, 13)?)?,
    })
}

fn status(row: &Row) -> Result<StatusRow, Failure> {
    Ok(StatusRow { number: number(row, 1)?, status: name(row, 2)?, at_ms: ms(row, 3)? })
}

fn checkpoint(row: &Row) -> Result<CheckpointRow, Failure> {
    Ok(CheckpointRow {
        epoch: number(row, 1)?,
        state: name(row, 2)?,
        savepoint: get(row, 3)?,
        triggered_ms: ms(row, 4)?,
        duration_ms: optional_number(row, 5)?,
        object_bytes: number(row, 6)?,
        shared_bytes: number(row, 7)?,
        records: number(row, 8)?,
        location: get(row, 9)?,
        reason: get(row, 10)?,
    })
}

fn savepoint(row: &Row) -> Result<SavepointRow, Failure> {
    Ok(SavepointRow {
        trigger: number(row, 1)?,
        stop: get(row, 2)?,
        requested_ms: ms(row, 3)?,
        state: name(row, 4)?,
        epoch: optional_number(row, 5)?,
        location: get(row, 6)?,
        reason: get(row, 7)?,
    })
}

fn exception(row: &Row) -> Result<ExceptionRow, Failure> {
    Ok(ExceptionRow {
        number: number(row, 1)?,
        at_ms: ms(row, 2)?,
        attempt: attempt(row, 3)?,
        task: get(row, 4)?,
        host: get(row, 5)?,
        message: get(row, 6)?,
    })
}

/// A value that this version did not write.
fn unreadable(row: &Row, at: usize, e: &dyn std::fmt::Display) -> Failure {
    let column = row.columns().get(at).map_or("?", |c| c.name());
    let key: &str = row.try_get(0).unwrap_or("?");
    Failure::Refused(format!(
        "the column {column} of job {key} cannot be read: {e}; was it changed by hand?"
    ))
}

fn get<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, Failure> {
    row.try_get(at).map_err(|e| unreadable(row, at, &text(&e)))
}

fn number(row: &Row, at: usize) -> Result<u64, Failure> {
    u64::try_from(get::<i64>(row, at)?).map_err(|e| unreadable(row, at, &e))
}

fn optional_number(row: &Row, at: usize) -> Result<Option<u64>, Failure> {
    let number = get::<Option<i64>>(row, at)?.map(u64::try_from);
    number.transpose().map_err(|e| unreadable(row, at, &e))
}

fn attempt(row: &Row, at: usize) -> Result<Attempt, Failure> {
    Attempt::try_from(get::<i64>(row, at)?).map_err(|e| unreadable(row, at, &e))
}

fn ms(row: &Row, at: usize) -> Result<i64, Failure> {
    Ok(ms_of(get(row, at)?))
}

fn optional_ms(row: &Row, at: usize) -> Result<Option<i64>, Failure> {
    Ok(get::<Option<SystemTime>>(row, at)?.map(ms_of))
}

fn ms_of(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

fn name<T: DeserializeOwned>(row: &Row, at: usize) -> Result<T, Failure> {
    let name: &str = get(row, at)?;
    serde_json::from_value(name.into()).map_err(|e| unreadable(row, at, &e))
}

fn json<T: DeserializeOwned>(row: &Row, at: usize, text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|e| unreadable(row, at, &e))
}
