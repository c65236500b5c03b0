//! The workloads, by name.

mod keyed;
mod nexmark;
mod pass;
mod words;

use crate::allocations;
use crate::tally::{Part, Tally};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill::connectors::{ForEachSink, Latencies};
use tidemill::job::Summary;
use tidemill::prelude::*;

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Parallelism: one slot, and so one core, each.
    pub cores: u32,
    /// Events of the source.
    pub events: u64,
    /// Keys of W7.
    pub keys: u64,
    /// Events a second; as fast as they go where absent.
    pub rate: Option<f64>,
    /// Seconds of events at a rate whose latencies are forgotten: the table grows, memory is touched.
    pub warm_up_s: u64,
    /// Checkpoints into a directory that is removed afterwards.
    pub checkpoint_interval: Option<Duration>,
    /// `heap` or `rocksdb`.
    pub state: String,
    /// Memory of RocksDB for each slot, in MiB.
    pub state_memory_mib: usize,
    /// Where RocksDB keeps its files; a temporary directory where absent.
    pub state_dir: Option<String>,
}

/// What a run gave.
pub struct Run {
    /// The engine's summary.
    pub summary: Summary,
    /// Rows and checksum.
    pub tally: Tally,
    /// Allocations per event in the second half of the run.
    pub allocations_after_warm_up: f64,
    /// Latencies, for runs at a rate.
    pub latencies: Option<Latencies>,
}

/// Names of all workloads.
pub const NAMES: [&str; 11] = ["w1", "w2", "w7", "q0", "q1", "q2", "q3", "q4", "q5", "q7", "q8"];

/// Runs a workload.
///
/// # Errors
/// An unknown name, or the job's failure.
pub fn run(name: &str, spec: &Spec) -> Result<Run> {
    match name {
        "w1" => pass::w1(spec),
        "w2" => words::w2(spec),
        "w7" => keyed::w7(spec),
        _ if NAMES.contains(&name) => nexmark::run(name, spec),
        _ => Err(Error::job(format!("unknown workload '{name}': use one of {}", NAMES.join(", ")))),
    }
}

/// Composes w2 or w7 without running it, for jobs that are split over processes. Its sink adds to
/// `tally`.
///
/// # Errors
/// Another name.
pub fn compose(name: &str, spec: &Spec, tally: &Tally) -> Result<Env> {
    match name {
        "w2" => Ok(words::compose(spec, tally, &HalfTime::default())),
        "w7" => Ok(keyed::compose(spec, tally, &HalfTime::default())),
        _ => Err(Error::job(format!("'{name}' is not split over processes: use w2 or w7"))),
    }
}

/// Counts allocations from the middle of a run to its end.
#[derive(Clone, Default)]
pub(crate) struct HalfTime {
    at_half: Arc<AtomicU64>,
}

impl HalfTime {
    /// To be called with each event's number by the source.
    #[inline(always)]
    pub(crate) fn event(&self, i: u64, half: u64) {
        if i == half {
            self.mark();
        }
    }

    #[cold]
    fn mark(&self) {
        self.at_half.store(allocations::count(), Ordering::Relaxed);
    }
}

/// A sink that adds up digests.
pub(crate) fn digest<T: Record>(
    tally: &Tally,
    f: impl for<'a> Fn(T::View<'a>) -> u64 + Clone + Send + 'static,
) -> impl tidemill::Sink<T> {
    let tally = tally.clone();
    ForEachSink::<T, _, _, _, _>::new(
        |_| Part::default(),
        move |part: &mut Part, view: T::View<'_>, _| part.add(f(view)),
        move |part| tally.merge(part),
    )
}

/// Runs the composed job.
pub(crate) fn execute(
    env: &Env,
    spec: &Spec,
    tally: Tally,
    half: &HalfTime,
    latencies: Option<Latencies>,
) -> Result<Run> {
    let dir = std::env::temp_dir().join(format!("tidemill-bench-{}", std::process::id()));
    let dir_text = dir.to_string_lossy().into_owned();
    let memory = spec.state_memory_mib.to_string();
    let mut flags = vec!["--state", spec.state.as_str(), "--state-memory-mib", &memory];
    if let Some(dir) = &spec.state_dir {
        flags.extend(["--state-dir", dir]);
    }
    let interval = spec.checkpoint_interval.map(|i| format!("{}ms", i.as_millis()));
    if let Some(interval) = &interval {
        flags.extend(["--checkpoint-dir", &dir_text, "--checkpoint-interval", interval]);
    }
    let result = env.execute_with(&flags);
    let end = allocations::count();
    if interval.is_some() {
        // A directory that cannot be removed is only left behind.
        let _ = std::fs::remove_dir_all(&dir);
    }
    let half_count = half.at_half.load(Ordering::Relaxed);
    let per_event = end.saturating_sub(half_count) as f64 / (spec.events as f64 / 2.0).max(1.0);
    let allocations_after_warm_up = if half_count == 0 { f64::NAN } else { per_event };
    Ok(Run { summary: result?, tally, allocations_after_warm_up, latencies })
}
