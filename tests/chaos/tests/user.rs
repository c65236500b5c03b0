//! `taskmanager.worker_user` in a whole cluster: TaskManagers run as root, programs as another user, who may neither
//! read the cluster's secret nor do anything that root may; a TaskManager that is killed takes its worker with it, and
//! the output is exact.
//!
//! Needs root; says so and ends where it is not.

use rustix::process::geteuid;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use tidemill_chaos::cluster::{Cluster, Plan, build_command};
use tidemill_chaos::job::{Job, Load, PATIENCE};
use tidemill_chaos::part::{children, files, until};

/// Debian's, and that of its group.
const NOBODY: u32 = 65_534;

#[test]
fn workers_run_as_the_user_that_is_named() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "in CI this test must run as root");
        eprintln!("NOT RUN: only root can start programs as another user");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_chaos_job"));
    let mut plan = Plan::new(build_command(&program), dir.path());
    plan.settings = vec!["checkpoints.tolerated_failures=any".into()];
    plan.task_manager_settings = vec![format!("taskmanager.worker_user={NOBODY}:{NOBODY}")];
    // As docs/operations.md says: the user enters the directories on the way, and owns what it writes to.
    open(dir.path(), 0o755);
    let checkpoints = PathBuf::from(&plan.checkpoints);
    let out = dir.path().join("out");
    for owned in [&checkpoints, &out] {
        fs::create_dir(owned).expect("a directory");
        chown(owned, Some(NOBODY), Some(NOBODY)).expect("root may give it away");
    }
    let mut cluster = Cluster::start(plan).expect("a cluster");
    let done = live(&mut cluster, &program, &out);
    let words = cluster.last_words();
    let killed = cluster.end();
    if let Err(e) = done {
        panic!("{e}\n{words}");
    }
    assert!(killed.is_empty(), "did not end when told to: {killed:?}");
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may do that");
}

fn live(cluster: &mut Cluster, program: &Path, out: &Path) -> Result<(), String> {
    cluster.wait_for_slots()?;
    let four = [("parallelism", "4".to_owned())];
    let job = Job::submit(cluster, program, out, Load::default(), &four)?;
    job.goes_on(cluster, None)?;
    let workers = cluster.workers();
    if workers.len() != 2 {
        return Err(format!("one worker on each TaskManager is wanted: {workers:?}"));
    }
    workers.iter().try_for_each(|&worker| check_process(worker))?;
    // Its worker is another user's, and ends with it all the same.
    let lost = cluster.workers_of(0);
    cluster.task_managers[0].kill();
    until(PATIENCE, "the worker of a killed TaskManager is gone", || {
        lost.iter().all(|w| !Path::new(&format!("/proc/{w}")).exists()).then_some(())
    })?;
    cluster.task_managers[0].start().map_err(|e| e.to_string())?;
    job.goes_on(cluster, None)?;
    cluster.workers().iter().try_for_each(|&worker| check_process(worker))?;
    job.finish(cluster)?;
    for file in files(&out.join("rows")) {
        let owner = fs::metadata(&file).map_err(|e| format!("{file}: {e}"))?.uid();
        if owner != NOBODY {
            return Err(format!("{file} belongs to {owner}"));
        }
    }
    Ok(())
}

/// What the kernel says of a worker, and of what it started.
fn check_process(id: u32) -> Result<(), String> {
    let read =
        |what: &str| fs::read(format!("/proc/{id}/{what}")).map_err(|e| format!("{id}: {e}"));
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let fields: BTreeMap<&str, Vec<&str>> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, values)| (name, values.split_whitespace().collect()))
        .collect();
    let nobody = NOBODY.to_string();
    for (field, wanted) in
        [("Uid", vec![&*nobody; 4]), ("Gid", vec![&*nobody; 4]), ("Groups", Vec::new())]
    {
        let got = fields.get(field).cloned().unwrap_or_default();
        // The user's own group may be among its groups.
        let got: Vec<&str> =
            got.into_iter().filter(|g| field != "Groups" || *g != nobody).collect();
        if got != wanted {
            return Err(format!("{field} of worker {id} is {got:?}"));
        }
    }
    for field in ["CapPrm", "CapEff", "CapAmb"] {
        let none = |word: &&&str| word.bytes().all(|b| b == b'0');
        if fields.get(field).and_then(|words| words.first()).filter(none).is_none() {
            return Err(format!("worker {id} may what root may: {field} {:?}", fields.get(field)));
        }
    }
    let environment = String::from_utf8_lossy(&read("environ")?).into_owned();
    if let Some(setting) = environment.split('\0').find(|v| v.starts_with("TIDEMILL_")) {
        return Err(format!("worker {id} knows a setting of its TaskManager: {setting}"));
    }
    match children(id).as_slice() {
        [] => Ok(()),
        some => Err(format!("worker {id} has started {some:?}")),
    }
}
