//! A process that a test starts, kills, and starts again; and what is asked of processes and clocks.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A process that can be killed and started again.
pub struct Part {
    /// What it is called in reports.
    pub name: String,
    pub(crate) args: Vec<String>,
    pub(crate) program: PathBuf,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) log: PathBuf,
    pub(crate) child: Option<Child>,
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
            .env("TIDEMILL_LOG", std::env::var("TIDEMILL_LOG").unwrap_or_else(|_| "info".into()))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
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
        let lines: Vec<&str> = text.lines().rev().take(40).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{}:\n    {}", self.name, lines.join("\n    "))
    }
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

/// All files below a directory; none where there is no such directory.
pub fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path.display().to_string()),
        }
    }
    found
}

/// A copy of a program in a directory, without what only debuggers read: a test's own server takes as long as it takes
/// for each byte of it.
///
/// # Errors
/// When it cannot be made.
pub fn slim(program: &Path, dir: &Path) -> io::Result<PathBuf> {
    let copy = dir.join("program");
    let stripped =
        Command::new("strip").arg("--strip-all").arg("-o").arg(&copy).arg(program).status();
    if !stripped.is_ok_and(|s| s.success()) {
        fs::copy(program, &copy)?;
    }
    Ok(copy)
}
