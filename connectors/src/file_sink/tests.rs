//! The file sink, stopped between any two changes that it makes to the disk.

use super::*;
use crate::testing::sink_context;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemill_base::{Error, Severity};
use tidemill_runtime::blocking::{Blocking, Queue, Work};
use tidemill_runtime::sink::SinkWriter;

type Line = fn(u64, &mut String) -> std::fmt::Result;
type TestSink = FileSink<u64, Line>;
type TestWriter = FileWriter<Line>;

fn sink(dir: &Path) -> TestSink {
    FileSink::new(dir, |n, out| write!(out, "{n}"))
}

fn write(writer: &mut TestWriter, n: u64) -> Result<()> {
    SinkWriter::<u64>::write(writer, n, 0)
}
fn prepare(writer: &mut TestWriter, epoch: u64) -> Result<Vec<Vec<u8>>> {
    SinkWriter::<u64>::prepare(writer, epoch)
}
fn commit(writer: &mut TestWriter, epoch: u64) -> Result<()> {
    SinkWriter::<u64>::commit(writer, epoch)
}

fn names(dir: &Path, hidden: bool) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|n| n.starts_with('.') == hidden).collect();
    names.sort();
    names
}

/// The records of the visible files, by name of the file.
fn visible(dir: &Path) -> Vec<u64> {
    let read = |name: &String| fs::read_to_string(dir.join(name)).unwrap();
    let text: String = names(dir, false).iter().map(read).collect();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// A coordinator's knowledge, which survives crashes: the last complete checkpoint, its entries by
/// subtask, and the next record of each of the two halves of the input.
#[derive(Clone, Default)]
struct Complete {
    epoch: u64,
    entries: BTreeMap<u32, Vec<Vec<u8>>>,
    next: u64,
}

const RECORDS: u64 = 23;

/// Runs the job from a checkpoint to its end, or until the disk fails. Subtask n % p takes record
/// n; a checkpoint follows every few records, some are aborted, the last one is complete.
fn run(
    sink: &TestSink,
    parallelism: u32,
    complete: &mut Option<Complete>,
    next_epoch: &mut u64,
) -> Result<()> {
    let mut writers = Vec::new();
    for subtask in 0..parallelism {
        let restored = complete.as_ref().map(|c| {
            let mine = |(s, _): &(&u32, &Vec<Vec<u8>>)| *s % parallelism == subtask;
            (c.epoch, c.entries.iter().filter(mine).flat_map(|(_, e)| e.clone()).collect())
        });
        writers.push(sink.open(&sink_context(subtask, parallelism, restored))?);
    }
    for n in complete.as_ref().map_or(0, |c| c.next)..=RECORDS {
        if n % 5 == 0 || n == RECORDS {
            let epoch = *next_epoch;
            *next_epoch += 1;
            let mut entries = BTreeMap::new();
            for (s, writer) in writers.iter_mut().enumerate() {
                entries.insert(s as u32, prepare(writer, epoch)?);
            }
            if n == 10 {
                for writer in &mut writers {
                    SinkWriter::<u64>::abort(writer, epoch)?;
                }
            } else {
                *complete = Some(Complete { epoch, entries, next: n });
                for writer in &mut writers {
                    commit(writer, epoch)?;
                }
            }
        }
        if n < RECORDS {
            write(&mut writers[(n % u64::from(parallelism)) as usize], n)?;
        }
    }
    Ok(())
}

/// Runs with crashes after the given numbers of operations, then to the end. Returns how many
/// operations the first run would have needed.
fn crash_and_recover(fuels: &[u64], parallelisms: &[u32], max_bytes: u64) -> u64 {
    // In memory where there is such a thing: it syncs thousands of times.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let out = dir.path().join("deep/out");
    let (mut complete, mut next_epoch) = (None, 1);
    let tank = Arc::new(AtomicU64::new(0));
    let mut sink = sink(&out).max_bytes(max_bytes);
    sink.options.disk.fuel = Some(tank.clone());
    let plenty = 1 << 40;
    let mut used = 0;
    for (i, fuel) in fuels.iter().copied().chain([plenty]).enumerate() {
        tank.store(fuel, Ordering::Relaxed);
        let parallelism = parallelisms[i % parallelisms.len()];
        let ended = run(&sink, parallelism, &mut complete, &mut next_epoch);
        if i == 0 {
            used = fuel - tank.load(Ordering::Relaxed);
        }
        match ended {
            Ok(()) => break,
            Err(error) => assert!(error.to_string().contains("killed"), "{error}"),
        }
        let done = complete.as_ref().map_or(0, |c| c.next);
        if out.exists() {
            // X1: nothing of a checkpoint that is not complete, nothing half.
            assert!(visible(&out).iter().all(|&n| n < done), "{:?}", visible(&out));
        }
    }
    let mut got = visible(&out);
    got.sort_unstable();
    assert_eq!(got, (0..RECORDS).collect::<Vec<_>>(), "fuels {fuels:?}");
    assert_eq!(names(&out, true), [""; 0], "fuels {fuels:?}");
    used
}

#[test]
fn killed_between_any_two_operations() {
    for (parallelisms, max_bytes) in [(&[1][..], u64::MAX), (&[2], 9), (&[3, 2, 1], 5)] {
        let all = crash_and_recover(&[1 << 40], parallelisms, max_bytes);
        assert!(all > 20, "{all} operations");
        for fuel in 0..all {
            crash_and_recover(&[fuel], parallelisms, max_bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn killed_again_and_again(
        fuels in prop::collection::vec(0u64..60, 1..6),
        parallelisms in prop::collection::vec(1u32..5, 1..5),
        max_bytes in 1u64..40,
    ) {
        crash_and_recover(&fuels, &parallelisms, max_bytes);
    }
}

fn fresh(sink: &TestSink) -> Result<TestWriter> {
    sink.open(&sink_context(0, 1, None))
}

fn expect_job_error(result: Result<impl Sized>, parts: &[&str]) -> Error {
    let error = result.err().expect("must fail");
    assert_eq!(error.severity(), Severity::FailJob, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
    error
}

/// A context whose syncs are done when the test does them.
fn by_hand(restored: Option<(u64, Vec<Vec<u8>>)>) -> (SinkContext, Queue) {
    let (blocking, queue) = Blocking::queue();
    let mut cx = sink_context(0, 1, restored);
    cx.context.blocking = blocking;
    (cx, queue)
}

fn settled(writer: &mut TestWriter) -> Result<bool> {
    SinkWriter::<u64>::settled(writer)
}

#[test]
fn syncs_run_beside_the_core_and_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path());
    let (cx, queue) = by_hand(None);
    let mut writer = sink.open(&cx).unwrap();
    let done = |n: usize| {
        assert_eq!(queue.len(), n);
        queue.try_iter().for_each(Work::run);
    };
    assert!(settled(&mut writer).unwrap(), "nothing was begun");
    write(&mut writer, 1).unwrap();
    let entries = prepare(&mut writer, 1).unwrap();
    assert!(!settled(&mut writer).unwrap(), "X6: the file and its name");
    // Records go on meanwhile, into another file.
    write(&mut writer, 2).unwrap();
    assert_eq!(names(dir.path(), true).len(), 1);
    queue.recv().unwrap().run();
    assert!(!settled(&mut writer).unwrap(), "X6: the file alone");
    done(1);
    assert!(settled(&mut writer).unwrap());
    commit(&mut writer, 1).unwrap();
    assert_eq!(visible(dir.path()), [1], "readers need not wait");
    assert!(!settled(&mut writer).unwrap(), "X6: its name");
    let next = prepare(&mut writer, 2).unwrap();
    assert_ne!(next, entries, "what is visible is not committed again");
    assert_eq!(next.len(), 1);
    done(3);
    assert!(settled(&mut writer).unwrap());
    commit(&mut writer, 2).unwrap();
    done(1);
    assert!(settled(&mut writer).unwrap());
    assert_eq!(visible(dir.path()), [1, 2]);
}

#[test]
fn a_crash_before_a_sync_is_a_crash_before_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path());
    let (cx, queue) = by_hand(None);
    let mut writer = sink.open(&cx).unwrap();
    write(&mut writer, 1).unwrap();
    let entries = prepare(&mut writer, 1).unwrap();
    queue.try_iter().for_each(Work::run);
    assert!(settled(&mut writer).unwrap(), "checkpoint 1 is complete");
    write(&mut writer, 2).unwrap();
    prepare(&mut writer, 2).unwrap();
    assert!(!settled(&mut writer).unwrap());
    // Its calls die with it; one of them is in the kernel and comes late.
    let late = queue.recv().unwrap();
    drop((writer, queue));
    let (cx, _queue) = by_hand(Some((1, entries)));
    let mut writer = sink.open(&cx).unwrap();
    late.run();
    assert_eq!(visible(dir.path()), [1]);
    assert_eq!(names(dir.path(), true), [""; 0], "what no checkpoint knows is gone");
    write(&mut writer, 2).unwrap();
    assert_eq!(prepare(&mut writer, 2).unwrap().len(), 1);
}

#[test]
fn a_sync_that_fails_fails_the_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(dir.path());
    let tank = Arc::new(AtomicU64::new(1 << 40));
    sink.options.disk.fuel = Some(tank.clone());
    let (cx, queue) = by_hand(None);
    let mut writer = sink.open(&cx).unwrap();
    write(&mut writer, 1).unwrap();
    prepare(&mut writer, 1).unwrap();
    tank.store(0, Ordering::Relaxed);
    queue.try_iter().for_each(Work::run);
    let error = settled(&mut writer).unwrap_err();
    assert_eq!(error.severity(), Severity::FailAttempt);
    assert!(error.to_string().contains("killed"), "{error}");
}

#[test]
fn syncs_under_way_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path()).max_bytes(1);
    let (cx, queue) = by_hand(None);
    let mut writer = sink.open(&cx).unwrap();
    (0..100).for_each(|n| write(&mut writer, n).unwrap());
    assert_eq!(queue.len(), 16);
    assert_eq!(prepare(&mut writer, 1).unwrap().len(), 100);
    assert!(!settled(&mut writer).unwrap());
    queue.try_iter().for_each(Work::run);
    assert!(settled(&mut writer).unwrap());
    commit(&mut writer, 1).unwrap();
    let mut got = visible(dir.path());
    got.sort_unstable();
    assert_eq!(got, (0..100).collect::<Vec<_>>());
}

#[test]
fn hidden_until_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path()).suffix(".txt");
    let mut writer = fresh(&sink).unwrap();
    write(&mut writer, 7).unwrap();
    assert_eq!(prepare(&mut writer, 3).unwrap().len(), 1);
    assert_eq!(names(dir.path(), false), [""; 0]);
    assert_eq!(names(dir.path(), true), [".part-0-0-0-0.inprogress"]);
    write(&mut writer, 8).unwrap();
    commit(&mut writer, 3).unwrap();
    commit(&mut writer, 3).unwrap();
    assert_eq!(names(dir.path(), false), ["part-000-00000003-0.txt"]);
    assert_eq!(visible(dir.path()), [7]);
    prepare(&mut writer, 4).unwrap();
    commit(&mut writer, 4).unwrap();
    assert_eq!(visible(dir.path()), [7, 8]);
    // Without records there is no file.
    assert_eq!(prepare(&mut writer, 5).unwrap().len(), 0);
    commit(&mut writer, 5).unwrap();
    assert_eq!(names(dir.path(), false).len(), 2);
}

#[test]
fn a_fresh_start_wants_no_old_output() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("notes.txt"), "not ours").unwrap();
    fs::write(at(".part-0-0-0-9.inprogress"), "stale").unwrap();
    fs::write(at(".part-5-0-0-9.inprogress"), "stale, inherited").unwrap();
    drop(fresh(&sink(dir.path())).unwrap());
    assert_eq!(names(dir.path(), true), [""; 0]);
    fs::write(at("part-001-00000002-0"), "1\n").unwrap();
    let parts = ["part-001-00000002-0", ".overwrite(true)", "restore"];
    expect_job_error(fresh(&sink(dir.path())), &parts);
    drop(fresh(&sink(dir.path()).overwrite(true)).unwrap());
    assert_eq!(names(dir.path(), false), ["notes.txt"]);
}

#[test]
fn an_attempt_that_opens_late_leaves_the_files_of_later_ones_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // Of a later attempt; of an attempt of an earlier life, whose numbers began at 0 too.
    fs::write(at(".part-0-0-3-0.inprogress"), "later").unwrap();
    drop(fresh(&sink(dir.path())).unwrap());
    assert_eq!(names(dir.path(), true), [".part-0-0-3-0.inprogress"]);
    let restored = sink_context(0, 1, Some((1, Vec::new())));
    drop(sink(dir.path()).open(&restored).unwrap());
    assert_eq!(names(dir.path(), true), [""; 0]);
}

#[test]
fn a_subtask_leaves_the_files_of_others_alone() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path());
    let mut first = sink.open(&sink_context(0, 2, None)).unwrap();
    write(&mut first, 1).unwrap();
    prepare(&mut first, 1).unwrap();
    let second = sink.open(&sink_context(1, 2, None)).unwrap();
    assert_eq!(names(dir.path(), true).len(), 1);
    commit(&mut first, 1).unwrap();
    assert_eq!(visible(dir.path()), [1]);
    drop(second);
}

#[test]
fn lost_and_damaged_output_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path());
    let mut writer = fresh(&sink).unwrap();
    write(&mut writer, 1).unwrap();
    let entries = prepare(&mut writer, 1).unwrap();
    let restore = || sink.open(&sink_context(0, 1, Some((1, entries.clone()))));
    let hidden = dir.path().join(".part-0-0-0-0.inprogress");
    fs::write(&hidden, "1\n2\n").unwrap();
    expect_job_error(restore(), &["4 bytes, checkpoint 1 left 2"]);
    fs::remove_file(&hidden).unwrap();
    expect_job_error(restore(), &["is lost", "part-000-00000001-0", "put it back"]);
    fs::write(dir.path().join("part-000-00000001-0"), "1").unwrap();
    expect_job_error(restore(), &["1 bytes, checkpoint 1 left 2"]);
    fs::write(dir.path().join("part-000-00000001-0"), "1\n").unwrap();
    drop(restore().unwrap());
    for entry in [&b""[..], b"\x01", b"\x02aaaaaaaaaaaaaaaaaaaaaaaa"] {
        let cx = sink_context(0, 1, Some((1, vec![entry.to_vec()])));
        expect_job_error(sink.open(&cx), &["another version"]);
    }
}

#[test]
fn an_older_checkpoint_than_the_output_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path());
    let mut writer = fresh(&sink).unwrap();
    let mut entries = Vec::new();
    for epoch in 1..=2 {
        write(&mut writer, epoch).unwrap();
        entries.push(prepare(&mut writer, epoch).unwrap());
        commit(&mut writer, epoch).unwrap();
    }
    let older = sink_context(0, 1, Some((1, entries[0].clone())));
    expect_job_error(sink.open(&older), &["of checkpoint 2", "restored from 1", "twice"]);
    drop(sink.open(&sink_context(0, 1, Some((2, entries[1].clone())))).unwrap());
    assert_eq!(visible(dir.path()), [1, 2]);
}

#[test]
fn a_directory_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let error = fresh(&sink(&dir.path().join("file/out"))).err().unwrap();
    assert!(error.to_string().contains("file/out'"), "{error}");
}

#[test]
fn formats() {
    let dir = tempfile::tempdir().unwrap();
    type Item = (u64, String);
    let cx = sink_context(0, 1, None);
    fn once<F, R>(sink: &FileSink<Item, F>, cx: &SinkContext, epoch: u64)
    where
        F: for<'a> FnMut((u64, &'a str), &mut String) -> R + Clone + Send + 'static,
        R: Written,
    {
        let mut writer = sink.open(cx).unwrap();
        SinkWriter::<Item>::write(&mut writer, (7, "a\"b"), 0).unwrap();
        SinkWriter::<Item>::prepare(&mut writer, epoch).unwrap();
        SinkWriter::<Item>::commit(&mut writer, epoch).unwrap();
    }
    once(&FileSink::json(dir.path().join("json")), &cx, 1);
    let mut display = FileSink::<u64, _>::display(dir.path().join("display")).open(&cx).unwrap();
    SinkWriter::<u64>::write(&mut display, 9, 0).unwrap();
    SinkWriter::<u64>::prepare(&mut display, 1).unwrap();
    SinkWriter::<u64>::commit(&mut display, 1).unwrap();
    once(&FileSink::debug(dir.path().join("debug")), &cx, 1);
    once(&FileSink::new(dir.path().join("new"), |(n, s), out| write!(out, "{s} {n}")), &cx, 1);
    once(&FileSink::new(dir.path().join("str"), |(_, s), out| out.push_str(s)), &cx, 1);
    let read =
        |name: &str| fs::read_to_string(dir.path().join(name).join("part-000-00000001-0")).unwrap();
    assert_eq!(read("json"), "[7,\"a\\\"b\"]\n");
    assert_eq!(read("display"), "9\n");
    assert_eq!(read("debug"), "(7, \"a\\\"b\")\n");
    assert_eq!(read("new"), "a\"b 7\n");
    assert_eq!(read("str"), "a\"b\n");
}

/// Needs root, for a file system of 1 MiB.
#[test]
fn a_full_disk_fails_cleanly_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(dir.path())
        .output();
    if !mounted.is_ok_and(|m| m.status.success()) {
        println!("skipped: this user may not mount a small file system");
        return;
    }
    let outcome = std::panic::catch_unwind(|| full_disk(dir.path()));
    let unmounted = std::process::Command::new("umount").arg(dir.path()).status();
    assert!(unmounted.unwrap().success());
    outcome.unwrap();
}

fn full_disk(dir: &Path) {
    let out = dir.join("out");
    let sink = sink(&out);
    let mut writer = fresh(&sink).unwrap();
    write(&mut writer, 1).unwrap();
    let entries = prepare(&mut writer, 1).unwrap();
    commit(&mut writer, 1).unwrap();
    let fill =
        |writer: &mut TestWriter| (0..200_000).try_for_each(|n| write(writer, 1_000_000 + n));
    let error = fill(&mut writer).and_then(|()| prepare(&mut writer, 2)).unwrap_err();
    assert_eq!(error.severity(), Severity::FailAttempt);
    let text = error.to_string();
    assert!(text.contains("No space left") && text.contains("free some space"), "{text}");
    assert_eq!(visible(&out), [1]);
    // The attempt that follows starts with the space of the one that failed.
    drop(writer);
    let mut writer = sink.open(&sink_context(0, 1, Some((1, entries)))).unwrap();
    write(&mut writer, 2).unwrap();
    prepare(&mut writer, 2).unwrap();
    commit(&mut writer, 2).unwrap();
    assert_eq!(visible(&out), [1, 2]);
}
