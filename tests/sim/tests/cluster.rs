//! `CLUSTER_SEEDS` seeds (200 by default) of the cluster; `CLUSTER_SEED=n` with the test `replay` runs one
//! and says everything that happens.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemill_sim::cluster::{ClusterScenario, Report, run};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// More failing seeds than this teach nobody anything.
const FAILURES_MAX: usize = 5;

/// Runs a seed; a panic of what is under test counts as its failure too.
fn play(seed: u64, talk: bool) -> Result<Report, String> {
    std::panic::catch_unwind(|| run(&ClusterScenario::new(seed), talk)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("?");
        Err(format!("panic: {text}"))
    })
}

fn replay_line(seed: u64) -> String {
    format!(
        "replay: CLUSTER_SEED={seed} cargo test -p tidemill-sim --test cluster replay -- --nocapture"
    )
}

#[test]
fn replay() {
    let Some(seed) = std::env::var("CLUSTER_SEED").ok().and_then(|s| s.parse().ok()) else {
        return;
    };
    let scenario = ClusterScenario::new(seed);
    let kinds: Vec<_> = scenario.jobs.iter().map(|job| job.kind).collect();
    println!("{kinds:?} {:?}", ClusterScenario { jobs: Vec::new(), ..scenario });
    match play(seed, true) {
        Ok(report) => println!("{report:?}"),
        Err(e) => panic!("seed {seed}: {e}"),
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..3 {
        assert_eq!(play(seed, false), play(seed, false), "seed {seed}");
    }
}

#[test]
fn jobs_survive_their_cluster() {
    let (first, seeds) = (env("FIRST_SEED", 0), env("CLUSTER_SEEDS", 200));
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
                    match play(seed, false) {
                        Ok(report) => total.lock().unwrap().add(&report),
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
    let total = total.into_inner().unwrap();
    println!("{seeds} seeds: {total:?}");
    let lines: Vec<String> = failures.iter().map(|&s| replay_line(s)).collect();
    assert!(failures.is_empty(), "{} seeds failed\n{}", failures.len(), lines.join("\n"));
    if seeds >= 200 {
        // What is to be survived must have happened for the test to mean anything.
        let Report { adopted, fenced, stale_orders, savepoints, rescaled, restarted, .. } = total;
        let least = [adopted, fenced, stale_orders, savepoints, rescaled, restarted];
        assert!(least.iter().all(|&n| n >= 3), "{total:?}");
        assert!(total.attempts > 2 * seeds && total.checkpoints > 8 * seeds, "{total:?}");
    }
}
