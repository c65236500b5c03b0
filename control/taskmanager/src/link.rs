//! Connections to the JobManager: the one that carries messages, made anew for ever, and those that
//! carry artifacts.
//!
//! ```text
//!   Down --connect, handshake--> Up --end, error, silence--> Down --backoff--> ...
//! ```
//! Invariants
//!   N1  Of each `Up` that the agent hears, it hears exactly one `Down` before the next.
//!   N2  A JobManager that says nothing for the timeout is given up.

use crate::agent::Event;
use serde::de::DeserializeOwned;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tidemill_protocol::auth::{Answer, AuthError, Client, KEY_BYTES, Key, Role};
use tidemill_protocol::{AgentSays, Frames, ToAgent, frame};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// A connection that is not made and authenticated by then is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Hops from one JobManager to the leader that it names.
const HOPS_MAX: usize = 3;
/// Messages that wait for the connection.
const OUTBOX: usize = 1024;
const BACKOFF_MIN_MS: u64 = 100;
const BACKOFF_MAX_MS: u64 = 5_000;

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Auth(#[from] AuthError),
}

/// Random bytes.
pub(crate) fn chance<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(bytes)
}

/// Knows where JobManagers are and how to prove oneself.
#[derive(Debug)]
pub(crate) struct Connector {
    addresses: Vec<String>,
    secret: Key,
    /// Where the last connection was made.
    leader: Mutex<Option<String>>,
}

impl Connector {
    pub(crate) fn new(addresses: Vec<String>, secret: Key) -> Self {
        Connector { addresses, secret, leader: Mutex::new(None) }
    }

    /// A connection to the leader: where it was last, at each address of the list, and where those
    /// that do not lead say.
    ///
    /// # Errors
    /// What each of them said.
    pub(crate) async fn connect(&self, role: &Role) -> Result<(TcpStream, Frames), String> {
        let mut said = Vec::new();
        let known = self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let others = self.addresses.iter().filter(|a| Some(*a) != known.as_ref()).cloned();
        for first in known.iter().cloned().chain(others) {
            let mut address = first;
            for _ in 0..HOPS_MAX {
                match self.connect_to(&address, role).await {
                    Ok(connection) => {
                        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
                        *leader = Some(address);
                        return Ok(connection);
                    }
                    Err(error) => {
                        said.push(format!("{address}: {error}"));
                        match error {
                            LinkError::Auth(AuthError::NotLeader(Some(leader))) => address = leader,
                            _ => break,
                        }
                    }
                }
            }
        }
        Err(said.join("; "))
    }

    async fn connect_to(
        &self,
        address: &str,
        role: &Role,
    ) -> Result<(TcpStream, Frames), LinkError> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s");
        timeout(CONNECT_TIMEOUT, self.handshake(address, role)).await.map_err(late)?
    }

    async fn handshake(
        &self,
        address: &str,
        role: &Role,
    ) -> Result<(TcpStream, Frames), LinkError> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let client = Client::new(role.key(&self.secret), role.clone(), chance::<KEY_BYTES>()?);
        let mut frames = Frames::default();
        frame::write_async(&mut stream, client.hello()).await?;
        let answer: Answer = read_some(&mut stream, &mut frames).await?;
        let proof = client.on_challenge(&answer)?;
        frame::write_async(&mut stream, &proof).await?;
        let verdict: Answer = read_some(&mut stream, &mut frames).await?;
        client.on_verdict(&verdict)?;
        Ok((stream, frames))
    }
}

async fn read_some<T: DeserializeOwned>(
    stream: &mut TcpStream,
    frames: &mut Frames,
) -> io::Result<T> {
    let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed");
    frame::read_async(stream, frames).await?.ok_or_else(ended)
}

/// Connects for ever; ends when nobody hears the events any more.
pub(crate) async fn keep(connector: &Connector, events: &mpsc::Sender<Event>, silence: Duration) {
    let mut backoff_ms = BACKOFF_MIN_MS;
    let mut lost = true;
    loop {
        match connector.connect(&Role::Agent).await {
            Ok((stream, frames)) => {
                (backoff_ms, lost) = (BACKOFF_MIN_MS, false);
                info!("connected to the JobManager");
                let reason = match session(stream, frames, events, silence).await {
                    Ok(()) => "it closed the connection".to_owned(),
                    Err(e) => e.to_string(),
                };
                warn!("the JobManager is gone: {reason}; workers go on, looking for it");
                if events.send(Event::Down).await.is_err() {
                    return;
                }
            }
            Err(said) if lost => debug!("no JobManager: {said}"),
            Err(said) => {
                warn!("no JobManager, trying on: {said}");
                lost = true;
            }
        }
        if events.is_closed() {
            return;
        }
        // Agents of one cluster do not come back all at once.
        let spread = u64::from(chance::<2>().map_or(0, u16::from_le_bytes)) * backoff_ms / 131_072;
        sleep(Duration::from_millis(backoff_ms / 2 + spread)).await;
        backoff_ms = (backoff_ms * 2).min(BACKOFF_MAX_MS);
    }
}

async fn session(
    stream: TcpStream,
    mut frames: Frames,
    events: &mpsc::Sender<Event>,
    silence: Duration,
) -> io::Result<()> {
    let local: IpAddr = stream.local_addr()?.ip();
    let (mut reader, mut writer) = stream.into_split();
    let (outbox, mut waiting) = mpsc::channel::<AgentSays>(OUTBOX);
    let gone = |_| io::Error::other("the agent ends");
    events.send(Event::Up { outbox, local }).await.map_err(gone)?;
    let write_all = async {
        while let Some(message) = waiting.recv().await {
            frame::write_async(&mut writer, &message).await?;
        }
        Ok(())
    };
    let read_all = async {
        loop {
            let silent = |_| io::Error::other(format!("silent for {} ms", silence.as_millis()));
            match timeout(silence, frame::read_async::<ToAgent>(&mut reader, &mut frames))
                .await
                .map_err(silent)?
            {
                Ok(Some(message)) => events.send(Event::Message(message)).await.map_err(gone)?,
                Ok(None) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    };
    tokio::select! { end = write_all => end, end = read_all => end }
}
