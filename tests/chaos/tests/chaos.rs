//! `make chaos MINUTES=10 SEED=1`: the variables CHAOS_SECONDS (20 without it) and SEED.
//!
//! The command `tidemill` is built by the test where it is not there yet.

use std::path::PathBuf;
use std::time::Duration;
use tidemill_chaos::cluster::build_command;
use tidemill_chaos::run::{Options, run};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn a_job_survives_its_cluster() {
    let job = PathBuf::from(env!("CARGO_BIN_EXE_chaos_job"));
    let seed = env("SEED", 1);
    let seconds = env("CHAOS_SECONDS", 20);
    let faults = Duration::from_secs(seconds);
    println!("seed {seed}, {seconds} s of faults");
    let options = Options { seed, faults, tidemill: build_command(&job), job };
    match run(&options) {
        Ok(report) => println!("{report}"),
        Err(e) => panic!(
            "{e}\nreplay: SEED={seed} CHAOS_SECONDS={seconds} cargo test -p tidemill-chaos --test chaos -- --nocapture"
        ),
    }
}
