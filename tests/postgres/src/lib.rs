//! A real PostgreSQL server of a test: started by it on a free port, and ended by it, also when it panics.
//!
//! Invariants
//!   S1  Only processes of a server that was started here are signalled, by their ids.
//!   S2  A server that is ended, or dropped, has no process left, also where it stood still.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a shell around a real process in real time: it waits for it"
)]

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// Who owns the database.
pub const USER: &str = "tidemill";
/// Its password, for connections by TCP.
pub const PASSWORD: &str = "a password of tests";
/// Starting takes a moment, and after a SIGKILL the old processes have to notice.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Where Debian's packages have the servers, one directory a version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// See the module.
pub struct Server {
    dir: TempDir,
    programs: PathBuf,
    /// Who runs it: PostgreSQL refuses root.
    user: Option<(u32, u32)>,
    address: IpAddr,
    port: u16,
    process: Mutex<Option<Child>>,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// Connections are cut, what is committed is written out.
    Fast,
    /// Its processes end at once, and recover when they are started again.
    Immediate,
    /// SIGKILL of the first one; the others notice.
    Killed,
}

impl Server {
    /// A server on loopback with an empty database.
    ///
    /// # Panics
    /// When it is not installed, or does not start.
    pub fn start() -> Self {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// The same at another address of this machine, or of the network namespace of the calling thread.
    ///
    /// # Panics
    /// As [`Server::start`].
    pub fn start_at(address: IpAddr) -> Self {
        let dir = TempDir::new().expect("a directory for the server");
        let user = geteuid().is_root().then(postgres_user);
        let (programs, port) = (programs(), free_port(address));
        let server = Server { dir, programs, user, address, port, process: Mutex::default() };
        server.own(server.dir.path());
        let password = server.dir.path().join("password");
        fs::write(&password, PASSWORD).expect("a file for the password");
        server.own(&password);
        let made = server
            .command("initdb")
            .args(["--no-sync", "--encoding=UTF8", "--locale=C", "--username", USER])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile"])
            .arg(&password)
            .arg("--pgdata")
            .arg(server.data())
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        if !address.is_loopback() {
            let allowed = server.data().join("pg_hba.conf");
            let known = fs::read_to_string(&allowed).expect("the file that says who may connect");
            let all = format!("{known}\nhost all all samenet scram-sha-256\n");
            fs::write(&allowed, all).expect("the file that says who may connect");
        }
        server.resume();
        server
    }

    fn own(&self, path: &Path) {
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).expect("files can be given to the server's user");
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir(self.dir.path()).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it, again, unless it runs; waits until it answers.
    ///
    /// # Panics
    /// When it does not in a minute.
    pub fn resume(&self) {
        if !self.has_ended() {
            return;
        }
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let log = self.dir.path().join("log");
            let log = File::options().create(true).append(true).open(log).expect("its log");
            let process = self
                .command("postgres")
                .arg("-D")
                .arg(self.data())
                .args(["-c", &format!("listen_addresses={}", self.address)])
                .args(["-c", &format!("port={}", self.port), "-c"])
                .arg(format!("unix_socket_directories={}", self.dir.path().display()))
                // A killed server loses nothing by that: the kernel is not killed.
                .args(["-c", "fsync=off", "-c", "full_page_writes=off"])
                .args(["-c", "shared_buffers=16MB", "-c", "autovacuum=off"])
                .stdout(log.try_clone().expect("its log"))
                .stderr(log)
                .spawn()
                .expect("postgres runs");
            *self.process() = Some(process);
            while !self.answers() {
                // The port was taken meanwhile, or processes of its killed predecessor still run.
                if self.has_ended() {
                    break;
                }
                assert!(Instant::now() < deadline, "it does not start: {}", self.log());
                sleep(Duration::from_millis(20));
            }
            if !self.has_ended() {
                return;
            }
            assert!(Instant::now() < deadline, "it does not start: {}", self.log());
            sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        let port = self.port.to_string();
        let mut ask = self.command("pg_isready");
        ask.arg("--quiet").arg("--host").arg(self.dir.path()).args(["--port", &port]);
        ask.status().expect("pg_isready runs").success()
    }

    fn has_ended(&self) -> bool {
        self.process().as_mut().is_none_or(|p| !matches!(p.try_wait(), Ok(None)))
    }

    /// Ends it; [`Server::resume`] starts it again.
    pub fn end(&self, how: End) {
        let Some(mut process) = self.process().take() else { return };
        let all = tree(&process);
        signal_to(
            &process,
            match how {
                End::Fast => Signal::INT,
                End::Immediate => Signal::QUIT,
                End::Killed => Signal::KILL,
            },
        );
        all.iter().for_each(|&pid| signal(pid, Signal::CONT));
        let _ = process.wait();
    }

    /// All its processes stand still, and connections with them: nobody is told. Or they go on.
    pub fn stand_still(&self, still: bool) {
        let processes = self.process().as_ref().map(tree).unwrap_or_default();
        let what = if still { Signal::STOP } else { Signal::CONT };
        processes.into_iter().for_each(|pid| signal(pid, what));
    }

    /// The port that it listens at.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its socket.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// By TCP; wants [`PASSWORD`].
    pub fn url(&self) -> String {
        format!("postgres://{USER}@{}:{}/postgres", self.address, self.port)
    }

    /// By the socket; wants no password.
    pub fn socket_url(&self) -> String {
        let host = self.dir.path().display();
        format!("postgres:///postgres?host={host}&port={}&user={USER}", self.port)
    }

    /// What a query answers, as an operator would ask by psql: a line for each row.
    ///
    /// # Panics
    /// When it is refused.
    pub fn query(&self, query: &str) -> String {
        let port = self.port.to_string();
        let mut ask = self.command("psql");
        ask.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", "postgres"]);
        ask.arg("-h").arg(self.dir.path()).args(["-p", &port, "-c", query]);
        let said = ask.output().expect("psql runs");
        assert!(said.status.success(), "{query}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }
}

impl Drop for Server {
    /// S2.
    fn drop(&mut self) {
        self.end(End::Immediate);
    }
}

/// Sends a signal to a process that the test started.
pub fn signal_to(process: &Child, what: Signal) {
    if let Ok(pid) = i32::try_from(process.id()) {
        signal(pid, what);
    }
}

fn signal(pid: i32, what: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, what);
    }
}

/// S1: the server's first process and those that it started.
fn tree(process: &Child) -> Vec<i32> {
    let id = process.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    i32::try_from(id).ok().into_iter().chain(children).collect()
}

/// The newest that is installed.
fn programs() -> PathBuf {
    let found = fs::read_dir(PROGRAMS).into_iter().flatten().flatten();
    let versions = found.filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let programs = entry.path().join("bin");
        programs.join("initdb").exists().then_some((version, programs))
    });
    let newest = versions.max().expect("PostgreSQL's server: run scripts/install-deps.sh postgres");
    newest.1
}

/// The user and group that Debian's package makes.
fn postgres_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut numbers = line.into_iter().flat_map(|line| line.split(':').skip(2)).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => (uid, gid),
        _ => panic!("the user 'postgres' is missing: run scripts/install-deps.sh postgres"),
    }
}

/// A port that is free at an address now.
///
/// # Panics
/// When there is none.
pub fn free_port(address: IpAddr) -> u16 {
    let listener = TcpListener::bind((address, 0));
    listener.and_then(|l| l.local_addr()).expect("a free port").port()
}
