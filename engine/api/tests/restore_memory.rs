//! A restore reads state by key batch by batch: its peak of memory is what the state takes, and not
//! the checkpoint beside it. In processes of their own, because it measures them.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill::connectors::{DiscardSink, GeneratorSource};
use tidemill::{Env, RestartStrategy};

const DIR: &str = "TIDEMILL_TEST_DIR";
const KEYS: u64 = 100_000;
const KEY_BYTES: usize = 900;

fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Counts `KEYS` long keys, each once a life; returns the sum of the counts.
fn run(dir: &str, parallelism: u32, total: u64) -> u64 {
    let env = Env::new("large").parallelism(parallelism).restart(RestartStrategy::None);
    let env = env.checkpoint_every(Duration::from_secs(3_600));
    let sum = Arc::new(AtomicU64::new(0));
    let added = sum.clone();
    env.add_source(GeneratorSource::new(Some(total), |i| i % KEYS))
        .uid("numbers")
        .map(|i| format!("{i:0>width$}", width = KEY_BYTES))
        .key_by::<String, _>(|key| key)
        .count()
        .uid("counts")
        .map(|(_, n)| n)
        .inspect(move |n, _| {
            added.fetch_add(n, Ordering::Relaxed);
        })
        .add_sink(DiscardSink);
    env.execute_with(&["--checkpoint-dir", dir, "--restore", "latest"]).unwrap();
    sum.load(Ordering::Relaxed)
}

fn in_process(test: &str, dir: &Path) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", test]).env(DIR, dir);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test}: {text}{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{text}");
}

#[test]
fn written() {
    let Ok(dir) = std::env::var(DIR) else { return };
    assert_eq!(run(&dir, 2, KEYS), KEYS);
}

/// The generator goes on behind what it has made: the second life counts every key again.
#[test]
fn restored() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let before = status_kib("VmRSS:");
    let counted = run(&dir, 3, 2 * KEYS);
    let grown = (status_kib("VmHWM:") - before) << 10;
    let state = KEYS * KEY_BYTES as u64;
    eprintln!("state of {} MiB, +{} MiB", state >> 20, grown >> 20);
    assert_eq!(counted, 2 * KEYS, "each key for the second time");
    assert!(grown < state * 17 / 10, "+{} MiB for {} MiB", grown >> 20, state >> 20);
}

#[test]
fn a_restore_does_not_hold_the_checkpoint_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    in_process("written", dir.path());
    in_process("restored", dir.path());
}
