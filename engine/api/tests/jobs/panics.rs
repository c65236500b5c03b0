//! User code that panics: the job restarts or fails, says where, and the process goes on.

use crate::bomb::Bomb;
use crate::common::{Dir, assert_same, counted, counting, env, numbers, sorted};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill::connectors::{CollectSink, DiscardSink, FileSource, GeneratorSource};
use tidemill::{
    Aggregate, Env, RestartStrategy, Session, SinkHandle, Sliding, Trigger, Tumbling, Window,
};

fn twice(delay_us: u64) -> RestartStrategy {
    RestartStrategy::FixedDelay { attempts: 2, delay_us }
}

#[test]
fn a_job_goes_on_from_its_last_checkpoint_by_itself() {
    for timeout in ["never", "0s"] {
        let (dir, sink) = (Dir::new(), CollectSink::new());
        let env = env("restarted", 2).restart(twice(1_000));
        let seen = Arc::new(AtomicU64::new(0));
        let counter = seen.clone();
        let bomb = Bomb::amid(6_000, &dir);
        let input = numbers(&env, 10_000, 1e4, &bomb).filter(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            true
        });
        counting(input, &bomb, &sink);
        let summary = dir.run(&env, &["--aligned-timeout", timeout]).unwrap();
        assert_eq!((summary.restarts, summary.outcome), (1, "finished"));
        assert_same("counts", &sorted(&sink), &counted(10_000));
        let seen = seen.load(Ordering::Relaxed);
        assert!(seen < 15_000, "{seen} records: it began anew although there were checkpoints");
    }
}

#[test]
fn a_failure_before_the_first_checkpoint_starts_anew() {
    let (dir, sink) = (Dir::new(), CollectSink::new());
    let env = env("early", 2).checkpoint_every(Duration::from_secs(60)).restart(twice(1_000));
    counting(numbers(&env, 1_000, 1e6, &Bomb::dud()), &Bomb::after(500), &sink);
    let summary = dir.run(&env, &[]).unwrap();
    assert_eq!((summary.restarts, summary.restored), (1, None));
    assert_same("counts", &sorted(&sink), &counted(1_000));
}

#[test]
fn a_record_that_always_fails_is_named_when_the_job_gives_up() {
    let dir = Dir::new();
    let env = env("poisoned", 2).restart(twice(1_000));
    let attempts = Arc::new(AtomicU64::new(0));
    let counter = attempts.clone();
    let sink = CollectSink::new();
    let input = numbers(&env, 4_000, 1e4, &Bomb::dud())
        .map(move |(key, n)| {
            if n == 2_500 {
                counter.fetch_add(1, Ordering::Relaxed);
                panic!("cannot halve {n}");
            }
            (key, n)
        })
        .name("halve");
    counting(input, &Bomb::dud(), &sink);
    let error = dir.run(&env, &[]).unwrap_err().to_string();
    let record = format!("({}, 2500)", 2_500 % crate::common::KEYS);
    for part in ["'halve'", &record, "cannot halve 2500", "given up"] {
        assert!(error.contains(part), "{part} in: {error}");
    }
    assert_eq!(attempts.load(Ordering::Relaxed), 3, "one attempt and two restarts");
    // Nothing that was not part of a complete checkpoint is visible, and nothing twice.
    let (got, all) = (sorted(&sink), counted(4_000));
    assert!(got.len() < 4_000 && got.windows(2).all(|w| w[0] != w[1]));
    assert!(got.iter().all(|r| all.binary_search(r).is_ok()));
    // The process goes on: another job runs on the same thread.
    let (env, sink) = (Env::new("after"), CollectSink::new());
    env.from_vec(vec![1u64, 2, 3]).add_sink(sink.sink());
    env.execute().unwrap();
    assert_eq!(sorted(&sink), [1, 2, 3]);
}

#[test]
fn without_a_checkpoint_directory_a_failure_ends_the_job() {
    let env = env("plain", 2).restart(twice(1_000));
    let sink = CollectSink::new();
    counting(numbers(&env, 1_000, 1e6, &Bomb::dud()), &Bomb::after(500), &sink);
    let error = env.execute().unwrap_err().to_string();
    assert!(error.contains("the bomb"), "{error}");
    assert!(sink.take().is_empty(), "transactional output of a failed job is invisible");
}

/// Panics on record 70, wherever that is.
fn trap(n: u64) -> u64 {
    assert!(n != 70, "trapped");
    n
}

/// Every place where user code runs; each is to be named as it is here.
#[test]
fn each_place_of_user_code_names_itself_and_the_record() {
    type Compose = fn(&Env);
    fn source(env: &Env) -> tidemill::Stream<u64, impl tidemill::pipe::Pipe<Out = u64> + use<>> {
        env.add_source(GeneratorSource::with_timestamps(Some(100), |i| (i, i as i64)))
    }
    let places: [(&str, Compose); 10] = [
        ("filter", |e| {
            drop(source(e).filter(|n| trap(n) < 200).name("culprit").add_sink(DiscardSink))
        }),
        ("flat_map", |e| {
            let out = source(e).flat_map::<u64, _>(|n, emit| emit(trap(n)));
            out.name("culprit").add_sink(DiscardSink);
        }),
        ("inspect", |e| {
            let out = source(e).inspect(|n, _| assert!(trap(n) < 200)).name("culprit");
            out.rebalance().add_sink(DiscardSink);
        }),
        ("after an exchange", |e| {
            source(e).rebalance().map(trap).name("culprit").add_sink(DiscardSink);
        }),
        ("reduce", |e| {
            let keyed = source(e).key_by::<u64, _>(|n| *n - *n);
            let out = keyed.reduce(|acc, n| *acc += trap(n));
            out.name("culprit").add_sink(DiscardSink);
        }),
        ("sum", |e| {
            let out = source(e).key_by::<u64, _>(|n| *n).sum(trap);
            out.name("culprit").add_sink(DiscardSink);
        }),
        ("process", |e| {
            let keyed = source(e).key_by::<u64, _>(|n| *n);
            let out = keyed.process_value::<u64, u64, _>(|n, _, cx| cx.emit(trap(n)));
            out.name("culprit").add_sink(DiscardSink);
        }),
        ("stateless process", |e| {
            let out = source(e).process::<u64, _>(|n, cx| cx.emit(trap(n)));
            out.name("culprit").add_sink(DiscardSink);
        }),
        ("window sum", |e| {
            let keyed = source(e).key_by::<u64, _>(|n| *n);
            let out = keyed.window(Tumbling::of(Duration::from_millis(10))).sum(trap);
            out.name("culprit").add_sink(DiscardSink);
        }),
        ("key selector", |e| {
            let keyed = source(e).map(|n| n).name("culprit").key_by::<u64, _>(|n| trap(*n));
            keyed.count().add_sink(DiscardSink);
        }),
    ];
    let mut wrong = Vec::new();
    for (place, compose) in places {
        let env = Env::new(place).parallelism(1);
        compose(&env);
        let error = env.execute().unwrap_err().to_string();
        // A selector is no operator of its own: it goes by the name of what it is for.
        let culprit = if place == "key selector" { "key_by" } else { "culprit" };
        let wanted = format!("'{culprit}' panicked on record 70");
        if !(error.contains(&wanted) && error.contains("trapped")) {
            wrong.push(format!("{place}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Sums, and traps parts and sums of 70.
#[derive(Clone)]
struct Sum;
impl Aggregate<u64, u64> for Sum {
    type Acc = u64;
    type Out = u64;
    fn init(&self) -> u64 {
        0
    }
    fn add(&self, acc: &mut u64, record: u64) {
        *acc += record;
    }
    fn merge(&self, into: &mut u64, from: &u64) {
        *into += trap(*from);
    }
    fn finish(&self, _: u64, _: Window, acc: &u64) -> u64 {
        trap(*acc)
    }
}

/// What runs when a window fires has no record at hand: it goes by key and window, or by the part
/// that is merged.
#[test]
fn what_runs_in_a_firing_is_named_with_key_and_window() {
    type Compose = fn(&Env) -> SinkHandle;
    macro_rules! windows {
        ($env:expr, $windows:expr) => {{
            let source = GeneratorSource::with_timestamps(Some(100), |i| (i, i as i64));
            $env.add_source(source).key_by::<u64, _>(|n| *n).window($windows)
        }};
    }
    let window = "(70, Window { start: 70, end: 80 })";
    let places: [(&str, &str, Compose); 6] = [
        ("process", window, |e| {
            let out = windows!(e, Tumbling::of(Duration::from_millis(10)))
                .process::<u64, _>(|key, _, _, emit| emit(trap(key)));
            out.name("culprit").add_sink(DiscardSink)
        }),
        ("process with a trigger", window, |e| {
            let out = windows!(e, Tumbling::of(Duration::from_millis(10)))
                .trigger(Trigger::at_end().or_count(50))
                .process::<u64, _>(|key, _, _, emit| emit(trap(key)));
            out.name("culprit").add_sink(DiscardSink)
        }),
        ("finish", window, |e| {
            let out = windows!(e, Tumbling::of(Duration::from_millis(10))).aggregate(Sum);
            out.name("culprit").add_sink(DiscardSink)
        }),
        ("merge", "70", |e| {
            let sliding = Sliding::of(Duration::from_millis(20), Duration::from_millis(10));
            let source = GeneratorSource::with_timestamps(Some(2), |i| (70u64, 10 * i as i64));
            let keyed = e.add_source(source).key_by::<u64, _>(|n| *n);
            let out = keyed.window(sliding).aggregate_with(
                || 0u64,
                |sum, n| *sum += n,
                |sum, other| *sum += trap(*other),
                |_, _, sum| *sum,
            );
            out.name("culprit").add_sink(DiscardSink)
        }),
        ("finish by closure", window, |e| {
            let out = windows!(e, Tumbling::of(Duration::from_millis(10))).aggregate_with(
                || 0u64,
                |sum, n| *sum += n,
                |sum, other| *sum += other,
                |_, _, sum| trap(*sum),
            );
            out.name("culprit").add_sink(DiscardSink)
        }),
        ("session", "(70, Window { start: 70, end: 80 })", |e| {
            let out = windows!(e, Session::gap(Duration::from_millis(10)))
                .process::<u64, _>(|key, _, _, emit| emit(trap(key)));
            out.name("culprit").add_sink(DiscardSink)
        }),
    ];
    for (place, record, compose) in places {
        let env = Env::new(place).parallelism(1);
        compose(&env);
        let error = env.execute().unwrap_err().to_string();
        let wanted = format!("operator 'culprit' panicked on record {record}: trapped");
        assert!(error.contains(&wanted), "{place}: {error}");
    }
}

#[test]
fn a_panic_in_a_sources_function_and_an_unreadable_file_are_named() {
    let env = Env::new("source");
    env.add_source(GeneratorSource::new(Some(100), trap)).add_sink(DiscardSink);
    let error = env.execute().unwrap_err().to_string();
    assert!(error.contains("trapped") && error.contains("generator"), "{error}");

    let env = Env::new("file");
    env.add_source(FileSource::lines("/nonexistent/of course")).add_sink(DiscardSink);
    let error = env.execute().unwrap_err().to_string();
    assert!(error.contains("/nonexistent/of course"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.txt");
    std::fs::write(&path, b"fine\nalso fine\nnot \xff fine\n").unwrap();
    let env = Env::new("bytes");
    env.add_source(FileSource::lines(&path)).add_sink(DiscardSink);
    let error = env.execute().unwrap_err().to_string();
    assert!(error.contains("bad.txt") && error.contains('3'), "{error}");
}
