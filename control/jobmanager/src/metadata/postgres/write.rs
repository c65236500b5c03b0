//! Changes, as statements.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tidemill_protocol::JobId;
use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};

use super::election;
use super::failure::{Failure, Progress};
use super::session::Session;
use crate::metadata::{Change, CheckpointRow, ExceptionRow, JobRow, SavepointRow, StatusRow, Term};

/// Attempts of a job that are kept; the table is for people.
const ATTEMPTS_MAX: i64 = 1_000;
/// 0001-01-01 and 9999-12-31.
const TIMES_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_214_400_000;

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// All of the changes in one transaction (P1, P2, P5).
pub(super) async fn write(
    session: &mut Session,
    me: &str,
    term: Term,
    changes: &[Change],
    progress: &Progress,
) -> Result<(), Failure> {
    let transaction = session.client.transaction().await?;
    election::hold(&transaction, &session.server, me, term).await?;
    for change in changes {
        apply(&transaction, term, change).await?;
    }
    progress.commits();
    transaction.commit().await.map_err(|e| Failure::of_commit(&e))
}

async fn apply(transaction: &Transaction<'_>, term: Term, change: &Change) -> Result<(), Failure> {
    match change {
        Change::Job(row) => {
            put_job(transaction, row).await?;
            put_attempt(transaction, term, row).await
        }
        Change::Status(job, row) => put_status(transaction, job, row).await,
        Change::Checkpoint(job, row) => put_checkpoint(transaction, job, row).await,
        Change::Savepoint(job, row) => put_savepoint(transaction, job, row).await,
        Change::Exception(job, row) => put_exception(transaction, job, row).await,
        Change::ForgetCheckpoint(job, epoch) => {
            let query = "DELETE FROM tidemill.checkpoints WHERE job_id = $1 AND epoch = $2";
            run(transaction, query, &[(&job.as_str(), Type::TEXT), (&number(*epoch)?, Type::INT8)])
                .await
        }
        Change::ForgetException(job, which) => {
            let query = "DELETE FROM tidemill.exceptions WHERE job_id = $1 AND number = $2";
            run(transaction, query, &[(&job.as_str(), Type::TEXT), (&number(*which)?, Type::INT8)])
                .await
        }
        Change::ForgetJob(job) => {
            run(
                transaction,
                "DELETE FROM tidemill.jobs WHERE job_id = $1",
                &[(&job.as_str(), Type::TEXT)],
            )
            .await
        }
    }
}

async fn run(
    transaction: &Transaction<'_>,
    query: &str,
    parameters: &[Parameter<'_>],
) -> Result<(), Failure> {
    transaction.execute_typed(query, parameters).await?;
    Ok(())
}

async fn put_job(transaction: &Transaction<'_>, row: &JobRow) -> Result<(), Failure> {
    let query = "
        INSERT INTO tidemill.jobs (job_id, name, status, cause, submitted_at, ended_at, attempt,
            parallelism, artifact, args, allow_dropped_state, initial, store, workers, submission)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::json, $13::text::json,
            $14::text::json, $15::text::json)
        ON CONFLICT (job_id) DO UPDATE SET name = $2, status = $3, cause = $4, submitted_at = $5,
            ended_at = $6, attempt = $7, parallelism = $8, artifact = $9, args = $10,
            allow_dropped_state = $11, initial = $12::text::json, store = $13::text::json,
            workers = $14::text::json, submission = $15::text::json";
    let args: Vec<String> = row.args.iter().map(|arg| text(arg)).collect();
    let initial = row.initial.as_ref().map(json).transpose()?;
    run(
        transaction,
        query,
        &[
            (&row.id.as_str(), Type::TEXT),
            (&text(&row.name), Type::TEXT),
            (&name(&row.status)?, Type::TEXT),
            (&row.cause.as_deref().map(text), Type::TEXT),
            (&time(row.submitted_ms)?, Type::TIMESTAMPTZ),
            (&row.ended_ms.map(time).transpose()?, Type::TIMESTAMPTZ),
            (&i64::from(row.attempt), Type::INT8),
            (&i64::from(row.submission.plan.parallelism()), Type::INT8),
            (&row.artifact.as_str(), Type::TEXT),
            (&args, Type::TEXT_ARRAY),
            (&row.allow_dropped_state, Type::BOOL),
            (&initial, Type::TEXT),
            (&json(&row.store)?, Type::TEXT),
            (&json(&row.workers)?, Type::TEXT),
            (&json(&row.submission)?, Type::TEXT),
        ],
    )
    .await
}

/// For people: the job's row says what the attempt is at.
async fn put_attempt(
    transaction: &Transaction<'_>,
    term: Term,
    row: &JobRow,
) -> Result<(), Failure> {
    let query = "
        INSERT INTO tidemill.attempts
            (job_id, attempt, term, last_status, parallelism, workers)
        VALUES ($1, $2, $3, $4, $5, $6::text::json)
        ON CONFLICT (job_id, attempt) DO UPDATE SET term = $3, last_status = $4, parallelism = $5,
            workers = $6::text::json, last_at = now()";
    let attempt = i64::from(row.attempt);
    run(
        transaction,
        query,
        &[
            (&row.id.as_str(), Type::TEXT),
            (&attempt, Type::INT8),
            (&number(term)?, Type::INT8),
            (&name(&row.status)?, Type::TEXT),
            (&i64::from(row.submission.plan.parallelism()), Type::INT8),
            (&json(&row.workers)?, Type::TEXT),
        ],
    )
    .await?;
    let bound = "DELETE FROM tidemill.attempts WHERE job_id = $1 AND attempt <= $2";
    run(
        transaction,
        bound,
        &[(&row.id.as_str(), Type::TEXT), (&(attempt - ATTEMPTS_MAX), Type::INT8)],
    )
    .await
}

// Rows of a job that is not there are nothing: hence the SELECT from `jobs`.

async fn put_status(
    transaction: &Transaction<'_>,
    job: &JobId,
    row: &StatusRow,
) -> Result<(), Failure> {
    let query = "
        INSERT INTO tidemill.status_history (job_id, number, status, at)
        SELECT job_id, $2, $3, $4 FROM tidemill.jobs WHERE job_id = $1
        ON CONFLICT (job_id, number) DO UPDATE SET status = $3, at = $4";
    run(
        transaction,
        query,
        &[
            (&job.as_str(), Type::TEXT),
            (&number(row.number)?, Type::INT8),
            (&name(&row.status)?, Type::TEXT),
            (&time(row.at_ms)?, Type::TIMESTAMPTZ),
        ],
    )
    .await
}

async fn put_checkpoint(
    transaction: &Transaction<'_>,
    job: &JobId,
    row: &CheckpointRow,
) -> Result<(), Failure> {
    let query = "
        INSERT INTO tidemill.checkpoints (job_id, epoch, state, savepoint, triggered_at, duration_ms,
            object_bytes, shared_bytes, records, location, reason)
        SELECT job_id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM tidemill.jobs WHERE job_id = $1
        ON CONFLICT (job_id, epoch) DO UPDATE SET state = $3, savepoint = $4, triggered_at = $5,
            duration_ms = $6, object_bytes = $7, shared_bytes = $8, records = $9, location = $10,
            reason = $11";
    run(
        transaction,
        query,
        &[
            (&job.as_str(), Type::TEXT),
            (&number(row.epoch)?, Type::INT8),
            (&name(&row.state)?, Type::TEXT),
            (&row.savepoint, Type::BOOL),
            (&time(row.triggered_ms)?, Type::TIMESTAMPTZ),
            (&row.duration_ms.map(number).transpose()?, Type::INT8),
            (&number(row.object_bytes)?, Type::INT8),
            (&number(row.shared_bytes)?, Type::INT8),
            (&number(row.records)?, Type::INT8),
            (&row.location.as_deref().map(text), Type::TEXT),
            (&row.reason.as_deref().map(text), Type::TEXT),
        ],
    )
    .await
}

async fn put_savepoint(
    transaction: &Transaction<'_>,
    job: &JobId,
    row: &SavepointRow,
) -> Result<(), Failure> {
    let query = "
        INSERT INTO tidemill.savepoints (job_id, trigger_id, stop, requested_at, state, epoch,
            location, reason)
        SELECT job_id, $2, $3, $4, $5, $6, $7, $8 FROM tidemill.jobs WHERE job_id = $1
        ON CONFLICT (job_id, trigger_id) DO UPDATE SET stop = $3, requested_at = $4, state = $5,
            epoch = $6, location = $7, reason = $8";
    run(
        transaction,
        query,
        &[
            (&job.as_str(), Type::TEXT),
            (&number(row.trigger)?, Type::INT8),
            (&row.stop, Type::BOOL),
            (&time(row.requested_ms)?, Type::TIMESTAMPTZ),
            (&name(&row.state)?, Type::TEXT),
            (&row.epoch.map(number).transpose()?, Type::INT8),
            (&row.location.as_deref().map(text), Type::TEXT),
            (&row.reason.as_deref().map(text), Type::TEXT),
        ],
    )
    .await
}

async fn put_exception(
    transaction: &Transaction<'_>,
    job: &JobId,
    row: &ExceptionRow,
) -> Result<(), Failure> {
    let query = "
        INSERT INTO tidemill.exceptions (job_id, number, at, attempt, task, host, message)
        SELECT job_id, $2, $3, $4, $5, $6, $7 FROM tidemill.jobs WHERE job_id = $1
        ON CONFLICT (job_id, number) DO UPDATE SET at = $3, attempt = $4, task = $5, host = $6,
            message = $7";
    run(
        transaction,
        query,
        &[
            (&job.as_str(), Type::TEXT),
            (&number(row.number)?, Type::INT8),
            (&time(row.at_ms)?, Type::TIMESTAMPTZ),
            (&i64::from(row.attempt), Type::INT8),
            (&row.task.as_deref().map(text), Type::TEXT),
            (&row.host.as_deref().map(text), Type::TEXT),
            (&text(&row.message), Type::TEXT),
        ],
    )
    .await
}

/// PostgreSQL's texts have no NUL.
fn text(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

fn number(number: u64) -> Result<i64, Failure> {
    i64::try_from(number).map_err(|_| {
        Failure::Refused(format!(
            "the number {number} is larger than {}, the largest kept",
            i64::MAX
        ))
    })
}

fn time(ms: i64) -> Result<SystemTime, Failure> {
    if !TIMES_MS.contains(&ms) {
        return Err(Failure::Refused(format!(
            "the time {ms} ms is not between the years 1 and 9999"
        )));
    }
    let from_1970 = Duration::from_millis(ms.unsigned_abs());
    let time =
        if ms < 0 { UNIX_EPOCH.checked_sub(from_1970) } else { UNIX_EPOCH.checked_add(from_1970) };
    time.ok_or_else(|| Failure::Refused(format!("the time {ms} ms has no form here")))
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::Refused(e.to_string()))
}

/// The name of a state, as REST shows it.
fn name(state: &impl Serialize) -> Result<String, Failure> {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        other => Err(Failure::Refused(format!("{other:?} is no name of a state"))),
    }
}
