//! Many keys: firings and snapshots take several steps and interleave.

use super::driver::{Driver, Output};
use crate::process::testing::Disk;
use crate::window::{Aligned, Assigner, Spec};
use std::collections::BTreeMap;
use tidemill_base::clock::ManualClock;
use tidemill_base::{Timestamp, WATERMARK_MAX};

const KEYS: u64 = 9_000;

/// Of RocksDB: about a thousand entries of each table.
const MEMORY: usize = 64 << 10;

/// Four for each key.
fn records(keys: u64) -> Vec<(String, u64, Timestamp)> {
    let time = |i: u64| (i * 60 / (4 * keys)) as i64;
    (0..4 * keys).map(|i| (format!("key {}", i * 7919 % keys), i, time(i))).collect()
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

/// `places` are the numbers of those before and after the crash.
fn snapshots_beside_firings(keys: u64, (size, slide): (i64, i64), places: (usize, usize)) {
    let spec = Spec::new(Assigner::Aligned(Aligned { size, slide, offset: 0 }));
    let clock = ManualClock::new();
    let mut driver =
        Driver::new(&spec, 2, &clock, None, false, Disk::with_memory(places.0, MEMORY));
    let all = records(keys);
    let half = 2 * keys as usize + 100;
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

    let mut driver =
        Driver::new(&spec, 3, &clock, Some(restored), false, Disk::with_memory(places.1, MEMORY));
    driver.records(&all[half..]);
    driver.watermark(WATERMARK_MAX, u32::MAX);
    emitted.extend(driver.take_outputs());
    emitted.sort();
    assert!(emitted == expected(size, slide, &all), "with a crash");
}

#[test]
fn tumbling_windows_of_many_keys() {
    snapshots_beside_firings(KEYS, (20, 20), (0, 0));
}

#[test]
fn sliding_windows_of_many_keys() {
    snapshots_beside_firings(KEYS, (20, 6), (0, 0));
}

#[cfg(feature = "rocksdb")]
#[test]
fn windows_of_more_keys_than_memory_holds() {
    snapshots_beside_firings(3_000, (20, 20), (1, 2));
    snapshots_beside_firings(1_000, (20, 6), (2, 1));
    snapshots_beside_firings(1_000, (20, 6), (2, 0));
}
