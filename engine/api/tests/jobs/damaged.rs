//! A damaged checkpoint is passed over, never trusted.

use crate::bomb::Bomb;
use crate::common::{Dir, assert_same, counted, counting, env, numbers, sorted};
use std::path::{Path, PathBuf};
use tidemill::connectors::{CollectSink, FileSink};

const TOTAL: u64 = 4_000;

fn data_object(checkpoint: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(checkpoint).unwrap().map(|e| e.unwrap().path());
    files.find(|p| p.extension().is_some_and(|e| e == "data")).expect("a data object")
}

fn truncate(checkpoint: &Path) {
    let path = data_object(checkpoint);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn flip(checkpoint: &Path) {
    let path = data_object(checkpoint);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

fn remove(checkpoint: &Path) {
    std::fs::remove_file(data_object(checkpoint)).unwrap();
}

fn tear_manifest(checkpoint: &Path) {
    let path = checkpoint.join("manifest.json");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(path, &text[..text.len() - 10]).unwrap();
}

/// Fails in the middle; what it had made visible.
fn fail(dir: &Dir) -> Vec<(u64, u64)> {
    let (env, sink) = (env("damaged", 2), CollectSink::new());
    let bomb = Bomb::amid(TOTAL / 2, dir);
    counting(numbers(&env, TOTAL, 8e3, &bomb), &bomb, &sink);
    dir.run(&env, &["--keep-checkpoints", "3"]).unwrap_err();
    assert!(dir.checkpoints().len() >= 2, "{:?}", dir.checkpoints());
    sorted(&sink)
}

#[test]
fn the_checkpoint_before_a_damaged_one_is_used() {
    for (how, damage) in [
        ("truncated", truncate as fn(&Path)),
        ("flipped", flip),
        ("removed", remove),
        ("torn manifest", tear_manifest),
    ] {
        let dir = Dir::new();
        let before = fail(&dir);
        let [.., older, newest] = &dir.checkpoints()[..] else { panic!("two checkpoints") };
        damage(&newest.1);
        let (env, sink) = (env("damaged", 2), CollectSink::new());
        counting(numbers(&env, TOTAL, 1e6, &Bomb::dud()), &Bomb::dud(), &sink);
        let summary = dir.resume(&env).unwrap();
        assert_eq!(summary.restored, Some(older.0), "{how}");
        assert!(summary.last_checkpoint > Some(newest.0), "{how}: a number is never used again");
        // A new process's output: what the checkpoint had prepared, and everything after it.
        let after = sorted(&sink);
        assert!(after.windows(2).all(|w| w[0] != w[1]), "{how}: something came twice");
        assert!(summary.source_records() < TOTAL, "{how}: it began anew");
        let mut all = [before, after].concat();
        all.sort_unstable();
        all.dedup();
        assert_same(how, &all, &counted(TOTAL));
    }
}

#[test]
fn a_job_whose_checkpoints_are_all_damaged_does_not_begin_anew() {
    let dir = Dir::new();
    fail(&dir);
    dir.checkpoints().iter().for_each(|c| flip(&c.1));
    let (env, sink) = (env("damaged", 2), CollectSink::new());
    counting(numbers(&env, TOTAL, 1e6, &Bomb::dud()), &Bomb::dud(), &sink);
    let error = dir.resume(&env).unwrap_err().to_string();
    let newest = dir.checkpoints().pop().unwrap().0;
    for part in ["no whole checkpoint", &newest.to_string(), dir.path().to_str().unwrap()] {
        assert!(error.contains(part), "{part} in: {error}");
    }
    assert!(sink.take().is_empty());
}

/// Files that are visible cannot be taken back: the job says so, and does not write them twice.
#[test]
fn an_older_checkpoint_than_the_visible_files_is_refused_by_name() {
    let (dir, out) = (Dir::new(), Dir::new());
    let job = |rate: f64, bomb: &Bomb| {
        let env = env("files", 2);
        let sink = FileSink::<(u64, u64), _>::debug(out.path());
        numbers(&env, TOTAL, rate, bomb).rebalance().add_sink(sink);
        env
    };
    // A job that ends has committed its newest checkpoint; one that fails perhaps not.
    dir.run(&job(8e3, &Bomb::amid(TOTAL / 2, &dir)), &["--keep-checkpoints", "99"]).unwrap();
    let names = std::fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name());
    let epochs = names.filter_map(|n| n.to_str()?.strip_prefix("part-")?[4..12].parse().ok());
    let visible: u64 = epochs.max().expect("visible files");
    let found = dir.checkpoints();
    let (older, newer): (Vec<_>, Vec<_>) = found.iter().partition(|c| c.0 < visible);
    newer.iter().for_each(|c| flip(&c.1));
    let older = older.last().expect("a checkpoint before the last files");
    let error = dir.resume(&job(1e6, &Bomb::dud())).unwrap_err().to_string();
    for part in [out.path().to_str().unwrap(), "twice", &older.0.to_string()] {
        assert!(error.contains(part), "{part} in: {error}");
    }
}
