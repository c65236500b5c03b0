//! A real PostgreSQL server of a test: started by it on a free loopback port, and ended by it, also when
//! it panics.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tidemill_jobmanager::metadata::{PostgresMetadata, PostgresSettings};
use tokio::time::{Instant, sleep};
use tokio_postgres::NoTls;

const USER: &str = "tidemill";
pub(crate) const PASSWORD: &str = "a password of tests";
/// Starting takes a moment, and after a SIGKILL the old processes have to notice.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Where Debian's packages have the servers, one directory a version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// See the module.
pub(crate) struct Server {
    dir: TempDir,
    programs: PathBuf,
    /// Who runs it: PostgreSQL refuses root.
    user: Option<(u32, u32)>,
    pub(crate) port: u16,
    process: Mutex<Option<Child>>,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// Connections are cut, what is committed is written out.
    Fast,
    /// SIGKILL.
    Killed,
}

impl Server {
    /// A server with an empty database.
    pub(crate) async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let user = geteuid().is_root().then(postgres_user);
        let server = Server {
            dir,
            programs: programs(),
            user,
            port: free_port(),
            process: Mutex::default(),
        };
        server.own(server.dir.path());
        let password = server.dir.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        server.own(&password);
        let made = server
            .command("initdb")
            .args(["--no-sync", "--encoding=UTF8", "--locale=C", "--username", USER])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile"])
            .arg(&password)
            .arg("--pgdata")
            .arg(server.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server.resume().await;
        server
    }

    fn own(&self, path: &std::path::Path) {
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).unwrap();
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

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Starts it, again.
    pub(crate) async fn resume(&self) {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let log = self.dir.path().join("log");
            let log = fs::File::options().create(true).append(true).open(log).unwrap();
            let process = self
                .command("postgres")
                .arg("-D")
                .arg(self.data())
                .args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={}", self.port)])
                .arg("-c")
                .arg(format!("unix_socket_directories={}", self.dir.path().display()))
                // A killed server loses nothing by that: the kernel is not killed.
                .args(["-c", "fsync=off", "-c", "full_page_writes=off"])
                .args(["-c", "shared_buffers=16MB", "-c", "autovacuum=off"])
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            *self.process.lock().unwrap() = Some(process);
            loop {
                if tokio_postgres::connect(&self.socket_url(), NoTls).await.is_ok() {
                    return;
                }
                // The port was taken meanwhile, or processes of its killed predecessor still run.
                if self.has_ended() {
                    break;
                }
                assert!(Instant::now() < deadline, "it does not start: {}", self.log());
                sleep(Duration::from_millis(20)).await;
            }
            assert!(Instant::now() < deadline, "it does not start: {}", self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn has_ended(&self) -> bool {
        self.process.lock().unwrap().as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Ends it; [`Server::resume`] starts it again.
    pub(crate) fn end(&self, how: End) {
        let Some(mut process) = self.process.lock().unwrap().take() else { return };
        let signal = match how {
            End::Fast => Signal::INT,
            End::Killed => Signal::KILL,
        };
        signal_to(&process, signal);
        process.wait().unwrap();
    }

    /// By TCP; wants [`PASSWORD`].
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// By the socket; wants no password.
    pub(crate) fn socket_url(&self) -> String {
        let host = self.dir.path().display();
        format!("postgres:///postgres?host={host}&port={}&user={USER}", self.port)
    }

    /// A candidate with a short lease.
    pub(crate) async fn candidate(&self, lease: Duration) -> PostgresMetadata {
        candidate(&self.url(), lease).await
    }

    /// Forgets everything.
    pub(crate) async fn clear(&self) {
        self.run("DROP SCHEMA IF EXISTS tidemill CASCADE").await;
    }

    /// As an operator would by psql.
    pub(crate) async fn run(&self, statements: &str) {
        let (client, connection) =
            tokio_postgres::connect(&self.socket_url(), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(statements).await.unwrap();
        drop(client);
        let _ = connection.await;
    }

    /// The rows of a query, each as one text.
    pub(crate) async fn ask(&self, query: &str) -> Vec<String> {
        let (client, connection) =
            tokio_postgres::connect(&self.socket_url(), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let rows = client.query(&format!("SELECT row::text FROM ({query}) AS row"), &[]).await;
        let rows = rows.unwrap().iter().map(|row| row.get(0)).collect();
        drop(client);
        let _ = connection.await;
        rows
    }
}

pub(crate) async fn candidate(url: &str, lease: Duration) -> PostgresMetadata {
    let settings = PostgresSettings { password: Some(PASSWORD.into()), lease };
    PostgresMetadata::connect_with(url, settings).await.unwrap()
}

pub(crate) fn signal_to(process: &Child, signal: Signal) {
    let pid = Pid::from_raw(process.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.get_mut().unwrap().take() {
            // "Immediate": its processes end at once.
            signal_to(&process, Signal::QUIT);
            let _ = process.wait();
        }
    }
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
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let line = line.expect("the user 'postgres': run scripts/install-deps.sh postgres");
    let mut numbers = line.split(':').skip(2).map(|field| field.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

pub(crate) fn free_port() -> u16 {
    let listener: io::Result<TcpListener> = TcpListener::bind("127.0.0.1:0");
    listener.unwrap().local_addr().unwrap().port()
}
