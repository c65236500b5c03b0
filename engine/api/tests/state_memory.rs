//! Windows whose state does not fit the memory of RocksDB: the process stays small, and what it emits is
//! what the heap emits. In processes of their own, because it measures them.

#![cfg(feature = "rocksdb")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill::connectors::{DiscardSink, GeneratorSource};
use tidemill::{Env, RestartStrategy, Sliding, event_time};

const STATE: &str = "TIDEMILL_TEST_STATE";
const KEYS: u64 = 25_000;
const KEY_BYTES: usize = 1_600;
const MEMORY_MIB: &str = "8";

fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Counts long keys in windows of two slices, each key once in each slice, with checkpoints beside;
/// rows and sum of counts.
fn run(state: &str) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::new("large").parallelism(1).restart(RestartStrategy::None);
    let env = env.checkpoint_every(Duration::from_millis(500));
    let (rows, sum) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (row, added) = (rows.clone(), sum.clone());
    let slice = Duration::from_millis(KEYS);
    env.add_source_with(GeneratorSource::new(Some(2 * KEYS), |i| i), event_time(|i: u64| i as i64))
        .map(|i| format!("{:0>width$}", i % KEYS, width = KEY_BYTES))
        .key_by::<String, _>(|key| key)
        .window(Sliding::of(2 * slice, slice))
        .count()
        .map(|(_, n)| n)
        .inspect(move |n, _| {
            row.fetch_add(1, Ordering::Relaxed);
            added.fetch_add(n, Ordering::Relaxed);
        })
        .add_sink(DiscardSink);
    let chk = dir.path().join("chk");
    let (chk, files) = (chk.to_str().unwrap(), dir.path().join("state"));
    let files = files.to_str().unwrap();
    let flags = ["--checkpoint-dir", chk, "--state", state];
    let place = ["--state-dir", files, "--state-memory-mib", MEMORY_MIB];
    env.execute_with(&[flags, place].concat()).unwrap();
    (rows.load(Ordering::Relaxed), sum.load(Ordering::Relaxed))
}

#[test]
fn measured() {
    let Ok(state) = std::env::var(STATE) else { return };
    let before = status_kib("VmRSS:");
    // Windows of the first slice, of both, of the second.
    assert_eq!(run(&state), (3 * KEYS, 4 * KEYS));
    eprintln!("grown {}", (status_kib("VmHWM:") - before) >> 10);
}

/// MiB that a process grows by.
fn grown(state: &str) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "measured"]).env(STATE, state);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
    let grown = text.lines().find_map(|l| l.strip_prefix("grown ")).unwrap();
    grown.parse().unwrap()
}

#[test]
fn windows_larger_than_the_memory_of_rocksdb_stay_on_disk() {
    let state = (2 * KEYS * KEY_BYTES as u64) >> 20;
    let (heap, rocks) = (grown("heap"), grown("rocksdb"));
    eprintln!("state of {state} MiB: heap +{heap} MiB, RocksDB with {MEMORY_MIB} MiB +{rocks} MiB");
    assert!(heap > state, "the heap holds all of it");
    assert!(rocks < state * 6 / 10, "+{rocks} MiB for {state} MiB of state");
}
