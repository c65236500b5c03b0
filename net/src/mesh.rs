//! Listening and connecting: the shell around the handshake. Blocks; for an ordinary thread of the
//! worker process, before its slots run.
//!
//! Of two slots the lower one calls. A worker that waits for another only ever waits for a higher one,
//! so workers cannot wait for each other in a circle.

use crate::handshake::{Handshake, Identity, MESSAGE_MAX, Reply, Stage, nonce};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Clock, Error, Micros, Result};

#[cfg(test)]
mod tests;

/// A message of a handshake may take this long.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts to reach a peer that does not answer yet.
const RETRY_US: Micros = 20_000;

/// Handshakes of callers at a time; more wait.
const HANDSHAKES_MAX: usize = 64;

/// A connected socket with an authenticated worker of the same attempt at its other end.
#[derive(Debug)]
pub struct Connection {
    /// The slot at this end.
    pub own: u32,
    /// The slot at the other end.
    pub peer: u32,
    /// Where the other end is.
    pub address: SocketAddr,
    /// The number in both ends' frames.
    pub session: u32,
    /// The socket, without delay, blocking as io_uring wants it.
    pub stream: TcpStream,
}

/// Where a worker process is called by its peers.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// What [`Listener::connect`] is to establish.
#[derive(Clone, Debug)]
pub struct MeshPlan<'a> {
    /// Who we are.
    pub identity: &'a Identity,
    /// The slots of this process.
    pub local: Range<u32>,
    /// Pairs of a slot here and a slot elsewhere that share channels.
    pub pairs: &'a BTreeSet<(u32, u32)>,
    /// Where each slot elsewhere is called: the address of its process' listener.
    pub peers: &'a BTreeMap<u32, SocketAddr>,
    /// Everybody must be there after so many microseconds.
    pub timeout_us: Micros,
}

impl Listener {
    /// Listens at `address`; port 0 for any free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr) -> Result<Listener> {
        let cannot = |e| Error::attempt(format!("cannot listen at {address} for peers: {e}"));
        let listener = TcpListener::bind(address).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Listener { listener, address })
    }

    /// The address bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connects every pair of the plan: calls the higher slots, waits for the lower ones. Callers of
    /// other jobs or attempts, and whoever does not know the key, are refused and do not matter.
    ///
    /// # Errors
    /// When a peer refuses us, has no address, or is not there in time; or when `cancelled` says so.
    pub fn connect(
        &self,
        plan: &MeshPlan<'_>,
        clock: &SystemClock,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Connection>> {
        let until = clock.now() + plan.timeout_us;
        let over = AtomicBool::new(false);
        let stop = || over.load(Ordering::Relaxed) || cancelled();
        let (called, awaited): (Vec<_>, Vec<_>) =
            plan.pairs.iter().copied().partition(|(own, peer)| own < peer);
        let mut connections = Vec::new();
        let door = Door {
            listener: self,
            plan,
            clock,
            until,
            stop: &stop,
            guests: Mutex::new(Some(Guests::default())),
        };
        std::thread::scope(|scope| {
            let (tx, rx) = mpsc::channel();
            if !awaited.is_empty() {
                let door = &door;
                scope.spawn(move || door.accept(scope, &tx));
            }
            let result = call_all(plan, &called, clock, until, &stop, &mut connections);
            let result = result
                .and_then(|()| await_all(awaited, &rx, clock, until, &stop, &mut connections));
            over.store(true, Ordering::Relaxed);
            door.send_home();
            result
        })?;
        connections.sort_by_key(|c| (c.own, c.peer));
        Ok(connections)
    }
}

/// Where callers come in.
struct Door<'a> {
    listener: &'a Listener,
    plan: &'a MeshPlan<'a>,
    clock: &'a SystemClock,
    until: Micros,
    stop: &'a (dyn Fn() -> bool + Sync),
    /// Callers whose handshakes are under way, by number; `None` once nobody waits for them.
    guests: Mutex<Option<Guests>>,
}

/// The number of the latest caller, and those who have not been answered.
type Guests = (u64, BTreeMap<u64, TcpStream>);

impl Door<'_> {
    /// Takes callers until it is told to stop.
    fn accept<'s, 'e>(
        &'e self,
        scope: &'s std::thread::Scope<'s, 'e>,
        found: &mpsc::Sender<Connection>,
    ) {
        while !(self.stop)() && self.clock.now() < self.until {
            if self.guests().as_ref().is_some_and(|(_, guests)| guests.len() >= HANDSHAKES_MAX) {
                pause(RETRY_US);
                continue;
            }
            wait_readable(&self.listener.listener, 20_000_000);
            let Ok((stream, address)) = self.listener.listener.accept() else { continue };
            let Some(number) = self.let_in(&stream) else { continue };
            let found = found.clone();
            scope.spawn(move || {
                let answered = answer(stream, address, self.plan);
                // Before it is handed on: who is at home is not sent home.
                if let Some((_, guests)) = &mut *self.guests() {
                    guests.remove(&number);
                }
                match answered {
                    Ok(connection) => drop(found.send(connection)),
                    Err(e) => tracing::warn!("a caller from {address} is sent away: {e}"),
                }
            });
        }
    }

    fn guests(&self) -> MutexGuard<'_, Option<Guests>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_in(&self, stream: &TcpStream) -> Option<u64> {
        let stream = stream.try_clone().ok()?;
        let mut guests = self.guests();
        let (number, guests) = guests.as_mut()?;
        *number += 1;
        guests.insert(*number, stream);
        Some(*number)
    }

    /// Ends the handshakes that nobody waits for: a caller who says nothing must not hold the job up.
    fn send_home(&self) {
        let guests = self.guests().take();
        for stream in guests.into_iter().flat_map(|(_, guests)| guests.into_values()) {
            // One that is gone already needs no end.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn wait_readable(listener: &TcpListener, nanos: i64) {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    // Whatever it says, accept says it better.
    let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: nanos }));
}

#[expect(clippy::disallowed_methods, reason = "this shell blocks, on a thread of its own")]
fn pause(most: Micros) {
    std::thread::sleep(Duration::from_micros(most));
}

fn call_all(
    plan: &MeshPlan<'_>,
    called: &[(u32, u32)],
    clock: &SystemClock,
    until: Micros,
    stop: &dyn Fn() -> bool,
    connections: &mut Vec<Connection>,
) -> Result<()> {
    for &(own, peer) in called {
        let &address = plan.peers.get(&peer).ok_or_else(|| {
            Error::attempt(format!(
                "slot {own} has channels to slot {peer}, whose address is unknown"
            ))
        })?;
        let place = || format!("slot {own} calls slot {peer} at {address}");
        loop {
            if stop() {
                return Err(Error::attempt("given up").context(place()));
            }
            let left = until.saturating_sub(clock.now());
            let wait = Duration::from_micros(left.clamp(1_000, 1_000_000));
            match TcpStream::connect_timeout(&address, wait) {
                Ok(stream) => {
                    let (handshake, hello) =
                        Handshake::call(plan.identity.clone(), own, peer, nonce()?);
                    let connection = converse(stream, address, handshake, Some(hello));
                    connections.push(connection.map_err(|e| e.context(place()))?);
                    break;
                }
                Err(e) if left == 0 => {
                    return Err(
                        Error::attempt(format!("{e}, until the time was over")).context(place())
                    );
                }
                Err(_) => pause(RETRY_US.min(left)),
            }
        }
    }
    Ok(())
}

fn await_all(
    awaited: Vec<(u32, u32)>,
    callers: &mpsc::Receiver<Connection>,
    clock: &SystemClock,
    until: Micros,
    stop: &dyn Fn() -> bool,
    connections: &mut Vec<Connection>,
) -> Result<()> {
    let mut missing: BTreeSet<_> = awaited.into_iter().collect();
    while !missing.is_empty() {
        match callers.recv_timeout(Duration::from_micros(RETRY_US)) {
            Ok(connection) => {
                if missing.remove(&(connection.own, connection.peer)) {
                    connections.push(connection);
                } else {
                    tracing::warn!(
                        "slot {} called twice, or has no channels here",
                        connection.peer
                    );
                }
            }
            Err(_) if stop() || clock.now() >= until => {
                let why = if stop() { "given up" } else { "the time is over" };
                return Err(Error::attempt(format!(
                    "{why} while these pairs of slots (here, there) were not connected: {missing:?}"
                )));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn answer(stream: TcpStream, address: SocketAddr, plan: &MeshPlan<'_>) -> Result<Connection> {
    let handshake = Handshake::listen(plan.identity.clone(), plan.local.clone(), nonce()?);
    stream.set_nonblocking(false).map_err(|e| Error::attempt(e.to_string()))?;
    converse(stream, address, handshake, None)
}

/// Carries the messages of a handshake.
fn converse(
    mut stream: TcpStream,
    address: SocketAddr,
    mut handshake: Handshake,
    hello: Option<Vec<u8>>,
) -> Result<Connection> {
    let io = |e: std::io::Error| Error::attempt(format!("the handshake broke off: {e}"));
    stream.set_read_timeout(Some(MESSAGE_TIMEOUT)).map_err(io)?;
    stream.set_write_timeout(Some(MESSAGE_TIMEOUT)).map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;
    if let Some(hello) = hello {
        send(&mut stream, &hello).map_err(io)?;
    }
    loop {
        let message = receive(&mut stream).map_err(io)?;
        let Reply { send: answer, state } = handshake.on(&message);
        if let Some(answer) = answer {
            let sent = send(&mut stream, &answer);
            // Whom we refuse need not listen.
            if !matches!(state, Stage::Refused(_)) {
                sent.map_err(io)?;
            }
        }
        match state {
            Stage::Waiting => {}
            Stage::Refused(refused) => return Err(Error::attempt(refused.to_string())),
            Stage::Done { session, peer, own } => {
                stream.set_read_timeout(None).map_err(io)?;
                stream.set_write_timeout(None).map_err(io)?;
                return Ok(Connection { own, peer, address, session, stream });
            }
        }
    }
}

fn send(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let mut framed = (message.len() as u16).to_le_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed)
}

fn receive(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > MESSAGE_MAX {
        return Err(std::io::Error::other(format!(
            "a message of {length} bytes, is this a worker?"
        )));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(message)
}
