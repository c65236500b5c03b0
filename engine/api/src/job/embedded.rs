//! An embedded job: attempts, restarts, and how it ended.

pub use super::progress::Summary;

use super::attempt::{self, Setup};
use super::console::tell;
use super::lock::Lock;
use super::options::{Options, RestoreFrom};
use super::requests::{Asker, Requests};
use super::restore::Loaded;
use super::state::StateHome;
use super::{restore, signal};
use crate::env::Env;
use crate::metrics::{JobMetrics, Server};
use std::sync::Arc;
use std::time::Duration;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Clock, Error, Result, Severity};
use tidemill_coordination::{Config, Decision, Outcome, Restarts, Store};
use tidemill_runtime::deploy::JobPlan;
use tidemill_snapshot::SnapshotStore;

/// How often a job that waits for its restart looks for Ctrl-C.
const SIGNAL_POLL: Duration = Duration::from_millis(100);

/// Runs a job on this machine to its end.
pub(crate) fn run(env: &Env, options: &Options) -> Result<Summary> {
    let settings = env.settings.borrow().clone();
    let (physical, plan) = env.graph.finish()?;
    if options.signals {
        signal::install();
    }
    // Dropped last: it answers what is dropped with the requests.
    let _server;
    let (asker, requests) = Requests::new(options.signals);
    let backend = options.state.unwrap_or_default();
    let state = StateHome::open(backend, options.state_dir.as_deref(), options.state_memory_mib)?;
    let clock = SystemClock::new();
    let metrics = Arc::new(JobMetrics::new(&settings.job, clock.now()));
    _server = serve(options, &settings.job, &metrics, &clock, asker)?;
    let store = options.checkpoint_dir.as_deref().map(restore::open_store).transpose()?;
    // A bucket has no locks.
    let dir = options.checkpoint_dir.as_deref().filter(|dir| dir.is_dir());
    let _lock = dir.map(Lock::take).transpose()?;
    let mut start = restore::load_start(options, store.as_ref(), &plan)?;
    let restored_epoch = start.restored.as_ref().map(|r| r.epoch);
    // That lies where this run's own checkpoints go.
    let own = restored_epoch.filter(|_| options.restore == Some(RestoreFrom::Latest));
    let mut restarts = Restarts::new(settings.restart.clone());
    let (mut checkpoints, mut number, mut completed) = (0, 0, None);
    loop {
        let ended = attempt::run(&Setup {
            physical: &physical,
            plan: &plan,
            clock: &clock,
            store: store.clone(),
            state: &state,
            restored: start.restored.clone(),
            coordination: coordination(env, options, start.next_epoch),
            keep: options.keep_checkpoints,
            attempt: number,
            metrics: &metrics,
            progress: options.progress,
            signals: options.signals,
            requests: &requests,
        })?;
        checkpoints += ended.checkpoints;
        completed = ended.completed.or(completed);
        let error = match ended.outcome {
            Ok(outcome) => {
                return Ok(Summary {
                    job: settings.job,
                    outcome: named(outcome),
                    elapsed_us: clock.now(),
                    running_us: ended.running_us,
                    longest_step_us: longest_step(&ended.watched),
                    restarts: number,
                    restored: restored_epoch,
                    last_checkpoint: completed.or(restored_epoch),
                    checkpoints,
                    tasks: Summary::rows(&ended.watched),
                });
            }
            Err(error) => error,
        };
        let Some(store) = store.as_ref().filter(|_| error.severity() != Severity::FailJob) else {
            return Err(error);
        };
        pause(&mut restarts, &clock, options.signals, error)?;
        number += 1;
        let first = start.next_epoch.max(ended.last_epoch + 1);
        let from_start = start.restored.clone();
        let stored = completed.or(own);
        start = reload(store, &plan, options, stored, &mut restarts, &clock)?;
        start.restored = start.restored.or(from_start);
        start.next_epoch = start.next_epoch.max(first);
    }
}

/// The newest whole checkpoint; a store that is away for a while is a failure as any other. Where one was `stored`,
/// none is no reason to begin anew.
fn reload(
    store: &Arc<dyn SnapshotStore>,
    plan: &JobPlan,
    options: &Options,
    stored: Option<u64>,
    restarts: &mut Restarts,
    clock: &SystemClock,
) -> Result<Loaded> {
    loop {
        let latest = restore::load_latest(store.clone(), plan, options.allow_dropped_state);
        let latest = latest.and_then(|loaded| match stored {
            Some(epoch) if loaded.restored.is_none() => {
                Err(restore::not_there(&store.locate(None), epoch))
            }
            _ => Ok(loaded),
        });
        match latest {
            Err(e) if e.severity() != Severity::FailJob => {
                pause(restarts, clock, options.signals, e)?;
            }
            loaded => return loaded,
        }
    }
}

fn named(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Finished => "finished",
        Outcome::Stopped(_) => "stopped",
        Outcome::Cancelled => "cancelled",
    }
}

/// Flags go before what the program says. Without a directory checkpoints have nowhere to go; the
/// last epoch still commits the sinks.
fn coordination(env: &Env, options: &Options, first_epoch: u64) -> Config {
    let settings = env.settings.borrow();
    let interval = options.checkpoint_interval.or(settings.checkpoint_every);
    let timeout = options.aligned_timeout.unwrap_or(settings.aligned_timeout);
    let stored = options.checkpoint_dir.is_some();
    Config {
        interval_us: interval.filter(|_| stored).map(|i| i.as_micros() as u64),
        aligned_timeout_ms: timeout.map(|t| t.as_millis() as u64),
        store: if stored { Store::Durable } else { Store::None },
        first_epoch,
        ..Config::default()
    }
}

/// Waits as long as the restart strategy says, or gives up; so does the user who does not want to
/// wait that long.
fn pause(restarts: &mut Restarts, clock: &SystemClock, signals: bool, error: Error) -> Result<()> {
    match restarts.on_failure(clock.now(), random(clock)) {
        Decision::GiveUp { reason } => {
            Err(error.context(format!("the job is given up ({reason})")))
        }
        Decision::RestartAt(at) => {
            let wait = at.saturating_sub(clock.now());
            tracing::warn!("restart in {} ms: {error}", wait / 1000);
            while clock.now() < at {
                if signals && signal::asked() {
                    return Err(error.context("the job was ended while it waited for its restart"));
                }
                let rest = Duration::from_micros(at.saturating_sub(clock.now()));
                std::thread::park_timeout(rest.min(SIGNAL_POLL));
            }
            Ok(())
        }
    }
}

fn longest_step(watched: &[super::progress::Watched]) -> u64 {
    watched.iter().map(|w| w.metrics.step_max_us.get().max(0) as u64).max().unwrap_or(0)
}

/// Serves the job's metrics and takes requests as long as the result lives, if the options say so.
fn serve(
    options: &Options,
    job: &str,
    metrics: &Arc<JobMetrics>,
    clock: &SystemClock,
    asker: Asker,
) -> Result<Option<Server>> {
    let Some(addr) = options.metrics_addr else { return Ok(None) };
    let server = Server::start(addr, options.insecure, metrics.clone(), clock.clone(), asker)?;
    if options.progress {
        tell(format_args!("{job}: metrics at http://{}/metrics", server.addr()));
    }
    Ok(Some(server))
}

/// Chance for the jitter of restarts.
fn random(clock: &SystemClock) -> u64 {
    tidemill_base::hash::hash_u64(clock.wall_ms() as u64 ^ clock.now())
}
