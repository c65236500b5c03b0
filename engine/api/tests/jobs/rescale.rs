//! Keyed state, windows and sessions move to another number of subtasks, and nothing is lost.

use crate::bomb::Bomb;
use crate::common::{Dir, KEYS, assert_same, counted, env, numbers, sorted};
use std::collections::BTreeMap;
use std::time::Duration;
use tidemill::connectors::{CollectSink, GeneratorSource};
use tidemill::{Env, Session, Tumbling};

const TOTAL: u64 = 12_000;
const WINDOW_MS: i64 = 500;
const GAP_MS: i64 = 90;
const LATENESS_MS: i64 = 400;

type Row = (u64, i64, i64, u64);

/// Record i and its event time: out of order by less than the allowed disorder.
fn record(i: u64) -> ((u64, u64), i64) {
    let shuffled = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    // A key has a record every 17 ms of event time on average, and pauses now and then.
    let pause = (i / 1000) as i64 * 1000;
    ((shuffled % KEYS, i), i as i64 * 4 + pause + (shuffled % 300) as i64)
}

#[derive(Default)]
struct Oracle {
    counts: Vec<(u64, u64)>,
    windows: Vec<Row>,
    sessions: Vec<Row>,
}

impl Oracle {
    fn new() -> Self {
        let mut of: BTreeMap<u64, Vec<(i64, u64)>> = BTreeMap::new();
        for ((key, n), at) in (0..TOTAL).map(record) {
            of.entry(key).or_default().push((at, n));
        }
        let mut oracle = Oracle::default();
        for (key, mut records) in of {
            records.sort_unstable();
            let mut windows: BTreeMap<i64, u64> = BTreeMap::new();
            let mut sessions: Vec<Row> = Vec::new();
            for (i, &(at, n)) in records.iter().enumerate() {
                oracle.counts.push((key, i as u64 + 1));
                *windows.entry(at - at % WINDOW_MS).or_default() += n;
                match sessions.last_mut().filter(|s| at <= s.2) {
                    Some(s) => (s.2, s.3) = (at + GAP_MS, s.3 + n),
                    None => sessions.push((key, at, at + GAP_MS, n)),
                }
            }
            let row = |(start, sum): (i64, u64)| (key, start, start + WINDOW_MS, sum);
            oracle.windows.extend(windows.into_iter().map(row));
            oracle.sessions.extend(sessions);
        }
        oracle.counts.sort_unstable();
        oracle.windows.sort_unstable();
        oracle.sessions.sort_unstable();
        oracle
    }
}

struct Sinks {
    counts: CollectSink<(u64, u64)>,
    windows: CollectSink<Row>,
    sessions: CollectSink<Row>,
}

fn job(parallelism: u32, rate: f64, bomb: Bomb, sinks: &Sinks) -> Env {
    let env = env("rescaled", parallelism);
    let source = GeneratorSource::with_timestamps(Some(TOTAL), record)
        .bounded_lateness(LATENESS_MS)
        .watermark_every(50)
        .rate(rate);
    let input = env.add_source(bomb.pace(source)).uid("numbers").rebalance();
    let input = input.filter(move |_| {
        bomb.tick();
        true
    });
    let shared = input.shared();
    let keyed = || shared.stream().key_by::<u64, _>(|r| r.0);
    keyed().count().uid("counts").add_sink(sinks.counts.sink()).uid("out 1");
    keyed()
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
        .with_window()
        .sum(|r| r.1)
        .uid("windows")
        .add_sink(sinks.windows.sink())
        .uid("out 2");
    keyed()
        .window(Session::gap(Duration::from_millis(GAP_MS as u64)))
        .with_window()
        .sum(|r| r.1)
        .uid("sessions")
        .add_sink(sinks.sessions.sink())
        .uid("out 3");
    env
}

/// At parallelism 2 until it fails in the middle, then again until it fails, then to the end.
fn rescaled(steps: [u32; 2], timeout: &str) {
    rescaled_with(steps, timeout, [&["--state", "heap"]; 3]);
}

/// The same, each time with further flags.
fn rescaled_with(steps: [u32; 2], timeout: &str, more: [&[&str]; 3]) {
    let (dir, oracle) = (Dir::new(), Oracle::new());
    let sinks = Sinks {
        counts: CollectSink::new(),
        windows: CollectSink::new(),
        sessions: CollectSink::new(),
    };
    let flags = [&["--aligned-timeout", timeout], more[0]].concat();
    let error = dir.run(&job(2, 8e3, Bomb::amid(TOTAL / 3, &dir), &sinks), &flags).unwrap_err();
    assert!(error.to_string().contains("the bomb"), "{error}");

    let again = ["--aligned-timeout", timeout, "--restore", "latest"];
    let flags = [&again, more[1]].concat();
    let bomb = Bomb::amid(TOTAL / 4, &dir);
    let error = dir.run(&job(steps[0], 8e3, bomb, &sinks), &flags).unwrap_err();
    assert!(error.to_string().contains("the bomb"), "{error}");
    let newest = dir.checkpoints().pop().unwrap().0;
    let (bomb, flags) = (Bomb::dud(), [&again, more[2]].concat());
    let summary = dir.run(&job(steps[1], 1e6, bomb, &sinks), &flags).unwrap();
    assert_eq!(summary.restored, Some(newest));
    assert!(summary.source_records() < TOTAL, "it went on, not anew");
    assert_eq!(summary.tasks.iter().map(|t| t.late_dropped).sum::<u64>(), 0);

    assert_same("counts", &sorted(&sinks.counts), &oracle.counts);
    assert_same("windows", &sorted(&sinks.windows), &oracle.windows);
    assert_same("sessions", &sorted(&sinks.sessions), &oracle.sessions);
}

#[test]
fn the_oracle_has_sessions_and_disorder() {
    let oracle = Oracle::new();
    assert!(oracle.sessions.len() > 5 * KEYS as usize, "{}", oracle.sessions.len());
    assert!(oracle.sessions.iter().any(|s| s.2 - s.1 > GAP_MS), "sessions of several records");
    let times: Vec<i64> = (0..TOTAL).map(|i| record(i).1).collect();
    assert!(times.windows(2).filter(|w| w[0] > w[1]).count() > 1000);
    assert_eq!(oracle.counts.len() as u64, TOTAL);
}

#[test]
fn aligned_from_2_to_1_to_4() {
    rescaled([1, 4], "never");
}

#[test]
fn aligned_from_2_to_3_to_2() {
    rescaled([3, 2], "never");
}

#[test]
fn aligned_from_2_to_4_to_3() {
    rescaled([4, 3], "never");
}

#[test]
fn unaligned_from_2_to_1_to_4() {
    rescaled([1, 4], "0s");
}

#[test]
fn unaligned_from_2_to_3_to_1() {
    rescaled([3, 1], "0s");
}

#[test]
fn unaligned_from_2_to_4_to_3() {
    rescaled([4, 3], "0s");
}

#[cfg(feature = "rocksdb")]
mod rocksdb {
    use super::*;

    const HEAP: &[&str] = &["--state", "heap"];
    const ROCKS: &[&str] = &["--state", "rocksdb", "--state-memory-mib", "4"];

    #[test]
    fn from_2_to_3_to_2() {
        rescaled_with([3, 2], "never", [ROCKS; 3]);
    }

    #[test]
    fn at_2_all_the_time_in_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let flags = [ROCKS, &["--state-dir", dir.path().to_str().unwrap()]].concat();
        rescaled_with([2, 2], "never", [&flags; 3]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "all is removed");
    }

    #[test]
    fn unaligned_from_2_to_1_to_4() {
        rescaled_with([1, 4], "0s", [ROCKS; 3]);
    }

    #[test]
    fn from_the_heap_and_back() {
        rescaled_with([2, 1], "never", [HEAP, ROCKS, HEAP]);
        rescaled_with([1, 2], "0s", [ROCKS, HEAP, ROCKS]);
    }
}

/// One subtask is enough for state that was spread over many, and the other way round.
#[test]
fn from_8_to_1_and_from_1_to_8() {
    for (from, to) in [(8, 1), (1, 8)] {
        let (dir, sink) = (Dir::new(), CollectSink::new());
        let first = env("wide", from);
        let bomb = Bomb::amid(1_500, &dir);
        crate::common::counting(numbers(&first, 3_000, 5e3, &bomb), &bomb, &sink);
        dir.run(&first, &[]).unwrap_err();
        let second = env("wide", to);
        crate::common::counting(numbers(&second, 3_000, 1e6, &Bomb::dud()), &bomb, &sink);
        dir.resume(&second).unwrap();
        assert_same("counts", &sorted(&sink), &counted(3_000));
    }
}
