//! A damaged checkpoint is passed over, never trusted.

use crate::bomb::Bomb;
use crate::common::{Dir, KEYS, assert_same, checkpoints, counted, counting, env, numbers, sorted};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemill::RestartStrategy;
use tidemill::connectors::{CollectSink, FileSink, GeneratorSource};

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

/// As if its mount had gone: a directory in which nothing is to be seen is no reason to begin anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "somebody beside the job")]
fn a_job_whose_checkpoints_are_gone_does_not_begin_anew() {
    let (dir, gone) = (Dir::new(), Arc::new(AtomicBool::new(false)));
    let (place, away) = (dir.path().join("chk"), dir.path().join("away"));
    let job = |total: Option<u64>, gone: &Arc<AtomicBool>| {
        let restarts = RestartStrategy::FixedDelay { attempts: 3, delay_us: 10_000 };
        let (env, sink, gone) =
            (env("gone", 2).restart(restarts), CollectSink::new(), gone.clone());
        let source = GeneratorSource::with_timestamps(total, |i| ((i % KEYS, i), i as i64));
        let numbers = env.add_source(source.rate(4e3)).uid("numbers");
        let counts = numbers.key_by::<u64, _>(|r| r.0).count().uid("counts");
        let counts = counts.map(move |r| {
            assert!(!gone.load(Ordering::Relaxed), "a failure, on purpose");
            r
        });
        counts.add_sink(sink.sink()).uid("out");
        (env, sink)
    };
    let flags = ["--checkpoint-dir", place.to_str().unwrap()];
    let (env, _sink) = job(None, &gone);
    std::fs::create_dir(&place).unwrap();
    let hide = {
        let (place, away, gone) = (place.clone(), away.clone(), gone.clone());
        move || {
            while checkpoints(&place).len() < 2 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            std::fs::rename(&place, &away).unwrap();
            gone.store(true, Ordering::Relaxed);
        }
    };
    let hidden = std::thread::spawn(hide);
    let error = env.execute_with(&flags).unwrap_err().to_string();
    hidden.join().unwrap();
    for part in ["no checkpoint is to be seen", place.to_str().unwrap(), "mount"] {
        assert!(error.contains(part), "{part} in: {error}");
    }
    // It is there again: the job goes on from it.
    std::fs::rename(&away, &place).unwrap();
    let newest = checkpoints(&place).pop().unwrap().0;
    gone.store(false, Ordering::Relaxed);
    let (env, _sink) = job(Some(1), &gone);
    let summary = env.execute_with(&[&flags[..], &["--restore", "latest"]].concat()).unwrap();
    assert_eq!(summary.restored, Some(newest));
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
