//! The job of these tests: words of a text, counted in windows, written to files exactly once; and what the files
//! must hold, counted plainly.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::{Asker, program};

const WINDOW: usize = 10_000;

/// A text, where its counts go, and what they have to be.
pub(crate) struct Words {
    dir: TempDir,
    lines: usize,
}

impl Words {
    /// A text of so many lines.
    pub(crate) fn new(lines: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut text = String::new();
        let mut state = 1u64;
        for _ in 0..lines {
            for _ in 0..10 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let bound = 1 + (state >> 33) % 60;
                let _ = write!(text, "w{} ", (state >> 45) % bound);
            }
            text.push('\n');
        }
        fs::write(dir.path().join("text"), text).unwrap();
        Words { dir, lines }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Submits the job so that it reads for about so many seconds; the words of the command come first.
    pub(crate) fn submit(&self, asker: &Asker, seconds: f64, flags: &[&str]) -> String {
        let rate = (self.lines as f64 / seconds).to_string();
        let (program, input, output) = (program(), self.path("text"), self.path("out"));
        let mut words = vec!["submit", "--detach"];
        words.extend(flags);
        let mut command = asker.command(&words);
        command.arg(program).arg("--").arg("--input").arg(input).arg("--output").arg(output);
        let output = command.args(["--rate", &rate]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "submit: {}\n{errors}", output.status);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Rows of committed files, sorted.
    pub(crate) fn rows(&self) -> Vec<String> {
        rows(&self.path("out"))
    }

    /// What they have to be: counted without the engine.
    pub(crate) fn oracle(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("text")).unwrap();
        let mut counts: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        let mut place = 0;
        for line in text.split_inclusive('\n') {
            let window = place / WINDOW * WINDOW;
            line.split_whitespace()
                .for_each(|word| *counts.entry((window, word)).or_default() += 1);
            place += line.len();
        }
        let frequent = counts.into_iter().filter(|(_, count)| *count > 5);
        let mut rows: Vec<String> =
            frequent.map(|((window, word), count)| format!("{window} {word} {count}")).collect();
        rows.sort();
        rows
    }

    /// Waits for the job's end and compares.
    pub(crate) fn check(&self, asker: &Asker, job: &str) {
        let end = asker.until(job, "its end", |j| !j["ended_at_ms"].is_null());
        assert_eq!(end["status"], "FINISHED", "{end:#}");
        self.compare();
    }

    pub(crate) fn compare(&self) {
        let (rows, oracle) = (self.rows(), self.oracle());
        assert!(oracle.len() > 100, "{} rows: too few to compare", oracle.len());
        let differs = oracle.iter().zip(&rows).find(|(a, b)| a != b);
        assert!(rows == oracle, "{} rows of {}, first: {differs:?}", rows.len(), oracle.len());
    }
}

fn rows(output: &Path) -> Vec<String> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(output).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("part-") {
            let text = fs::read_to_string(entry.path()).unwrap();
            rows.extend(text.lines().map(str::to_owned));
        }
    }
    rows.sort();
    rows
}
