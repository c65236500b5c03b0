//! The control port: agents, workers and fetches of artifacts.
//!
//! ```text
//!   accepted --Hello, Challenge, Proof, Welcome--> Agent    --Register--> messages both ways
//!                    | within 5 s               +> Worker   --Attach----> messages both ways
//!                    +--> Refused, NotLeader    +> Artifact --request---> length, bytes
//! ```
//! Invariants
//!   T1  Nothing of a peer reaches the service before its handshake and its first message.
//!   T2  Of each connection that the service hears of, it hears exactly one end.
//!   T3  What waits for a peer is bounded; a peer that does not take it is disconnected.
//!   T4  Before the handshake a peer can make this process hold [`GREETING_BYTES_MAX`] bytes, not more.

mod artifact;
mod link;

pub(crate) use link::Outbox;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tidemill_protocol::auth::{Answer, Hello, KEY_BYTES, Key, Proof, Role, Server};
use tidemill_protocol::{AgentSays, Frames, WorkerId, WorkerSays, frame};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::metadata::ArtifactStore;
use crate::service::{Leadership, PeerEvent};

/// From the connection to the first message.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// T4.
const GREETING_BYTES_MAX: usize = 16 << 10;
/// When the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What connections share.
pub(crate) struct Control {
    pub(crate) secret: Key,
    pub(crate) artifacts: Arc<dyn ArtifactStore>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) events: mpsc::Sender<PeerEvent>,
    pub(crate) connections: usize,
    pub(crate) heartbeat: Duration,
}

/// Number of a connection, for telling a peer's new one from its old one.
pub(crate) type ConnectionId = u64;

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Random bytes.
fn chance() -> std::io::Result<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok(bytes)
}

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, control: Arc<Control>) {
    let free = Arc::new(Semaphore::new(control.connections));
    // The semaphore is never closed.
    while let Ok(place) = free.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let control = control.clone();
                tokio::spawn(async move {
                    if let Err(e) = control.welcome(stream).await {
                        debug!("control connection of {peer}: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                warn!("no control connection is accepted: {e}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whom a connection turned out to belong to.
enum Peer {
    Agent(AgentSays),
    Worker(WorkerId, WorkerSays),
    Artifact(tidemill_protocol::ArtifactRequest),
}

impl Control {
    async fn welcome(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut frames = Frames::default();
        let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no handshake within 5 s");
        let Some(peer) =
            timeout(HANDSHAKE, self.greet(&mut stream, &mut frames)).await.map_err(late)??
        else {
            return Ok(());
        };
        let id = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        match peer {
            Peer::Artifact(request) => artifact::send(&*self.artifacts, stream, &request).await,
            Peer::Agent(register) => link::agent(self, id, stream, frames, register).await,
            Peer::Worker(worker, attach) => {
                link::worker(self, id, stream, frames, worker, attach).await
            }
        }
    }

    /// T1. `None` where the peer was refused.
    async fn greet(
        &self,
        stream: &mut TcpStream,
        frames: &mut Frames,
    ) -> std::io::Result<Option<Peer>> {
        let hello: Hello = read_small(stream, frames).await?;
        let leadership = self.leadership.borrow().clone();
        if let Leadership::Following { leader } = leadership {
            frame::write_async(stream, &Answer::NotLeader { leader }).await?;
            return Ok(None);
        }
        let refuse = |reason: String| Answer::Refused { reason };
        let server = match Server::new(&self.secret, &hello, chance()?) {
            Ok(server) => server,
            Err(e) => {
                warn!("a control connection is refused: {e}");
                frame::write_async(stream, &refuse(e.to_string())).await?;
                return Ok(None);
            }
        };
        frame::write_async(stream, server.challenge()).await?;
        let proof: Proof = read_small(stream, frames).await?;
        let role = match server.on_proof(&proof) {
            Ok(role) => role,
            Err(e) => {
                warn!("a control connection is refused: {e}");
                frame::write_async(stream, &refuse(e.to_string())).await?;
                return Ok(None);
            }
        };
        frame::write_async(stream, &Answer::Welcome).await?;
        let odd = || std::io::Error::other("its first message is none that opens a connection");
        match role {
            Role::Agent => match frame::read_async(stream, frames).await? {
                Some(register @ AgentSays::Register { .. }) => Ok(Some(Peer::Agent(register))),
                _ => Err(odd()),
            },
            Role::Worker(id) => match frame::read_async(stream, frames).await? {
                Some(attach @ WorkerSays::Attach { .. }) => Ok(Some(Peer::Worker(id, attach))),
                _ => Err(odd()),
            },
            Role::Artifact => read_small(stream, frames).await.map(|r| Some(Peer::Artifact(r))),
        }
    }
}

/// Reads a message of a peer that nobody trusts yet (T4).
async fn read_small<T: DeserializeOwned>(
    stream: &mut TcpStream,
    frames: &mut Frames,
) -> std::io::Result<T> {
    use tokio::io::AsyncReadExt;
    let mut piece = [0; 4 << 10];
    loop {
        if let Some(message) = frames.take()? {
            return Ok(message);
        }
        if frames.pending() > GREETING_BYTES_MAX {
            return Err(std::io::Error::other("its greeting is too long: not a Tidemill peer"));
        }
        match stream.read(&mut piece).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => frames.push(&piece[..n]),
        }
    }
}
