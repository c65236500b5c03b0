//! Program files in a directory: the contract, and what crashes and foreign files do to it.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tidemill_jobmanager::ArtifactStore;
use tidemill_jobmanager::metadata::DirArtifacts;

use crate::artifacts::{self, Shelf, file_of, get, hash_of, put};

struct Dir {
    dir: TempDir,
    store: DirArtifacts,
}

impl Shelf for Dir {
    type Store = DirArtifacts;

    fn store(&self) -> DirArtifacts {
        self.store.clone()
    }

    async fn reopen(self) -> Self {
        open(self.dir)
    }
}

fn open(dir: TempDir) -> Dir {
    let store = DirArtifacts::open(&dir.path().join("deep/artifacts")).unwrap();
    Dir { dir, store }
}

impl Dir {
    fn path(&self) -> PathBuf {
        self.dir.path().join("deep/artifacts")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn contract() {
    artifacts::run(|| async { open(TempDir::new().unwrap()) });
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_what_is_being_stored_is_not() {
    let dir = open(TempDir::new().unwrap());
    put(&dir.store, b"a program").await;
    let name = hash_of(b"a program").to_string();
    assert_eq!(dir.names(), [name.as_str()], "nothing but the file");
    fs::write(dir.path().join(".put-left"), b"half a pro").unwrap();
    let busy = fs::File::create(dir.path().join(".put-busy")).unwrap();
    busy.lock().unwrap();
    let dir = dir.reopen().await;
    assert_eq!(dir.names(), [".put-busy", name.as_str()]);
    drop(busy);
    let dir = dir.reopen().await;
    assert_eq!(dir.names(), [name.as_str()]);
    assert_eq!(get(&dir.store, &hash_of(b"a program")).await.unwrap(), b"a program");
}

#[tokio::test]
async fn a_file_that_does_not_hash_to_its_name_is_refused_and_damage_is_healed() {
    let dir = open(TempDir::new().unwrap());
    let hash = hash_of(b"what was uploaded");
    let other = file_of(b"what is there now");
    let error = dir.store.put(&hash, other.path()).await.unwrap_err().to_string();
    for part in [hash.as_str(), hash_of(b"what is there now").as_str(), "deep/artifacts"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(dir.names().is_empty(), "{:?}", dir.names());
    put(&dir.store, b"what was uploaded").await;
    fs::write(dir.path().join(hash.as_str()), b"damaged").unwrap();
    put(&dir.store, b"what was uploaded").await;
    assert_eq!(get(&dir.store, &hash).await.unwrap(), b"what was uploaded");
}

#[tokio::test]
async fn foreign_files_are_left_alone_and_not_listed() {
    let dir = open(TempDir::new().unwrap());
    fs::write(dir.path().join("README"), b"a note").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    assert_eq!(dir.store.list().await.unwrap(), []);
    let dir = dir.reopen().await;
    assert_eq!(dir.names(), ["README", "folder"]);
}

#[test]
fn a_place_that_is_no_directory_is_refused_by_name() {
    let file = file_of(b"x");
    let error = DirArtifacts::open(file.path()).unwrap_err().to_string();
    assert!(error.contains(&file.path().display().to_string()), "{error}");
    assert!(error.contains("give one that can be written"), "{error}");
}
