//! A JobManager and TaskManagers as processes of the command `tidemill`, on this machine.
//!
//! Invariants
//!   P1  Only processes that were started here are signalled, by their ids; all have ended when a
//!       cluster is dropped.

use crate::hosts::Hosts;
use crate::http;
use crate::proxy::Proxy;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Where a cluster's parts are, and how they are set.
pub struct Plan {
    /// The command.
    pub tidemill: PathBuf,
    /// Everything lies below it.
    pub dir: PathBuf,
    /// Where checkpoints go.
    pub checkpoints: PathBuf,
    /// How many TaskManagers.
    pub task_managers: usize,
    /// Slots of each.
    pub slots: u32,
    /// Further settings of the JobManager, as `key=value`.
    pub settings: Vec<String>,
    /// Hosts of their own for the JobManager and each TaskManager, in this order; loopback and a link
    /// that can be cut for each TaskManager otherwise.
    pub hosts: Option<Hosts>,
}

/// A process that can be killed and started again.
pub struct Part {
    name: String,
    args: Vec<String>,
    program: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

impl Part {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn start(&mut self) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.args)
            .env("TIDEMILL_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it runs.
    pub fn is_up(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Its id.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(pid) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it gently; false where it had to be killed.
    pub fn end(&mut self, patience: Duration) -> bool {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        let until = Instant::now() + patience;
        while self.is_up() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        let gently = !self.is_up();
        self.kill();
        gently
    }

    /// The end of what it wrote.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(12).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{}:\n    {}", self.name, lines.join("\n    "))
    }
}

/// See the module.
pub struct Cluster {
    /// How it is set.
    pub plan: Plan,
    /// The JobManager.
    pub job_manager: Part,
    /// The TaskManagers.
    pub task_managers: Vec<Part>,
    /// The link of each TaskManager, and of its workers, to the JobManager.
    pub links: Vec<Proxy>,
    rest: SocketAddr,
}

/// How one part is started: what goes before its command, its address, and the address of the
/// JobManager's control port for it.
struct Place {
    prefix: Vec<String>,
    address: Ipv4Addr,
}

/// A port that is free now.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Cluster {
    /// Starts all of it.
    ///
    /// # Errors
    /// When a part cannot be started.
    pub fn start(plan: Plan) -> io::Result<Self> {
        let (rest, control) = (free_port()?, free_port()?);
        let place = |n: usize| match &plan.hosts {
            Some(hosts) => Place { prefix: hosts.prefix(n), address: hosts.address(n) },
            None => Place { prefix: Vec::new(), address: Ipv4Addr::LOCALHOST },
        };
        let secret = plan.dir.join("secret");
        fs::write(&secret, "a secret of this test alone: 5b0b2c7e\n")?;
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let shared = |name: &str| {
            vec![
                name.to_owned(),
                "--secret-file".to_owned(),
                secret.display().to_string(),
                "--data-dir".to_owned(),
            ]
        };
        let part = |name: &str, at: usize, args: Vec<String>| {
            let command = [plan.tidemill.display().to_string()];
            let mut words = place(at).prefix.into_iter().chain(command).chain(args);
            Part {
                name: name.to_owned(),
                program: words.next().unwrap_or_default().into(),
                args: words.collect(),
                log: plan.dir.join(format!("{name}.log")),
                child: None,
            }
        };
        let mut args = shared("jobmanager");
        args.push(plan.dir.join("jobmanager").display().to_string());
        let there = place(0).address;
        let settings = [
            format!("jobmanager.bind={there}"),
            format!("security.insecure={}", plan.hosts.is_some()),
            format!("jobmanager.rest_port={rest}"),
            format!("jobmanager.control_port={control}"),
            format!("checkpoints.location={}", plan.checkpoints.display()),
        ];
        for setting in settings.iter().chain(&plan.settings) {
            args.extend(["--set".to_owned(), setting.clone()]);
        }
        let mut job_manager = part("jobmanager", 0, args);
        job_manager.start()?;
        let (mut task_managers, mut links) = (Vec::new(), Vec::new());
        for n in 0..plan.task_managers {
            let control = SocketAddr::from((there, control));
            let mut known = control;
            if plan.hosts.is_none() {
                let link = Proxy::new(control)?;
                known = link.address();
                links.push(link);
            }
            let name = format!("taskmanager-{n}");
            let mut args = shared("taskmanager");
            args.push(plan.dir.join(&name).display().to_string());
            for setting in [
                format!("taskmanager.jobmanagers={known}"),
                format!("taskmanager.bind={}", place(n + 1).address),
                format!("taskmanager.slots={}", plan.slots),
                format!("taskmanager.host=host-{n}"),
                "taskmanager.jobmanager_timeout=3s".to_owned(),
            ] {
                args.extend(["--set".to_owned(), setting]);
            }
            let mut task_manager = part(&name, n + 1, args);
            task_manager.start()?;
            task_managers.push(task_manager);
        }
        let rest = SocketAddr::from((there, rest));
        Ok(Cluster { plan, job_manager, task_managers, links, rest })
    }

    /// Asks REST.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, path: &str) -> io::Result<Value> {
        let (status, value) = self.ask("GET", path, "application/json", b"")?;
        if status == 200 { Ok(value) } else { Err(io::Error::other(format!("{status}: {value}"))) }
    }

    /// Tells REST.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn post(&self, path: &str, kind: &str, body: &[u8]) -> io::Result<(u16, Value)> {
        self.ask("POST", path, kind, body)
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> io::Result<(u16, Value)> {
        let ask = || http::request(self.rest, method, path, kind, body);
        match &self.plan.hosts {
            Some(hosts) => hosts.inside(0, ask)?,
            None => ask(),
        }
    }

    /// Submits a program; the job's id.
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit(
        &self,
        program: &Path,
        args: &[String],
        more: &[(&str, String)],
    ) -> io::Result<String> {
        let mut fields = vec![("args", Value::from(args.to_vec()).to_string())];
        fields.extend(more.iter().cloned());
        let (kind, body) = http::form(&fs::read(program)?, &fields);
        let (status, answer) = self.post("/jobs/submit", &kind, &body)?;
        match answer["job_id"].as_str() {
            Some(id) if status == 201 => Ok(id.to_owned()),
            _ => Err(io::Error::other(format!("submit: {status}: {answer}"))),
        }
    }

    /// Worker processes of a TaskManager: its children.
    pub fn workers_of(&self, n: usize) -> Vec<u32> {
        self.task_managers.get(n).and_then(Part::id).map(children).unwrap_or_default()
    }

    /// What all parts wrote last.
    pub fn last_words(&self) -> String {
        let parts = std::iter::once(&self.job_manager).chain(&self.task_managers);
        parts.map(Part::last_words).collect::<Vec<_>>().join("\n")
    }

    /// Ends all parts; those that had to be killed.
    pub fn end(&mut self) -> Vec<String> {
        let patience = Duration::from_secs(15);
        let mut killed = Vec::new();
        for link in &self.links {
            link.hang(false);
        }
        for part in self.task_managers.iter_mut().chain([&mut self.job_manager]) {
            if !part.end(patience) {
                killed.push(part.name.clone());
            }
        }
        killed
    }
}

impl Drop for Cluster {
    /// P1.
    fn drop(&mut self) {
        for part in self.task_managers.iter_mut().chain([&mut self.job_manager]) {
            let workers = part.id().map(children).unwrap_or_default();
            part.kill();
            for worker in workers {
                signal(worker, Signal::KILL);
            }
        }
    }
}

/// The command `tidemill`, beside the job in the build's directory; built with the features of the whole
/// workspace, as its tests are, where that is not done yet.
///
/// # Panics
/// When it cannot be built.
pub fn build_command(job: &Path) -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--workspace", "--bin", "tidemill"]);
    if cfg!(not(debug_assertions)) {
        build.arg("--release");
    }
    assert!(build.status().is_ok_and(|s| s.success()), "the command tidemill cannot be built");
    job.with_file_name("tidemill")
}

/// Sends a signal to a process that a part of a cluster started.
pub fn signal(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The processes that `parent` started.
pub fn children(parent: u32) -> Vec<u32> {
    let tasks = format!("/proc/{parent}/task");
    let Ok(tasks) = fs::read_dir(tasks) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    lists
        .flat_map(|l| l.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Asks until something is so.
///
/// # Errors
/// When it is not in time; `what` says what.
pub fn until<T>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> Option<T>,
) -> Result<T, String> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = ask() {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(format!("not within {patience:?}: {what}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
