//! A connection of an agent or a worker after its handshake: one half reads, one writes.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_protocol::{AgentSays, Frames, ToAgent, ToWorker, WorkerId, WorkerSays, frame};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{ConnectionId, Control};
use crate::service::PeerEvent;

/// Messages that wait for a peer (T3).
const OUTBOX: usize = 1_024;
/// A message that is not written by then ends the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends to a peer; the connection ends with it.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    /// Of which connection.
    pub(crate) connection: ConnectionId,
    sender: mpsc::Sender<T>,
}

impl<T> Outbox<T> {
    /// Puts a message behind those that wait. False: the peer is gone, or does not read (T3).
    pub(crate) fn send(&self, message: T) -> bool {
        self.sender.try_send(message).is_ok()
    }
}

pub(super) async fn agent(
    control: &Control,
    connection: ConnectionId,
    stream: TcpStream,
    frames: Frames,
    register: AgentSays,
) -> io::Result<()> {
    let AgentSays::Register { agent, .. } = &register else { return Ok(()) };
    let agent = agent.clone();
    let (sender, waiting) = mpsc::channel(OUTBOX);
    let outbox = Outbox { connection, sender };
    let up = PeerEvent::AgentUp { register: Box::new(register), outbox };
    let said = {
        let agent = agent.clone();
        move |says| PeerEvent::AgentSaid { agent: agent.clone(), connection, says }
    };
    let session = Session { control, stream, frames, waiting, alive: ToAgent::Heartbeat };
    session.run(up, said, move |reason| PeerEvent::AgentDown { agent, connection, reason }).await
}

pub(super) async fn worker(
    control: &Control,
    connection: ConnectionId,
    stream: TcpStream,
    frames: Frames,
    id: WorkerId,
    attach: WorkerSays,
) -> io::Result<()> {
    let WorkerSays::Attach { worker, data_address, running, .. } = attach else { return Ok(()) };
    if worker != id {
        return Err(io::Error::other(format!("{id} says that it is {worker}")));
    }
    let (sender, waiting) = mpsc::channel(OUTBOX);
    let outbox = Outbox { connection, sender };
    let up = PeerEvent::WorkerUp { worker: id.clone(), address: data_address, running, outbox };
    let said = {
        let worker = id.clone();
        move |says| PeerEvent::WorkerSaid { worker: worker.clone(), connection, says }
    };
    let session = Session { control, stream, frames, waiting, alive: ToWorker::Heartbeat };
    session
        .run(up, said, move |reason| PeerEvent::WorkerDown { worker: id, connection, reason })
        .await
}

struct Session<'a, Out> {
    control: &'a Control,
    stream: TcpStream,
    frames: Frames,
    waiting: mpsc::Receiver<Out>,
    alive: Out,
}

impl<Out: Serialize> Session<'_, Out> {
    /// T2.
    async fn run<In: DeserializeOwned>(
        self,
        up: PeerEvent,
        said: impl Fn(In) -> PeerEvent,
        down: impl FnOnce(String) -> PeerEvent,
    ) -> io::Result<()> {
        let Session { control, stream, mut frames, waiting, alive } = self;
        let gone = |_| io::Error::other("the JobManager ends");
        control.events.send(up).await.map_err(gone)?;
        let (mut reader, writer) = stream.into_split();
        let read_all = async {
            while let Some(message) = frame::read_async::<In>(&mut reader, &mut frames).await? {
                control.events.send(said(message)).await.map_err(gone)?;
            }
            Ok::<_, io::Error>("it closed the connection")
        };
        let end = tokio::select! {
            end = read_all => end,
            end = write_all(writer, waiting, alive, control.heartbeat) => end,
        };
        let reason = match end {
            Ok(reason) => reason.to_owned(),
            Err(e) => e.to_string(),
        };
        control.events.send(down(reason)).await.map_err(gone)
    }
}

async fn write_all<Out: Serialize>(
    mut writer: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<Out>,
    alive: Out,
    heartbeat: Duration,
) -> io::Result<&'static str> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it does not read");
    let alive = frame::encode(&alive)?;
    let mut beat = interval(heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The answer to its first message goes first.
    beat.reset();
    loop {
        let bytes = tokio::select! {
            message = waiting.recv() => match message {
                Some(message) => frame::encode(&message)?,
                None => return Ok("the JobManager gave it up"),
            },
            _ = beat.tick() => alive.clone(),
        };
        timeout(WRITE_TIMEOUT, writer.write_all(&bytes)).await.map_err(late)??;
    }
}
