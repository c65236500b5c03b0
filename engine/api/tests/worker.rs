//! Worker processes under a JobManager: real processes, real connections and SIGKILL, with the
//! production `Master` driven by a small loop. This program is both the job and its tests: with
//! `TIDEMILL_TEST_JOB` set it is the job.
#![expect(clippy::unwrap_used, reason = "these are tests, although without the harness")]

#[path = "worker/manager.rs"]
mod manager;

use manager::Manager;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;
use tidemill::connectors::{FileSink, GeneratorSource};
use tidemill::{Env, job};
use tidemill_coordination::Submission;

const JOB: &str = "TIDEMILL_TEST_JOB";
const KEYS: u64 = 11;
const TOTAL: u64 = 40_000;

/// Counts numbers by key, each as its own line, into files in `--out`; about four seconds.
fn program() -> ExitCode {
    job::main(|args| {
        let out = args.required("out", "directory of the result")?;
        let env = Env::new("counting").parallelism(4).checkpoint_every(Duration::from_millis(200));
        env.add_source(GeneratorSource::new(Some(TOTAL), |i| i).rate(10_000.0))
            .key_by::<u64, _>(|n| n - n / KEYS * KEYS)
            .count()
            .uid("counts")
            .map(|(key, n)| format!("{key} {n}"))
            .add_sink(FileSink::<String, _>::display(out));
        Ok(env)
    })
}

fn submission(out: &Path) -> Submission {
    submission_with(out, &[])
}

fn submission_with(out: &Path, flags: &[&str]) -> Submission {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(JOB, "1").args(["plan", "--format", "submission", "--out"]).arg(out).args(flags);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Submission::from_json(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

/// Every count of every key, once.
fn check(out: &Path) {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            lines.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
    }
    let of_key = |key: u64| TOTAL / KEYS + u64::from(key < TOTAL % KEYS);
    let mut expected: Vec<String> =
        (0..KEYS).flat_map(|key| (1..=of_key(key)).map(move |n| format!("{key} {n}"))).collect();
    lines.sort();
    expected.sort();
    assert_eq!(lines.len(), expected.len());
    assert!(lines == expected, "records are lost or doubled");
}

/// Two workers of two slots each; after some checkpoints one of them is killed.
fn a_killed_worker_is_replaced_and_nothing_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut manager = Manager::new(submission(&out), dir.path(), &out);
    manager.run_until(|m| m.completed() >= 3);
    manager.kill_worker();
    manager.run_until(Manager::is_done);
    assert!(manager.failures.len() == 1, "{:?}", manager.failures);
    assert_eq!(manager.finished(), "finished");
    check(&out);
}

/// The other worker, which waits for it, is told to give up, and hears it: its process goes on.
fn a_worker_is_killed_while_its_attempt_is_deployed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut manager = Manager::new(submission(&out), dir.path(), &out);
    manager.run_until(|m| m.completed() >= 3);
    let kept = manager.oldest();
    manager.kill_worker();
    manager.run_until(|m| m.deployed == 2);
    manager.kill_worker();
    manager.run_until(|m| m.deployed == 3);
    assert_eq!(manager.oldest(), kept, "{:?}", manager.failures);
    manager.run_until(Manager::is_done);
    assert_eq!(manager.finished(), "finished");
    check(&out);
}

/// The same with state in RocksDB, which the submission asks for: checkpoints are its files, and what
/// the workers keep on disk goes with them.
#[cfg(feature = "rocksdb")]
fn workers_keep_state_in_rocksdb_if_the_job_asks_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let flags = ["--state", "rocksdb", "--state-memory-mib", "4"];
    let mut manager = Manager::new(submission_with(&out, &flags), dir.path(), &out);
    manager.run_until(|m| m.completed() >= 3);
    let tables = |within: &Path| {
        let mut found = 0;
        let mut dirs = vec![within.to_owned()];
        while let Some(dir) = dirs.pop() {
            // Workers make and remove files meanwhile.
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|e| e == "sst") {
                    found += 1;
                }
            }
        }
        found
    };
    assert!(tables(&dir.path().join("chk")) > 0, "checkpoints refer to tables");
    let worker_dirs = || (0..9).map(|w| dir.path().join(format!("worker-{w}")));
    assert!(worker_dirs().map(|d| tables(&d)).sum::<usize>() > 0, "workers have tables");
    manager.kill_worker();
    manager.run_until(Manager::is_done);
    assert!(manager.failures.len() == 1, "{:?}", manager.failures);
    assert_eq!(manager.finished(), "finished");
    check(&out);
}

/// What is damaged is found by the subtask that reads it, and passed over.
fn damaged_state_is_found_by_whoever_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut manager = Manager::new(submission(&out), dir.path(), &out);
    manager.run_until(|m| m.completed() >= 3);
    manager.kill_worker();
    let epoch = manager.damage_newest();
    manager.run_until(|m| !m.damaged.is_empty());
    assert_eq!(manager.damaged, [epoch], "{:?}", manager.failures);
    // Files of that checkpoint are visible already: the sink must not write their records again.
    manager.run_until(Manager::is_done);
    assert!(manager.refused().contains("checkpoint"), "{}", manager.refused());
}

/// As if the directory were not mounted for a while: no checkpoint is given up for it, and the job does not begin anew.
fn checkpoints_that_cannot_be_seen_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (out, chk, away) =
        (dir.path().join("out"), dir.path().join("chk"), dir.path().join("away"));
    let mut manager = Manager::new(submission(&out), dir.path(), &out);
    manager.run_until(|m| m.completed() >= 3);
    manager.kill_worker();
    std::fs::rename(&chk, &away).unwrap();
    let unseen = |m: &Manager| {
        let seen = |f: &&String| f.contains("no checkpoint is to be seen");
        m.failures.iter().filter(seen).cloned().collect::<Vec<_>>()
    };
    manager.run_until(|m| !unseen(m).is_empty());
    let said = unseen(&manager).remove(0);
    assert!(said.contains(chk.to_str().unwrap()) && said.contains("mount"), "{said}");
    // A mount point without its mount.
    std::fs::create_dir(&chk).unwrap();
    let before = unseen(&manager).len();
    manager.run_until(|m| unseen(m).len() >= before + 3);
    std::fs::remove_dir(&chk).expect("nothing was written there");
    std::fs::rename(&away, &chk).unwrap();
    manager.run_until(Manager::is_done);
    assert_eq!(manager.finished(), "finished");
    assert!(manager.damaged.is_empty(), "{:?}", manager.damaged);
    check(&out);
}

#[cfg(feature = "rocksdb")]
const IN_ROCKSDB: &[(&str, fn())] = &[(
    "workers_keep_state_in_rocksdb_if_the_job_asks_for_it",
    workers_keep_state_in_rocksdb_if_the_job_asks_for_it,
)];
#[cfg(not(feature = "rocksdb"))]
const IN_ROCKSDB: &[(&str, fn())] = &[];

/// The JobManager goes and another comes: the workers attach with what they run, and go on.
fn workers_outlive_the_job_manager() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut manager = Manager::new(submission(&out), dir.path(), &out);
    manager.run_until(|m| m.completed() >= 3);
    let before = manager.completed();
    manager.crash_and_return();
    manager.run_until(|m| m.completed() > before + 2);
    assert_eq!(manager.attempt(), 0, "the attempt goes on: {:?}", manager.failures);
    manager.run_until(Manager::is_done);
    assert_eq!(manager.finished(), "finished");
    check(&out);
}

/// A worker whose standard input is closed has lost its agent.
fn a_worker_ends_with_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut manager = Manager::new(submission(&out), dir.path(), &out);
    manager.run_until(|m| m.completed() >= 1);
    manager.drop_agent_pipe();
    manager.run_until(|m| !m.failures.is_empty());
    manager.run_until(Manager::is_done);
    check(&out);
}

fn main() -> ExitCode {
    if std::env::var_os(JOB).is_some() {
        return program();
    }
    let tests: [(&str, fn()); 6] = [
        (
            "a_killed_worker_is_replaced_and_nothing_is_lost_or_doubled",
            a_killed_worker_is_replaced_and_nothing_is_lost_or_doubled,
        ),
        (
            "a_worker_is_killed_while_its_attempt_is_deployed",
            a_worker_is_killed_while_its_attempt_is_deployed,
        ),
        ("damaged_state_is_found_by_whoever_reads_it", damaged_state_is_found_by_whoever_reads_it),
        (
            "checkpoints_that_cannot_be_seen_are_waited_for",
            checkpoints_that_cannot_be_seen_are_waited_for,
        ),
        ("workers_outlive_the_job_manager", workers_outlive_the_job_manager),
        ("a_worker_ends_with_its_agent", a_worker_ends_with_its_agent),
    ];
    let count = tests.len() + IN_ROCKSDB.len();
    println!("\nrunning {count} tests");
    for &(name, test) in tests.iter().chain(IN_ROCKSDB) {
        test();
        println!("test {name} ... ok");
    }
    println!(
        "\ntest result: ok. {count} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n"
    );
    ExitCode::SUCCESS
}
