//! A JobManager as far as an agent sees one, in the test's hands.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemill_protocol::auth::{Answer, Hello, Key, Proof, Role, Server};
use tidemill_protocol::{
    AgentSays, ArtifactHash, ArtifactRequest, ExitStatus, Frames, JobId, StartWorker, ToAgent,
    WorkerId, frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn secret() -> Key {
    Key::from_secret("a secret of tests")
}

/// How a file is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serve {
    Whole,
    Damaged,
    CutShort,
}

#[derive(Clone, Default)]
pub(crate) struct Files(Arc<Mutex<Served>>, Arc<AtomicU32>);

type Served = HashMap<ArtifactHash, (Vec<u8>, Serve)>;

impl Files {
    pub(crate) fn add(&self, bytes: impl AsRef<[u8]>, how: Serve) -> ArtifactHash {
        let bytes = bytes.as_ref().to_vec();
        let hash = ArtifactHash::from_bytes(Sha256::digest(&bytes).into());
        self.0.lock().unwrap().insert(hash.clone(), (bytes, how));
        hash
    }

    /// A shell script.
    pub(crate) fn script(&self, text: &str) -> ArtifactHash {
        self.add(format!("#!/bin/sh\n{text}\n"), Serve::Whole)
    }

    /// How often a file was asked for.
    pub(crate) fn fetches(&self) -> u32 {
        self.1.load(Ordering::SeqCst)
    }

    async fn serve(&self, mut stream: TcpStream, mut frames: Frames) {
        let request: ArtifactRequest = read(&mut stream, &mut frames).await.unwrap();
        self.1.fetch_add(1, Ordering::SeqCst);
        let known = self.0.lock().unwrap().get(&request.artifact).cloned();
        let Some((mut bytes, how)) = known else { return };
        tokio::time::sleep(Duration::from_millis(30)).await;
        stream.write_u64_le(bytes.len() as u64).await.unwrap();
        match how {
            Serve::Whole => {}
            Serve::Damaged => bytes[0] ^= 1,
            Serve::CutShort => bytes.truncate(bytes.len() / 2),
        }
        let _ = stream.write_all(&bytes).await;
    }
}

pub(crate) async fn read<T: DeserializeOwned>(
    stream: &mut TcpStream,
    frames: &mut Frames,
) -> Option<T> {
    let mut piece = vec![0; 4096];
    loop {
        if let Some(message) = frames.take().unwrap() {
            return Some(message);
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => frames.push(&piece[..n]),
        }
    }
}

pub(crate) async fn write<T: Serialize>(stream: &mut TcpStream, message: &T) {
    // A peer that is gone is noticed by reading.
    let _ = stream.write_all(&frame::encode(message).unwrap()).await;
}

/// Listens; hands out agents that have registered.
pub(crate) struct FakeJobManager {
    pub(crate) address: String,
    pub(crate) files: Files,
    agents: mpsc::UnboundedReceiver<Registered>,
}

impl FakeJobManager {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell, agents) = mpsc::unbounded_channel();
        let files = Files::default();
        let served = files.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(greet(stream, served.clone(), tell.clone()));
            }
        });
        FakeJobManager { address, files, agents }
    }

    /// The next agent that registers, told to keep all its workers.
    pub(crate) async fn agent(&mut self) -> Registered {
        let mut agent = self.silent_agent().await;
        let AgentSays::Register { workers, .. } = &agent.register else { panic!("A1") };
        let keep = workers.iter().map(|w| w.worker.clone()).collect();
        agent.say(ToAgent::Registered { heartbeat_ms: 100, keep }).await;
        agent
    }

    /// The next agent that registers, not answered yet.
    pub(crate) async fn silent_agent(&mut self) -> Registered {
        timeout(PATIENCE, self.agents.recv()).await.expect("an agent registers").unwrap()
    }

    /// Whether an agent registers within the time.
    pub(crate) async fn hears_within(&mut self, time: Duration) -> bool {
        timeout(time, self.agents.recv()).await.is_ok()
    }
}

async fn greet(mut stream: TcpStream, files: Files, tell: mpsc::UnboundedSender<Registered>) {
    let mut frames = Frames::default();
    let Some(hello) = read::<Hello>(&mut stream, &mut frames).await else { return };
    let server = Server::new(&secret(), &hello, [9; 32]).unwrap();
    write(&mut stream, server.challenge()).await;
    let Some(proof) = read::<Proof>(&mut stream, &mut frames).await else { return };
    let Ok(role) = server.on_proof(&proof) else {
        return write(&mut stream, &Answer::Refused { reason: "wrong".into() }).await;
    };
    write(&mut stream, &Answer::Welcome).await;
    if role == Role::Artifact {
        return files.serve(stream, frames).await;
    }
    let Some(register) = read(&mut stream, &mut frames).await else { return };
    let _ = tell.send(Registered { stream, frames, register });
}

/// Answers every connection with the leader's address.
pub(crate) async fn start_follower(leader: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _hello: Option<Hello> = read(&mut stream, &mut Frames::default()).await;
            write(&mut stream, &Answer::NotLeader { leader: Some(leader.clone()) }).await;
        }
    });
    address
}

/// A connection to an agent.
pub(crate) struct Registered {
    stream: TcpStream,
    frames: Frames,
    pub(crate) register: AgentSays,
}

impl Registered {
    pub(crate) async fn say(&mut self, message: ToAgent) {
        write(&mut self.stream, &message).await;
    }

    /// The next message that is no heartbeat; `None`: the agent has closed the connection.
    pub(crate) async fn hear_any(&mut self) -> Option<AgentSays> {
        loop {
            let next = read(&mut self.stream, &mut self.frames);
            match timeout(PATIENCE, next).await.expect("the agent says something") {
                Some(AgentSays::Heartbeat { memory_bytes }) => assert!(memory_bytes > 0),
                other => return other,
            }
        }
    }

    pub(crate) async fn hear(&mut self) -> AgentSays {
        self.hear_any().await.expect("the agent is there")
    }

    /// Starts a worker; its process id.
    pub(crate) async fn start(&mut self, start: StartWorker) -> u32 {
        self.say(ToAgent::Start(start.clone())).await;
        match self.hear().await {
            AgentSays::Started { worker, pid } if worker == start.worker => pid,
            other => panic!("{other:?}"),
        }
    }

    /// The next message, which tells of a worker's end.
    pub(crate) async fn exit(&mut self) -> (WorkerId, ExitStatus, String) {
        match self.hear().await {
            AgentSays::Exited { worker, status, last_words } => (worker, status, last_words),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn worker(number: u32) -> WorkerId {
    WorkerId { job: JobId::from_bytes([0xab; 16]), number }
}

pub(crate) fn start(number: u32, artifact: &ArtifactHash, slots: u32) -> StartWorker {
    StartWorker {
        worker: worker(number),
        job_name: "a job".into(),
        artifact: artifact.clone(),
        args: vec!["--input".into(), "a b".into()],
        parallelism: Some(3),
        slots,
    }
}

/// Whether a process is there; a zombie is not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|s| !s.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}

/// Waits until a process is gone.
pub(crate) async fn gone(pid: u32) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "real processes are waited for")]
    let start = std::time::Instant::now();
    while runs(pid) {
        assert!(start.elapsed() < PATIENCE, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}
