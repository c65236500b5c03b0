//! From files to files: splits and part-files move to another number of subtasks.

use crate::bomb::Bomb;
use crate::common::{Dir, assert_same, env};
use std::collections::BTreeMap;
use std::path::Path;
use tidemill::Env;
use tidemill::connectors::{FileSink, FileSource};

const FILES: u64 = 3;
const LINES: u64 = 2_000;
const WORDS: u64 = 29;

fn word(file: u64, line: u64) -> u64 {
    (file * LINES + line).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn line(file: u64, line: u64) -> String {
    let n = word(file, line);
    format!("word{} {}", n % WORDS, "x".repeat((n % 50) as usize))
}

fn write_input(dir: &Path) {
    for file in 0..FILES {
        let mut text = String::new();
        for l in 0..LINES {
            text.push_str(&line(file, l));
            // The last line of a file need not end.
            if l + 1 < LINES || file == 0 {
                text.push('\n');
            }
        }
        std::fs::write(dir.join(format!("{file}.txt")), text).unwrap();
    }
}

/// Each word with 1, 2, 3, ...
fn wanted() -> Vec<String> {
    let mut of = BTreeMap::new();
    let mut rows = Vec::new();
    for (file, l) in (0..FILES).flat_map(|f| (0..LINES).map(move |l| (f, l))) {
        let key = word(file, l) % WORDS;
        let n = of.entry(key).or_insert(0u64);
        *n += 1;
        rows.push(format!("word{key} {n}"));
    }
    rows.sort();
    rows
}

/// What is visible, sorted.
fn visible(dir: &Path) -> Vec<String> {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.ends_with('\n'), "{} is cut", path.display());
            rows.extend(text.lines().map(str::to_owned));
        }
    }
    rows.sort();
    rows
}

fn job(parallelism: u32, rate: f64, bomb: Bomb, input: &Path, output: &Path) -> Env {
    let env = env("files", parallelism);
    env.add_source(
        bomb.pace(FileSource::lines(input).suffix(".txt").split_bytes(5_000).rate(rate)),
    )
    .uid("lines")
    .flat_map::<String, _>(move |line, emit| {
        bomb.tick();
        line.split(' ').take(1).for_each(emit);
    })
    .key_by::<String, _>(|word| *word)
    .count()
    .uid("counts")
    .map(|(word, n)| format!("{word} {n}"))
    .add_sink(FileSink::<String, _>::display(output))
    .uid("files");
    env
}

fn moved(steps: [u32; 3], timeout: &str) {
    let (dir, input, output) = (Dir::new(), Dir::new(), Dir::new());
    write_input(input.path());
    let run = |parallelism, rate, bomb, flags: &[&str]| {
        let env = job(parallelism, rate, bomb, input.path(), output.path());
        dir.run(&env, &[flags, &["--aligned-timeout", timeout]].concat())
    };
    let error = run(steps[0], 5e3, Bomb::amid(2_000, &dir), &[]).unwrap_err().to_string();
    assert!(error.contains("the bomb"), "{error}");
    let error = run(steps[1], 5e3, Bomb::amid(1_000, &dir), &["--restore", "latest"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("the bomb"), "{error}");
    let summary = run(steps[2], 1e6, Bomb::dud(), &["--restore", "latest"]).unwrap();
    assert!(summary.restored.is_some() && summary.source_records() < FILES * LINES);
    assert_same("rows", &visible(output.path()), &wanted());
    let left = std::fs::read_dir(output.path()).unwrap().map(|e| e.unwrap().file_name());
    let hidden: Vec<_> = left.filter(|n| n.to_str().unwrap().starts_with('.')).collect();
    assert!(hidden.is_empty(), "left behind: {hidden:?}");
}

#[test]
fn aligned_from_2_to_1_to_4() {
    moved([2, 1, 4], "never");
}

#[test]
fn unaligned_from_2_to_3_to_1() {
    moved([2, 3, 1], "0s");
}

#[test]
fn aligned_from_4_to_3_to_2() {
    moved([4, 3, 2], "never");
}
