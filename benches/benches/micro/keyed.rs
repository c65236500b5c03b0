//! Updates of a million keys, uniformly chosen: the heap table beside the standard map, which is
//! hashbrown. One iteration is a batch of 800 records that bring their hashes, as an operator
//! finds them in a buffer.

use criterion::{Criterion, Throughput};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use tidemill_base::hash::hash_u64;
use tidemill_benches::definitions::mix;
use tidemill_keyed::HeapTable;

/// Keys of the tables.
pub(crate) const KEYS: u64 = 1_000_000;
/// Records before they begin anew; far more than caches hold.
const RECORDS: usize = 1200 * BATCH;
/// Records of a batch.
const BATCH: usize = 800;

/// The engine's hash, for the standard map.
#[derive(Default)]
struct BaseHasher(u64);

impl Hasher for BaseHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = hash_u64(x);
    }
}

/// Hash and key.
type Hashed = (u64, u64);

/// A table with all keys, each with itself as its value.
pub(crate) fn table() -> HeapTable<u64, u64> {
    let mut table = HeapTable::new();
    for key in 0..KEYS {
        table.insert(hash_u64(key), key, key);
    }
    table
}

pub(crate) fn all(criterion: &mut Criterion) {
    let keys = (0..RECORDS as u64).map(|i| mix(i) % KEYS);
    let records: Vec<Hashed> = keys.map(|key| (hash_u64(key), key)).collect();
    bench(criterion, "heap table, by batch", &records, || {
        let mut table = table();
        move |batch: &[Hashed]| {
            let add = |i: usize, value: &mut u64| *value = value.wrapping_add(batch[i].1);
            table.for_batch(batch.len(), |i| batch[i], |_| 0, add);
        }
    });
    bench(criterion, "heap table, one by one", &records, || {
        let mut table = table();
        move |batch: &[Hashed]| {
            for &(hash, key) in batch {
                let value = table.upsert(hash, key, || 0);
                *value = value.wrapping_add(key);
            }
        }
    });
    bench(criterion, "std map, same hash", &records, || {
        let mut map = map::<BuildHasherDefault<BaseHasher>>();
        move |batch: &[Hashed]| update(&mut map, batch)
    });
    bench(criterion, "std map, its own hash", &records, || {
        let mut map = map::<RandomState>();
        move |batch: &[Hashed]| update(&mut map, batch)
    });
}

fn map<S: BuildHasher + Default>() -> HashMap<u64, u64, S> {
    (0..KEYS).map(|key| (key, key)).collect()
}

#[inline(always)]
fn update<S: BuildHasher>(map: &mut HashMap<u64, u64, S>, batch: &[Hashed]) {
    for &(_, key) in batch {
        let value = map.entry(key).or_insert(0);
        *value = value.wrapping_add(key);
    }
}

/// Measures an update of one batch after the other; `build` makes the table only if it is chosen.
fn bench<F: FnMut(&[Hashed])>(
    criterion: &mut Criterion,
    name: &str,
    records: &[Hashed],
    build: impl Fn() -> F,
) {
    let mut group = criterion.benchmark_group("keyed update");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut update = None;
    group.bench_function(name, |b| {
        let update = update.get_or_insert_with(&build);
        let mut batches = records.chunks(BATCH).cycle();
        b.iter(|| batches.next().map(&mut *update));
    });
    group.finish();
}
