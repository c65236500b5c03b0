//! Streams with several readers, and side outputs: readers are fused with what they read.

use crate::common::{Dir, env, sorted};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tidemill::connectors::{CollectSink, DiscardSink};
use tidemill::pipe::Pipe;
use tidemill::{Env, RestartStrategy, Result, Stream, Tumbling, job::Summary};

/// Runs a job whose operator `culprit` panics on the record 7, and gives what is said of it.
fn error_of(culprit: &str, compose: impl FnOnce(&Env)) -> String {
    let env = Env::new("branches").parallelism(2).restart(RestartStrategy::None);
    compose(&env);
    let run: Result<Summary> = env.execute();
    let error = run.unwrap_err().to_string();
    let wanted = format!("operator '{culprit}' panicked on record 7");
    assert!(error.contains(&wanted), "{wanted}: {error}");
    error
}

fn fail_on_7(n: u64) -> u64 {
    assert_ne!(n, 7, "seven");
    n
}

#[test]
fn a_panic_in_a_branch_names_the_operator_of_that_branch() {
    for nth in 0..4usize {
        let names = ["first", "second", "third", "of the third"];
        error_of(names[nth], |env| {
            let check = move |at: usize| move |n: u64| if at == nth { fail_on_7(n) } else { n };
            let shared = env.from_vec((0..20u64).collect()).inspect(|_, _| {}).shared();
            let [one, two, three] = [(); 3].map(|()| shared.stream());
            // Composed in turn, so that places in the chain are not those in the branch.
            let (one, two) = (one.map(check(0)).name("first"), two.filter(|_| true));
            let three = three.map(check(2)).name("third").shared();
            let two = two.map(check(1)).name("second");
            three.stream().add_sink(DiscardSink);
            one.rebalance().add_sink(DiscardSink);
            two.add_sink(DiscardSink);
            three.stream().map(check(3)).name("of the third").add_sink(DiscardSink);
        });
    }
}

#[test]
fn a_panic_behind_a_side_output_names_its_operator() {
    let error = error_of("seldom", |env| {
        let odd = env.output_tag::<u64>("odd");
        let tag = odd.clone();
        let even = env
            .from_vec((0..20u64).collect())
            .process::<u64, _>(move |n, cx| {
                if n % 2 == 1 {
                    cx.side(&tag, n);
                } else {
                    cx.emit(n);
                }
            })
            .side_output(&odd);
        odd.stream(env).map(fail_on_7).name("seldom").add_sink(DiscardSink);
        even.map(|n| n).name("often").add_sink(DiscardSink);
    });
    assert!(error.contains("seven"), "{error}");
}

#[test]
fn sinks_in_branches_commit_with_their_checkpoints() {
    let dir = Dir::new();
    let env = env("committed", 2);
    let [all, even, odd] = [(); 3].map(|()| CollectSink::<u64>::new());
    let numbers = env.from_vec((0..5_000u64).collect()).shared();
    numbers.stream().add_sink(all.sink()).uid("all");
    // A filter of plain records gathers them: what it holds belongs before the barrier.
    numbers.stream().filter(|n| n % 2 == 0).add_sink(even.sink()).uid("even");
    let rest = env.output_tag::<u64>("rest");
    let tag = rest.clone();
    let none = numbers
        .stream()
        .key_by::<u64, _>(|n| *n % 10)
        .process_value::<u64, u64, _>(move |n, count, cx| {
            *count.get_or_insert(0) += 1;
            if n % 2 == 1 {
                cx.side(&tag, n);
            }
        })
        .side_output(&rest);
    none.add_sink(DiscardSink);
    rest.stream(&env).filter(|n| n % 2 == 1).add_sink(odd.sink()).uid("odd");
    let summary = dir.run(&env, &[]).unwrap();
    assert_eq!(summary.tasks.len(), 2, "source with its sinks, and what is by key");
    assert_eq!(sorted(&all), (0..5_000).collect::<Vec<_>>());
    assert_eq!(sorted(&even), (0..5_000).step_by(2).collect::<Vec<_>>());
    assert_eq!(sorted(&odd), (1..5_000).step_by(2).collect::<Vec<_>>());
}

/// Records of the backlog below. One slot steps source and windows in turn, and only a few buffers
/// are in flight: the windows of the first records fire far from the end.
const BACKLOG: u64 = 100_000;

/// Records read when the first window of ten milliseconds fired, of one record a millisecond.
fn read_at_first_window(count: impl FnOnce(&Env, Arc<AtomicU64>) -> Results) -> u64 {
    let env = Env::new("backlog").parallelism(1).restart(RestartStrategy::None);
    let read = Arc::new(AtomicU64::new(0));
    let results = count(&env, read.clone());
    env.execute().unwrap();
    let results = results.take();
    assert_eq!(results.len() as u64, BACKLOG / 10, "every window once");
    assert!(results.iter().all(|(count, _)| *count == 10), "every window whole");
    results.iter().map(|(_, read)| *read).min().unwrap()
}

/// Of each window its count, and how many records had been read.
type Results = CollectSink<(u64, u64)>;

fn count_windows<P: Pipe<Out = u64>>(numbers: Stream<u64, P>, read: Arc<AtomicU64>) -> Results {
    let out = CollectSink::new();
    numbers
        .assign_timestamps(|n| n as i64, Duration::ZERO)
        .key_by::<u64, _>(|_| 0)
        .window(Tumbling::of(Duration::from_millis(10)))
        .count()
        .map(move |counted| (counted.1, read.load(Ordering::Relaxed)))
        .add_sink(out.sink());
    out
}

#[test]
fn windows_fire_in_a_backlog_whose_timestamps_are_assigned_behind_the_source() {
    let counted = |read: Arc<AtomicU64>| {
        move |n: u64| {
            read.fetch_add(1, Ordering::Relaxed);
            n
        }
    };
    let backlog = || (0..BACKLOG).collect::<Vec<_>>();
    let fused = read_at_first_window(|env, read| {
        count_windows(env.from_vec(backlog()).map(counted(read.clone())), read)
    });
    let shared = read_at_first_window(|env, read| {
        let shared = env.from_vec(backlog()).map(counted(read.clone())).shared();
        shared.stream().add_sink(DiscardSink);
        count_windows(shared.stream(), read)
    });
    let side = read_at_first_window(|env, read| {
        let all = env.output_tag::<u64>("all");
        let tag = all.clone();
        let none = env.from_vec(backlog()).map(counted(read.clone()));
        let none = none.process::<u64, _>(move |n, cx| cx.side(&tag, n)).side_output(&all);
        none.add_sink(DiscardSink);
        count_windows(all.stream(env), read)
    });
    let behind_an_exchange = read_at_first_window(|env, read| {
        let numbers = env.from_vec(backlog()).map(counted(read.clone())).rebalance();
        count_windows(numbers, read)
    });
    for (how, read) in
        [("fused", fused), ("shared", shared), ("side", side), ("rebalanced", behind_an_exchange)]
    {
        assert!(read < BACKLOG / 2, "{how}: no window before {read} records");
    }
}

/// What is sent to `receiver`, which must end.
fn all_of(receiver: &Receiver<u64>) -> Vec<u64> {
    let mut all = Vec::new();
    loop {
        match receiver.recv_timeout(Duration::from_secs(60)) {
            Ok(n) => all.push(n),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                panic!("a sender is left after {} records", all.len())
            }
        }
    }
    all.sort_unstable();
    all
}

#[test]
fn what_branches_close_over_is_dropped_with_the_job() {
    let env = Env::new("dropped").parallelism(2);
    let mut receivers = Vec::new();
    let mut sending = || {
        let (sender, receiver) = channel();
        receivers.push(receiver);
        move |n: u64, _: i64| assert_eq!(sender.send(n), Ok(()))
    };
    let numbers = || env.from_vec((0..20u64).collect());
    numbers().inspect(sending()).add_sink(DiscardSink);

    let shared = numbers().shared();
    shared.stream().inspect(sending()).add_sink(DiscardSink);
    shared.stream().inspect(sending()).rebalance().inspect(sending()).add_sink(DiscardSink);
    let inner = shared.stream().inspect(sending()).shared();
    inner.stream().inspect(sending()).add_sink(DiscardSink);

    let side = env.output_tag::<u64>("side");
    let tag = side.clone();
    let none = shared.stream().process::<u64, _>(move |n, cx| cx.side(&tag, n)).side_output(&side);
    side.stream(&env).inspect(sending()).add_sink(DiscardSink);
    none.add_sink(DiscardSink);

    let late = env.output_tag::<u64>("late");
    let numbers =
        env.from_vec((0..20u64).collect()).assign_timestamps(|n| n as i64, Duration::ZERO);
    let windows = numbers.key_by::<u64, _>(|n| *n).window(Tumbling::of(Duration::from_millis(5)));
    windows.late_output(&late).count().add_sink(DiscardSink);
    late.stream(&env).inspect(sending()).add_sink(DiscardSink);

    env.execute().unwrap();
    // As for a stream that is not shared: while the environment, the shared streams and the tags live.
    let late_records = receivers.pop().unwrap();
    for receiver in &receivers {
        assert_eq!(all_of(receiver), (0..20).collect::<Vec<_>>());
    }
    assert_eq!(all_of(&late_records), [0; 0]);
    drop((env, shared, inner, side, late));
}
