//! Records by number: classes, watermarks, restores.

use super::*;
use crate::testing::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt::Write as _;

fn stops() -> impl Strategy<Value = Vec<(u32, usize, usize)>> {
    vec((1u32..9, 0usize..6, 1usize..400), 0..4)
}

proptest! {
    #[test]
    fn every_number_once(
        total in 0u64..5000, parallelism in 1u32..9, stops in stops(), every in 1u64..1500,
        rate in prop::option::of(1e4..1e6f64),
    ) {
        let mut source = GeneratorSource::new(Some(total), |i| i).watermark_every(every);
        if let Some(rate) = rate {
            source = source.rate(rate);
        }
        let mut got = read_with_restores(&source, parallelism, &stops).unwrap();
        got.sort_unstable();
        prop_assert_eq!(got, (0..total).collect::<Vec<_>>());
    }

    #[test]
    fn watermarks_hold(total in 1u64..5000, parallelism in 1u32..5, every in 1u64..900) {
        // Out of order by at most 30.
        let stamp = |i: u64| (i * 10) as i64 - [0, 30, 7][i as usize % 3];
        let source = GeneratorSource::with_timestamps(Some(total), move |i| (i, stamp(i)))
            .bounded_lateness(30)
            .watermark_every(every);
        for mut reader in open_all(&source, parallelism, None).unwrap() {
            let mut out = Out::new();
            let mut checked = 0;
            while out.poll(&mut reader, 77).unwrap() == Polled::More {
                let sent = out.watermarks.len();
                prop_assert!(sent as u64 == out.records.len() as u64 / every);
                for &(_, watermark) in &out.watermarks[checked..] {
                    let later = (out.records.len() as u64..total).map(|k| {
                        stamp(k * u64::from(parallelism) + out.records[0].0)
                    });
                    prop_assert!(later.min().is_none_or(|t| t >= watermark));
                }
                checked = sent;
            }
        }
    }
}

#[test]
fn in_order_with_timestamps() {
    let source = GeneratorSource::with_timestamps(Some(2500), |i| (i * i, i as i64));
    let mut out = Out::new();
    let mut readers = open_all(&source, 1, None).unwrap();
    assert_eq!(out.drain(&mut readers[0]).unwrap(), Polled::End);
    assert_eq!(out.records, (0..2500).map(|i| (i * i, i as i64)).collect::<Vec<_>>());
    assert_eq!(out.ended, [0]);
}

#[test]
fn written_in_place() {
    let write = |i: u64, line: &mut String| {
        line.clear();
        write!(line, "line {i}").unwrap();
        i as i64 * 2
    };
    let source = GeneratorSource::in_place(Some(3), String::new(), write);
    let mut out = Out::new();
    out.drain(&mut open_all(&source, 1, None).unwrap()[0]).unwrap();
    let want = [("line 0".into(), 0), ("line 1".into(), 2), ("line 2".into(), 4)];
    assert_eq!(out.records, want);
}

#[test]
fn a_schedule_is_told_and_kept_after_a_pause() {
    let source = GeneratorSource::scheduled(Some(40), 100.0, |i, due| ((i, due), 0));
    let mut out = Out::new();
    let mut reader = open_all(&source, 2, None).unwrap().remove(1);
    out.poll(&mut reader, 1024).unwrap();
    assert_eq!(out.values(), [(1, 1_000_000)]);
    assert_eq!(out.poll(&mut reader, 1024).unwrap(), Polled::Idle { until: Some(1_020_000) });
    out.now += 100_000_000;
    assert_eq!(out.drain(&mut reader).unwrap(), Polled::End);
    let want: Vec<_> = (0..20).map(|k| (2 * k + 1, 1_000_000 + 20_000 * k)).collect();
    assert_eq!(out.values(), want);
}

#[test]
fn classes_of_one_subtask_stay_together() {
    let source = GeneratorSource::with_timestamps(None, |i| (i, i as i64)).watermark_every(10);
    let mut readers = open_all(&source, 4, None).unwrap();
    Out::new().poll(&mut readers[2], 500).unwrap();
    let entries = snapshot_all(&mut readers);
    let mut reader = open_all(&source, 1, Some(&entries)).unwrap().remove(0);
    let mut out = Out::new();
    for _ in 0..100 {
        out.poll(&mut reader, 1024).unwrap();
    }
    let mut greatest = 0;
    for (i, _) in &out.records {
        assert!(*i + 4 * 20 > greatest, "{i} after {greatest}");
        greatest = greatest.max(*i);
    }
    assert_eq!(out.records.len(), 1000);
    for class in 0..4 {
        let last =
            out.records.iter().rev().find(|r| r.0 % 4 == class).expect("every class goes on");
        assert!(last.0 + 4 * 20 > greatest, "class {class} is at {}, others at {greatest}", last.0);
    }
}

#[test]
fn entries_of_others_are_refused() {
    let source = GeneratorSource::new(Some(1), |i| i);
    for entry in
        [&[][..], &[1], &[9; 17], &[1; 18], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    {
        assert!(open_all(&source, 1, Some(&[entry.to_vec()])).is_err(), "{entry:?}");
    }
}
