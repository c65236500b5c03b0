//! Endpoints about the cluster and its jobs.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Result;
use hyper::header::HeaderMap;
use hyper::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;
use tidemill_protocol::JobId;

use super::answer::Answer;
use super::{Shared, submit};
use crate::refusal::Refusal;
use crate::service::{Ask, Job, SavepointView, Service, trigger_of, trigger_text};

/// Bytes of each TaskManager's part of a log.
const LOG_BYTES: u64 = 64 << 10;
const LOG_BYTES_MAX: u64 = 1 << 20;

/// The job that a path names.
///
/// # Errors
/// What cannot be the id of any.
pub(super) fn job_id(text: &str) -> Result<JobId, Refusal> {
    text.parse().map_err(|e| Refusal::not_found(format!("no such job: {e}")))
}

/// Looks at a job.
async fn of_job<T: Send + 'static>(
    app: &super::App,
    id: &str,
    look: impl FnOnce(&Job, &Service) -> T + Send + 'static,
) -> Result<T, Refusal> {
    app.check_leads()?;
    let id = job_id(id)?;
    app.look(move |service| {
        service.check_known(&id)?;
        let gone = || Refusal::not_found(format!("no job {id}"));
        service.job(&id).map(|job| look(job, service)).ok_or_else(gone)
    })
    .await
}

pub(super) async fn cluster(State(app): Shared) -> Result<Answer, Refusal> {
    app.check_leads()?;
    app.look(|s| Ok(s.cluster_view())).await.map(Answer::ok)
}

pub(super) async fn task_managers(State(app): Shared) -> Result<Answer, Refusal> {
    app.check_leads()?;
    let all = app.look(|s| Ok(s.task_managers_view())).await?;
    Ok(Answer::ok(json!({ "task_managers": all })))
}

pub(super) async fn list(State(app): Shared) -> Result<Answer, Refusal> {
    app.check_leads()?;
    let all = app.look(|s| Ok(s.jobs_view())).await?;
    Ok(Answer::ok(json!({ "jobs": all })))
}

pub(super) async fn detail(State(app): Shared, Path(id): Path<String>) -> Result<Answer, Refusal> {
    of_job(&app, &id, |job, service| job.detail(service)).await.map(Answer::ok)
}

pub(super) async fn plan(State(app): Shared, Path(id): Path<String>) -> Result<Answer, Refusal> {
    of_job(&app, &id, |job, _| job.row().submission.plan.clone()).await.map(Answer::ok)
}

pub(super) async fn metrics(State(app): Shared, Path(id): Path<String>) -> Result<Answer, Refusal> {
    of_job(&app, &id, |job, _| job.metrics_view()).await.map(Answer::ok)
}

pub(super) async fn checkpoints(
    State(app): Shared,
    Path(id): Path<String>,
) -> Result<Answer, Refusal> {
    of_job(&app, &id, |job, _| job.checkpoints_view()).await.map(Answer::ok)
}

pub(super) async fn exceptions(
    State(app): Shared,
    Path(id): Path<String>,
) -> Result<Answer, Refusal> {
    let all = of_job(&app, &id, |job, _| job.exceptions_view()).await?;
    Ok(Answer::ok(json!({ "exceptions": all })))
}

pub(super) async fn logs(
    State(app): Shared,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Answer, Refusal> {
    app.check_leads()?;
    let job = job_id(&id)?;
    let bytes = match parameter(&uri, "bytes") {
        None => LOG_BYTES,
        Some(text) => {
            text.parse().ok().filter(|n| (1..=LOG_BYTES_MAX).contains(n)).ok_or_else(|| {
                Refusal::unprocessable(format!(
                    "bytes is '{text}'; give a number from 1 to {LOG_BYTES_MAX}"
                ))
            })?
        }
    };
    let parts = app.ask(|reply| Ask::Logs { job, bytes, reply }).await?;
    Ok(Answer::ok(json!({ "logs": parts })))
}

/// A parameter of the query, as it is written.
fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
}

pub(super) async fn savepoint_status(
    State(app): Shared,
    Path((id, trigger)): Path<(String, String)>,
) -> Result<Answer, Refusal> {
    let number = trigger_of(&trigger);
    let found = of_job(&app, &id, move |job, _| {
        job.history
            .record()
            .savepoints
            .iter()
            .find(|s| Some(s.trigger) == number)
            .map(SavepointView::from)
    });
    let gone = || Refusal::not_found(format!("no savepoint {trigger} of job {id}"));
    found.await?.map(Answer::ok).ok_or_else(gone)
}

pub(super) async fn cancel(State(app): Shared, Path(id): Path<String>) -> Result<Answer, Refusal> {
    app.check_leads()?;
    let job = job_id(&id)?;
    app.ask(|reply| Ask::Cancel { job, reply }).await?;
    let view = of_job(&app, &id, |job, _| job.view()).await?;
    Ok(Answer::with(StatusCode::ACCEPTED, view))
}

async fn take_savepoint(app: &super::App, id: &str, stop: bool) -> Result<Answer, Refusal> {
    app.check_leads()?;
    let job = job_id(id)?;
    let trigger = app.ask(|reply| Ask::Savepoint { job, stop, reply }).await?;
    let trigger = trigger_text(trigger);
    let place = format!("/jobs/{id}/savepoints/{trigger}");
    let body = json!({ "trigger_id": trigger, "status": "IN_PROGRESS" });
    Ok(Answer::with(StatusCode::ACCEPTED, body).at(place))
}

pub(super) async fn savepoint(
    State(app): Shared,
    Path(id): Path<String>,
) -> Result<Answer, Refusal> {
    take_savepoint(&app, &id, false).await
}

pub(super) async fn stop(State(app): Shared, Path(id): Path<String>) -> Result<Answer, Refusal> {
    take_savepoint(&app, &id, true).await
}

/// The body of a rescale.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rescale {
    parallelism: u32,
}

pub(super) async fn rescale(
    State(app): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer, Refusal> {
    app.check_leads()?;
    let job = job_id(&id)?;
    let Rescale { parallelism } = super::body::json(&headers, body, false).await?;
    submit::check_parallelism(&app.config, parallelism)?;
    let (artifact, args) = {
        let id = job.clone();
        app.look(move |s| {
            s.check_live(&id)?;
            let gone = || Refusal::not_found(format!("no job {id}"));
            let row = s.job(&id).ok_or_else(gone)?.row();
            Ok((row.artifact.clone(), row.args.clone()))
        })
        .await?
    };
    let submission = submit::plan(&app, artifact, args, Some(parallelism)).await?;
    let slots = submission.plan.slots();
    let submission = Box::new(submission);
    app.ask(|reply| Ask::Rescale { job, submission, reply }).await?;
    let body = json!({ "job_id": id, "parallelism": parallelism, "slots": slots });
    Ok(Answer::with(StatusCode::ACCEPTED, body))
}
