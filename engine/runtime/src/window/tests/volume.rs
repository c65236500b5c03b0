//! Many keys: firings and snapshots take several steps and interleave.

use super::driver::{Driver, Output};
use crate::window::{Aligned, Assigner, Spec};
use std::collections::BTreeMap;
use tidemill_base::clock::ManualClock;
use tidemill_base::{Timestamp, WATERMARK_MAX};

const KEYS: u64 = 9_000;

fn records(from: u64, to: u64) -> Vec<(String, u64, Timestamp)> {
    let time = |i: u64| (i * 60 / (4 * KEYS)) as i64;
    (from..to).map(|i| (format!("key {}", i * 7919 % KEYS), i, time(i))).collect()
}

fn expected(
    size: i64,
    slide: i64,
    records: &[(String, u64, Timestamp)],
) -> Vec<(Output, Timestamp)> {
    let mut windows: BTreeMap<(String, i64), Vec<u64>> = BTreeMap::new();
    for (key, id, timestamp) in records {
        for start in timestamp - size + 1..=*timestamp {
            if start.rem_euclid(slide) == 0 {
                windows.entry((key.clone(), start)).or_default().push(*id);
            }
        }
    }
    let mut out: Vec<_> = windows
        .into_iter()
        .map(|((key, start), ids)| ((key, start, start + size, ids), start + size - 1))
        .collect();
    out.sort();
    out
}

fn snapshots_beside_firings(size: i64, slide: i64) {
    let spec = Spec::new(Assigner::Aligned(Aligned { size, slide, offset: 0 }));
    let clock = ManualClock::new();
    let mut driver = Driver::new(&spec, 2, &clock, None, false);
    let all = records(0, 4 * KEYS);
    let half = 2 * KEYS as usize + 100;
    let middle = all[half].2;
    driver.records(&all[..half]);
    driver.watermark(middle, u32::MAX);
    let mut emitted = driver.take_outputs();

    // The snapshot is taken here, and written while further records come and windows fire.
    driver.begin_snapshot(1);
    driver.snapshot_step();
    driver.records(&all[half..]);
    driver.watermark(WATERMARK_MAX, u32::MAX);
    let restored = driver.snapshot_rest();
    let mut uninterrupted = emitted.clone();
    uninterrupted.extend(driver.take_outputs());
    uninterrupted.sort();
    assert!(uninterrupted == expected(size, slide, &all), "without a crash");

    let mut driver = Driver::new(&spec, 3, &clock, Some(restored), false);
    driver.records(&all[half..]);
    driver.watermark(WATERMARK_MAX, u32::MAX);
    emitted.extend(driver.take_outputs());
    emitted.sort();
    assert!(emitted == expected(size, slide, &all), "with a crash");
}

#[test]
fn tumbling_windows_of_many_keys() {
    snapshots_beside_firings(20, 20);
}

#[test]
fn sliding_windows_of_many_keys() {
    snapshots_beside_firings(20, 6);
}
