//! `SEEDS` seeds (500 by default), on two threads; `SEED=n` with the test `replay` runs one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemill_sim::{Report, Scenario, run};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// More failing seeds than this teach nobody anything.
const FAILURES_MAX: usize = 10;

/// Runs a seed; a panic of the engine outside of its tasks counts as its failure too.
fn play(seed: u64) -> Result<Report, String> {
    std::panic::catch_unwind(|| run(&Scenario::new(seed))).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("?");
        Err(format!("panic: {text}"))
    })
}

fn replay_line(seed: u64) -> String {
    format!("replay: SEED={seed} cargo test -p tidemill-sim replay -- --nocapture")
}

#[test]
fn replay() {
    let Some(seed) = std::env::var("SEED").ok().and_then(|s| s.parse().ok()) else { return };
    let scenario = Scenario::new(seed);
    let s = &scenario;
    println!(
        "{:?} {:?} {:?} every {:?} us, keep {}, queue {}, strict {}, step {} us",
        s.kind, s.pace, s.channel, s.interval_us, s.keep, s.writer_queue, s.strict, s.step_us
    );
    println!("  {:?}", s.wires);
    s.lives.iter().for_each(|life| println!("  {life:?}"));
    match play(seed) {
        Ok(report) => println!("{report:?}"),
        Err(e) => panic!("seed {seed}: {e}"),
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}

#[test]
fn every_seed_matches_its_oracle() {
    let (first, seeds) = (env("FIRST_SEED", 0), env("SEEDS", 500));
    let next = AtomicU64::new(first);
    let total = Mutex::new(Report::default());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let failed = failures.lock().unwrap().len();
                    if seed >= first + seeds || failed >= FAILURES_MAX {
                        return;
                    }
                    match play(seed) {
                        Ok(report) => add(&mut total.lock().unwrap(), &report),
                        Err(e) => {
                            eprintln!("seed {seed}: {e}\n{}\n", replay_line(seed));
                            failures.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort_unstable();
    println!("{seeds} seeds: {:?}", total.into_inner().unwrap());
    let lines: Vec<String> = failures.iter().take(10).map(|&s| replay_line(s)).collect();
    assert!(failures.is_empty(), "{} seeds failed\n{}", failures.len(), lines.join("\n"));
}

fn add(total: &mut Report, report: &Report) {
    total.iterations += report.iterations;
    total.lives += report.lives;
    total.restores += report.restores;
    total.checkpoints += report.checkpoints;
    total.aborted += report.aborted;
    total.blocked += report.blocked;
    total.channel_state += report.channel_state;
    total.rows += report.rows;
    total.damaged += report.damaged;
    total.cuts += report.cuts;
    total.split += report.split;
}
