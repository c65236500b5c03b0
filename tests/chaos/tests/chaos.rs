//! `make chaos MINUTES=10 SEED=1 CLUSTER=mix`: the variables CHAOS_SECONDS (20 without it), SEED, and CLUSTER: `files`, `servers`, or a
//! mix of both, as `run::Kind` names them. PROGRESS is how many seconds the job may take to go on after the last fault: 10,
//! or 30 on a machine that is busy with other things too.
//!
//! In a mix, half of the time goes to each kind, if it is 40 s or more; otherwise the seed chooses, odd ones `files`. Without
//! the features `s3` and `postgres` all of it goes to `files`.

use std::path::PathBuf;
use std::time::Duration;
use tidemill_chaos::cluster::build_command;
use tidemill_chaos::run::{Kind, Options, run};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// What there is to run, and for how many seconds.
fn legs(cluster: &str, seed: u64, seconds: u64, servers: bool) -> Vec<(Kind, u64)> {
    match cluster {
        "files" => vec![(Kind::Files, seconds)],
        "servers" => vec![(Kind::Servers, seconds)],
        "mix" if !servers => vec![(Kind::Files, seconds)],
        "mix" if seconds >= 40 => {
            vec![(Kind::Files, seconds / 2), (Kind::Servers, seconds - seconds / 2)]
        }
        "mix" if seed % 2 == 1 => vec![(Kind::Files, seconds)],
        "mix" => vec![(Kind::Servers, seconds)],
        other => panic!("CLUSTER={other}: files, servers or mix is wanted"),
    }
}

#[test]
fn a_job_survives_its_cluster() {
    let job = PathBuf::from(env!("CARGO_BIN_EXE_chaos_job"));
    let (seed, seconds) = (env("SEED", 1), env("CHAOS_SECONDS", 20));
    let cluster = std::env::var("CLUSTER").unwrap_or_else(|_| "mix".into());
    let progress = Duration::from_secs(env("PROGRESS", 30));
    let tidemill = build_command(&job);
    let servers = cfg!(all(feature = "s3", feature = "postgres"));
    for (kind, seconds) in legs(&cluster, seed, seconds, servers) {
        println!("{kind:?}, seed {seed}, {seconds} s of faults");
        let faults = Duration::from_secs(seconds);
        let (tidemill, job) = (tidemill.clone(), job.clone());
        match run(&Options { seed, faults, progress, kind, tidemill, job }) {
            Ok(report) => println!("{report}"),
            Err(e) => panic!(
                "{e}\nreplay: SEED={seed} CLUSTER={} CHAOS_SECONDS={seconds} \
                 cargo test -p tidemill-chaos --features s3,postgres --test chaos -- --nocapture",
                format!("{kind:?}").to_lowercase()
            ),
        }
    }
}

#[test]
fn the_time_is_divided_as_it_is_said() {
    use Kind::{Files, Servers};
    assert_eq!(legs("mix", 1, 120, true), [(Files, 60), (Servers, 60)]);
    assert_eq!(legs("mix", 1, 20, true), [(Files, 20)]);
    assert_eq!(legs("mix", 2, 20, true), [(Servers, 20)]);
    assert_eq!(legs("mix", 2, 120, false), [(Files, 120)]);
    assert_eq!(legs("servers", 1, 600, true), [(Servers, 600)]);
}
