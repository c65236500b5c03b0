//! A cluster of this machine: the command `tidemill` as JobManager and as two TaskManagers with a slot each,
//! all processes of their own, as are the workers.

use super::beacon::{Beat, Beats};
use super::{broken, http};
use crate::cluster::monotonic;
use serde_json::Value;
use std::cell::Cell;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tidemill::Result;
use tidemill_base::Micros;

/// Everything that is waited for comes within this time, or never.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at the JobManager.
const LOOK: Duration = Duration::from_millis(20);

/// The end of a log that explains a failure, in bytes.
const LOG_BYTES: usize = 4_000;

/// What the job is, and what it runs on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys.
    pub keys: u64,
    /// Records a second, of all subtasks together; as fast as they go where absent.
    pub rate: Option<f64>,
    /// Pause before each restart; what the engine does by itself where absent.
    pub restart_delay_ms: Option<u64>,
    /// Where data lies, in a directory that is removed afterwards; the system's for temporary files
    /// where absent.
    pub dir: Option<PathBuf>,
    /// The command; the one beside this program where absent.
    pub tidemill: Option<PathBuf>,
}

/// A process that is killed at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running cluster, and what its jobs' sinks say.
pub struct Managed {
    // In this order: TaskManagers end before what they would look for.
    _agents: Vec<Process>,
    manager: Option<Process>,
    parts: Parts,
    pub(super) beats: Beats,
    program: Vec<u8>,
    settings: Settings,
    submitted: Cell<u32>,
}

/// What its processes are started from.
struct Parts {
    tidemill: PathBuf,
    rest: SocketAddr,
    control: SocketAddr,
    dir: TempDir,
}

/// A submitted job.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Its id.
    pub(super) id: String,
    /// The number that its beats have.
    pub(super) run: u32,
}

impl Parts {
    fn start(&self, name: &str, args: &[&str]) -> Result<Process> {
        let named = |e| broken(format!("{}: {e}", self.tidemill.display()));
        let log = File::create(self.log_of(name)).map_err(broken)?;
        let mut command = Command::new(&self.tidemill);
        command.args(args).arg("--data-dir").arg(self.dir.path().join(name));
        command.env("TIDEMILL_SECRET", "of a benchmark").stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(broken)?).stderr(log);
        command.spawn().map(Process).map_err(named)
    }

    fn manager(&self) -> Result<Process> {
        let (rest, control) = (self.rest.port().to_string(), self.control.port().to_string());
        self.start("jobmanager", &["jobmanager", "--port", &rest, "--control-port", &control])
    }

    fn agent(&self, number: usize) -> Result<Process> {
        let (control, cpu) = (self.control.to_string(), number.to_string());
        let slots = ["taskmanager", "--jobmanager", &control, "--slots", "1", "--first-cpu", &cpu];
        self.start(&format!("taskmanager-{number}"), &slots)
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    fn beacon(&self) -> PathBuf {
        self.dir.path().join("beacon")
    }
}

/// An address of this machine that nobody listens at.
fn free() -> Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(broken)
}

/// The command beside this program.
fn beside() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(broken)?;
    let found = program.parent().map(|dir| dir.join("tidemill")).filter(|p| p.exists());
    found.ok_or_else(|| {
        broken(format!(
            "the command tidemill is not beside {}: build it by cargo build --release -p tidemill-cli, or \
             name it by --tidemill",
            program.display()
        ))
    })
}

impl Managed {
    /// Starts it, and waits until both TaskManagers are there.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(settings: Settings) -> Result<Self> {
        let dir = match &settings.dir {
            Some(dir) => TempDir::with_prefix_in("tidemill-bench-", dir),
            None => TempDir::with_prefix("tidemill-bench-"),
        };
        let tidemill = settings.tidemill.clone().map_or_else(beside, Ok)?;
        let (rest, control) = (free()?, free()?);
        let parts = Parts { tidemill, rest, control, dir: dir.map_err(broken)? };
        let cluster = Managed {
            _agents: vec![parts.agent(0)?, parts.agent(1)?],
            manager: Some(parts.manager()?),
            beats: Beats::listen(&parts.beacon())?,
            parts,
            program: std::fs::read("/proc/self/exe").map_err(broken)?,
            settings,
            submitted: Cell::new(0),
        };
        cluster.until("two TaskManagers", |c| {
            // Before it listens and leads it refuses.
            let metrics = c.get("/cluster/metrics").unwrap_or_default();
            Ok((metrics["available_slots"] == 2).then_some(()))
        })?;
        Ok(cluster)
    }

    pub(super) fn get(&self, path: &str) -> Result<Value> {
        http::request(self.parts.rest, "GET", path, None)
    }

    pub(super) fn post(&self, path: &str) -> Result<Value> {
        http::request(self.parts.rest, "POST", path, None)
    }

    /// SIGKILL.
    pub(super) fn kill_manager(&mut self) {
        drop(self.manager.take());
    }

    /// Starts another one in its place, over what it has recorded.
    pub(super) fn restart_manager(&mut self) -> Result<()> {
        self.manager = Some(self.parts.manager()?);
        Ok(())
    }

    /// Submits the job.
    pub(super) fn submit(&self) -> Result<Job> {
        let run = self.submitted.get() + 1;
        self.submitted.set(run);
        let mut args: Vec<String> = ["--run", &run.to_string()].map(String::from).into();
        args.extend(["--beacon".into(), self.parts.beacon().display().to_string()]);
        args.extend(["--keys".into(), self.settings.keys.to_string()]);
        if let Some(rate) = self.settings.rate {
            args.extend(["--rate".into(), rate.to_string()]);
        }
        if let Some(ms) = self.settings.restart_delay_ms {
            args.extend(["--restart-delay-ms".into(), ms.to_string()]);
        }
        let args = serde_json::to_string(&args).map_err(broken)?;
        let (kind, body) = http::form(&self.program, &[("args", args)]);
        let answer = http::request(self.parts.rest, "POST", "/jobs/submit", Some((&kind, &body)))?;
        let id = answer["job_id"].as_str();
        let id = id.ok_or_else(|| broken(format!("no job id in {answer}")))?.to_owned();
        Ok(Job { id, run })
    }

    /// Cancels a job and waits until its slots are free.
    pub(super) fn end(&self, job: &Job) -> Result<()> {
        self.post(&format!("/jobs/{}/cancel", job.id))?;
        self.until("the job's end", |c| {
            let free = c.get("/cluster/metrics")?["available_slots"] == 2;
            Ok((free && c.of(job, "")?["status"] == "CANCELLED").then_some(()))
        })
    }

    /// What is known of a job: its head, or what lies under it.
    pub(super) fn of(&self, job: &Job, what: &str) -> Result<Value> {
        self.get(&format!("/jobs/{}{what}", job.id))
    }

    /// Looks again and again.
    pub(super) fn until<T>(
        &self,
        what: &str,
        look: impl Fn(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = monotonic() + PATIENCE.as_micros() as Micros;
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if monotonic() > end {
                let log = end_of(&self.parts.log_of("jobmanager"));
                return Err(broken(format!(
                    "{what}: not within {PATIENCE:?}; the JobManager: {log}"
                )));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Waits for a beat.
    pub(super) fn first_beat(&self, what: &str, of: impl Fn(&Beat) -> bool) -> Result<Beat> {
        self.beats.first(PATIENCE, what, of)
    }

    /// What a job's workers and the JobManager wrote, to explain a failure.
    pub(super) fn logs(&self, job: &Job) -> String {
        let workers = self.of(job, "/logs").map_or_else(|e| e.to_string(), |v| v.to_string());
        format!("{workers}\nthe JobManager: {}\n", end_of(&self.parts.log_of("jobmanager")))
    }
}

fn end_of(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_BYTES)..]).into_owned()
}
