//! Full disks: under the checkpoints, and under the files of a sink.

use crate::bomb::Bomb;
use crate::common::{Dir, assert_same, checkpoints, counted, counting, env, numbers, sorted};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tidemill::connectors::{CollectSink, FileSink};
use tidemill::{Env, RestartStrategy};

/// A file system of a few KiB in memory.
struct Tiny {
    dir: tempfile::TempDir,
}

impl Tiny {
    /// `None`, with the reason on stderr, where mounting is not allowed.
    fn mount(kib: u32) -> Option<Tiny> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={kib}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Tiny { dir }),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                eprintln!("skipped: a full disk needs a mounted tmpfs (run as root): {text}");
                None
            }
            Err(error) => {
                eprintln!("skipped: a full disk needs a mounted tmpfs: mount: {error}");
                None
            }
        }
    }
    fn path(&self) -> &Path {
        self.dir.path()
    }
    /// Leaves a few KiB.
    fn fill(&self, kib: usize) -> PathBuf {
        let ballast = self.path().join("ballast");
        std::fs::write(&ballast, vec![1; kib << 10]).unwrap();
        ballast
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

const TOTAL: u64 = 6_000;

/// Counts, with state of 200 bytes for each record.
fn job(rate: f64, sink: &CollectSink<(u64, u64)>) -> Env {
    let env = env("full", 2);
    let input = numbers(&env, TOTAL, rate, &Bomb::dud());
    let remembered = input.key_by::<u64, _>(|r| r.1).process_value::<String, (u64, u64), _>(
        |r, text: &mut Option<String>, cx| {
            *text = Some(format!("{:>200}", r.1));
            cx.emit(r);
        },
    );
    counting(remembered, &Bomb::after(u64::MAX), sink);
    env
}

#[test]
fn a_job_outlives_a_full_checkpoint_disk() {
    let Some(disk) = Tiny::mount(8 << 10) else { return };
    let ballast = disk.fill((8 << 10) - 100);
    let sink = CollectSink::new();
    let strategy = RestartStrategy::FixedDelay { attempts: 1_000, delay_us: 10_000 };
    let env = job(4e3, &sink).restart(strategy);
    let flags = ["--checkpoint-dir", disk.path().to_str().unwrap(), "--keep-checkpoints", "1"];
    let handle = sink.handle();
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::park_timeout(Duration::from_millis(900));
            let visible = handle.len();
            assert!(visible < 1_000, "{visible} records of checkpoints that had no place");
            std::fs::remove_file(&ballast).unwrap();
        });
        env.execute_with(&flags)
    });
    assert_eq!(summary.unwrap().outcome, "finished");
    assert_same("counts", &sorted(&sink), &counted(TOTAL));
    assert_nothing_half(disk.path());
}

#[test]
fn a_job_whose_last_checkpoint_has_no_place_fails_cleanly() {
    let Some(disk) = Tiny::mount(1 << 10) else { return };
    disk.fill((1 << 10) - 60);
    let sink = CollectSink::new();
    let flags = ["--checkpoint-dir", disk.path().to_str().unwrap()];
    let error = job(1e4, &sink).execute_with(&flags).unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    assert!(error.contains(disk.path().to_str().unwrap()), "{error}");
    let got = sorted(&sink);
    let all = counted(TOTAL);
    assert!(got.len() < 3_000, "{} records, but no checkpoint of them has place", got.len());
    assert!(got.iter().all(|r| all.binary_search(r).is_ok()));
    assert_nothing_half(disk.path());
}

/// What is not a complete checkpoint is not there, and no file is half written.
fn assert_nothing_half(root: &Path) {
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let files = if path.is_dir() { std::fs::read_dir(&path).unwrap().count() } else { 0 };
        let names = std::fs::read_dir(&path).into_iter().flatten();
        for name in names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()) {
            assert!(!name.starts_with('.'), "{name} of {} was left", path.display());
        }
        let whole = checkpoints(root).iter().any(|c| c.1 == path);
        let checkpoint = path.file_name().unwrap().to_string_lossy().starts_with("chk-");
        let wanted = if whole { 2 } else { 0 };
        assert!(!checkpoint || files == wanted, "{} has {files} files", path.display());
    }
}

#[test]
fn a_full_disk_under_a_sink_fails_the_job_by_name_and_shows_nothing_half() {
    for with_checkpoints in [false, true] {
        let Some(disk) = Tiny::mount(64) else { return };
        let dir = Dir::new();
        let env = env("lines", 2);
        numbers(&env, 20_000, 2e4, &Bomb::dud())
            .rebalance()
            .map(|r| format!("{:>30}", r.1))
            .add_sink(FileSink::<String, _>::display(disk.path()));
        let error = if with_checkpoints { dir.run(&env, &[]) } else { env.execute() };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        assert!(error.contains(disk.path().to_str().unwrap()), "{error}");

        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(disk.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with('.') {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.ends_with('\n') && text.len() % 31 == 0, "{} is cut", path.display());
            numbers.extend(text.lines().map(|l| l.trim().parse::<u64>().unwrap()));
        }
        assert!(with_checkpoints || numbers.is_empty(), "{} lines of no checkpoint", numbers.len());
        numbers.sort_unstable();
        let visible = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), visible, "a line came twice");
    }
}
