//! Records from 20 KB to the largest there may be, under a sink that is slower than the source:
//! they all arrive, and memory is bounded by what is in flight. Alone in its process, because it
//! measures that.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill::connectors::{DiscardSink, GeneratorSource};
use tidemill::{
    Env, RestartStrategy, Result, Sink, SinkContext, SinkWriter, Stream, event_time, pipe::Pipe,
};

const MIB: u64 = 1 << 20;

/// Only one test may run at a time: they measure the process.
static TURN: Mutex<()> = Mutex::new(());

/// Record `i` of a series.
fn record(i: u64, bytes: usize) -> String {
    let mut text = format!("{i} ");
    text.extend(std::iter::repeat_n('x', bytes.saturating_sub(text.len() + 1)));
    text.push('!');
    text
}

/// Takes its time for each record, and counts those that are whole.
#[derive(Clone)]
struct Slow {
    bytes: usize,
    each: Duration,
    rows: Arc<AtomicU64>,
    numbers: Arc<AtomicU64>,
}

impl Slow {
    fn new(bytes: usize, each: Duration) -> Self {
        Slow { bytes, each, rows: Arc::default(), numbers: Arc::default() }
    }
}

impl Sink<String> for Slow {
    type Writer = Slow;
    fn open(&self, _: &SinkContext) -> Result<Slow> {
        Ok(self.clone())
    }
    fn name(&self) -> String {
        "slow".into()
    }
}

impl SinkWriter<String> for Slow {
    #[expect(clippy::disallowed_methods, reason = "a sink that blocks is what is tested")]
    fn write(&mut self, view: &str, _: i64) -> Result<()> {
        let whole = view.len() == self.bytes && view.ends_with('!');
        let number: u64 = view.split(' ').next().unwrap().parse().unwrap();
        self.rows.fetch_add(u64::from(whole), Ordering::Relaxed);
        self.numbers.fetch_add(number, Ordering::Relaxed);
        std::thread::sleep(self.each);
        Ok(())
    }
}

/// A line of this process's status, in KiB.
fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// By how many bytes the process grows at most while `f` runs.
fn peak_growth<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let before = status_kib("VmRSS:");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let result = f();
    (result, status_kib("VmHWM:").saturating_sub(before) << 10)
}

fn env(name: &str) -> Env {
    Env::new(name).parallelism(1).restart(RestartStrategy::None)
}

fn large(env: &Env, total: u64, bytes: usize) -> Stream<String, impl Pipe<Out = String> + use<>> {
    let source =
        GeneratorSource::with_timestamps(Some(total), move |i| (record(i, bytes), i as i64));
    env.add_source(source)
}

fn numbers(env: &Env, total: u64) -> Stream<u64, impl Pipe<Out = u64> + use<>> {
    env.add_source(GeneratorSource::with_timestamps(Some(total), |i| (i, i as i64)))
}

/// Runs a job into `sink`, which must get the records `0..total`, `times` each, within `limit`
/// bytes.
fn bounded(what: &str, env: &Env, sink: &Slow, (total, times): (u64, u64), limit: u64) {
    let (summary, grown) = peak_growth(|| env.execute_with(&[]));
    let rows = sink.rows.load(Ordering::Relaxed);
    eprintln!("{what}: {rows} rows of {} bytes, +{} KiB", sink.bytes, grown >> 10);
    assert_eq!(summary.unwrap().outcome, "finished", "{what}");
    assert_eq!(rows, total * times, "{what}");
    assert_eq!(sink.numbers.load(Ordering::Relaxed), total * (total - 1) / 2 * times, "{what}");
    assert!(grown < limit, "{what}: grew by {} KiB, not {}", grown >> 10, limit >> 10);
}

/// What may be in flight: the credits of a channel twice, for each of two, and a few records.
fn limit(bytes: usize) -> u64 {
    8 * MIB + 8 * bytes as u64
}

#[test]
fn memory_is_bounded_by_what_is_in_flight() {
    let _turn = TURN.lock();
    let fast = Duration::from_micros(300);
    // 20 and 32 KB: more than half a buffer each, and just one that does not fit.
    for (total, bytes, each) in [
        (3_000, 20_000, fast),
        (3_000, 32_700, fast),
        (3_000, 32_800, fast),
        (1_000, 100_000, fast),
        (25, 15 << 20, Duration::from_millis(20)),
    ] {
        let (sink, env) = (Slow::new(bytes, each), env("exchanged"));
        large(&env, total, bytes).rebalance().add_sink(sink.clone());
        bounded("exchanged", &env, &sink, (total, 1), limit(bytes));
    }
}

#[test]
fn what_small_records_become_is_bounded_too() {
    let _turn = TURN.lock();
    for (total, bytes) in [(3_000, 32_700), (300, 1 << 20)] {
        // In the chain of the source, and behind an exchange.
        for exchange in [false, true] {
            let (sink, env) = (Slow::new(bytes, Duration::from_micros(300)), env("mapped"));
            let grow = move |i: u64| record(i, bytes);
            // A filter gathers plain records.
            if exchange {
                let kept = numbers(&env, total).rebalance().filter(|_| true);
                kept.map(grow).rebalance().add_sink(sink.clone());
            } else {
                let kept = numbers(&env, total).filter(|_| true);
                kept.map(grow).rebalance().add_sink(sink.clone());
            }
            bounded("mapped", &env, &sink, (total, 1), limit(bytes));
        }
        let (sink, env) = (Slow::new(bytes, Duration::from_micros(100)), env("expanded"));
        numbers(&env, total)
            .rebalance()
            .flat_map::<String, _>(move |i, emit| (0..3).for_each(|_| emit(&record(i, bytes))))
            .rebalance()
            .add_sink(sink.clone());
        bounded("expanded", &env, &sink, (total, 3), limit(bytes));
    }
}

#[test]
fn a_firing_stops_between_rows_that_become_large() {
    let _turn = TURN.lock();
    let (total, bytes) = (400, 1 << 20);
    for gap in [None, Some(Duration::from_secs(3_600))] {
        let (sink, env) = (Slow::new(bytes, Duration::from_micros(300)), env("fired"));
        let source = GeneratorSource::new(Some(total), |i| i);
        let keyed =
            env.add_source_with(source, event_time(|i: u64| i as i64)).key_by::<u64, _>(|i| *i);
        let grow = move |row: u64| record(row, bytes);
        match gap {
            None => keyed
                .window(tidemill::Tumbling::of(Duration::from_secs(3_600)))
                .count()
                .map(|row| row.0)
                .map(grow)
                .rebalance()
                .add_sink(sink.clone()),
            Some(gap) => keyed
                .window(tidemill::Session::gap(gap))
                .count()
                .map(|row| row.0)
                .map(grow)
                .rebalance()
                .add_sink(sink.clone()),
        };
        bounded("fired", &env, &sink, (total, 1), limit(bytes));
    }
}

/// Records that were small for long have become large: what gathers or walks small ones cannot stop
/// between those it has at hand, and nobody must take them for one record that expands.
#[test]
fn a_burst_of_large_records_after_small_ones_passes() {
    let _turn = TURN.lock();
    let bytes = 1 << 20;
    let grow = move |i: u64, small: u64| record(i, if i < small { 20 } else { bytes });
    let check = |what: &str, env: &Env, sink: &Slow, (small, total): (u64, u64), at_hand: u64| {
        let (summary, grown) = peak_growth(|| env.execute_with(&[]));
        assert_eq!(summary.unwrap().outcome, "finished", "{what}");
        assert_eq!(sink.rows.load(Ordering::Relaxed), total - small, "{what}");
        assert_eq!(sink.numbers.load(Ordering::Relaxed), total * (total - 1) / 2, "{what}");
        let limit = limit(bytes) + at_hand * bytes as u64 * 9 / 4;
        assert!(grown < limit, "{what}: grew by {} KiB, not {}", grown >> 10, limit >> 10);
    };
    // 1024 records a poll; in the second one, the filter has 64 at hand from the first on.
    let (small, total) = (1024 + 15 * 64, 1024 + 15 * 64 + 90);
    for copies in [1, 2] {
        let (sink, env) = (Slow::new(bytes, Duration::from_micros(300)), env("filtered"));
        let kept = numbers(&env, total).filter(|_| true).map(move |i| grow(i, small)).shared();
        // The other of two consumers at the end of the same chain.
        for _ in 1..copies {
            kept.stream().rebalance().add_sink(DiscardSink);
        }
        kept.stream().rebalance().add_sink(sink.clone());
        check("filtered", &env, &sink, (small, total), 64 * copies);
    }
    // A firing walks 1, 2, 4, ... 64, and then 128 rows at a time.
    let (small, total) = (127 + 14 * 128, 127 + 14 * 128 + 150);
    for late in [Duration::ZERO, Duration::from_secs(1)] {
        let (sink, env) = (Slow::new(bytes, Duration::from_micros(300)), env("fired"));
        // Rows come in the order of their places: which are large is decided by how many came.
        let mut fired = 0;
        let source = GeneratorSource::new(Some(total), |i| i);
        env.add_source_with(source, event_time(|i: u64| i as i64))
            .key_by::<u64, _>(|i| *i)
            .window(tidemill::Tumbling::of(Duration::from_secs(3_600)))
            .allowed_lateness(late)
            .count()
            .map(move |_| {
                fired += 1;
                grow(fired - 1, small)
            })
            .rebalance()
            .add_sink(sink.clone());
        check("fired", &env, &sink, (small, total), 128);
    }
}

/// The largest records become channel state too.
#[test]
fn unaligned_checkpoints_hold_large_records() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let bytes = 15 << 20;
    let (sink, env) = (Slow::new(bytes, Duration::from_millis(40)), env("checkpointed"));
    let env = env.checkpoint_every(Duration::from_millis(50));
    large(&env, 20, bytes).rebalance().add_sink(sink.clone());
    let flags = ["--checkpoint-dir", dir.path().to_str().unwrap(), "--aligned-timeout", "0s"];
    let summary = env.execute_with(&flags).unwrap();
    assert_eq!(sink.rows.load(Ordering::Relaxed), 20);
    assert!(summary.checkpoints >= 2, "{summary:?}");
}

#[test]
fn a_record_that_is_too_large_fails_by_operator_and_size() {
    let _turn = TURN.lock();
    for bytes in [(16 << 20) + 1, 80 << 20] {
        let env = env("too large");
        numbers(&env, 3)
            .map(move |i| record(i, bytes))
            .name("grow")
            .rebalance()
            .add_sink(DiscardSink);
        let error = env.execute_with(&[]).unwrap_err().to_string();
        let size = if bytes < 64 << 20 { "16777" } else { "more than 67108864" };
        assert!(error.contains("operator 'grow'") && error.contains(size), "{error}");
        assert!(error.contains("16777216"), "{error}");
    }
}

#[test]
fn one_record_may_expand_to_64_mib_and_no_further() {
    let _turn = TURN.lock();
    for (times, good) in [(6, true), (7, false)] {
        let (sink, env) = (Slow::new(10 << 20, Duration::ZERO), env("expanding"));
        numbers(&env, 2)
            .flat_map::<String, _>(move |i, emit| {
                let record = record(i, 10 << 20);
                (0..times).for_each(|_| emit(&record));
            })
            .name("expand")
            .rebalance()
            .add_sink(sink.clone());
        let result = env.execute_with(&[]);
        if good {
            assert_eq!(result.unwrap().outcome, "finished");
            assert_eq!(sink.rows.load(Ordering::Relaxed), 2 * times);
        } else {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("operator 'expand'") && error.contains("64 MiB"), "{error}");
        }
    }
}
