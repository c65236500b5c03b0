//! Where a job starts from.

use crate::bomb::Bomb;
use crate::common::{Dir, assert_same, counted, counting, env, numbers, sorted};
use tidemill::Env;
use tidemill::connectors::CollectSink;

const TOTAL: u64 = 2_000;

fn job(bomb: Bomb, rate: f64, sink: &CollectSink<(u64, u64)>) -> Env {
    let env = env("started", 2);
    counting(numbers(&env, TOTAL, rate, &bomb), &bomb, sink);
    env
}

#[test]
fn a_fresh_start_among_checkpoints_is_refused_with_the_remedy() {
    let (dir, sink) = (Dir::new(), CollectSink::new());
    dir.run(&job(Bomb::dud(), 1e6, &sink), &[]).unwrap();
    sink.take();
    let before = dir.checkpoints();
    let error = dir.run(&job(Bomb::dud(), 1e6, &sink), &[]).unwrap_err().to_string();
    let root = dir.path().to_str().unwrap();
    for part in [root, "--restore latest", "empty --checkpoint-dir"] {
        assert!(error.contains(part), "{part} in: {error}");
    }
    assert_eq!(dir.checkpoints(), before);
    assert!(sink.take().is_empty(), "it did not start");
}

#[test]
fn latest_of_an_empty_or_missing_directory_is_a_fresh_start() {
    let dir = Dir::new();
    let missing = dir.path().join("not/yet");
    for root in [dir.path(), &missing] {
        let sink = CollectSink::new();
        let flags = ["--checkpoint-dir", root.to_str().unwrap(), "--restore", "latest"];
        let summary = job(Bomb::dud(), 1e6, &sink).execute_with(&flags).unwrap();
        assert_eq!(summary.restored, None);
        assert_same("fresh", &sorted(&sink), &counted(TOTAL));
    }
    let sink = CollectSink::new();
    let error = job(Bomb::dud(), 1e6, &sink).execute_with(&["--restore", "latest"]).unwrap_err();
    assert!(error.to_string().contains("--checkpoint-dir"), "{error}");
}

/// By the directory of one checkpoint, or of all of them; new ones go where the flag says.
#[test]
fn a_checkpoint_is_given_by_its_directory_or_by_the_root() {
    for by_root in [false, true] {
        let (from, to, sink) = (Dir::new(), Dir::new(), CollectSink::new());
        from.run(&job(Bomb::amid(TOTAL / 2, &from), 4e3, &sink), &[]).unwrap_err();
        let before = from.checkpoints();
        let (epoch, newest) = before.last().expect("a checkpoint").clone();
        let path = if by_root { from.path() } else { &newest };
        let flags = ["--restore", path.to_str().unwrap()];
        let summary = to.run(&job(Bomb::dud(), 1e6, &sink), &flags).unwrap();
        assert_eq!(summary.restored, Some(epoch));
        assert!(summary.last_checkpoint > Some(epoch));
        assert_same("restored", &sorted(&sink), &counted(TOTAL));
        assert_eq!(from.checkpoints(), before, "what is restored from is left alone");
        assert!(!to.checkpoints().is_empty());
    }
}

#[test]
fn a_restore_from_what_is_no_checkpoint_names_it() {
    let (dir, sink) = (Dir::new(), CollectSink::new());
    std::fs::write(dir.path().join("file"), "text").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    for name in ["missing", "file", "empty"] {
        let path = dir.path().join(name);
        let flags = ["--restore", path.to_str().unwrap()];
        let error = job(Bomb::dud(), 1e6, &sink).execute_with(&flags).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{name}: {error}");
        assert!(sink.take().is_empty(), "{name}");
    }
}

#[test]
fn a_checkpoint_directory_that_cannot_be_written_fails_at_once() {
    let sink = CollectSink::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let flags = ["--checkpoint-dir", file.path().to_str().unwrap()];
    let error = job(Bomb::dud(), 1e6, &sink).execute_with(&flags).unwrap_err().to_string();
    assert!(error.contains(file.path().to_str().unwrap()), "{error}");
    assert!(sink.take().is_empty());
}
