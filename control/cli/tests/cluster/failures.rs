//! Processes killed in the middle of a job; the files are compared with what the text says.

use std::path::Path;

use crate::process::{Asker, Local, Server, children, signal_process, wait_for};
use crate::words::Words;

/// Settings that make the loss of a host known soon, but not that of one which is only slow.
const SOON: &[&str] =
    &["--set", "jobmanager.heartbeat_timeout=15s", "--set", "jobmanager.reconnect_timeout=2s"];

fn checkpointed(asker: &Asker, job: &str) -> serde_json::Value {
    asker.until(job, "a checkpoint", |j| j["checkpoints_completed"].as_u64() > Some(0))
}

#[test]
fn a_worker_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::start(dir.path(), 2, 2, &[]);
    let words = Words::new(40_000);
    let job = words.submit(&local.asker, 5.0, &[]);
    checkpointed(&local.asker, &job);
    let workers = children(local.server.pid());
    signal_process(workers[0], "-KILL");
    let again =
        local.asker.until(&job, "attempt 1", |j| j["attempt"] == 1 && j["status"] == "RUNNING");
    assert_eq!(again["ended_at_ms"], serde_json::Value::Null);
    words.check(&local.asker, &job);
    let why = local.asker.text(&["exceptions", &job]);
    assert!(why.contains("signal 9") || why.contains("killed"), "{why}");
}

#[test]
fn local_is_killed_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut local = Local::start(dir.path(), 2, 2, &[]);
    let words = Words::new(40_000);
    let job = words.submit(&local.asker, 5.0, &[]);
    checkpointed(&local.asker, &job);
    local.server.kill();
    let before = words.rows().len();
    let local = Local::start(dir.path(), 2, 2, &[]);
    let again = local.asker.until(&job, "RUNNING again", |j| j["attempt"] == 1);
    assert_eq!(again["name"], "WordCount");
    words.check(&local.asker, &job);
    assert!(before < words.rows().len(), "killed too late to prove anything");
}

/// A cluster of separate processes.
struct Processes {
    manager: Server,
    agents: Vec<Server>,
    asker: Asker,
    control: String,
}

impl Processes {
    fn start(dir: &Path, agents: usize) -> Self {
        let mut words = vec!["jobmanager", "--port", "0", "--control-port", "0"];
        words.extend(SOON);
        let mut manager = Server::start(&words, &dir.join("jm"));
        let address = manager.said("REST at ");
        let control = manager.said("TaskManagers at ");
        let mut all = Processes { manager, agents: Vec::new(), asker: Asker { address }, control };
        (0..agents).for_each(|n| all.add(dir, n));
        all.asker.until_task_managers(agents as u64);
        all
    }

    fn add(&mut self, dir: &Path, n: usize) {
        let secret = dir.join("jm/cluster.secret").display().to_string();
        let first = (n * 2).to_string();
        let words = [
            "taskmanager",
            "--jobmanager",
            &self.control,
            "--slots",
            "2",
            "--secret-file",
            &secret,
            "--first-cpu",
            &first,
        ];
        self.agents.push(Server::start(&words, &dir.join(format!("tm{n}"))));
    }

    /// Starts a JobManager again where the old one was.
    fn restart_manager(&mut self, dir: &Path) {
        let port = self.asker.address.rsplit(':').next().unwrap().to_owned();
        let control = self.control.rsplit(':').next().unwrap().to_owned();
        let mut words = vec!["jobmanager", "--port", &port, "--control-port", &control];
        words.extend(SOON);
        self.manager = Server::start(&words, &dir.join("jm"));
    }
}

#[test]
fn an_agent_is_killed_and_its_workers_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Processes::start(dir.path(), 3);
    let words = Words::new(40_000);
    let job = words.submit(&cluster.asker, 5.0, &[]);
    let running = checkpointed(&cluster.asker, &job);
    assert_eq!(running["workers"].as_array().unwrap().len(), 2);
    let at = cluster.agents.iter().position(|a| !children(a.pid()).is_empty()).unwrap();
    let workers = children(cluster.agents[at].pid());
    cluster.agents[at].kill();
    wait_for("its workers' end", || {
        (!workers.iter().any(|&w| crate::process::is_alive(w))).then_some(())
    });
    cluster.asker.until(&job, "attempt 1", |j| j["attempt"] == 1);
    words.check(&cluster.asker, &job);
    cluster.asker.until_task_managers(2);
}

#[test]
fn the_job_manager_is_killed_and_the_attempt_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Processes::start(dir.path(), 2);
    let words = Words::new(40_000);
    let job = words.submit(&cluster.asker, 6.0, &[]);
    checkpointed(&cluster.asker, &job);
    let workers: Vec<Vec<u32>> = cluster.agents.iter().map(|a| children(a.pid())).collect();
    cluster.manager.kill();
    // Long enough that all notice.
    std::thread::sleep(std::time::Duration::from_millis(500));
    cluster.restart_manager(dir.path());
    let back = cluster.asker.until(&job, "RUNNING again", |j| j["status"] == "RUNNING");
    assert_eq!(back["attempt"], 0, "the same attempt: {back:#}");
    let now: Vec<Vec<u32>> = cluster.agents.iter().map(|a| children(a.pid())).collect();
    assert_eq!(workers, now, "the same processes");
    words.check(&cluster.asker, &job);
    assert_eq!(cluster.asker.status(&job).unwrap()["attempt"], 0);
}
