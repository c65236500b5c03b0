//! The contract of `ArtifactStore` (laws Z1, Z2): [`run`] it against an implementation.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tidemill_jobmanager::ArtifactStore;
use tidemill_protocol::ArtifactHash;
use tokio::io::AsyncReadExt as _;

/// An artifact store and what it keeps.
pub(crate) trait Shelf {
    type Store: ArtifactStore;

    /// The store, once more.
    fn store(&self) -> Self::Store;

    /// The same shelf as another process finds it.
    fn reopen(self) -> impl Future<Output = Self>;
}

pub(crate) fn hash_of(content: &[u8]) -> ArtifactHash {
    ArtifactHash::from_bytes(Sha256::digest(content).into())
}

pub(crate) fn file_of(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file.flush().unwrap();
    file
}

/// Stores a file under its hash.
pub(crate) async fn put(store: &impl ArtifactStore, content: &[u8]) -> ArtifactHash {
    let hash = hash_of(content);
    store.put(&hash, file_of(content).path()).await.unwrap();
    hash
}

/// Reads a file; its length is what was said.
pub(crate) async fn get(store: &impl ArtifactStore, hash: &ArtifactHash) -> Option<Vec<u8>> {
    let mut reader = store.open(hash).await.unwrap()?;
    let mut content = Vec::new();
    reader.content.read_to_end(&mut content).await.unwrap();
    assert_eq!(content.len() as u64, reader.bytes);
    Some(content)
}

/// Runs every case, each on a shelf of its own, which is empty.
pub(crate) fn run<S: Shelf, F: Future<Output = S>>(make: impl Fn() -> F) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let runtime = runtime.unwrap();
    runtime.block_on(async {
        println!("contract: what was put is there, whole, until deleted (Z1)");
        kept(make().await).await;
        println!("contract: doing it again is fine (Z2)");
        again(make().await).await;
        println!("contract: a put that fails leaves nothing (Z2)");
        failed(make().await).await;
        println!("contract: large files, several at once, the same file at once");
        together(make().await).await;
    });
    println!("contract: random steps and reopenings, against a map");
    random(&runtime, &make);
}

async fn kept<S: Shelf>(shelf: S) {
    let store = shelf.store();
    assert_eq!(store.list().await.unwrap(), []);
    assert!(store.open(&hash_of(b"none")).await.unwrap().is_none());
    let (one, empty) = (put(&store, b"one").await, put(&store, b"").await);
    let mut all = vec![one.clone(), empty.clone()];
    all.sort();
    let mut listed = store.list().await.unwrap();
    listed.sort();
    assert_eq!(listed, all);
    drop(store);
    let shelf = shelf.reopen().await;
    let store = shelf.store();
    assert_eq!(get(&store, &one).await.as_deref(), Some(&b"one"[..]));
    assert_eq!(get(&store, &empty).await.as_deref(), Some(&b""[..]));
    store.delete(&one).await.unwrap();
    assert_eq!(get(&store, &one).await, None);
    assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&empty));
    // Clones see the same.
    assert_eq!(shelf.store().list().await.unwrap(), [empty]);
}

async fn again<S: Shelf>(shelf: S) {
    let store = shelf.store();
    let hash = put(&store, b"twice").await;
    assert_eq!(put(&store, b"twice").await, hash);
    assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&hash));
    assert_eq!(get(&store, &hash).await.as_deref(), Some(&b"twice"[..]));
    for _ in 0..2 {
        store.delete(&hash).await.unwrap();
        assert_eq!(store.list().await.unwrap(), []);
    }
    put(&store, b"twice").await;
    assert_eq!(get(&store, &hash).await.as_deref(), Some(&b"twice"[..]));
}

async fn failed<S: Shelf>(shelf: S) {
    let store = shelf.store();
    let hash = hash_of(b"x");
    let error = store.put(&hash, Path::new("/nonexistent/file")).await.unwrap_err();
    assert!(!error.to_string().is_empty());
    assert!(store.put(&hash, Path::new("/")).await.is_err(), "a directory is no program");
    assert_eq!(store.list().await.unwrap(), []);
    assert_eq!(get(&store, &hash).await, None);
}

async fn together<S: Shelf>(shelf: S) {
    // Beyond the parts that stores copy or upload by.
    let large: Vec<u8> =
        (0..11u32 << 20).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
    let small: Vec<Vec<u8>> = (0..8u8).map(|n| vec![n; usize::from(n) * 1_000 + 1]).collect();
    let (first, second, third) = (shelf.store(), shelf.store(), shelf.store());
    let file = file_of(&large);
    let hash = hash_of(&large);
    let others = async {
        for content in &small {
            put(&third, content).await;
        }
    };
    let (a, b, ()) =
        tokio::join!(first.put(&hash, file.path()), second.put(&hash, file.path()), others);
    a.unwrap();
    b.unwrap();
    assert!(get(&third, &hash).await.unwrap() == large);
    for content in &small {
        assert_eq!(get(&first, &hash_of(content)).await.as_ref(), Some(content));
    }
    assert_eq!(first.list().await.unwrap().len(), small.len() + 1);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    Reopen,
}

fn content_of(which: u8) -> Vec<u8> {
    vec![which; usize::from(which) * 300]
}

fn random<S: Shelf, F: Future<Output = S>>(
    runtime: &tokio::runtime::Runtime,
    make: &impl Fn() -> F,
) {
    let step = prop_oneof![
        4 => (0u8..6).prop_map(Step::Put),
        3 => (0u8..6).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ];
    let config = Config { cases: 16, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(step, 1..12), |steps| {
            runtime.block_on(async {
                let mut shelf = make().await;
                let mut oracle = BTreeMap::new();
                for step in steps {
                    match step {
                        Step::Put(which) => {
                            let content = content_of(which);
                            oracle.insert(put(&shelf.store(), &content).await, content);
                        }
                        Step::Delete(which) => {
                            let hash = hash_of(&content_of(which));
                            shelf.store().delete(&hash).await.unwrap();
                            oracle.remove(&hash);
                        }
                        Step::Reopen => shelf = shelf.reopen().await,
                    }
                    let mut listed = shelf.store().list().await.unwrap();
                    listed.sort();
                    assert!(listed.iter().eq(oracle.keys()), "{listed:?} {oracle:?}");
                }
                for (hash, content) in &oracle {
                    assert_eq!(get(&shelf.store(), hash).await.as_ref(), Some(content));
                }
            });
            Ok(())
        })
        .unwrap();
}
