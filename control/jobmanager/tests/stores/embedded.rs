//! Metadata in a file: the contract, processes that are killed, and files that are not what they should be.

use std::fs;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tidemill_jobmanager::MetadataStore;
use tidemill_jobmanager::metadata::{Change, EmbeddedMetadata, JobRecord, Lead, MetadataError};
use tokio::time::{Instant, sleep};

use crate::contract::{self, PATIENCE, Place, elect, job, status};
use crate::rows::job_id;

struct FilePlace {
    dir: TempDir,
    /// Handed out clones are candidates, too.
    open: EmbeddedMetadata,
}

fn path_in(dir: &TempDir) -> PathBuf {
    dir.path().join("deep/metadata.redb")
}

impl FilePlace {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let open = EmbeddedMetadata::open(&path_in(&dir)).unwrap();
        FilePlace { dir, open }
    }
}

impl Place for FilePlace {
    type Store = EmbeddedMetadata;

    async fn candidate(&self) -> EmbeddedMetadata {
        self.open.clone()
    }

    async fn abandon(&self, leader: EmbeddedMetadata) {
        drop(leader);
    }

    async fn reopen(self) -> Self {
        let FilePlace { dir, open } = self;
        drop(open);
        let open = opened_when_free(&path_in(&dir)).await;
        FilePlace { dir, open }
    }
}

/// Work that nobody waits for any more may hold the file for a moment.
async fn opened_when_free(path: &Path) -> EmbeddedMetadata {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match EmbeddedMetadata::open(path) {
            Ok(store) => return store,
            Err(e) => assert!(e.to_string().contains("in use") && Instant::now() < deadline, "{e}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn contract() {
    contract::run(|| async { FilePlace::new() });
}

const WRITER: &str = "TIDEMILL_TEST_WRITES_TO";

/// What the killed process does; not a test where it is not told to be one.
#[test]
fn process_that_writes_until_killed() {
    let Some(path) = std::env::var_os(WRITER) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = EmbeddedMetadata::open(Path::new(&path)).unwrap();
    runtime.block_on(async {
        let Ok(Lead::Mine { term }) = store.campaign("me:1").await else { panic!("not elected") };
        let mut next = numbers(&store.load(term).await.unwrap()).last().map_or(0, |n| n + 1);
        store.write(term, &[job(1), job(2)]).await.unwrap();
        println!("term {term}");
        loop {
            // Each write has a row for both jobs.
            store.write(term, &[status(1, next), status(2, next)]).await.unwrap();
            println!("wrote {next}");
            next += 1;
        }
    });
}

/// The numbers of both jobs' rows, which are the same.
fn numbers(jobs: &[JobRecord]) -> Vec<u64> {
    let of = |job: &JobRecord| job.statuses.iter().map(|s| s.number).collect::<Vec<_>>();
    let Some(first) = jobs.first() else { return Vec::new() };
    let numbers = of(first);
    jobs.iter().for_each(|job| assert_eq!(of(job), numbers, "half of a write"));
    numbers
}

fn writer(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::process_that_writes_until_killed", "--nocapture"])
        .env(WRITER, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_process_killed_while_it_writes_loses_nothing_that_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let (mut last_term, mut acknowledged) = (0, None);
    for round in 0..8u64 {
        let mut child = writer(&path);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed at some moment after a number of writes, while the next one is under way.
        let (mut writes, killed_after) = (0, round * 3 + 1);
        for line in lines.map_while(Result::ok) {
            if let Some(term) = line.strip_prefix("term ") {
                let term = term.parse::<u64>().unwrap();
                assert!(term > last_term, "{term} > {last_term}");
                last_term = term;
            }
            if let Some(number) = line.strip_prefix("wrote ") {
                acknowledged = Some(number.parse::<u64>().unwrap());
                writes += 1;
                if writes == killed_after {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(writes >= killed_after, "the process ended by itself after {writes} writes");
        let store = EmbeddedMetadata::open(&path).unwrap();
        let term = elect(&store, "me:1").await;
        assert!(term > last_term, "{term} > {last_term}");
        last_term = term;
        let kept = numbers(&store.load(term).await.unwrap());
        assert!(kept.iter().copied().eq(0..kept.len() as u64), "{kept:?}");
        let (kept, acknowledged) = (kept.len() as u64, acknowledged.unwrap() + 1);
        // One more may have been written and not told.
        assert!((acknowledged..=acknowledged + 1).contains(&kept), "{kept} of {acknowledged}");
    }
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_second_process_gets_a_clear_error() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let mut child = writer(&path);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let open = lines.any(|line| line.is_ok_and(|l| l.starts_with("wrote")));
    let error = EmbeddedMetadata::open(&path).map(|_| ());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(open);
    let error = error.unwrap_err().to_string();
    for part in [&*path.display().to_string(), "in use by another process", "PostgreSQL"] {
        assert!(error.contains(part), "{error}");
    }
    EmbeddedMetadata::open(&path).unwrap();
}

fn refused(path: &Path, parts: &[&str]) {
    let error = EmbeddedMetadata::open(path).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    for part in parts {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn files_that_are_something_else_are_refused_and_left_as_they_are() {
    let dir = TempDir::new().unwrap();
    let note = dir.path().join("note");
    fs::write(&note, "a note, ".repeat(10_000)).unwrap();
    refused(&note, &["is not a metadata file of Tidemill"]);
    assert_eq!(fs::read_to_string(&note).unwrap(), "a note, ".repeat(10_000));
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    refused(&empty, &["is not a metadata file of Tidemill"]);
    let other = dir.path().join("other.redb");
    let table: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("theirs");
    let database = redb::Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    refused(&other, &["is not a metadata file of Tidemill"]);
    refused(dir.path(), &["give one that can be written"]);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    drop(EmbeddedMetadata::open(&path).unwrap());
    let table: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("tidemill");
    let database = redb::Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    refused(&path, &["has format 2", "knows format 1", "use the version that wrote it"]);
}

#[tokio::test]
async fn damage_anywhere_is_an_error_or_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let store = EmbeddedMetadata::open(&path).unwrap();
    let term = elect(&store, "me:1").await;
    let all: Vec<Change> =
        (1..30).flat_map(|n| [job(n), status(n, 1), status(n, 2), status(n, 3)]).collect();
    store.write(term, &all).await.unwrap();
    let kept = store.load(term).await.unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut told = 0;
    // Each place of a part of the file; the parts together are all of it.
    for at in (0..whole.len()).step_by(whole.len() / 97) {
        fs::write(&path, &whole).unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[whole[at] ^ 0x55, whole.get(at + 1).copied().unwrap_or(0) ^ 0xaa])
            .unwrap();
        drop(file);
        match EmbeddedMetadata::open(&path) {
            Err(e) => {
                let text = e.to_string();
                assert!(text.contains(&path.display().to_string()), "{at}: {text}");
                told += 1;
            }
            Ok(store) => {
                let term = elect(&store, "me:1").await;
                assert_eq!(store.load(term).await.unwrap(), kept, "byte {at}");
            }
        }
    }
    assert!(told > 5, "{told} damages were told");
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(&path, &[]);
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_does_not_overtake() {
    let place = FilePlace::new();
    let store = place.candidate().await;
    let term = elect(&store, "me:1").await;
    store.write(term, &[job(1)]).await.unwrap();
    for round in 0..20u64 {
        let older = [Change::ForgetJob(job_id(2)), status(1, round)];
        // Given up at once, like the recorder gives up what takes too long.
        let _ = tokio::time::timeout(Duration::from_micros(round * 50), store.write(term, &older))
            .await;
        store.write(term, &[job(2)]).await.unwrap();
        assert_eq!(store.load(term).await.unwrap().len(), 2, "the older one came after the newer");
    }
}

/// A file system of a few MiB in memory; `None`, with the reason on stderr, where mounting is not allowed.
struct Tiny(TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(dir.path())
            .output()
            .unwrap();
        if !mounted.status.success() {
            let text = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
            eprintln!("skipped: a full disk needs a mounted tmpfs (run as root): {text}");
            return None;
        }
        Some(Tiny(dir))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let Some(tiny) = Tiny::mount() else { return };
    let path = tiny.0.path().join("metadata.redb");
    let store = EmbeddedMetadata::open(&path).unwrap();
    let term = elect(&store, "me:1").await;
    store.write(term, &[job(1)]).await.unwrap();
    let ballast = tiny.0.path().join("ballast");
    let left = (4 << 20) - fs::metadata(&path).unwrap().len() as usize - (64 << 10);
    fs::write(&ballast, vec![1; left]).unwrap();
    let mut number = 0;
    let failed = loop {
        match store.write(term, &[job(2), status(1, number), status(2, number)]).await {
            Ok(()) => number += 1,
            Err(e) => break e,
        }
        assert!(number < 10_000, "the disk does not fill");
    };
    let passing =
        |e: &MetadataError| matches!(e, MetadataError::Unavailable(_) | MetadataError::InDoubt(_));
    assert!(passing(&failed), "{failed}");
    assert!(failed.to_string().contains("metadata.redb"), "{failed}");
    fs::remove_file(ballast).unwrap();
    // The same again, as the recorder does.
    store.write(term, &[job(2), status(1, number), status(2, number)]).await.unwrap();
    let jobs = store.load(term).await.unwrap();
    assert!(numbers(&jobs).iter().copied().eq(0..=number), "{number}: {jobs:?}");
}
