//! JobManagers and TaskManagers as processes of the command `tidemill`, on this machine.
//!
//! Invariants
//!   P1  Only processes that were started here are signalled, by their ids; all have ended when a
//!       cluster is dropped.

use crate::hosts::Hosts;
use crate::http;
use crate::part::{Part, children, signal, until};
use crate::proxy::Proxy;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Until everything is there, on a machine that may be busy.
const START: Duration = Duration::from_secs(60);

/// Where a cluster's parts are, and how they are set.
pub struct Plan {
    /// The command.
    pub tidemill: PathBuf,
    /// Everything lies below it.
    pub dir: PathBuf,
    /// Where checkpoints go: a directory, or a bucket.
    pub checkpoints: String,
    /// How many JobManagers.
    pub job_managers: usize,
    /// How many TaskManagers.
    pub task_managers: usize,
    /// Slots of each.
    pub slots: u32,
    /// Further settings of JobManagers, as `key=value`.
    pub settings: Vec<String>,
    /// Further settings of TaskManagers.
    pub task_manager_settings: Vec<String>,
    /// Variables of all parts, and so of workers.
    pub environment: Vec<(&'static str, String)>,
    /// Hosts of their own for each JobManager and then each TaskManager; loopback, and links that can be
    /// cut, otherwise.
    pub hosts: Option<Hosts>,
}

impl Plan {
    /// One JobManager, two TaskManagers of two slots, checkpoints in a directory.
    pub fn new(tidemill: PathBuf, dir: &Path) -> Self {
        Plan {
            tidemill,
            dir: dir.to_owned(),
            checkpoints: dir.join("checkpoints").display().to_string(),
            job_managers: 1,
            task_managers: 2,
            slots: 2,
            settings: Vec::new(),
            task_manager_settings: Vec::new(),
            environment: Vec::new(),
            hosts: None,
        }
    }

    /// Writes a secret to a file that only this user may read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn secret_file(&self, name: &str, secret: &str) -> io::Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, secret)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// The host of a TaskManager, where there are hosts.
    pub fn host_of(&self, task_manager: usize) -> usize {
        self.job_managers + task_manager
    }

    /// All slots.
    pub fn all_slots(&self) -> u32 {
        self.slots * self.task_managers as u32
    }

    fn part(&self, name: &str, host: usize, args: Vec<String>) -> Part {
        let command = [self.tidemill.display().to_string()];
        let prefix = self.hosts.as_ref().map(|hosts| hosts.prefix(host)).unwrap_or_default();
        let mut words = prefix.into_iter().chain(command).chain(args);
        Part {
            name: name.to_owned(),
            program: words.next().unwrap_or_default().into(),
            args: words.collect(),
            environment: self.environment.clone(),
            log: self.dir.join(format!("{name}.log")),
            child: None,
        }
    }

    fn address(&self, host: usize) -> Ipv4Addr {
        self.hosts.as_ref().map_or(Ipv4Addr::LOCALHOST, |hosts| hosts.address(host))
    }

    /// The words that start a part.
    fn words(
        &self,
        command: &str,
        name: &str,
        settings: impl Iterator<Item = String>,
    ) -> Vec<String> {
        let (secret, data) = (self.dir.join("secret"), self.dir.join(name));
        let (secret, data) = (secret.display().to_string(), data.display().to_string());
        let head = [command, "--secret-file", &secret, "--data-dir", &data].map(str::to_owned);
        let set = settings.flat_map(|setting| ["--set".to_owned(), setting]);
        head.into_iter().chain(set).collect()
    }
}

/// See the module.
pub struct Cluster {
    /// How it is set.
    pub plan: Plan,
    /// The JobManagers.
    pub job_managers: Vec<Part>,
    /// The TaskManagers.
    pub task_managers: Vec<Part>,
    /// Links that can be cut: the one of each TaskManager, and of its workers, to the only JobManager; where there
    /// are several of those, the one of everybody to each. None where there are hosts.
    pub links: Vec<Proxy>,
    rest: Vec<SocketAddr>,
    /// The JobManager that is asked first.
    leader: AtomicUsize,
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
        plan.secret_file("secret", "a secret of this test alone: 5b0b2c7e\n")?;
        let mut cluster = Cluster {
            plan,
            job_managers: Vec::new(),
            task_managers: Vec::new(),
            links: Vec::new(),
            rest: Vec::new(),
            leader: AtomicUsize::new(0),
        };
        let mut known = Vec::new();
        for n in 0..cluster.plan.job_managers {
            known.push(cluster.start_job_manager(n)?);
        }
        for n in 0..cluster.plan.task_managers {
            cluster.start_task_manager(n, &known)?;
        }
        Ok(cluster)
    }

    /// Its control port as others know it.
    fn start_job_manager(&mut self, n: usize) -> io::Result<SocketAddr> {
        let plan = &self.plan;
        let there = plan.address(n);
        let (rest, control) = (free_port()?, free_port()?);
        let mut known = SocketAddr::from((there, control));
        if plan.hosts.is_none() && plan.job_managers > 1 {
            let link = Proxy::new(known)?;
            known = link.address();
            self.links.push(link);
        }
        let settings = [
            format!("jobmanager.bind={there}"),
            format!("security.insecure={}", plan.hosts.is_some()),
            format!("jobmanager.rest_port={rest}"),
            format!("jobmanager.control_port={control}"),
            format!("jobmanager.control_address={known}"),
            format!("checkpoints.location={}", plan.checkpoints),
        ];
        let name = format!("jobmanager-{n}");
        let settings = settings.into_iter().chain(plan.settings.iter().cloned());
        let mut part = plan.part(&name, n, plan.words("jobmanager", &name, settings));
        part.start()?;
        self.job_managers.push(part);
        self.rest.push(SocketAddr::from((there, rest)));
        Ok(known)
    }

    fn start_task_manager(&mut self, n: usize, job_managers: &[SocketAddr]) -> io::Result<()> {
        let plan = &self.plan;
        let mut known: Vec<String> = job_managers.iter().map(SocketAddr::to_string).collect();
        if plan.hosts.is_none() && plan.job_managers == 1 {
            let link = Proxy::new(job_managers[0])?;
            known = vec![link.address().to_string()];
            self.links.push(link);
        }
        let host = plan.host_of(n);
        let settings = [
            format!("taskmanager.jobmanagers={}", known.join(",")),
            format!("taskmanager.bind={}", plan.address(host)),
            format!("taskmanager.slots={}", plan.slots),
            format!("taskmanager.host=host-{n}"),
            "taskmanager.jobmanager_timeout=3s".to_owned(),
        ];
        let name = format!("taskmanager-{n}");
        let settings = settings.into_iter().chain(plan.task_manager_settings.iter().cloned());
        let mut part = plan.part(&name, host, plan.words("taskmanager", &name, settings));
        part.start()?;
        self.task_managers.push(part);
        Ok(())
    }

    /// Waits until all slots are there.
    ///
    /// # Errors
    /// When they are not in a minute.
    pub fn wait_for_slots(&self) -> Result<(), String> {
        let all = self.plan.all_slots();
        until(START, "all slots are there", || {
            (self.get("/cluster/metrics").ok()?["available_slots"] == all).then_some(())
        })
    }

    /// Asks REST of the JobManager that leads.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, path: &str) -> io::Result<Value> {
        let (status, value) = self.ask("GET", path, "application/json", b"")?;
        if status == 200 { Ok(value) } else { Err(io::Error::other(format!("{status}: {value}"))) }
    }

    /// Tells REST of the JobManager that leads.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn post(&self, path: &str, kind: &str, body: &[u8]) -> io::Result<(u16, Value)> {
        self.ask("POST", path, kind, body)
    }

    /// Each JobManager is asked until one leads.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> io::Result<(u16, Value)> {
        let (count, first) = (self.rest.len(), self.leader.load(Ordering::Relaxed));
        let mut last = Err(io::Error::other("there is no JobManager"));
        for n in (0..count).map(|i| (first + i) % count) {
            last = self.ask_one(n, method, path, kind, body);
            // A follower names the leader, or says that there is none.
            if !matches!(&last, Ok((503, said)) if said.get("leader").is_some()) && last.is_ok() {
                self.leader.store(n, Ordering::Relaxed);
                break;
            }
        }
        last
    }

    /// Asks one JobManager.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask_one(
        &self,
        n: usize,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> io::Result<(u16, Value)> {
        // Where another one may lead, one that stands still is not waited for; a program takes its time.
        let patience = if self.rest.len() > 1 && body.len() < 1_000 { 3 } else { 30 };
        let patience = Duration::from_secs(patience);
        let ask = || http::request(self.rest[n], method, path, kind, body, patience);
        match &self.plan.hosts {
            Some(hosts) => hosts.inside(n, ask)?,
            None => ask(),
        }
    }

    /// What a JobManager says that it is: `leader` or `follower`; `None` where it does not answer.
    pub fn role(&self, n: usize) -> Option<String> {
        let (_, said) = self.ask_one(n, "GET", "/", "application/json", b"").ok()?;
        said["role"].as_str().map(str::to_owned)
    }

    /// The JobManager that says that it leads.
    pub fn leader(&self) -> Option<usize> {
        (0..self.rest.len()).find(|&n| self.role(n).as_deref() == Some("leader"))
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

    /// All worker processes.
    pub fn workers(&self) -> Vec<u32> {
        (0..self.task_managers.len()).flat_map(|n| self.workers_of(n)).collect()
    }

    /// What all parts wrote last.
    pub fn last_words(&self) -> String {
        let parts = self.job_managers.iter().chain(&self.task_managers);
        parts.map(Part::last_words).collect::<Vec<_>>().join("\n")
    }

    /// Ends all parts; those that had to be killed.
    pub fn end(&mut self) -> Vec<String> {
        let patience = Duration::from_secs(30);
        let mut killed = Vec::new();
        for link in &self.links {
            link.hang(false);
        }
        for part in self.task_managers.iter_mut().chain(&mut self.job_managers) {
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
        for part in self.task_managers.iter_mut().chain(&mut self.job_managers) {
            let workers = part.id().map(children).unwrap_or_default();
            part.kill();
            for worker in workers {
                signal(worker, Signal::KILL);
            }
        }
    }
}

/// The command `tidemill`, beside the job in the build's directory, with the features that this crate was built with;
/// built where that is not done yet. `COMMAND_BUILD` are cargo's words for that, such as the packages and features of
/// the build that this is part of: with the same ones nothing is compiled twice. Where there are none, nothing is built.
///
/// # Panics
/// When it cannot be built.
pub fn build_command(job: &Path) -> PathBuf {
    static BUILT: Once = Once::new();
    BUILT.call_once(build);
    job.with_file_name("tidemill")
}

fn build() {
    let mut build = Command::new(env!("CARGO"));
    // What cargo tells a test of its package is, for some build scripts, a reason to compile everything above them.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|p| name.to_string_lossy().starts_with(p)) {
            build.env_remove(name);
        }
    }
    // With a test, because features of dependencies are others for tests.
    build.args(["build", "--bin", "tidemill", "--test", "chaos"]);
    let (s3, postgres) = (cfg!(feature = "s3"), cfg!(feature = "postgres"));
    match std::env::var("COMMAND_BUILD") {
        Ok(words) if words.is_empty() => return,
        Ok(words) => build.args(words.split_whitespace()),
        Err(_) if s3 || postgres => build.args(["-p", "tidemill-cli", "-p", "tidemill-chaos"]),
        Err(_) => build.arg("--workspace"),
    };
    for (feature, wanted) in [("s3", s3), ("postgres", postgres)] {
        if wanted {
            let both = format!("tidemill-cli/{feature},tidemill-chaos/{feature}");
            build.args(["--features", &both]);
        }
    }
    if cfg!(not(debug_assertions)) {
        build.arg("--release");
    }
    assert!(build.status().is_ok_and(|s| s.success()), "the command tidemill cannot be built");
}
