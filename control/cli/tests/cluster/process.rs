//! Processes of a cluster, ended with the test that started them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use crate::program::program;

/// For anything that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The command, with no settings of the host.
pub(crate) fn tidemill() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in
        std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("TIDEMILL_"))
    {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// Waits for a value.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A server, and what it has logged.
pub(crate) struct Server {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Server {
    pub(crate) fn start(words: &[&str], data_dir: &Path) -> Self {
        let mut command = tidemill();
        command.args(words).arg("--data-dir").arg(data_dir);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (said, lines) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        std::thread::spawn(move || {
            for line in said.map_while(Result::ok) {
                let mut log = lines.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Server { child, log }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The rest of the line behind a text that it logs, up to a comma.
    pub(crate) fn said(&mut self, text: &str) -> String {
        wait_for(text, || {
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended:\n{}", self.log());
            let log = self.log();
            let rest = &log[log.find(text)? + text.len()..];
            Some(rest[..rest.find([',', '\n'])?].to_owned())
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        signal_process(self.pid(), signal);
    }

    /// Kills it as the machine's end would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the end of a server", || self.child.try_wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of process {}\n{}", self.child.id(), self.log());
        }
    }
}

pub(crate) fn signal_process(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill {signal} {pid}");
}

/// Whether a process is there, and has not ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Processes whose parent is this one.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let own = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if own == Some(parent) {
            found.push(pid);
        }
    }
    found
}

/// Asks a JobManager by the command.
pub(crate) struct Asker {
    pub(crate) address: String,
}

impl Asker {
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = tidemill();
        command.args(words).env("TIDEMILL_ADDRESS", &self.address);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What it prints; it has to succeed.
    pub(crate) fn text(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {}\n{errors}", output.status);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let mut words = words.to_vec();
        words.push("--json");
        serde_json::from_str(&self.text(&words)).unwrap()
    }

    /// A job's status; nothing while the JobManager is away.
    pub(crate) fn status(&self, job: &str) -> Option<Value> {
        let output = self.run(&["status", job, "--json"]);
        if !output.status.success() {
            return None;
        }
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until a job is as wanted.
    pub(crate) fn until(&self, job: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            if let Some(found) = self.status(job).filter(|j| good(j)) {
                return found;
            }
            if start.elapsed() > PATIENCE {
                let shown = ["status", "metrics", "checkpoints", "exceptions", "logs"]
                    .map(|command| String::from_utf8(self.run(&[command, job]).stdout).unwrap());
                panic!("job {job}: {what}: not within {PATIENCE:?}\n{}", shown.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many TaskManagers are there.
    pub(crate) fn until_task_managers(&self, count: u64) {
        wait_for(&format!("{count} TaskManagers"), || {
            let output = self.run(&["cluster", "--json"]);
            let view: Value = serde_json::from_slice(&output.stdout).ok()?;
            (view["active_task_managers"] == count).then_some(())
        });
    }
}

/// A cluster in one process.
pub(crate) struct Local {
    pub(crate) server: Server,
    pub(crate) asker: Asker,
}

impl Local {
    pub(crate) fn start(data_dir: &Path, task_managers: u32, slots: u32, more: &[&str]) -> Self {
        let (count, slots) = (task_managers.to_string(), slots.to_string());
        let mut words = vec!["local", "--port", "0", "--taskmanagers", &count, "--slots", &slots];
        words.extend(more);
        let mut server = Server::start(&words, data_dir);
        let address = server.said("REST at ");
        let asker = Asker { address };
        asker.until_task_managers(task_managers.into());
        Local { server, asker }
    }
}
