//! Several hosts on one machine: two JobManagers, three TaskManagers, PostgreSQL and S3, each in a network of its own; a
//! job is rescaled 2 -> 4 -> 3 -> 6, one TaskManager is parted from the leader, two from each other, the leader from
//! everybody, all TaskManagers from S3, and all is healed: the output is what it would have been.
//!
//! Needs root and `ip` (`scripts/install-deps.sh hosts`); says so and ends where it has not got them.

#![expect(clippy::disallowed_methods, reason = "a test in real time")]

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;
use tidemill_chaos::cluster::{Cluster, Plan, build_command};
use tidemill_chaos::hosts::Hosts;
use tidemill_chaos::job::{Job, Load, PATIENCE};
use tidemill_chaos::part::{slim, until};
use tidemill_chaos::run::Keeper;
use tidemill_chaos::servers::Servers;

#[test]
fn a_job_over_several_hosts_is_rescaled_and_survives_partitions() {
    if let Err(e) = Hosts::new(1) {
        assert!(
            !rustix::process::geteuid().is_root() || std::env::var_os("CI").is_none(),
            "as root in CI this test must run: {e}"
        );
        eprintln!("NOT RUN: several hosts need root and iproute2: {e}");
        return;
    }
    let job = PathBuf::from(env!("CARGO_BIN_EXE_chaos_job"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut plan = Plan::new(build_command(&job), dir.path());
    let job = slim(&job, dir.path()).expect("a smaller program");
    plan.task_managers = 3;
    plan.settings = ["checkpoints.tolerated_failures=any", "checkpoints.timeout=5s"]
        .map(str::to_owned)
        .to_vec();
    let servers = Servers::start(&mut plan, true).expect("hosts and servers");
    let mut cluster = Cluster::start(plan).expect("a cluster");
    let result = live(&cluster, &servers, &job);
    let words = cluster.last_words();
    let killed = cluster.end();
    if let Err(e) = result {
        panic!("{e}\n{words}");
    }
    assert!(killed.is_empty(), "did not end when told to: {killed:?}");
}

fn live(cluster: &Cluster, servers: &Servers, program: &Path) -> Result<(), String> {
    let hosts = cluster.plan.hosts.as_ref().ok_or("no hosts")?;
    let part =
        |a: usize, b: usize, parted: bool| hosts.part(a, b, parted).map_err(|e| e.to_string());
    let task_manager = |n: usize| cluster.plan.host_of(n);
    cluster.wait_for_slots()?;
    let load = Load { records: 480_000, ..Load::default() };
    let out = cluster.plan.dir.join("out");
    let job = Job::submit(cluster, program, &out, load, &[("parallelism", "2".to_owned())])?;
    job.goes_on(cluster, Some(2))?;
    job.rescale(cluster, 4)?;
    job.rescale(cluster, 3)?;
    let leader = cluster.leader().ok_or("nobody leads")?;
    // A TaskManager from the leader, for longer than that waits: its workers are replaced.
    part(task_manager(0), leader, true)?;
    until(PATIENCE, "a TaskManager that is not heard of is lost", || {
        (cluster.get("/cluster/metrics").ok()?["active_task_managers"] == 2).then_some(())
    })?;
    job.goes_on(cluster, Some(3))?;
    part(task_manager(0), leader, false)?;
    until(PATIENCE, "all TaskManagers are back", || {
        let metrics = cluster.get("/cluster/metrics").ok()?;
        (metrics["active_task_managers"] == 3 && metrics["available_slots"] == 3).then_some(())
    })?;
    // All slots, so that the workers of two TaskManagers have to talk to each other.
    job.rescale(cluster, 6)?;
    part(task_manager(1), task_manager(2), true)?;
    sleep(Duration::from_secs(4));
    part(task_manager(1), task_manager(2), false)?;
    job.goes_on(cluster, Some(6))?;
    // The leader from everybody: the other one takes over, and finds the TaskManagers.
    let others = (0..3).map(task_manager).chain([servers.database_host(), servers.bucket_host()]);
    let others: Vec<usize> = others.collect();
    others.iter().try_for_each(|&other| part(leader, other, true))?;
    until(PATIENCE, "the JobManager that reaches PostgreSQL leads", || {
        (cluster.role(1 - leader).as_deref() == Some("leader")).then_some(())
    })?;
    others.iter().try_for_each(|&other| part(leader, other, false))?;
    until(PATIENCE, "the one that is replaced follows", || {
        (cluster.role(leader).as_deref() == Some("follower")).then_some(())
    })?;
    job.goes_on(cluster, Some(6))?;
    // All workers from S3: checkpoints fail, the job goes on.
    let (failed, attempt) = (job.failed_checkpoints(cluster)?, job.number(cluster, "attempt")?);
    (0..3).try_for_each(|n| part(task_manager(n), servers.bucket_host(), true))?;
    until(PATIENCE, "a checkpoint fails", || {
        (job.failed_checkpoints(cluster).ok()? > failed).then_some(())
    })?;
    job.reads_on(cluster)?;
    (0..3).try_for_each(|n| part(task_manager(n), servers.bucket_host(), false))?;
    let now = job.goes_on(cluster, Some(6))?;
    if now != attempt {
        return Err(format!("attempt {now} instead of {attempt}: {}", job.exceptions(cluster)?));
    }
    job.finish(cluster)?;
    let left = || servers.left_of(&job.id);
    until(PATIENCE, "nothing is left in the bucket", || left().is_empty().then_some(()))
        .map_err(|e| format!("{e}: {:?}", left()))
}
