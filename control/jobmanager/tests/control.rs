//! The control port: who gets in, and what a connection may do.

mod common;

use common::task_manager::{Connection, fetch};
use common::{Cluster, program, secret, with_task_managers};
use std::time::Duration;
use tidemill_protocol::auth::{Answer, Hello, Key, Role, job_key};
use tidemill_protocol::{ArtifactHash, Frames, JobId, ToWorker, WorkerId, WorkerSays, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn worker() -> WorkerId {
    WorkerId { job: JobId::from_bytes([7; 16]), number: 0 }
}

#[tokio::test]
async fn who_does_not_know_the_secret_is_refused() {
    let cluster = Cluster::start().await;
    let address = cluster.manager.control_address();
    for role in [Role::Agent, Role::Artifact] {
        let wrong = Connection::open(address, role.clone(), Key::from_secret("wrong")).await;
        assert!(wrong.err().is_some_and(|e| e.contains("cluster secret")));
        assert!(Connection::open(address, role, secret()).await.is_ok());
    }
    // A worker proves its job's key, not the secret, and not another job's.
    let role = Role::Worker(worker());
    assert!(Connection::open(address, role.clone(), secret()).await.is_err());
    let other = job_key(&secret(), &JobId::from_bytes([8; 16]));
    assert!(Connection::open(address, role.clone(), other).await.is_err());
    let own = job_key(&secret(), &worker().job);
    assert!(Connection::open(address, role, own).await.is_ok());
}

#[tokio::test]
async fn another_version_is_told_which() {
    let cluster = Cluster::start().await;
    let mut stream = TcpStream::connect(cluster.manager.control_address()).await.unwrap();
    let hello = Hello { version: 99, role: Role::Agent, nonce: [1; 32] };
    stream.write_all(&frame::encode(&hello).unwrap()).await.unwrap();
    let mut connection = Connection { stream, frames: Frames::default() };
    match connection.read::<Answer>().await {
        Some(Answer::Refused { reason }) => assert!(reason.contains("99"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(connection.read::<Answer>().await.is_none(), "it is closed");
}

#[tokio::test]
async fn a_long_greeting_is_cut_off() {
    let cluster = Cluster::start().await;
    let mut stream = TcpStream::connect(cluster.manager.control_address()).await.unwrap();
    // A frame of a length that is allowed later.
    stream.write_all(&(10u32 << 20).to_le_bytes()).await.unwrap();
    let mut sent = 0usize;
    while sent < 8 << 20 && stream.write_all(&[b' '; 64 << 10]).await.is_ok() {
        sent += 64 << 10;
    }
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(4), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "closed before the handshake's time was over");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_worker_of_no_job_is_ended() {
    let cluster = Cluster::start().await;
    let address = cluster.manager.control_address();
    let key = job_key(&secret(), &worker().job);
    let mut connection = Connection::open(address, Role::Worker(worker()), key).await.unwrap();
    let attach = WorkerSays::Attach {
        worker: worker(),
        pid: 1,
        data_address: "127.0.0.1:1".into(),
        running: None,
    };
    connection.write(&attach).await;
    assert_eq!(connection.read::<ToWorker>().await, Some(ToWorker::Shutdown));
    assert_eq!(connection.read::<ToWorker>().await, None);
}

#[tokio::test]
async fn a_worker_cannot_speak_for_another() {
    let cluster = Cluster::start().await;
    let key = job_key(&secret(), &worker().job);
    let address = cluster.manager.control_address();
    let mut connection = Connection::open(address, Role::Worker(worker()), key).await.unwrap();
    let other = WorkerId { number: 1, ..worker() };
    let data_address = "127.0.0.1:1".into();
    connection
        .write(&WorkerSays::Attach { worker: other, pid: 1, data_address, running: None })
        .await;
    assert_eq!(connection.read::<ToWorker>().await, None, "closed without a word");
}

#[tokio::test]
async fn programs_are_served_by_their_hash() {
    let (cluster, managers) = with_task_managers(1).await;
    cluster.run(&[]).await;
    cluster.until("its worker is started", |_| async { !managers[0].starts().is_empty() }).await;
    let artifact = managers[0].starts()[0].artifact.clone();
    let address = cluster.manager.control_address();
    assert_eq!(fetch(address, artifact).await, Some(program("a program")));
    assert_eq!(fetch(address, ArtifactHash::from_bytes([0; 32])).await, None);
}

#[tokio::test]
async fn a_jobmanager_that_does_not_lead_names_the_leader() {
    let leader = Cluster::start().await;
    let (dir, stores) = (leader.dir.clone(), leader.kept.stores().await);
    let other = tempfile::TempDir::new().unwrap();
    let mut config = tidemill_jobmanager::JobManagerConfig::new(other.path().to_owned(), secret());
    (config.rest_port, config.control_port) = (0, 0);
    let follower = tidemill_jobmanager::JobManager::start(config, stores).await.unwrap();
    let named = leader.manager.control_address().to_string();
    common::eventually("the leader is known", || async {
        let answer = common::request(follower.rest_address(), "GET", "/jobs", &[], b"").await;
        answer.refused(503);
        answer.json()["leader"] == named
    })
    .await;
    let refused = Connection::open(follower.control_address(), Role::Agent, secret()).await;
    assert!(refused.err().is_some_and(|e| e.contains(&named)));
    let health = common::request(follower.rest_address(), "GET", "/", &[], b"").await;
    assert_eq!(health.json()["role"], "follower");
    for path in ["/metrics", "/openapi.json"] {
        let answer = common::request(follower.rest_address(), "GET", path, &[], b"").await;
        assert_eq!(answer.status, 200);
    }
    // The leader leaves: the other takes over at once.
    leader.manager.stop().await;
    common::eventually("it leads", || async {
        let health = common::request(follower.rest_address(), "GET", "/", &[], b"").await;
        health.json()["role"] == "leader"
    })
    .await;
    drop(dir);
}
