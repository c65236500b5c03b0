//! Starting programs, from one thread that lives as long as the agent.
//!
//! The kernel sends the signal of `PR_SET_PDEATHSIG` when the *thread* that forked ends, so programs
//! must not be started by a thread that may end earlier than the agent.
//!
//! Invariants
//!   P1  A program ends when its agent does, however that ends: the kernel kills it with the spawning thread.
//!   P2  A program leads a process group of its own, so that what it starts can be ended with it.
//!   P3  Nothing of the agent's settings is in a program's environment: no variable `TIDEMILL_*` but the one for programs,
//!       [`FOR_PROGRAMS`].

use crate::user::User;
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A program to start.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// A pipe as standard input; otherwise there is none.
    pub(crate) stdin: bool,
    pub(crate) user: Option<User>,
}

type Order = (Launch, oneshot::Sender<io::Result<Child>>);

/// The thread that starts programs; it ends, and with it all programs, when this is dropped.
#[derive(Debug)]
pub(crate) struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl Spawner {
    /// Starts the thread. To be called within a runtime.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, waiting) = mpsc::channel::<Order>();
        let handle = Handle::current();
        std::thread::Builder::new().name("tm-spawner".into()).spawn(move || {
            let _runtime = handle.enter();
            while let Ok((launch, answer)) = waiting.recv() {
                // Where nobody waits any more, the dropped child is killed.
                let _ = answer.send(spawn(&launch));
            }
        })?;
        Ok(Spawner { orders })
    }

    /// Starts a program, its outputs piped.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn spawn(&self, launch: Launch) -> io::Result<Child> {
        let (answer, result) = oneshot::channel();
        let gone = || io::Error::other("the spawning thread has ended");
        self.orders.send((launch, answer)).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

fn spawn(launch: &Launch) -> io::Result<Child> {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .stdin(if launch.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if !is_for_programs(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    if let Some(user) = launch.user {
        // Further groups of root go with it: the standard library clears them.
        command.uid(user.uid).gid(user.gid);
    }
    die_with_parent(&mut command);
    busy_retry(|| command.spawn())
}

/// How long a worker waits for its bucket: no setting, but a variable of every process that has one.
const FOR_PROGRAMS: &str = "TIDEMILL_S3_TIMEOUT";

/// P3.
fn is_for_programs(variable: &str) -> bool {
    !variable.starts_with("TIDEMILL_") || variable == FOR_PROGRAMS
}

/// P1.
#[expect(unsafe_code, reason = "code between fork and exec")]
fn die_with_parent(command: &mut Command) {
    let agent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // An agent that died before that line sends nothing any more.
        if getppid() == Some(agent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: the closure runs in the forked child of a threaded process, where only
    // async-signal-safe calls are allowed: it makes the system calls prctl and getppid, allocates
    // nothing and takes no lock; both errors are made without allocation.
    unsafe { command.pre_exec(prepare) };
}

/// A file that was just written counts as being written while another thread's child, forked
/// meanwhile, has not yet executed its program: that lasts for milliseconds.
fn busy_retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..100 {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => {
                #[expect(clippy::disallowed_methods, reason = "this thread only starts programs")]
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
    attempt()
}

/// Signals a program; one that has ended hears nothing.
pub(crate) fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = pid_of(child) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The id of a program that was not waited for yet, which is that of its group too.
fn pid_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
}

/// A program's process group; killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group of a program that was not waited for yet.
    pub(crate) fn of(child: &Child) -> Self {
        Group(pid_of(child))
    }

    /// Kills whoever is in it.
    pub(crate) fn kill(&self) {
        if let Some(leader) = self.0 {
            let _ = rustix::process::kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_the_time_for_s3_and_no_setting() {
        for name in [FOR_PROGRAMS, "AWS_REGION", "PATH"] {
            assert!(is_for_programs(name), "{name}");
        }
        for name in ["TIDEMILL_SECRET", "TIDEMILL_TOKEN", "TIDEMILL_S3_REGION", "TIDEMILL_LOG"] {
            assert!(!is_for_programs(name), "{name}");
        }
    }
}
