//! What `chaos_job` reads and must write, by counting.

use std::collections::BTreeMap;
use std::path::Path;

/// Splits of the source.
pub const SPLITS: u64 = 6;
/// Keys of a split.
pub const KEYS_OF_SPLIT: u64 = 8;
/// All keys.
pub const KEYS: u64 = SPLITS * KEYS_OF_SPLIT;
/// Length of the windows, in milliseconds of event time.
pub const WINDOW_MS: i64 = 500;
/// Event time between two records of a split.
const STEP_MS: i64 = 3;

/// Records of each split, of `records` in all.
pub fn records_of_split(records: u64) -> u64 {
    records / SPLITS
}

/// Record `n` of a split: key, its number within the key, event time. A key is in one split, so its
/// records come in order.
pub fn record(split: u64, n: u64) -> (u64, u64, i64) {
    (split + SPLITS * (n % KEYS_OF_SPLIT), n / KEYS_OF_SPLIT, n as i64 * STEP_MS)
}

/// The rows of both sinks, each with how often it must be there.
pub fn rows(records: u64) -> [BTreeMap<String, u64>; 2] {
    let mut rows = BTreeMap::new();
    let mut counts = BTreeMap::<(u64, i64), u64>::new();
    for split in 0..SPLITS {
        for n in 0..records_of_split(records) {
            let (key, seq, at) = record(split, n);
            *rows.entry(format!("{key} {seq}")).or_default() += 1;
            *counts.entry((key, at.div_euclid(WINDOW_MS) * WINDOW_MS)).or_default() += 1;
        }
    }
    let count = |((key, start), n): ((u64, i64), u64)| (format!("{key} {start} {n}"), 1);
    [rows, counts.into_iter().map(count).collect()]
}

/// The rows of a sink's visible files, and its hidden files.
///
/// # Errors
/// When the directory cannot be read.
pub fn written(dir: &Path) -> std::io::Result<(BTreeMap<String, u64>, Vec<String>)> {
    let (mut rows, mut hidden) = (BTreeMap::<String, u64>::new(), Vec::new());
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            hidden.push(name);
            continue;
        }
        for line in std::fs::read_to_string(entry.path())?.lines() {
            *rows.entry(line.to_owned()).or_default() += 1;
        }
    }
    Ok((rows, hidden))
}

/// Compares what was written with what must be.
///
/// # Errors
/// The first differences.
pub fn compare(got: &BTreeMap<String, u64>, wanted: &BTreeMap<String, u64>) -> Result<(), String> {
    let count = |rows: &BTreeMap<String, u64>, row: &str| rows.get(row).copied().unwrap_or(0);
    let missing: Vec<&String> =
        wanted.iter().filter(|(row, n)| count(got, row) < **n).map(|(row, _)| row).collect();
    let extra: Vec<&String> =
        got.iter().filter(|(row, n)| count(wanted, row) < **n).map(|(row, _)| row).collect();
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    let some = |rows: &[&String]| {
        let first: Vec<&String> = rows.iter().take(5).copied().collect();
        format!("{}, e.g. {first:?}", rows.len())
    };
    Err(format!("missing: {}; too many: {}", some(&missing), some(&extra)))
}
