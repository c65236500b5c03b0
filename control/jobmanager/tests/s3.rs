//! Programs and checkpoints in a bucket of a real server.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{Behaviour, Cluster, program, submission, task_managers};
use sha2::{Digest as _, Sha256};
use tidemill_jobmanager::ArtifactStore;
use tidemill_jobmanager::metadata::S3Artifacts;
use tidemill_protocol::{ArtifactHash, StoreSettings};
use tidemill_s3_testing::{ACCESS_KEY, BUCKET, Fault, SECRET_KEY, Server};
use tidemill_snapshot::{PART_BYTES_MIN, S3Credentials, S3Limits, S3Settings};
use tokio::io::AsyncReadExt as _;

fn settings(server: &Server, operation: Duration) -> S3Settings {
    S3Settings {
        endpoint: Some(server.endpoint()),
        path_style: true,
        credentials: Some(S3Credentials { id: ACCESS_KEY.into(), secret: SECRET_KEY.into() }),
        limits: S3Limits { part_bytes: PART_BYTES_MIN, ..S3Limits::within(operation) },
        ..S3Settings::new(BUCKET, "cluster")
    }
}

/// A file, its content and its hash.
fn file(length: usize, seed: u8) -> (tempfile::NamedTempFile, Vec<u8>, ArtifactHash) {
    let content: Vec<u8> = (0..length).map(|i| (i as u64 * 31 / 7) as u8 ^ seed).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    let hash = ArtifactHash::from_bytes(Sha256::digest(&content).into());
    (file, content, hash)
}

async fn read(store: &dyn ArtifactStore, hash: &ArtifactHash) -> Option<Vec<u8>> {
    let mut found = store.open(hash).await.unwrap()?;
    let mut content = Vec::new();
    found.content.read_to_end(&mut content).await.unwrap();
    assert_eq!(content.len() as u64, found.bytes);
    Some(content)
}

/// Z1 and Z2.
#[tokio::test]
async fn programs_are_there_whole_until_they_are_deleted() {
    let server = Server::start();
    let store = S3Artifacts::new(&settings(&server, Duration::from_secs(15))).unwrap();
    assert_eq!(store.list().await.unwrap(), []);
    let (large, large_content, large_hash) = file(PART_BYTES_MIN + 100_000, 1);
    let (small, small_content, small_hash) = file(1_000, 2);
    let (empty, empty_content, empty_hash) = file(0, 3);
    assert!(read(&store, &large_hash).await.is_none());
    store.delete(&large_hash).await.unwrap();
    for (file, content, hash) in [
        (&large, &large_content, &large_hash),
        (&small, &small_content, &small_hash),
        (&empty, &empty_content, &empty_hash),
    ] {
        for _ in 0..2 {
            store.put(hash, file.path()).await.unwrap();
            assert!(read(&store, hash).await.as_ref() == Some(content));
        }
    }
    let mut listed = store.list().await.unwrap();
    listed.sort();
    let mut all = vec![large_hash.clone(), small_hash.clone(), empty_hash.clone()];
    all.sort();
    assert_eq!(listed, all);
    // What is open stays readable to its end, or says that it does not; a reader that goes leaves nothing.
    drop(store.open(&large_hash).await.unwrap());
    for hash in &all {
        store.delete(hash).await.unwrap();
        store.delete(hash).await.unwrap();
    }
    assert_eq!(store.list().await.unwrap(), []);
    assert_eq!(server.open_uploads(), Vec::<String>::new());
}

#[tokio::test]
async fn a_server_that_fails_is_named_in_time_and_leaves_nothing_torn() {
    let server = Server::start();
    let store = S3Artifacts::new(&settings(&server, Duration::from_secs(6))).unwrap();
    let (file, content, hash) = file(PART_BYTES_MIN + 1, 1);
    // The second part hangs: the upload is given up.
    server.fail(|seen| match seen.query.contains("partNumber=2") {
        true => Fault::Hang,
        false => Fault::None,
    });
    let put = tokio::time::timeout(Duration::from_secs(60), store.put(&hash, file.path()));
    let error = put.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("s3://tidemill/cluster/artifacts/") && error.contains("in time"),
        "{error}"
    );
    assert!(read(&store, &hash).await.is_none());
    // Cut in the middle of the content, it is read again from there.
    server.heal();
    store.put(&hash, file.path()).await.unwrap();
    let mut n = 0;
    server.fail(move |seen| {
        n += u32::from(seen.method == "GET");
        if seen.method == "GET" && n % 2 == 1 { Fault::CutBody } else { Fault::None }
    });
    assert!(read(&store, &hash).await == Some(content));
    // Cut for good, the reader says so: it is not taken for the end.
    server.fail(|seen| match seen.method == "GET" {
        true => Fault::CutBody,
        false => Fault::None,
    });
    let mut found = store.open(&hash).await.unwrap().unwrap();
    let error = found.content.read_to_end(&mut Vec::new()).await.unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
}

#[tokio::test]
async fn a_program_that_cannot_open_the_bucket_is_refused_at_submission() {
    let bucket = StoreSettings::S3 {
        bucket: BUCKET.into(),
        prefix: "cluster/".into(),
        endpoint: None,
        region: None,
        path_style: true,
    };
    let cluster = Cluster::with(|config| config.checkpoints = bucket).await;
    // Its program says that it opens directories.
    let plans = Behaviour::planning(|_| Some(Ok(submission(2, None))));
    let _managers = task_managers(&cluster, 1, plans);
    cluster
        .until("it registered", |c| async move {
            c.get("/cluster/metrics").await.json()["active_task_managers"] == 1
        })
        .await;
    let file = program("x");
    let detail = cluster.submit(&[("job_file", &file)]).await.refused(422);
    for part in ["bucket 'tidemill'", "feature 's3'", "cargo build --features tidemill/s3"] {
        assert!(detail.contains(part), "{detail}");
    }
    cluster.until("nothing is left", |c| async move { c.artifacts().await == 0 }).await;
}
