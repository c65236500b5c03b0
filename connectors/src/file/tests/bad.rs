//! Bad input: each error names the file, the line and the remedy.

use super::{dir_with, file_with};
use crate::testing::*;
use crate::{BadLine, FileSource, Format, OnError, Parsed};
use serde::Deserialize;
use std::fs;
use tidemill_base::{Error, Severity};
use tidemill_macros::Record;
use tidemill_runtime::source::{Polled, Source};

#[derive(Record, Deserialize, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
struct Row {
    name: String,
    price: f64,
}

fn failure<F: Format>(source: &FileSource<F>) -> Error {
    let mut readers = match open_all(source, 2, None) {
        Ok(readers) => readers,
        Err(error) => return error,
    };
    let run = |r| Out::new().drain(r);
    let error = readers.iter_mut().map(run).find_map(Result::err).expect("must fail");
    assert_eq!(error.severity(), Severity::FailJob, "{error}");
    error
}

fn contains(error: &Error, parts: &[&str]) {
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

const JSON: &[u8] = b"{\"name\":\"a\",\"price\":1}\n{\"name\":\"b\",\"price\":2.5}\n\
    {\"name\":\"c\" \"price\":3}\n\xff\xfe\n{\"name\":\"d\",\"price\":4}\n{\"name\":\"e\"}\n";

#[test]
fn malformed_json_names_file_line_and_column() {
    let (_dir, path) = file_with(JSON);
    // In whatever split the line lies.
    for split in [1, 7, 50, 1 << 20] {
        let error = failure(&FileSource::json::<Row>(&path).split_bytes(split));
        if split > 50 {
            contains(&error, &["in.txt:3:13: malformed JSON", "expected", "OnError::Skip"]);
        }
        contains(&error, &["in.txt:", "malformed JSON"]);
    }
}

#[test]
fn invalid_utf8_names_the_byte() {
    let mut text = b"good\nalso \xc3\xa4 good\nbad \xe4 here\n".to_vec();
    let (_dir, path) = file_with(&text);
    contains(&failure(&FileSource::lines(&path)), &["in.txt:3:5", "invalid UTF-8: byte 0xe4"]);
    text.splice(0..0, "filler\n".repeat(100_000).into_bytes());
    let (_dir, path) = file_with(&text);
    let error = failure(&FileSource::lines(&path).split_bytes(300_000));
    contains(&error, &["in.txt:100003:5", "\"bad \u{fffd} here\""]);
}

#[test]
fn skipped_lines_are_counted() {
    let (_dir, path) = file_with(JSON);
    let source = FileSource::json::<Row>(&path).on_error(OnError::Skip);
    let cx = source_context(0, 1, None);
    let mut out = Out::new();
    assert_eq!(out.drain(&mut source.open(&cx).unwrap()).unwrap(), Polled::End);
    let names: Vec<String> = out.values().into_iter().map(|r| r.name).collect();
    assert_eq!(names, ["a", "b", "d"]);
    assert_eq!(cx.context.metrics.malformed_skipped.get(), 3);
}

#[test]
fn a_file_of_bad_lines_is_skipped_in_bounded_polls() {
    let (_dir, path) = file_with(&b"\xff\n".repeat(1_000_000));
    let source = FileSource::lines(&path).on_error(OnError::Skip);
    let cx = source_context(0, 1, None);
    let mut reader = source.open(&cx).unwrap();
    assert_eq!(Out::new().poll(&mut reader, 1024).unwrap(), Polled::More);
    assert!(cx.context.metrics.malformed_skipped.get() <= 131_072);
    assert_eq!(Out::new().drain(&mut reader).unwrap(), Polled::End);
    assert_eq!(cx.context.metrics.malformed_skipped.get(), 1_000_000);
}

#[test]
fn bad_lines_can_be_kept() {
    let (_dir, path) = file_with(JSON);
    for split in [1, 30, 1 << 20] {
        let source = FileSource::json::<Row>(&path).or_bad().split_bytes(split);
        let all = read_with_restores(&source, 3, &[(2, 1, 1), (1, 2, 1)]).unwrap();
        let good = all.iter().filter(|r| matches!(r, Parsed::Good(_))).count();
        let mut bad: Vec<BadLine> = all
            .into_iter()
            .filter_map(|r| match r {
                Parsed::Good(_) => None,
                Parsed::Bad(bad) => Some(bad),
            })
            .collect();
        bad.sort_by_key(|b| b.line);
        assert_eq!(good, 3);
        let places: Vec<_> = bad.iter().map(|b| (b.line, b.column)).collect();
        assert_eq!(places, [(3, 13), (4, 1), (6, 12)]);
        assert!(bad[0].file.ends_with("in.txt") && bad[0].text.contains("\"c\" \"price\""));
        assert_eq!(bad[1].text, "\u{fffd}\u{fffd}");
        assert_eq!(bad[2].error, "missing field `price`");
    }
}

#[test]
fn malformed_csv() {
    let fails = |text: &str, parts: &[&str]| {
        let (_dir, path) = file_with(text.as_bytes());
        contains(&failure(&FileSource::csv::<Row>(&path)), parts);
    };
    fails(
        "name,price\na,1\n\"b,c\",cheap\n",
        &["in.txt:3:7: malformed CSV: field 2 ('price') is 'cheap'", "float"],
    );
    fails("name,price\na\n", &["in.txt:2:2", "1 fields, the header has 2"]);
    fails("name,price\na,1,x\n", &["in.txt:2:5", "3 fields, the header has 2"]);
    fails("name,price\n\"a,1\nb\",2\n", &["in.txt:2:1", "does not end in its line"]);
    fails("name,cost\na,1\n", &["in.txt:2:1", "missing field `price`"]);
    fails("\"name,price\na,1\n", &["in.txt:1:1: malformed CSV header"]);
}

#[test]
fn malformed_csv_of_several_lines() {
    let text = b"name,price\n\"a\nb\nc\",cheap\n\"d\ne\",2\nf,\"3\ng,4\n";
    let (_dir, path) = file_with(text);
    let source = FileSource::csv::<Row>(&path).multiline(true);
    contains(&failure(&source), &["in.txt:4:4: malformed CSV: field 2 ('price') is 'cheap'"]);
    let all = read_with_restores(&source.clone().or_bad(), 1, &[]).unwrap();
    let bad = all.iter().filter_map(|p| match p {
        Parsed::Bad(bad) => Some((bad.line, bad.column, bad.text.as_str(), bad.error.as_str())),
        Parsed::Good(_) => None,
    });
    let places: Vec<_> = bad.collect();
    assert_eq!((places[0].0, places[0].1), (4, 4));
    assert_eq!(places[1], (7, 3, "f,\"3\ng,4\n", "a quoted field does not end"));
    assert_eq!(all.len(), 3);
    let skipped = read_with_restores(&source.on_error(OnError::Skip), 1, &[]).unwrap();
    assert_eq!(skipped, [Row { name: "d\ne".into(), price: 2.0 }]);
}

#[test]
fn a_quote_that_does_not_end_is_not_read_for_ever() {
    let mut text = b"name,price\n\"a".to_vec();
    text.resize(40 << 20, b'\n');
    let (_dir, path) = file_with(&text);
    let source = FileSource::csv::<Row>(&path).multiline(true);
    contains(&failure(&source), &["in.txt:2:", "longer than 16 MiB", "quote"]);
    contains(&failure(&FileSource::csv::<Row>(&path)), &["in.txt:2:1", ".multiline(true)"]);
}

#[test]
fn splits_of_a_checkpoint_and_records_of_several_lines_exclude_each_other() {
    let (_dir, path) = file_with("name,price\n".repeat(20).as_bytes());
    let source = FileSource::csv::<Row>(&path).split_bytes(30);
    let entries = snapshot_all(&mut open_all(&source, 2, None).unwrap());
    let error = open_all(&source.multiline(true), 2, Some(&entries)).err().expect("must fail");
    contains(&error, &["several splits", "without .multiline(true)"]);
}

#[test]
fn csv_without_a_header_is_read_by_position() {
    let (_dir, path) = file_with(b"a|1\n\"b|c\"|2\n");
    let source = FileSource::csv::<Row>(&path).header(false).delimiter(b'|');
    let mut out = Out::new();
    out.drain(&mut open_all(&source, 1, None).unwrap()[0]).unwrap();
    let row = |name: &str, price| Row { name: name.into(), price };
    assert_eq!(out.values(), [row("a", 1.0), row("b|c", 2.0)]);
}

#[test]
fn paths_that_cannot_be_read() {
    let missing = failure(&FileSource::lines("/no/such/file"));
    contains(&missing, &["'/no/such/file'", "No such file", "check the path"]);
    let dir = dir_with(&[("a.txt", b"x")]);
    let empty = failure(&FileSource::lines(dir.path()).suffix(".log"));
    contains(&empty, &["has no file with the suffix '.log'", ".tail(true)"]);
    contains(&failure(&FileSource::lines("/dev/null")), &["neither a regular file"]);
    let both = FileSource::lines(dir.path()).tail(true).ordered(true);
    contains(&failure(&both), &["exclude each other"]);
    use std::os::unix::fs::PermissionsExt;
    let path = dir.path().join("a.txt");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    contains(&failure(&FileSource::lines(&path)), &["Permission denied", "permission"]);
}

#[test]
fn a_line_without_end() {
    let mut text = b"first\n".to_vec();
    text.resize(18 << 20, b'x');
    let (_dir, path) = file_with(&text);
    contains(&failure(&FileSource::lines(&path)), &["in.txt:2:", "longer than 16 MiB"]);
    // The longest line that is allowed.
    text.truncate(6 + (16 << 20));
    let (_dir, path) = file_with(&text);
    let mut out = Out::new();
    out.drain(&mut open_all(&FileSource::lines(&path), 1, None).unwrap()[0]).unwrap();
    assert_eq!(out.records.iter().map(|r| r.0.len()).collect::<Vec<_>>(), [5, 16 << 20]);
}

#[test]
fn a_file_that_shrinks_fails_the_job() {
    let (_dir, path) = file_with("0123456789\n".repeat(100_000).as_bytes());
    let source = FileSource::lines(&path);
    let mut readers = open_all(&source, 1, None).unwrap();
    Out::new().poll(&mut readers[0], 10).unwrap();
    let entries = snapshot_all(&mut readers);
    fs::write(&path, "short\n").unwrap();
    contains(&Out::new().drain(&mut readers[0]).unwrap_err(), &["has become shorter"]);
    let mut again = open_all(&source, 1, Some(&entries)).unwrap();
    contains(&Out::new().drain(&mut again[0]).unwrap_err(), &["has become shorter"]);
}

#[test]
fn entries_of_others_are_refused() {
    let (_dir, path) = file_with(b"a\n");
    let source = FileSource::lines(&path);
    for entry in [&b""[..], b"\x01", b"\x09abc", b"\x01\x04\0\0\0abcd"] {
        let error = open_all(&source, 1, Some(&[entry.to_vec()])).err().expect("must fail");
        contains(&error, &["another version"]);
    }
}
