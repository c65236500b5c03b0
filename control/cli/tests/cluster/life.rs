//! A job's life by the commands: followed to its end, looked at, moved, stopped with a savepoint and started from
//! it, cancelled.

use std::process::{Command, Stdio};

use crate::process::{Local, program, signal_process, wait_for};
use crate::words::Words;

#[test]
fn a_job_is_followed_looked_at_rescaled_stopped_and_started_from_its_savepoint() {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::start(dir.path(), 2, 2, &["--set", "checkpoints.keep=2"]);
    let asker = &local.asker;
    let words = Words::new(60_000);
    let job = words.submit(asker, 12.0, &["--parallelism", "2"]);

    let running = asker.until(&job, "a checkpoint", |j| !j["latest_checkpoint"].is_null());
    assert_eq!((&running["status"], &running["parallelism"]), (&"RUNNING".into(), &2.into()));
    assert!(asker.text(&["jobs"]).contains(&job));
    assert!(asker.text(&["status", "WordCount"]).contains("RUNNING"), "found by its name");
    assert!(asker.text(&["status", &job[..10]]).contains(&job), "found by a part of its id");
    assert!(asker.text(&["checkpoints", &job]).contains("COMPLETED"));
    assert_eq!(asker.text(&["exceptions", &job]), "no attempt has failed");
    assert!(asker.text(&["logs", &job]).contains("worker"));
    assert!(asker.text(&["plan", &job]).contains("task 0 by hash"));
    assert!(asker.text(&["plan", &job, "--format", "dot"]).starts_with("digraph"));
    assert!(asker.text(&["metrics", &job]).contains("window"));
    assert!(asker.text(&["taskmanagers"]).contains("ACTIVE"));
    assert_eq!(asker.json(&["cluster"])["available_slots"], 2);

    // A savepoint, and the job goes on.
    let savepoint = asker.text(&["savepoint", &job]);
    assert!(savepoint.contains("/chk-"), "{savepoint}");
    let trigger = asker.text(&["savepoint", &job, "--detach"]);
    assert_eq!(trigger.len(), 16, "{trigger}");
    let second = asker.text(&["savepoint", &job, "--trigger", &trigger]);
    assert!(second.contains("/chk-") && second != savepoint, "{second}");

    // 2 -> 4 -> 3.
    let said = asker.text(&["rescale", &job, "4"]);
    assert!(said.ends_with("RUNNING with parallelism 4"), "{said}");
    let moved = asker.text(&["rescale", &job, "3"]);
    assert!(moved.ends_with("RUNNING with parallelism 3"), "{moved}");
    let refused = asker.run(&["rescale", &job, "9"]);
    assert_eq!(refused.status.code(), Some(4), "more than there is");

    // Stopped, and started from there at another parallelism.
    let place = asker.text(&["stop", &job, "--savepoint"]);
    let stopped = asker.status(&job).unwrap();
    assert_eq!(stopped["status"], "STOPPED", "{stopped:#}");
    assert!(words.rows().len() < words.oracle().len(), "stopped too late to prove anything");
    let next = words.submit(asker, 4.0, &["--savepoint", &place]);
    words.check(asker, &next);
    let restored = asker.status(&next).unwrap();
    assert_eq!((&restored["parallelism"], &restored["restored_from"]), (&4.into(), &place.into()));
}

#[test]
fn submit_follows_a_job_and_its_exit_code_tells_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::start(dir.path(), 1, 4, &[]);
    let asker = &local.asker;
    let program = program().display().to_string();
    let done = asker.run(&["submit", &program]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("FINISHED after"), "{said}");
    let id = String::from_utf8_lossy(&done.stdout);
    assert_eq!(id.trim().len(), 32, "only the id: {id}");
    let over = asker.status(id.trim()).unwrap();
    let lines = include_str!("../../../../examples/data/address.txt").lines().count();
    assert_eq!(over["records_read"], lines, "what it counted is shown when it is over: {over:#}");
    assert!(asker.text(&["metrics", id.trim()]).contains("window"));

    // Nobody reads what it tells: the job is followed all the same.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = asker.command(&["submit", &program]);
    let unread = command.stderr(writer).output().unwrap();
    assert!(unread.status.success(), "{}", unread.status);

    // A job that cannot work: it fails for good, and says why.
    let failed = asker.run(&["submit", &program, "--", "--input", "/nonexistent"]);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(matches!(failed.status.code(), Some(1 | 4)), "{:?}: {said}", failed.status);
    assert!(said.contains("/nonexistent"), "{said}");

    // Cancelled while it is followed.
    let words = Words::new(10_000);
    let job = words.submit(asker, 100.0, &[]);
    asker.until(&job, "RUNNING", |j| j["status"] == "RUNNING");
    assert_eq!(asker.text(&["cancel", &job]), format!("{job} is CANCELLED"));
    let again = asker.run(&["cancel", &job]);
    assert_eq!(again.status.code(), Some(4), "it is over");

    // Ctrl-C ends the following, not the job.
    let mut command: Command =
        asker.command(&["submit", &program, "--savepoint", "0000000000000000"]);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "no such savepoint");
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), "a b c\n".repeat(10_000)).unwrap();
    let mut command = asker.command(&["submit"]);
    command.arg(&program).args(["--", "--rate", "10", "--input"]).arg(input.path());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let job = wait_for("the job", || {
        let jobs = asker.json(&["jobs"]);
        let newest = jobs["jobs"].as_array()?.iter().find(|j| j["status"] == "RUNNING")?;
        Some(newest["job_id"].as_str()?.to_owned())
    });
    signal_process(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains(&format!("tidemill cancel {job}")), "{said}");
    assert_eq!(asker.status(&job).unwrap()["status"], "RUNNING");
}
