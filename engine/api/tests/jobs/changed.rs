//! Restores into a program that has changed.

use crate::bomb::Bomb;
use crate::common::{Dir, KEYS, counting, env, numbers, sorted};
use std::time::Duration;
use tidemill::connectors::{CollectSink, DiscardSink, GeneratorSource};
use tidemill::job::Summary;
use tidemill::{Env, Record, Result, Session, SinkWriter, Tumbling};

const TOTAL: u64 = 2_000;

/// A job with state of `V` for each key.
fn valued<V: Record>(dir: &Dir, flags: &[&str], value: fn(u64) -> V) -> Result<Summary> {
    let env = env("valued", 2);
    numbers(&env, TOTAL, 1e6, &Bomb::dud())
        .key_by::<u64, _>(|r| r.0)
        .process_value::<V, u64, _>(move |r, v: &mut Option<V>, cx| {
            *v = Some(value(r.1));
            cx.emit(r.1);
        })
        .name("remember")
        .uid("remember")
        .add_sink(DiscardSink)
        .uid("out");
    dir.run(&env, flags)
}

#[test]
fn state_without_its_operator_is_refused_until_it_may_go() {
    let dir = Dir::new();
    let first = env("dropped", 2);
    let sink = CollectSink::new();
    let counts = numbers(&first, TOTAL, 1e6, &Bomb::dud()).key_by::<u64, _>(|r| r.0).count();
    counts.name("tally").uid("totals").add_sink(sink.sink()).uid("out");
    dir.run(&first, &[]).unwrap();
    assert_eq!(sink.take().len() as u64, TOTAL);

    let without = || {
        let env = env("dropped", 2);
        numbers(&env, TOTAL, 1e6, &Bomb::dud()).add_sink(CollectSink::new().sink()).uid("out");
        env
    };
    let before = dir.checkpoints();
    let error = dir.resume(&without()).unwrap_err().to_string();
    for part in ["'tally'", "totals", "--allow-dropped-state"] {
        assert!(error.contains(part), "{part} in: {error}");
    }
    assert!(!error.contains("numbers"), "only what is gone is named: {error}");
    assert_eq!(dir.checkpoints(), before, "a refused start leaves the checkpoints alone");

    let summary = dir.run(&without(), &["--restore", "latest", "--allow-dropped-state"]).unwrap();
    assert_eq!(summary.restored, Some(before.last().unwrap().0));
    assert_eq!(summary.outcome, "finished");
}

#[test]
fn a_changed_state_type_is_refused_with_both_shapes() {
    let dir = Dir::new();
    valued::<u64>(&dir, &[], |n| n).unwrap();
    let error = valued::<String>(&dir, &["--restore", "latest"], |n| n.to_string()).unwrap_err();
    let error = error.to_string();
    for part in ["remember", "u64", "str"] {
        assert!(error.to_lowercase().contains(part), "{part} in: {error}");
    }
    // The same type goes on.
    valued::<u64>(&dir, &["--restore", "latest"], |n| n).unwrap();
}

#[test]
fn changed_windows_are_refused_with_both() {
    let dir = Dir::new();
    let run = |seconds: Option<u64>, bomb: Bomb, flags: &[&str]| {
        let env = env("windows", 2);
        let input = numbers(&env, TOTAL, 4e3, &bomb).filter(move |_| {
            bomb.tick();
            true
        });
        let keyed = input.key_by::<u64, _>(|r| r.0);
        let windowed = match seconds {
            Some(s) => keyed.window(Tumbling::of(Duration::from_secs(s))),
            None => keyed.window(Session::gap(Duration::from_secs(1))),
        };
        windowed.sum(|r| r.1).name("sums").uid("sums").add_sink(DiscardSink);
        dir.run(&env, flags)
    };
    run(Some(10), Bomb::amid(TOTAL / 2, &dir), &[]).unwrap_err();
    for other in [Some(20), None] {
        let error = run(other, Bomb::dud(), &["--restore", "latest"]).unwrap_err().to_string();
        assert!(error.contains("sums") && error.contains("10000"), "{error}");
        let wanted = if other.is_some() { "20000" } else { "session" };
        assert!(error.contains(wanted), "{error}");
    }
    run(Some(10), Bomb::dud(), &["--restore", "latest"]).unwrap();
}

#[test]
fn another_number_of_key_groups_is_refused() {
    let dir = Dir::new();
    let run = |key_groups: u32, flags: &[&str]| {
        let env = env("groups", 2).max_parallelism(key_groups);
        counting(numbers(&env, TOTAL, 1e6, &Bomb::dud()), &Bomb::dud(), &CollectSink::new());
        dir.run(&env, flags)
    };
    run(64, &[]).unwrap();
    let error = run(32, &["--restore", "latest"]).unwrap_err().to_string();
    for part in ["64", "32", "max_parallelism"] {
        assert!(error.contains(part), "{part} in: {error}");
    }
    run(64, &["--restore", "latest"]).unwrap();
}

/// Takes a tenth of a millisecond for a record, so that records wait in its channels.
#[derive(Clone)]
struct Slow;

impl<T: Record> tidemill::Sink<T> for Slow {
    type Writer = Slow;
    fn open(&self, _: &tidemill::SinkContext) -> Result<Slow> {
        Ok(Slow)
    }
    fn name(&self) -> String {
        "slow".into()
    }
}

impl<T: Record> SinkWriter<T> for Slow {
    #[expect(clippy::disallowed_methods, reason = "a sink that blocks is what is tested")]
    fn write(&mut self, _: T::View<'_>, _: i64) -> Result<()> {
        std::thread::sleep(Duration::from_micros(100));
        Ok(())
    }
}

/// Unaligned checkpoints of a stream of `T` through a channel that is always full.
fn through_a_channel<T: Record>(make: fn(u64) -> T, bomb: Bomb) -> Env {
    let env = env("channel", 1);
    env.add_source(GeneratorSource::new(Some(50_000), |i| i % KEYS))
        .uid("numbers")
        .parallelism(2)
        .map(make)
        .rebalance()
        .parallelism(1)
        .filter(move |_| {
            bomb.tick();
            true
        })
        .uid("behind")
        .add_sink(Slow)
        .uid("slow");
    env
}

#[test]
fn a_changed_record_type_on_a_channel_with_records_is_refused_with_both_shapes() {
    let dir = Dir::new();
    let flags = ["--aligned-timeout", "0s", "--checkpoint-interval", "50ms"];
    let error = dir.run(&through_a_channel::<u64>(|n| n, Bomb::after(9_000)), &flags).unwrap_err();
    assert!(error.to_string().contains("the bomb"), "{error}");
    let (_, newest) = dir.checkpoints().pop().expect("a checkpoint");
    let manifest = std::fs::read_to_string(newest.join("manifest.json")).unwrap();
    assert!(manifest.contains("channel_state"), "nothing waited in the channel: {manifest}");

    let changed = through_a_channel::<String>(|n| n.to_string(), Bomb::after(1));
    let error = dir.resume(&changed).unwrap_err().to_string();
    for part in ["u64", "str"] {
        assert!(error.to_lowercase().contains(part), "{part} in: {error}");
    }
    // The program that wrote it takes the records up.
    let error = dir.resume(&through_a_channel::<u64>(|n| n, Bomb::after(50))).unwrap_err();
    assert!(error.to_string().contains("the bomb"), "{error}");
}

#[test]
fn a_renamed_and_moved_operator_with_its_uid_keeps_its_state() {
    let dir = Dir::new();
    let first = env("moved", 2);
    let (bomb, sink) = (Bomb::amid(TOTAL / 2, &dir), CollectSink::new());
    counting(numbers(&first, TOTAL, 4e3, &bomb), &bomb, &sink);
    dir.run(&first, &[]).unwrap_err();
    assert!(!dir.checkpoints().is_empty());

    let second = env("moved", 2);
    let renamed = numbers(&second, TOTAL, 1e6, &Bomb::dud())
        .map(|r| r)
        .filter(|_| true)
        .name("new")
        .key_by::<u64, _>(|r| r.0)
        .count()
        .name("another name")
        .uid("counts");
    renamed.filter(|_| true).add_sink(sink.sink()).uid("out");
    dir.resume(&second).unwrap();
    crate::common::assert_same("moved", &sorted(&sink), &crate::common::counted(TOTAL));
}
