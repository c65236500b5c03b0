//! Tailing: growth, rotation, new files, restores.

use super::{dir_with, file_with};
use crate::testing::*;
use crate::{FileReader, FileSource, Lines};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use tidemill_runtime::source::{Polled, SourceReader};

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// All subtasks of a job, and what they have emitted.
struct Job {
    source: FileSource<Lines>,
    readers: Vec<FileReader<Lines>>,
    now: u64,
    lines: Vec<String>,
}

impl Job {
    fn start(source: FileSource<Lines>, parallelism: u32) -> Job {
        let readers = open_all(&source, parallelism, None).unwrap();
        Job { source, readers, now: 0, lines: Vec::new() }
    }
    /// Lets time pass and reads what there is.
    fn read(&mut self, seconds: u64) {
        self.now += seconds * 1_000_000;
        for reader in &mut self.readers {
            let mut out = Out::new();
            out.now = self.now;
            assert_eq!(out.drain(reader).unwrap(), Polled::Idle { until: None });
            self.lines.extend(out.values());
        }
    }
    fn crash_and_restore(&mut self, parallelism: u32) {
        let entries = snapshot_all(&mut self.readers);
        self.readers = open_all(&self.source, parallelism, Some(&entries)).unwrap();
    }
    fn took(&mut self, seconds: u64) -> Vec<String> {
        self.read(seconds);
        let mut lines = std::mem::take(&mut self.lines);
        lines.sort();
        lines
    }
}

#[test]
fn growth_is_followed_by_whole_lines() {
    let (_dir, path) = file_with(b"a\nb\nhal");
    let mut job = Job::start(FileSource::lines(&path).tail(true), 3);
    assert_eq!(job.took(1), ["a", "b"]);
    append(&path, "f\nc\n");
    assert_eq!(job.took(0), ["c", "half"]);
    job.crash_and_restore(2);
    append(&path, "d\n");
    assert_eq!(job.took(0), ["d"]);
    assert_eq!(job.took(100), [""; 0]);
}

#[test]
fn a_rotated_file_is_read_to_its_end_and_the_new_one_from_its_start() {
    let (dir, path) = file_with(b"1\n");
    let mut job = Job::start(FileSource::lines(&path).tail(true), 2);
    assert_eq!(job.took(1), ["1"]);
    let old = dir.path().join("in.txt.1");
    fs::rename(&path, &old).unwrap();
    append(&old, "2\n");
    assert_eq!(job.took(2), ["2"]);
    append(&path, "3\n");
    append(&old, "4\n");
    assert_eq!(job.took(2), ["3", "4"]);
    // Both are found again, the old one by its inode.
    job.crash_and_restore(4);
    append(&path, "5\n");
    append(&old, "6\n");
    assert_eq!(job.took(2), ["5", "6"]);
    // Silent and not listed for a minute: forgotten, its unfinished line included.
    append(&old, "7");
    assert_eq!(job.took(2), [""; 0]);
    assert_eq!(job.took(70), ["7"]);
    let entries = snapshot_all(&mut job.readers);
    assert_eq!(entries.len(), 4, "one file, and a marker for each of the other subtasks");
}

#[test]
fn a_forgotten_inode_stays_with_the_subtask_that_had_it() {
    for parallelism in 1..6 {
        let (dir, path) = file_with(b"1\n");
        let mut job = Job::start(FileSource::lines(&path).tail(true), 2);
        assert_eq!(job.took(1), ["1"]);
        job.crash_and_restore(parallelism);
        let away = dir.path().join("away");
        fs::rename(&path, &away).unwrap();
        assert_eq!(job.took(2), [""; 0]);
        assert_eq!(job.took(70), [""; 0]);
        fs::rename(&away, &path).unwrap();
        assert_eq!(job.took(2), ["1"], "it comes back as a new file, to one subtask");
    }
}

#[test]
fn folders_that_appear_are_followed_and_files_may_move_between_them() {
    let dir = dir_with(&[("a.log", b"a1\n")]);
    let at = |name: &str| dir.path().join(name);
    let source = FileSource::lines(dir.path()).suffix(".log").tail(true).recursive(true);
    let mut job = Job::start(source, 3);
    assert_eq!(job.took(1), ["a1"]);
    fs::create_dir_all(at("x/y")).unwrap();
    append(&at("x/y/b.log"), "b1\n");
    assert_eq!(job.took(2), ["b1"]);
    fs::rename(at("a.log"), at("x/a.log")).unwrap();
    append(&at("x/a.log"), "a2\n");
    assert_eq!(job.took(2), ["a2"]);
    // Found again by its inode, wherever it is.
    let entries = snapshot_all(&mut job.readers);
    fs::rename(at("x/a.log"), at("x/y/a.old")).unwrap();
    append(&at("x/y/a.old"), "a3\n");
    job.readers = open_all(&job.source, 2, Some(&entries)).unwrap();
    assert_eq!(job.took(2), ["a3"]);
    fs::remove_dir_all(at("x")).unwrap();
    assert_eq!(job.took(2), [""; 0]);
}

#[test]
fn files_of_a_directory_appear_are_renamed_and_go() {
    let dir = dir_with(&[("a.log", b"a1\n")]);
    let at = |name: &str| dir.path().join(name);
    let mut job = Job::start(FileSource::lines(dir.path()).suffix(".log").tail(true), 3);
    assert_eq!(job.took(1), ["a1"]);
    append(&at("b.log"), "b1\n");
    append(&at("b.txt"), "no\n");
    assert_eq!(job.took(2), ["b1"]);
    fs::rename(at("a.log"), at("a.1.log")).unwrap();
    append(&at("a.log"), "a2\n");
    append(&at("a.1.log"), "a3\n");
    assert_eq!(job.took(2), ["a2", "a3"]);
    append(&at("b.log"), "b2\nb3");
    let open = File::open(at("b.log")).unwrap();
    fs::remove_file(at("b.log")).unwrap();
    assert_eq!(job.took(2), ["b2", "b3"]);
    drop(open);
    job.crash_and_restore(2);
    append(&at("a.1.log"), "a4\n");
    assert_eq!(job.took(2), ["a4"]);
}

#[test]
fn a_directory_may_be_empty_at_first() {
    let dir = dir_with(&[]);
    let mut job = Job::start(FileSource::lines(dir.path()).tail(true), 2);
    assert_eq!(job.took(1), [""; 0]);
    job.crash_and_restore(3);
    append(&dir.path().join("a"), "a\n");
    assert_eq!(job.took(2), ["a"]);
}

#[test]
fn truncation_and_missing_files_fail_loudly() {
    let dir = dir_with(&[("a", b"one\ntwo\n"), ("b", b"x\n")]);
    let source = FileSource::lines(dir.path()).tail(true);
    let mut job = Job::start(source.clone(), 1);
    assert_eq!(job.took(1), ["one", "two", "x"]);
    let entries = snapshot_all(&mut job.readers);
    let fails = |what: &str| {
        let error = open_all(&source, 1, Some(&entries)).err().expect("must fail").to_string();
        assert!(error.contains(what), "{what:?} is not in: {error}");
    };
    File::options().write(true).open(dir.path().join("a")).unwrap().set_len(4).unwrap();
    let error = Out::new().drain(&mut job.readers[0]).unwrap_err().to_string();
    assert!(error.contains("has become shorter: 4 bytes of 8"), "{error}");
    fails(".skip_missing(true)");
    fs::remove_file(dir.path().join("b")).unwrap();
    fails(".skip_missing(true)");
    // Another file in its place is not mistaken for it.
    fs::write(dir.path().join("a"), "other\nother\n").unwrap();
    fails("'");
    let source = source.clone().skip_missing(true);
    let mut readers = open_all(&source, 1, Some(&entries)).unwrap();
    let mut out = Out::new();
    out.drain(&mut readers[0]).unwrap();
    assert_eq!(out.values(), ["other", "other"]);
}

#[test]
fn modes_do_not_mix() {
    let (_dir, path) = file_with(b"a\nb\n");
    let read = FileSource::lines(&path);
    let tail = read.clone().tail(true);
    let mut readers = open_all(&tail, 1, None).unwrap();
    let tailed = readers[0].snapshot().unwrap();
    let mut readers = open_all(&read, 1, None).unwrap();
    let ranges = readers[0].snapshot().unwrap();
    assert!(open_all(&read, 1, Some(&tailed)).err().unwrap().to_string().contains("with .tail"));
    assert!(open_all(&tail, 1, Some(&ranges)).err().unwrap().to_string().contains("without"));
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8, u8),
    Rotate(u8),
    Read(u64),
    Restore(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 1u8..5).prop_map(|(file, lines)| Step::Append(file, lines)),
        1 => (0u8..4).prop_map(Step::Rotate),
        3 => (0u64..3).prop_map(Step::Read),
        2 => (1u32..5).prop_map(Step::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_line_once(parallelism in 1u32..5, steps in vec(step(), 1..40)) {
        let dir = dir_with(&[]);
        let mut job = Job::start(FileSource::lines(dir.path()).tail(true), parallelism);
        let (mut written, mut rotated) = (BTreeMap::new(), 0);
        for step in steps {
            match step {
                Step::Append(file, lines) => {
                    for _ in 0..lines {
                        let line = format!("line {} of {file}", written.len());
                        append(&dir.path().join(format!("{file}.log")), &format!("{line}\n"));
                        written.insert(line, ());
                    }
                }
                Step::Rotate(file) => {
                    rotated += 1;
                    let from = dir.path().join(format!("{file}.log"));
                    let _ = fs::rename(from, dir.path().join(format!("{file}.{rotated}.log")));
                }
                Step::Read(seconds) => job.read(seconds),
                Step::Restore(parallelism) => job.crash_and_restore(parallelism),
            }
        }
        let mut want: Vec<String> = written.into_keys().collect();
        want.sort();
        prop_assert_eq!(job.took(2), want);
    }
}
