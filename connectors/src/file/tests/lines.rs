//! Lines, splits and restores against `str::lines`.

use super::{dir_with, file_with};
use crate::testing::*;
use crate::{FileSource, Format, Parsed};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tidemill_base::Record as _;
use tidemill_macros::Record;
use tidemill_runtime::source::{Polled, SourceReader};

#[derive(Record, Serialize, Deserialize, Clone, Debug, PartialEq, PartialOrd)]
#[record(crate = tidemill_base)]
struct Row {
    name: String,
    n: i64,
    note: Option<String>,
}

fn sorted<T: PartialOrd>(mut values: Vec<T>) -> Vec<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values
}

fn lines_of(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Text with everything that parts lines, and some that do not.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z ß]{0,12}",
        4 => Just(String::from("\n")),
        1 => Just(String::from("\r\n")),
        1 => Just(String::from("\r")),
        1 => Just(String::from("\u{2028}x\0")),
    ];
    vec(piece, 0..60).prop_map(|p| p.concat())
}

/// Parallelism after the restore, polls before it, records a poll.
fn stops() -> impl Strategy<Value = Vec<(u32, usize, usize)>> {
    vec((1u32..9, 0usize..6, 1usize..6), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_line_once(text in text(), split in 1u64..80, parallelism in 1u32..9, stops in stops()) {
        let (_dir, path) = file_with(text.as_bytes());
        let source = FileSource::lines(path).split_bytes(split);
        let got = read_with_restores(&source, parallelism, &stops).unwrap();
        prop_assert_eq!(sorted(got), sorted(lines_of(&text)));
    }

    #[test]
    fn every_line_of_every_file_once(
        texts in vec(text(), 1..6), split in 1u64..80, parallelism in 1u32..9, stops in stops(),
        ordered: bool, rate in prop::option::of(1.0..1e5f64),
    ) {
        let names: Vec<String> = (0..texts.len()).map(|i| format!("{i}.log")).collect();
        let files: Vec<_> = names.iter().map(String::as_str).zip(texts.iter().map(|t| t.as_bytes())).collect();
        let dir = dir_with(&files);
        for other in [".hidden.log", "other.txt"] {
            std::fs::write(dir.path().join(other), "no\n").unwrap();
        }
        std::fs::create_dir(dir.path().join("folder.log")).unwrap();
        let mut source =
            FileSource::lines(dir.path()).suffix(".log").split_bytes(split).ordered(ordered);
        if let Some(rate) = rate {
            source = source.rate(rate);
        }
        let got = read_with_restores(&source, parallelism, &stops).unwrap();
        let want = texts.iter().flat_map(|t| lines_of(t)).collect();
        prop_assert_eq!(sorted(got), sorted(want));
    }

    #[test]
    fn every_json_and_csv_record_once(
        rows in vec(("[a-z,\"; ]{0,9}", any::<i64>(), prop::option::of("[a-zß]{1,5}")), 1..30),
        crlf: bool, mark: bool, blank: bool, split in 1u64..90, parallelism in 1u32..9, stops in stops(),
    ) {
        let rows: Vec<Row> = rows.into_iter().map(|(name, n, note)| Row { name, n, note }).collect();
        let end = if crlf { "\r\n" } else { "\n" };
        let mark = if mark { "\u{feff}" } else { "" };
        let json: Vec<String> = rows.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
        let (_dir, path) = file_with(format!("{mark}{}", json.join(end)).as_bytes());
        let source = FileSource::json::<Row>(path).split_bytes(split);
        let got = read_with_restores(&source, parallelism, &stops).unwrap();
        prop_assert_eq!(sorted(got), sorted(rows.clone()));

        let mut writer = csv::WriterBuilder::new().delimiter(b';').from_writer(Vec::new());
        for row in &rows {
            writer.serialize(row).unwrap();
        }
        let mut text = String::from_utf8(writer.into_inner().unwrap()).unwrap().replace('\n', end);
        if blank {
            text.push_str(end);
        }
        let (_dir, path) = file_with(format!("{mark}{text}").as_bytes());
        let source = FileSource::csv::<Row>(path).delimiter(b';').split_bytes(split);
        let got = read_with_restores(&source, parallelism, &stops).unwrap();
        prop_assert_eq!(sorted(got), sorted(rows));
    }
}

/// A value of a CSV field with all that parts fields, lines and records.
fn field() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zß ]{0,6}",
        3 => Just(String::from("\n")),
        1 => Just(String::from("\r\n")),
        2 => Just(String::from("\"")),
        2 => Just(String::from(";")),
        1 => Just(String::from(",")),
    ];
    vec(piece, 0..6).prop_map(|p| p.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_record_that_spans_lines_once(
        rows in vec((field(), any::<i64>(), prop::option::of("[a-zß\n]{1,5}")), 1..30),
        mark: bool, last_break: bool, tail: bool, split in 1u64..90, parallelism in 1u32..9,
        stops in stops(),
    ) {
        let rows: Vec<Row> = rows.into_iter().map(|(name, n, note)| Row { name, n, note }).collect();
        let mut writer = csv::WriterBuilder::new().delimiter(b';').from_writer(Vec::new());
        for row in &rows {
            writer.serialize(row).unwrap();
        }
        let mark = if mark { "\u{feff}" } else { "" };
        let mut text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        if !last_break && !tail {
            text.truncate(text.len() - 1);
        }
        let (_dir, path) = file_with(format!("{mark}{text}").as_bytes());
        let source = FileSource::csv::<Row>(path).delimiter(b';').multiline(true).split_bytes(split);
        if tail {
            // What ends within quotes is not a record yet.
            let mut reader = open_all(&source.tail(true), 1, None).unwrap().remove(0);
            let mut out = Out::new();
            prop_assert_eq!(out.drain(&mut reader).unwrap(), Polled::Idle { until: None });
            prop_assert_eq!(out.values(), rows);
        } else {
            let got = read_with_restores(&source, parallelism, &stops).unwrap();
            prop_assert_eq!(sorted(got), sorted(rows));
        }
    }

    /// The file's reader and the CSV reader of the crate agree on where records end.
    #[test]
    fn records_end_where_csv_says(pieces in vec(prop_oneof![
        Just("\""), Just(","), Just("\n"), Just("a"), Just("\r\n")
    ], 0..40)) {
        let text = pieces.concat();
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(text.as_bytes());
        // The position of a record is before the empty lines that it skips.
        let begins = |at: usize| at + text[at..].len() - text[at..].trim_start_matches('\n').len();
        let records = reader.byte_records().map(|r| r.unwrap().position().unwrap().byte() as usize);
        let want: Vec<usize> = records.map(begins).collect();
        let format = crate::FileSource::csv::<Row>("").multiline(true).into_format();
        let (mut got, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let end = format.record_end(&text.as_bytes()[at..]);
            if end != Some(0) {
                got.push(at);
            }
            at += end.map_or(text.len(), |e| e + 1);
        }
        prop_assert_eq!(got, want);
    }
}

#[test]
fn records_of_many_lines_cross_blocks() {
    let rows: Vec<Row> = (0..40_000)
        .map(|n| {
            let name =
                if n % 15_000 == 7 { "line\n".repeat(100_000) } else { format!("a\n\"{n}\"") };
            Row { name, n, note: None }
        })
        .collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in &rows {
        writer.serialize(row).unwrap();
    }
    let (_dir, path) = file_with(&writer.into_inner().unwrap());
    let source = FileSource::csv::<Row>(path).multiline(true);
    let got = read_with_restores(&source, 3, &[(2, 40, 333), (3, 17, 1024)]).unwrap();
    assert!(sorted(got) == sorted(rows.clone()));
    // One subtask has all of it, in order.
    let mut readers = open_all(&source, 2, None).unwrap();
    let mut outs = [Out::new(), Out::new()];
    for (reader, out) in readers.iter_mut().zip(&mut outs) {
        out.drain(reader).unwrap();
    }
    assert!(outs[0].values() == rows && outs[1].records.is_empty());
}

#[test]
fn folders_within_folders() {
    let dir = dir_with(&[("1.log", b"a\n"), ("1.txt", b"no\n")]);
    let path = |name: &str| dir.path().join(name);
    for folder in ["sub.log/deep", ".hidden", "empty"] {
        std::fs::create_dir_all(path(folder)).unwrap();
    }
    let files =
        [("sub.log/2.log", "b\n"), ("sub.log/deep/3.log", "c\n"), (".hidden/4.log", "no\n")];
    for (name, text) in files {
        std::fs::write(path(name), text).unwrap();
    }
    // A link to a folder would let files be read twice, or for ever.
    std::os::unix::fs::symlink(dir.path(), path("empty/loop.log")).unwrap();
    let read = |recursive| {
        let source = FileSource::lines(dir.path()).suffix(".log").recursive(recursive);
        sorted(read_with_restores(&source, 2, &[(3, 1, 1)]).unwrap())
    };
    assert_eq!(read(true), ["a", "b", "c"]);
    assert_eq!(read(false), ["a"]);
}

#[test]
fn large_blocks_and_long_lines() {
    let mut text = String::new();
    for i in 0..60_000 {
        text.push_str(&format!("line {i} of a file that takes several reads\n"));
        if i % 20_000 == 7 {
            text.push_str(&"ä".repeat(700_000));
            text.push_str("\r\n\n");
        }
    }
    let (_dir, path) = file_with(text.as_bytes());
    for (parallelism, split) in [(1, 16 << 20), (3, 100_000), (2, 16 << 20)] {
        let source = FileSource::lines(&path).split_bytes(split);
        let got = read_with_restores(&source, parallelism, &[(2, 40, 333), (3, 17, 1024)]).unwrap();
        assert!(sorted(got) == sorted(lines_of(&text)), "parallelism {parallelism}");
    }
    // In order where there is one subtask.
    let source = FileSource::lines(&path);
    let mut out = Out::new();
    let mut reader = open_all(&source, 1, None).unwrap().remove(0);
    assert_eq!(out.drain(&mut reader).unwrap(), Polled::End);
    assert!(out.values() == lines_of(&text));
}

#[test]
fn a_file_is_parted_among_all_subtasks() {
    let text = "0123456789abcde\n".repeat(10_000);
    let (_dir, path) = file_with(text.as_bytes());
    let mut readers = open_all(&FileSource::lines(&path), 4, None).unwrap();
    for reader in &mut readers {
        let mut out = Out::new();
        assert_eq!(out.drain(reader).unwrap(), Polled::End);
        assert!(out.records.len().abs_diff(2500) < 3, "{}", out.records.len());
        assert_eq!(out.ended, [0]);
    }
    // Small files are one split each.
    let (_dir, path) = file_with(&text.as_bytes()[..60_000]);
    let counts = open_all(&FileSource::lines(&path), 4, None).unwrap().into_iter().map(|mut r| {
        let mut out = Out::new();
        out.drain(&mut r).unwrap();
        out.records.len()
    });
    assert_eq!(counts.collect::<Vec<_>>(), [3750, 0, 0, 0]);
}

#[test]
fn files_without_order_have_lanes_of_their_own() {
    let text = "x\n".repeat(400_000);
    let dir = dir_with(&[("a", text.as_bytes()), ("b", text.as_bytes()), ("c", b"")]);
    let lanes = |ordered| {
        let source = FileSource::lines(dir.path()).ordered(ordered);
        let mut reader = open_all(&source, 1, None).unwrap().remove(0);
        let mut out = Out::new();
        assert_eq!(out.drain(&mut reader).unwrap(), Polled::End);
        (out.splits.clone(), out.ended.len())
    };
    let (splits, ended) = lanes(false);
    let changes = splits.windows(2).filter(|w| w[0] != w[1]).count();
    assert!(changes >= 5 && splits.len() == 800_000 && ended == 2, "{changes} changes of lane");
    let (splits, ended) = lanes(true);
    assert!(splits.iter().all(|&s| s == 0) && ended == 1);
}

#[test]
fn a_finished_source_stays_finished() {
    let (_dir, path) = file_with(b"a\nb");
    let source = FileSource::lines(&path);
    let mut readers = open_all(&source, 2, None).unwrap();
    let all: Vec<String> = readers
        .iter_mut()
        .flat_map(|r| {
            let mut out = Out::new();
            assert_eq!(out.drain(r).unwrap(), Polled::End);
            out.values()
        })
        .collect();
    assert_eq!(all, ["a", "b"]);
    let entries = snapshot_all(&mut readers);
    assert!(!entries.is_empty());
    for mut reader in open_all(&source, 3, Some(&entries)).unwrap() {
        assert_eq!(Out::new().drain(&mut reader).unwrap(), Polled::End);
    }
}

#[test]
fn a_rate_spreads_records_and_changes_nothing_else() {
    let text: String = (0..500).map(|i| format!("{i}\n")).collect();
    let (_dir, path) = file_with(text.as_bytes());
    let mut reader = open_all(&FileSource::lines(&path).rate(100.0), 1, None).unwrap().remove(0);
    let (mut out, mut polls) = (Out::new(), BTreeSet::new());
    loop {
        match out.poll(&mut reader, 1024).unwrap() {
            Polled::End => break,
            Polled::Idle { until } => {
                let until = until.expect("knows when the next record is due");
                assert!(until > out.now);
                out.now = until;
            }
            Polled::More => assert!(polls.insert(out.now), "two records at {}", out.now),
        }
    }
    assert_eq!(out.values(), lines_of(&text));
    assert!((4_980_000..=5_010_000).contains(&(out.now - 1_000_000)), "{}", out.now);
}

#[test]
fn good_records_are_parsed_too() {
    let (_dir, path) = file_with(b"{\"name\":\"a\",\"n\":1,\"note\":null}\n");
    let source = FileSource::json::<Row>(&path).or_bad();
    let mut reader = open_all(&source, 1, None).unwrap().remove(0);
    let mut out = Out::new();
    out.drain(&mut reader).unwrap();
    let row = Row { name: "a".into(), n: 1, note: None };
    assert_eq!(out.records[0].0.view(), Parsed::Good(row).view());
    assert_eq!(reader.snapshot().unwrap().len(), 1);
}

/// F4: across blocks, parts, lines that are no text, a byte order mark and a restore.
#[test]
fn timestamps_are_places() {
    let text = "\u{feff}first\r\n\nthird\n".to_owned() + &"ß line\n".repeat(40_000) + "last";
    let mut bytes = text.clone().into_bytes();
    bytes[20] = 0xff;
    let (_dir, path) = file_with(&bytes);
    let mut want = Vec::new();
    let mut at = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let start = if at == 0 { 3 } else { 0 };
        let text = String::from_utf8_lossy(&line[start..]);
        want.push((
            text.trim_end_matches('\n').trim_end_matches('\r').to_owned(),
            (at + start) as i64,
        ));
        at += line.len();
    }
    for parallelism in 1..4 {
        let source = FileSource::lines(&path).or_bad().split_bytes(70_000);
        let mut got = Vec::new();
        let mut readers = open_all(&source, parallelism, None).unwrap();
        for pass in 0..2 {
            for reader in &mut readers {
                let mut out = Out::new();
                while out.poll(reader, 1000).unwrap() != Polled::End && pass == 1 {}
                got.extend(out.records);
            }
            if pass == 0 {
                let entries = snapshot_all(&mut readers);
                readers = open_all(&source, parallelism + 1, Some(&entries)).unwrap();
            }
        }
        let text = |p: Parsed<String>| match p {
            Parsed::Good(line) => line,
            Parsed::Bad(bad) => bad.text,
        };
        let mut got: Vec<_> = got.into_iter().map(|(p, at)| (text(p), at)).collect();
        got.sort_by_key(|r| r.1);
        assert_eq!(got, want);
    }
}
