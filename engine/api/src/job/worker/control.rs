//! The worker's connection to the JobManager: two threads that read and write, made anew whenever it
//! breaks. Which JobManager leads is found by asking each in turn.
//!
//! Orders that end a deployment take effect when they are read, also while the worker is still busy with
//! it and cannot hear them. The order that ends the worker ends the reading, too: that the JobManager
//! hangs up then is nothing to tell.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Clock, Error, Result};
use tidemill_protocol::auth::{Answer, AuthError, Client, KEY_BYTES, Key, Role};
use tidemill_protocol::frame::{self, Frames};
use tidemill_protocol::{Attempt, ToWorker, WorkerSays, WorkerSettings};

/// Connecting, and each step of the handshake.
const STEP: Duration = Duration::from_secs(3);

/// A JobManager that says nothing for so long is taken for gone.
const SILENCE: Duration = Duration::from_secs(10);

/// How often the worker says that it lives; below the shortest useful timeout.
const HEARTBEAT: Duration = Duration::from_millis(300);

/// Pauses between tries, first and longest.
const PAUSE_US: (u64, u64) = (20_000, 500_000);

/// Reports that may wait for the socket.
const QUEUE: usize = 4_096;

/// What the connection tells the worker.
pub(super) enum ControlEvent {
    /// It stands; reports go here.
    Connected(Sender<WorkerSays>),
    /// It broke.
    Lost,
    /// The JobManager said something.
    Message(ToWorker),
}

/// The connection's threads; they end with the process.
pub(super) struct Control {
    pub(super) events: Receiver<ControlEvent>,
    pub(super) bound: Bound,
}

/// The least attempt that was not told to end, as far as orders were read; `u32::MAX`: none is left.
#[derive(Clone, Debug, Default)]
pub(super) struct Bound(Arc<AtomicU32>);

impl Bound {
    /// Whether this attempt was told to end.
    pub(super) fn is_past(&self, attempt: Attempt) -> bool {
        self.0.load(Ordering::Relaxed) > attempt
    }

    fn read(&self, order: &ToWorker) {
        let least = match order {
            ToWorker::Deploy(deployment) => deployment.attempt,
            ToWorker::Stop { attempt } => attempt.saturating_add(1),
            ToWorker::Shutdown => Attempt::MAX,
            _ => return,
        };
        self.0.fetch_max(least, Ordering::Relaxed);
    }
}

impl Control {
    /// Starts to connect, for ever.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(settings: &WorkerSettings, key: Key, clock: SystemClock) -> Result<Self> {
        let (tx, events) = unbounded();
        let bound = Bound::default();
        let link = Link {
            addresses: settings.jobmanagers.clone(),
            role: Role::Worker(settings.worker.clone()),
            key,
            clock,
            events: tx,
            bound: bound.clone(),
        };
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || link.run())
            .map_err(|e| Error::attempt(format!("cannot start the control thread: {e}")))?;
        Ok(Control { events, bound })
    }
}

struct Link {
    addresses: Vec<String>,
    role: Role,
    key: Key,
    clock: SystemClock,
    events: Sender<ControlEvent>,
    bound: Bound,
}

impl Link {
    fn run(self) {
        let (mut next, mut pause, mut silent) = (0, PAUSE_US.0, false);
        let mut hint: Option<String> = None;
        loop {
            let address = hint.take().unwrap_or_else(|| {
                next += 1;
                self.addresses[(next - 1) % self.addresses.len().max(1)].clone()
            });
            match self.connect(&address) {
                Ok(stream) => {
                    (pause, silent) = (PAUSE_US.0, false);
                    let End::Broken(end) = self.talk(stream) else { return };
                    eprintln!("the connection to the JobManager at {address} ended: {end}");
                    if self.events.send(ControlEvent::Lost).is_err() {
                        return;
                    }
                }
                Err(Refusal::NotLeader(leader)) => hint = leader.filter(|l| *l != address),
                Err(Refusal::Failed(why)) if !silent => {
                    eprintln!("no JobManager at {address}: {why}; trying again");
                    silent = true;
                }
                Err(Refusal::Failed(_)) => {}
            }
            let until = self.clock.now() + pause;
            while self.clock.now() < until {
                std::thread::park_timeout(Duration::from_micros(pause));
            }
            pause = (pause * 2).min(PAUSE_US.1);
        }
    }

    fn connect(&self, address: &str) -> Result<TcpStream, Refusal> {
        let mut found = address.to_socket_addrs()?;
        let target = found.next().ok_or(ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&target, STEP)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        let client = Client::new(self.key.clone(), self.role.clone(), nonce()?);
        let mut frames = Frames::default();
        let mut answer = |stream: &mut TcpStream| -> io::Result<Answer> {
            frame::read(stream, &mut frames)?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
        };
        frame::write(&mut stream, client.hello())?;
        let proof = client.on_challenge(&answer(&mut stream)?)?;
        frame::write(&mut stream, &proof)?;
        client.on_verdict(&answer(&mut stream)?)?;
        Ok(stream)
    }

    /// Until the connection ends, or the worker does.
    fn talk(&self, stream: TcpStream) -> End {
        let Ok(mut reader) = stream.try_clone() else {
            return End::Broken("no file descriptor".into());
        };
        if let Err(e) = reader.set_read_timeout(Some(SILENCE)) {
            return End::Broken(e.to_string());
        }
        let (out, reports) = bounded(QUEUE);
        let write = std::thread::Builder::new()
            .name("control-write".into())
            .spawn(move || write_reports(stream, &reports));
        if let Err(e) = write {
            return End::Broken(e.to_string());
        }
        if self.events.send(ControlEvent::Connected(out)).is_err() {
            return End::Told;
        }
        let mut frames = Frames::default();
        let end = loop {
            match frame::read::<ToWorker>(&mut reader, &mut frames) {
                Ok(Some(message)) => {
                    self.bound.read(&message);
                    let last = matches!(message, ToWorker::Shutdown);
                    if self.events.send(ControlEvent::Message(message)).is_err() || last {
                        // What the worker still says is written until its process ends.
                        return End::Told;
                    }
                }
                Ok(None) => break "it was closed".into(),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    break format!("nothing was heard for {} s", SILENCE.as_secs());
                }
                Err(e) => break e.to_string(),
            }
        };
        let _ = reader.shutdown(Shutdown::Both);
        End::Broken(end)
    }
}

/// How a connection ended.
enum End {
    /// The worker was told to end, or does already.
    Told,
    /// By itself; why.
    Broken(String),
}

/// Writes reports, and heartbeats between them, until either end is gone.
fn write_reports(mut stream: TcpStream, reports: &Receiver<WorkerSays>) {
    loop {
        let says = match reports.recv_timeout(HEARTBEAT) {
            Ok(says) => says,
            Err(RecvTimeoutError::Timeout) => WorkerSays::Heartbeat,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if frame::write(&mut stream, &says).is_err() {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

enum Refusal {
    NotLeader(Option<String>),
    Failed(String),
}

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        Refusal::Failed(e.to_string())
    }
}

impl From<ErrorKind> for Refusal {
    fn from(e: ErrorKind) -> Self {
        Refusal::Failed(io::Error::from(e).to_string())
    }
}

impl From<AuthError> for Refusal {
    fn from(e: AuthError) -> Self {
        match e {
            AuthError::NotLeader(leader) => Refusal::NotLeader(leader),
            e => Refusal::Failed(e.to_string()),
        }
    }
}

/// Fresh chance from the kernel.
fn nonce() -> io::Result<[u8; KEY_BYTES]> {
    use std::io::Read as _;
    let mut nonce = [0; KEY_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut nonce)?;
    Ok(nonce)
}
