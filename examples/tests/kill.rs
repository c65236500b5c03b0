//! The word count, SIGKILLed at random moments and restored each time, ends with the output of a run
//! that was left alone.
//!
//! Another sequence of moments: `KILL_SEED=7 cargo test -p tidemill-examples --test kill`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::disallowed_methods, reason = "real processes are killed at real times")]

mod program;

use program::example;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const KILLS: usize = 20;
const SIGKILL: i32 = 9;
const TEXT_BYTES: usize = 3 << 20;
/// A run that nobody kills takes as long as this; the killed ones together take less.
const RUN_SECONDS: usize = 10;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Lines of words, some of them frequent.
fn text(random: &mut Random) -> String {
    let mut text = String::with_capacity(TEXT_BYTES + 100);
    while text.len() < TEXT_BYTES {
        for _ in 0..=random.below(12) {
            let bound = 1 + random.below(300);
            let _ = write!(text, "word{} ", random.below(bound));
        }
        text.push('\n');
    }
    text
}

/// One life of the job, in a directory of its own.
struct Life {
    dir: TempDir,
    input: PathBuf,
    rate: usize,
    restores: Vec<u64>,
}

impl Life {
    fn new(random: &mut Random) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("text.txt");
        let text = text(random);
        fs::write(&input, &text).unwrap();
        Life { dir, input, rate: text.lines().count() / RUN_SECONDS, restores: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, output: &str, flags: &[String]) -> Child {
        let mut command = example("word_count");
        command.arg("--quiet").arg("--input").arg(&self.input);
        command.arg("--output").arg(self.path(output)).args(flags);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts from the last checkpoint, if there is one.
    fn restore(&mut self, flags: &[String]) -> Child {
        self.restores.push(self.last_epoch());
        let checkpoints = self.path("checkpoints").display().to_string();
        let own = ["--checkpoint-dir", &checkpoints, "--checkpoint-interval", "50ms"];
        let mut all: Vec<String> = own.map(String::from).to_vec();
        all.extend(["--restore", "latest"].map(String::from));
        all.extend_from_slice(flags);
        self.start("killed", &all)
    }

    fn last_epoch(&self) -> u64 {
        let Ok(entries) = fs::read_dir(self.path("checkpoints")) else { return 0 };
        let epoch = |path: &Path| -> Option<u64> {
            let name = path.file_name()?.to_str()?.strip_prefix("chk-")?;
            let whole = fs::read_dir(path).ok()?.flatten().any(|e| is_manifest(&e.path()));
            if whole { name.parse().ok() } else { None }
        };
        entries.flatten().filter_map(|e| epoch(&e.path())).max().unwrap_or(0)
    }

    /// Lets it run until a checkpoint that is newer than `epoch` is complete.
    fn await_checkpoint(&self, child: &mut Child, epoch: u64) {
        let start = Instant::now();
        while self.last_epoch() <= epoch {
            assert!(child.try_wait().unwrap().is_none(), "ended before it was killed");
            assert!(start.elapsed().as_secs() < 30, "no checkpoint behind {epoch} in 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The lines of all committed files, sorted; each is one word of one window.
    fn rows(&self, output: &str) -> Vec<String> {
        let mut rows = Vec::new();
        for entry in fs::read_dir(self.path(output)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("part-") {
                let text = fs::read_to_string(entry.path()).unwrap();
                rows.extend(text.lines().map(str::to_owned));
            }
        }
        rows.sort();
        rows
    }
}

fn is_manifest(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("manifest"))
        && path.extension().is_none_or(|e| e != "tmp")
}

fn finish(child: Child, what: &str) {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} ended with {}:\n{errors}", output.status);
}

/// Kills the job `KILLS` times, with the flags that `flags` makes for each start, and compares.
fn survives(name: &str, mut flags: impl FnMut(&mut Random) -> Vec<String>) {
    let seed = std::env::var("KILL_SEED").map_or(1, |s| s.parse().unwrap());
    println!("KILL_SEED={seed} cargo test -p tidemill-examples --test kill {name}");
    let mut random = Random(seed);
    let mut life = Life::new(&mut random);
    finish(life.start("whole", &[]), "the run that is left alone");

    for kill in 0..KILLS {
        let mut flags = flags(&mut random);
        flags.extend(["--rate".into(), life.rate.to_string()]);
        let before = life.last_epoch();
        let mut child = life.restore(&flags);
        // Every third one dies while it starts, the others some time behind a checkpoint.
        if kill % 3 != 2 {
            life.await_checkpoint(&mut child, before);
        }
        std::thread::sleep(Duration::from_micros(random.below(150_000)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let killed = output.status.signal() == Some(SIGKILL);
        assert!(killed, "kill {kill} found it ended with {}:\n{errors}", output.status);
    }
    let committed = life.rows("killed").len();
    let last = flags(&mut random);
    finish(life.restore(&last), "the run after the last kill");

    let (whole, killed) = (life.rows("whole"), life.rows("killed"));
    println!(
        "{name}: {} rows, {committed} of them before the last kill; restored from {:?}",
        whole.len(),
        life.restores
    );
    let distinct = life.restores.iter().collect::<BTreeSet<_>>().len();
    assert!(distinct > KILLS / 2 && committed > 0 && committed < whole.len(), "killed too soon");
    assert!(whole.len() > 100, "{} rows: too few to compare", whole.len());
    let differs = whole.iter().zip(&killed).position(|(a, b)| a != b);
    assert!(
        whole == killed,
        "{} rows, {} when killed; the first that differ: {:?}",
        whole.len(),
        killed.len(),
        differs.map(|i| (&whole[i], &killed[i]))
    );
}

#[test]
fn aligned() {
    survives("aligned", |_| vec!["--aligned-timeout".into(), "never".into()]);
}

#[test]
fn unaligned() {
    survives("unaligned", |_| vec!["--aligned-timeout".into(), "0s".into()]);
}

#[test]
fn at_another_parallelism_each_time() {
    survives("at_another_parallelism_each_time", |random| {
        let timeout = ["0s", "never"][random.below(2) as usize];
        let parallelism = (1 + random.below(6)).to_string();
        vec!["--aligned-timeout".into(), timeout.into(), "--parallelism".into(), parallelism]
    });
}

/// The newest checkpoint is damaged: the one before is used, with a warning that names both.
#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let mut life = Life::new(&mut Random(1));
    finish(life.start("whole", &[]), "the run that is left alone");
    let rate = ["--rate".to_string(), life.rate.to_string()];
    let mut child = life.restore(&rate);
    for _ in 0..3 {
        life.await_checkpoint(&mut child, life.last_epoch());
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let newest = life.last_epoch();
    let data = life.path("checkpoints").join(format!("chk-{newest}/worker-0.data"));
    let mut bytes = fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&data, bytes).unwrap();
    // What the damaged checkpoint has committed must go: the sink refuses to write it twice.
    for entry in fs::read_dir(life.path("killed")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains(&format!("-{newest:08}-")) {
            fs::remove_file(entry.path()).unwrap();
        }
    }

    let output = life.restore(&[]).wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let names = [format!("chk-{newest} is skipped"), format!("chk-{} is used", newest - 1)];
    assert!(names.iter().all(|n| errors.contains(n)), "{errors}");
    assert!(life.rows("whole") == life.rows("killed"), "the rows differ");
}
