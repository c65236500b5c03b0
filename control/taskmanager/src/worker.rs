//! The life of one worker process, as a task.
//!
//! ```text
//!   Fetching --artifact, fork--> Running --SIGTERM--> Ending --grace over: SIGKILL--> gone
//!      |                            '--- exit, signal ----------------------------------^
//!      '--- stopped, error: never ran
//! ```
//! Invariants
//!   W1  Every start ends in exactly one `Exited`; a `Started` comes before it, or it never ran.
//!   W2  When `Exited` is told, nothing of the worker's process group is left, and its slots are free.
//!   W3  The worker's standard input stays open as long as the agent lives, and no longer.

use crate::cache::Cache;
use crate::data_dir::DataDir;
use crate::logs::WorkerLog;
use crate::process::{Group, Launch, Spawner, signal};
use crate::user::User;
use rustix::process::Signal;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemill_protocol::auth::{Key, job_key};
use tidemill_protocol::{ExitStatus, StartWorker, WorkerId, WorkerSettings};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

/// Settings must be taken from the pipe by then; they fit into it, so a healthy program is not waited for.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last words to arrive after the exit.
const DRAIN: Duration = Duration::from_millis(50);
/// A longer line is written to the log in pieces.
const LINE_MAX: usize = 16 << 10;

/// What workers of one agent have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) spawner: Spawner,
    pub(crate) cache: Arc<Cache>,
    pub(crate) data: DataDir,
    pub(crate) user: Option<User>,
    pub(crate) secret: Key,
    pub(crate) jobmanagers: Vec<String>,
    pub(crate) bind: String,
    pub(crate) log_bytes: u64,
}

/// What one worker is given.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) start: StartWorker,
    pub(crate) cpus: Vec<usize>,
    pub(crate) memory_bytes: u64,
    pub(crate) address: String,
}

/// What the agent hears of it.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    Started { worker: WorkerId, pid: u32 },
    Exited { worker: WorkerId, status: ExitStatus, last_words: String },
}

/// Order to end, within the grace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) grace: Duration,
}

type Log = Arc<Mutex<WorkerLog>>;

/// Runs the worker to its end.
pub(crate) async fn run(
    shared: Arc<Shared>,
    task: Task,
    mut orders: mpsc::UnboundedReceiver<Stop>,
    events: mpsc::UnboundedSender<WorkerEvent>,
) {
    let worker = task.start.worker.clone();
    let mut state_dir = None;
    let (status, last_words) =
        match live(&shared, &task, &mut state_dir, &mut orders, &events).await {
            Ok(end) => end,
            Err(why) => (ExitStatus::NotStarted(why), String::new()),
        };
    info!("{worker} ended: {status}");
    // Who listens has ended only when the whole agent has.
    let _ = events.send(WorkerEvent::Exited { worker, status, last_words });
    if let Some(path) = state_dir {
        let removed = tokio::task::spawn_blocking(move || {
            std::fs::remove_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))
        });
        if let Ok(Err(e)) = removed.await {
            warn!("a worker's state cannot be removed: {e}");
        }
    }
}

async fn live(
    shared: &Shared,
    task: &Task,
    state_dir: &mut Option<PathBuf>,
    orders: &mut mpsc::UnboundedReceiver<Stop>,
    events: &mpsc::UnboundedSender<WorkerEvent>,
) -> Result<(ExitStatus, String), String> {
    let id = &task.start.worker;
    let artifact = tokio::select! {
        got = shared.cache.get(&task.start.artifact) => got?,
        _ = orders.recv() => return Err("stopped before its program was there".into()),
    };
    let dir = shared.data.make_state_dir(id, shared.user);
    let dir = dir.map_err(|e| format!("no directory for its state: {e}"))?;
    *state_dir = Some(dir.clone());
    let launch = Launch {
        program: artifact.path(),
        args: arguments(&task.start),
        stdin: true,
        user: shared.user,
    };
    let mut child = shared.spawner.spawn(launch).await.map_err(|e| {
        format!("{} cannot be started: {e}{}", artifact.path().display(), remedy(&e))
    })?;
    let pid = child.id().ok_or("it ended before its id was known")?;
    info!("{id} of '{}' runs as process {pid}", task.start.job_name);
    let log = WorkerLog::create(&shared.data.logs(), id, shared.log_bytes);
    let log = Arc::new(Mutex::new(log));
    let mut pumps = JoinSet::new();
    if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
        pumps.spawn(pump(out, log.clone()));
        pumps.spawn(pump(err, log.clone()));
    }
    let stdin = child.stdin.take();
    let _ = events.send(WorkerEvent::Started { worker: id.clone(), pid });
    let settings = settings(shared, task, dir);
    // W3: held until the end of this function.
    let (status, _stdin) = watch(&mut child, stdin, &settings, orders).await;
    let _ = timeout(DRAIN, async { while pumps.join_next().await.is_some() {} }).await;
    let last_words = log.lock().unwrap_or_else(PoisonError::into_inner).last_words();
    Ok((status, last_words))
}

fn arguments(start: &StartWorker) -> Vec<String> {
    let mut args = vec![String::from("worker")];
    if let Some(n) = start.parallelism {
        args.extend(["--parallelism".into(), n.to_string()]);
    }
    args.extend(start.args.iter().cloned());
    args
}

fn settings(shared: &Shared, task: &Task, state_dir: PathBuf) -> WorkerSettings {
    WorkerSettings {
        worker: task.start.worker.clone(),
        jobmanagers: shared.jobmanagers.clone(),
        job_key: *job_key(&shared.secret, &task.start.worker.job).bytes(),
        slots: task.start.slots,
        cpus: task.cpus.clone(),
        bind: shared.bind.clone(),
        address: task.address.clone(),
        state_dir,
        memory_bytes: task.memory_bytes,
        artifact: Some(task.start.artifact.clone()),
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": the data directory must not lie on a file system mounted noexec, and the worker's \
             user must be allowed to enter it"
        }
        io::ErrorKind::NotFound => ": its interpreter or loader is missing on this host",
        _ => "",
    }
}

async fn hand_over(mut stdin: ChildStdin, settings: &WorkerSettings) -> io::Result<ChildStdin> {
    let mut line = serde_json::to_vec(settings)?;
    line.push(b'\n');
    stdin.write_all(&line).await?;
    stdin.flush().await?;
    Ok(stdin)
}

/// Until the process and its group are gone.
async fn watch(
    child: &mut Child,
    stdin: Option<ChildStdin>,
    settings: &WorkerSettings,
    orders: &mut mpsc::UnboundedReceiver<Stop>,
) -> (ExitStatus, Option<ChildStdin>) {
    let group = Group::of(child);
    let mut open = None;
    if let Some(stdin) = stdin {
        // One that ended already, or reads nothing, is judged by its exit.
        open =
            timeout(SETTINGS_TIMEOUT, hand_over(stdin, settings)).await.ok().and_then(Result::ok);
    }
    let mut deadline: Option<Instant> = None;
    let mut ordered = true;
    let status = loop {
        let late = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = child.wait() => break status,
            stop = orders.recv(), if ordered => {
                // Nobody to give orders: the agent is being dropped.
                ordered = stop.is_some();
                let grace = stop.map_or(Duration::ZERO, |s| s.grace);
                signal(child, Signal::TERM);
                let at = Instant::now() + grace;
                deadline = Some(deadline.map_or(at, |known| known.min(at)));
            }
            () = late => {
                group.kill();
                deadline = None;
            }
        }
    };
    // W2: what it started and left behind.
    drop(group);
    (exit_status(status), open)
}

fn exit_status(status: io::Result<std::process::ExitStatus>) -> ExitStatus {
    match status {
        Err(e) => ExitStatus::NotStarted(format!("its end was not told: {e}")),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, signal) => ExitStatus::Signal(signal.unwrap_or_default()),
        },
    }
}

/// Moves whole lines from a pipe to the log.
async fn pump(mut from: impl AsyncRead + Unpin, log: Log) {
    let mut line = Vec::with_capacity(2 * LINE_MAX);
    loop {
        let end = !matches!(from.read_buf(&mut line).await, Ok(1..));
        let whole = match line.iter().rposition(|&b| b == b'\n') {
            _ if end || line.len() >= LINE_MAX => line.len(),
            Some(at) => at + 1,
            None => 0,
        };
        if whole > 0 {
            log.lock().unwrap_or_else(PoisonError::into_inner).write(&line[..whole]);
            line.drain(..whole);
        }
        if end {
            return;
        }
    }
}
