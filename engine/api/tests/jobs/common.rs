//! What the tests share: a directory for checkpoints, a source, and running counts.

use crate::bomb::Bomb;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemill::connectors::{CollectSink, GeneratorSource};
use tidemill::job::Summary;
use tidemill::{Env, Record, RestartStrategy, Result, Stream, pipe::Pipe};

/// Number of keys of the jobs.
pub(crate) const KEYS: u64 = 17;

/// A directory for checkpoints that goes away with the test.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Self {
        Dir(tempfile::tempdir().unwrap())
    }
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
    /// Runs with checkpoints here and more flags.
    pub(crate) fn run(&self, env: &Env, flags: &[&str]) -> Result<Summary> {
        let mut all = vec!["--checkpoint-dir", self.0.path().to_str().unwrap()];
        all.extend(flags);
        env.execute_with(&all)
    }
    pub(crate) fn resume(&self, env: &Env) -> Result<Summary> {
        self.run(env, &["--restore", "latest"])
    }
    /// The complete checkpoints, oldest first.
    pub(crate) fn checkpoints(&self) -> Vec<(u64, PathBuf)> {
        checkpoints(self.0.path())
    }
}

/// The complete checkpoints below `root`, oldest first.
pub(crate) fn checkpoints(root: &Path) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.join("manifest.json").exists())
        .filter_map(|p| {
            let name = p.file_name()?.to_str()?.strip_prefix("chk-")?.parse().ok()?;
            Some((name, p))
        })
        .collect();
    found.sort();
    found
}

/// A job with checkpoints every 20 ms that does not restart by itself.
pub(crate) fn env(name: &str, parallelism: u32) -> Env {
    Env::new(name)
        .parallelism(parallelism)
        .checkpoint_every(Duration::from_millis(20))
        .restart(RestartStrategy::None)
}

/// `total` records `(key, number)` at `rate` a second, as long as the bomb lets them.
pub(crate) fn numbers(
    env: &Env,
    total: u64,
    rate: f64,
    bomb: &Bomb,
) -> Stream<(u64, u64), impl Pipe<Out = (u64, u64)> + use<>> {
    let source = GeneratorSource::with_timestamps(Some(total), |i| ((i % KEYS, i), i as i64));
    env.add_source(bomb.pace(source.rate(rate))).uid("numbers")
}

/// Counts the records of each key: the output is each key with 1, 2, 3, ...
pub(crate) fn counting<P: Pipe<Out = (u64, u64)>>(
    input: Stream<(u64, u64), P>,
    bomb: &Bomb,
    sink: &CollectSink<(u64, u64)>,
) {
    let bomb = bomb.clone();
    input
        .key_by::<u64, _>(|r| r.0)
        .count()
        .uid("counts")
        .map(move |r| {
            bomb.tick();
            r
        })
        .add_sink(sink.sink())
        .uid("out");
}

/// What [`counting`] gives for `total` records, sorted.
pub(crate) fn counted(total: u64) -> Vec<(u64, u64)> {
    let mut of = BTreeMap::new();
    let mut all: Vec<_> = (0..total)
        .map(|i| {
            let n = of.entry(i % KEYS).or_insert(0);
            *n += 1;
            (i % KEYS, *n)
        })
        .collect();
    all.sort_unstable();
    all
}

/// Takes what a sink has collected, sorted.
pub(crate) fn sorted<T: Record + Send + Ord>(sink: &CollectSink<T>) -> Vec<T> {
    let mut got = sink.take();
    got.sort_unstable();
    got
}

/// Compares without printing thousands of records.
pub(crate) fn assert_same<T: PartialEq + std::fmt::Debug>(what: &str, got: &[T], wanted: &[T]) {
    let at = got.iter().zip(wanted).position(|(g, w)| g != w);
    let at = at.unwrap_or(got.len().min(wanted.len()));
    assert!(
        got == wanted,
        "{what}: {} records for {}; record {at} is {:?}, not {:?}",
        got.len(),
        wanted.len(),
        got.get(at),
        wanted.get(at)
    );
}
