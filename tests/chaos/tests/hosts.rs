//! Several hosts on one machine: a JobManager and three TaskManagers, each in a network of its own; a job is
//! rescaled 2 -> 4 -> 3, one TaskManager is parted from the JobManager, two from each other, and all is
//! healed: the output is what it would have been.
//!
//! Needs root and `ip` (`scripts/install-deps.sh hosts`); says so and ends where it has not got them.

#![expect(clippy::disallowed_methods, reason = "a test in real time")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemill_chaos::cluster::{Cluster, Plan, build_command};
use tidemill_chaos::hosts::Hosts;
use tidemill_chaos::job::check_output;
use tidemill_chaos::part::until;

#[test]
fn a_job_over_several_hosts_is_rescaled_and_survives_partitions() {
    let hosts = match Hosts::new(4) {
        Ok(hosts) => hosts,
        Err(e) => {
            assert!(
                !rustix::process::geteuid().is_root() || std::env::var_os("CI").is_none(),
                "as root in CI this test must run: {e}"
            );
            eprintln!("NOT RUN: several hosts need root and iproute2: {e}");
            return;
        }
    };
    let job = PathBuf::from(env!("CARGO_BIN_EXE_chaos_job"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut plan = Plan::new(build_command(&job), dir.path());
    plan.task_managers = 3;
    plan.settings = ["checkpoints.tolerated_failures=any", "checkpoints.timeout=10s"]
        .map(str::to_owned)
        .to_vec();
    plan.hosts = Some(hosts);
    let mut cluster = Cluster::start(plan).expect("a cluster");
    let result = live(&cluster, &job);
    let words = cluster.last_words();
    let killed = cluster.end();
    if let Err(e) = result {
        panic!("{e}\n{words}");
    }
    assert!(killed.is_empty(), "did not end when told to: {killed:?}");
}

fn status(cluster: &Cluster, path: &str) -> Option<Value> {
    cluster.get(path).ok()
}

/// The job runs at a parallelism, reads, and completes checkpoints.
fn goes_on(cluster: &Cluster, path: &str, parallelism: u64, patience: u64) -> Result<(), String> {
    let mut first = None;
    let what = format!("the job goes on at {parallelism}");
    until(Duration::from_secs(patience), &what, || {
        let job = status(cluster, path)?;
        let seen = (job["records_read"].as_u64()?, job["latest_checkpoint"].as_u64()?);
        if job["status"] != "RUNNING" || job["parallelism"] != parallelism {
            first = None;
            return None;
        }
        let (read, epoch) = *first.get_or_insert(seen);
        (seen.0 > read && seen.1 > epoch).then_some(())
    })
    .map_err(|e| format!("{e}: {}", status(cluster, path).unwrap_or_default()))
}

fn rescale(cluster: &Cluster, path: &str, to: u64) -> Result<(), String> {
    let body = format!("{{\"parallelism\": {to}}}");
    let answer = cluster.post(&format!("{path}/rescale"), "application/json", body.as_bytes());
    match answer {
        Ok((202, _)) => goes_on(cluster, path, to, 20),
        other => Err(format!("rescale to {to}: {other:?}")),
    }
}

fn live(cluster: &Cluster, job: &Path) -> Result<(), String> {
    let hosts = cluster.plan.hosts.as_ref().ok_or("no hosts")?;
    let out = cluster.plan.dir.join("out");
    std::fs::create_dir(&out).map_err(|e| e.to_string())?;
    cluster.wait_for_slots()?;
    let records = 240_000_u64;
    let args =
        ["--out", &out.display().to_string(), "--records", &records.to_string(), "--rate", "2000"];
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let id = cluster
        .submit(job, &args, &[("parallelism", "2".to_owned())])
        .map_err(|e| e.to_string())?;
    let path = format!("/jobs/{id}");
    goes_on(cluster, &path, 2, 20)?;
    rescale(cluster, &path, 4)?;
    rescale(cluster, &path, 3)?;
    let io = |e: std::io::Error| e.to_string();
    // A TaskManager from the JobManager, for longer than that waits: its workers are replaced.
    hosts.part(1, 0, true).map_err(io)?;
    std::thread::sleep(Duration::from_secs(8));
    goes_on(cluster, &path, 3, 20)?;
    hosts.part(1, 0, false).map_err(io)?;
    until(Duration::from_secs(20), "all TaskManagers are back", || {
        let metrics = cluster.get("/cluster/metrics").ok()?;
        (metrics["active_task_managers"] == 3 && metrics["available_slots"] == 3).then_some(())
    })?;
    // All slots, so that the workers of two TaskManagers have to talk to each other.
    rescale(cluster, &path, 6)?;
    hosts.part(2, 3, true).map_err(io)?;
    std::thread::sleep(Duration::from_secs(4));
    hosts.part(2, 3, false).map_err(io)?;
    goes_on(cluster, &path, 6, 40)?;
    std::fs::write(out.join("fast"), "").map_err(io)?;
    let last = until(Duration::from_secs(60), "the job finishes", || {
        let job = status(cluster, &path)?;
        ["FINISHED", "FAILED"].contains(&job["status"].as_str()?).then_some(job)
    })?;
    if last["status"] != "FINISHED" {
        return Err(format!("the job failed: {}", last["cause"]));
    }
    check_output(&out, records)
}
