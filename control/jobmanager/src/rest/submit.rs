//! `POST /jobs/submit`: from an upload to an accepted job.
//!
//! ```text
//!   upload -> is it a job? -> stored by hash -> an agent asks it for its plan -> savepoint readable?
//!          -> slots? -> row written -> 201
//! ```
//! Whatever fails leaves nothing behind: the file goes with its `Upload` and its `Pin`.

use axum::extract::{Request, State};
use hyper::StatusCode;
use tidemill_coordination::Submission;
use tidemill_protocol::{ArtifactHash, RestoreFrom, StoreSettings};
use tidemill_snapshot::{Error, Manifest};
use tokio::time::timeout;

use super::answer::Answer;
use super::upload::Form;
use super::{App, Shared, upload};
use crate::config::JobManagerConfig;
use crate::refusal::Refusal;
use crate::service::{Ask, Failed, NewJob, trigger_of, with_store};

/// How often a plan is asked for while agents go away.
const TRIES: usize = 3;

pub(super) async fn submit(State(app): Shared, request: Request) -> Result<Answer, Refusal> {
    app.check_leads()?;
    let form = upload::read(&app, request).await?;
    if let Some(parallelism) = form.parallelism {
        check_parallelism(&app.config, parallelism)?;
    }
    let Form { program, args, parallelism, savepoint, allow_dropped_state } = form;
    let missing = || Refusal::bad("the field job_file is missing: send the program in it");
    let program = program.ok_or_else(missing)?;
    let put = app.files.put(program.hash, program.file.path()).await;
    let pin = put.map_err(|e| Refusal::unavailable(format!("the program is not stored: {e}")))?;
    drop(program.file);
    let submission = plan(&app, pin.hash.clone(), args.clone(), parallelism).await?;
    check_parallelism(&app.config, submission.plan.parallelism())?;
    let initial = match savepoint {
        Some(text) => Some(starting_point(&app, &text, &submission, allow_dropped_state).await?),
        None => None,
    };
    let artifact = pin.hash.clone();
    let (name, slots) = (submission.plan.job().to_owned(), submission.plan.slots());
    let new = Box::new(NewJob { artifact, args, submission, initial, allow_dropped_state });
    let late =
        |_| Refusal::unavailable("the metadata store does not answer; the job is not accepted");
    let asked = app.ask(|reply| Ask::Submit { new, reply });
    let job = timeout(app.config.limits.record_timeout, asked).await.map_err(late)??;
    let body =
        serde_json::json!({ "job_id": job, "name": name, "slots": slots, "status": "SCHEDULING" });
    Ok(Answer::with(StatusCode::CREATED, body).at(format!("/jobs/{job}")))
}

/// # Errors
/// For what no job may have.
pub(super) fn check_parallelism(
    config: &JobManagerConfig,
    parallelism: u32,
) -> Result<(), Refusal> {
    let most = config.limits.parallelism;
    if (1..=most).contains(&parallelism) {
        return Ok(());
    }
    let detail = format!("parallelism is {parallelism}; give a number from 1 to {most}");
    Err(Refusal::unprocessable(detail))
}

/// What a program says of itself, by an agent.
///
/// # Errors
/// What the program says, or that there is nobody to ask.
pub(super) async fn plan(
    app: &App,
    artifact: ArtifactHash,
    args: Vec<String>,
    parallelism: Option<u32>,
) -> Result<Submission, Refusal> {
    let mut tries = 0;
    let submission = loop {
        tries += 1;
        let (artifact, args) = (artifact.clone(), args.clone());
        let asked = app.ask(|reply| Ask::Plan { artifact, args, parallelism, reply }).await;
        match asked {
            // Nobody there at all is said at once, with slots; an agent that went away is not the last.
            Err(e)
                if e.status == StatusCode::SERVICE_UNAVAILABLE
                    && e.more.is_empty()
                    && tries < TRIES => {}
            answer => break answer?,
        }
    };
    if submission.protocol != tidemill_protocol::VERSION {
        return Err(Refusal::unprocessable(format!(
            "built with tidemill {}, which speaks protocol {}; this cluster is tidemill {} and speaks \
             protocol {}: build it with that",
            submission.version,
            submission.protocol,
            env!("CARGO_PKG_VERSION"),
            tidemill_protocol::VERSION
        )));
    }
    check_opens(&submission, &app.config.checkpoints, "the checkpoints of this cluster go to")?;
    Ok(submission)
}

/// What its workers would find out at the first checkpoint, or at the start.
fn check_opens(submission: &Submission, store: &StoreSettings, what: &str) -> Result<(), Refusal> {
    let kind = store.kind();
    if submission.stores.iter().any(|known| known == kind) {
        return Ok(());
    }
    let place = match store {
        StoreSettings::Dir { path } => format!("the directory {path}"),
        StoreSettings::S3 { bucket, .. } => format!("the bucket '{bucket}'"),
    };
    Err(Refusal::unprocessable(format!(
        "{what} {place}, which the program cannot open: build it with the feature '{kind}' of the crate \
         tidemill (cargo build --features tidemill/{kind})"
    )))
}

/// What a user names to start from: a savepoint's trigger id, or where a checkpoint lies.
///
/// # Errors
/// What is not there, not readable, or not of this program.
async fn starting_point(
    app: &App,
    text: &str,
    submission: &Submission,
    allow_dropped_state: bool,
) -> Result<RestoreFrom, Refusal> {
    let from = match trigger_of(text) {
        Some(trigger) => app.look(move |s| s.savepoint_of(trigger)).await?,
        None => by_place(app, text).await?,
    };
    check_opens(submission, &from.store, &format!("the savepoint '{text}' lies in"))?;
    let epoch = from.epoch;
    let loaded =
        with_store(&app.stores.snapshots, &from.store, move |s| s.load_manifest(epoch)).await;
    let manifest = loaded.map_err(|e| unreadable(text, &e))?;
    check_fits(&manifest, submission, allow_dropped_state)?;
    Ok(from)
}

fn unreadable(text: &str, error: &Failed) -> Refusal {
    let detail = format!("the savepoint '{text}': {error}");
    match error {
        Failed::Store(Error::Retry(_)) => Refusal::unavailable(detail),
        _ => Refusal::unprocessable(detail),
    }
}

/// The store and epoch of `.../chk-7`, or the newest checkpoint below a place.
async fn by_place(app: &App, text: &str) -> Result<RestoreFrom, Refusal> {
    let place = text.trim_end_matches('/');
    let (root, epoch) = match place.rsplit_once("/chk-").map(|(root, n)| (root, n.parse())) {
        Some((root, Ok(epoch))) => (root, Some(epoch)),
        _ => (place, None),
    };
    let store = store_at(&app.config.checkpoints, root).ok_or_else(|| {
        Refusal::unprocessable(format!(
            "the savepoint '{text}' is no trigger id (16 hexadecimal digits), no absolute path and no \
             s3://bucket/prefix"
        ))
    })?;
    let of_job = store.clone();
    if let Some(from) = app.look(move |s| s.checkpoint_at(&of_job, epoch)).await? {
        return Ok(from);
    }
    if let StoreSettings::Dir { path } = &store
        && !tokio::fs::metadata(path).await.is_ok_and(|m| m.is_dir())
    {
        return Err(Refusal::unprocessable(format!(
            "the savepoint '{text}': {path} is no directory"
        )));
    }
    if let Some(epoch) = epoch {
        return Ok(RestoreFrom { store, epoch });
    }
    let newest = with_store(&app.stores.snapshots, &store, |s| {
        Ok(s.list()?.into_iter().filter(|c| c.committed).map(|c| c.epoch).max())
    });
    let newest = newest.await.map_err(|e| unreadable(text, &e))?;
    let none = || {
        Refusal::unprocessable(format!("the savepoint '{text}': no complete checkpoint is there"))
    };
    Ok(RestoreFrom { store, epoch: newest.ok_or_else(none)? })
}

/// A store by its place; a bucket is reached as that of the cluster is.
fn store_at(cluster: &StoreSettings, root: &str) -> Option<StoreSettings> {
    if root.starts_with('/') {
        return Some(StoreSettings::Dir { path: root.to_owned() });
    }
    match (StoreSettings::bucket(root)?, cluster.clone()) {
        (
            StoreSettings::S3 { bucket, prefix, .. },
            StoreSettings::S3 { endpoint, region, path_style, .. },
        ) => Some(StoreSettings::S3 { bucket, prefix, endpoint, region, path_style }),
        (alone, _) => Some(alone),
    }
}

/// What a worker would find out later.
fn check_fits(
    manifest: &Manifest,
    submission: &Submission,
    allow_dropped_state: bool,
) -> Result<(), Refusal> {
    let plan = &submission.plan;
    if manifest.max_parallelism != plan.max_parallelism() {
        return Err(Refusal::unprocessable(format!(
            "the savepoint has {} key groups, the program wants {}: set its maximum parallelism to that",
            manifest.max_parallelism,
            plan.max_parallelism()
        )));
    }
    let known: Vec<u64> = plan.operators().map(|o| o.id.get()).collect();
    let dropped =
        manifest.operators.iter().filter(|o| !o.states.is_empty() && !known.contains(&o.id));
    let dropped: Vec<&str> = dropped.map(|o| o.uid.as_str()).collect();
    if dropped.is_empty() || allow_dropped_state {
        return Ok(());
    }
    Err(Refusal::unprocessable(format!(
        "the savepoint has state of operators that the program does not have: {}; give them their uid \
         back, or drop their state by allow_dropped_state=true",
        dropped.join(", ")
    )))
}
