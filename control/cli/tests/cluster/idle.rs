//! A cluster that has nothing to do, and one that is asked for more than it has; the requests of the documentation,
//! by the tool that it uses.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::process::{Local, children, is_alive, program, tidemill, wait_for};
use crate::words::Words;

fn curl(words: &[&str]) -> String {
    let output = Command::new("curl").args(["-s", "--max-time", "60"]).args(words).output();
    let output = output.expect("curl is installed by scripts/install-deps.sh");
    assert!(output.status.success(), "curl {words:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn three_task_managers_with_nothing_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut local = Local::start(dir.path(), 3, 4, &[]);
    let address = local.asker.address.clone();
    assert_eq!(
        curl(&[&format!("{address}/cluster/metrics")]),
        "{\"total_task_managers\":3,\"active_task_managers\":3,\"total_slots\":12,\"available_slots\":12,\
         \"utilization\":0.0,\"total_jobs\":0,\"running_jobs\":0}"
    );
    let secret = dir.path().join("cluster.secret").metadata().unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);

    // As the issue writes it: no arguments, nothing prepared.
    let file = format!("job_file=@{}", program().display());
    let submit = format!("{address}/jobs/submit");
    let answer = curl(&["-X", "POST", &submit, "-F", &file]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let job = answer["job_id"].as_str().unwrap();
    let end = local.asker.until(job, "its end", |j| !j["ended_at_ms"].is_null());
    assert_eq!(end["status"], "FINISHED", "{end:#}");
    let logs = local.asker.text(&["logs", job]);
    assert!(logs.lines().any(|line| line == "0 that 13"), "{logs}");
    // Whoever reads the log of a job that went well is not frightened by how its workers ended.
    let server = local.server.pid();
    wait_for("the end of its workers", || children(server).is_empty().then_some(()));
    let logs = local.asker.text(&["logs", job]);
    assert!(!logs.contains("connection") && !logs.contains("error"), "{logs}");

    // More than there is.
    let refused = curl(&["-X", "POST", &submit, "-F", &file, "-F", "parallelism=13"]);
    assert_eq!(
        refused,
        "{\"detail\":\"No available TaskManagers for scheduling\",\"slots_free\":12,\"slots_wanted\":13}"
    );

    local.server.signal("-TERM");
    assert!(local.server.wait().success(), "{}", local.server.log());
}

#[test]
fn a_second_cluster_in_the_directory_is_refused_and_a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::start(dir.path(), 1, 1, &[]);
    let again =
        tidemill().args(["local", "--port", "0", "--data-dir"]).arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(2), "{said}");
    assert!(said.contains("in use by another JobManager"), "{said}");
    let other = tempfile::tempdir().unwrap();
    let port = local.asker.address.rsplit(':').next().unwrap();
    let taken = tidemill().args(["local", "--port", port, "--data-dir"]).arg(other.path()).output();
    let said = String::from_utf8_lossy(&taken.unwrap().stderr).into_owned();
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("free port"), "{said}");
}

#[test]
fn a_kill_of_local_leaves_no_process_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut local = Local::start(dir.path(), 2, 2, &[]);
    let words = Words::new(20_000);
    let job = words.submit(&local.asker, 60.0, &[]);
    local.asker.until(&job, "RUNNING", |j| j["status"] == "RUNNING");
    let workers = children(local.server.pid());
    assert_eq!(workers.len(), 2, "a worker on each TaskManager");
    local.server.kill();
    wait_for("the workers' end", || (!workers.iter().any(|&pid| is_alive(pid))).then_some(()));
}
