//! Cost of the heap table beside the standard map (hashbrown) with the same hash, and the
//! longest pauses of growing and of snapshots. Run: `cargo bench -p tidemill-keyed`.
//!
//! Updates come in batches of 800 with their hashes computed, as an operator finds them in a
//! buffer. Rounds of the contestants alternate; medians are printed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use tidemill_base::clock::SystemClock;
use tidemill_base::hash::hash_u64;
use tidemill_base::{Batch, Buffer, Clock};
use tidemill_keyed::{HeapTable, SnapshotSink, States};

const BATCH: usize = 800;

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

type StdMap = HashMap<u64, u64, BuildHasherDefault<BaseHasher>>;

/// Seeded keys: uniform, or skewed like Zipf's law with exponent 1.
fn keys(n: usize, distinct: u64, skewed: bool) -> Vec<u64> {
    let mut x = 0x1234_5678_9ABC_DEF1u64;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..n)
        .map(|_| {
            let r = next();
            if skewed {
                let u = (r >> 11) as f64 / (1u64 << 53) as f64;
                ((distinct as f64).powf(u) as u64).min(distinct - 1)
            } else {
                r % distinct
            }
        })
        .collect()
}

struct Rounds {
    clock: SystemClock,
    results: Vec<(&'static str, Vec<f64>)>,
}

impl Rounds {
    fn run(&mut self, name: &'static str, operations: usize, f: impl FnOnce()) {
        let start = self.clock.now();
        f();
        let ns = (self.clock.now() - start) as f64 * 1000.0 / operations as f64;
        match self.results.iter_mut().find(|r| r.0 == name) {
            Some(r) => r.1.push(ns),
            None => self.results.push((name, vec![ns])),
        }
    }

    fn print(&mut self, title: &str) {
        println!("{title}");
        for (name, ns) in &mut self.results {
            ns.sort_by(f64::total_cmp);
            println!("  {name:28} median {:7.2} ns   minimum {:7.2}", ns[ns.len() / 2], ns[0]);
        }
    }
}

fn update(table: &mut HeapTable<u64, u64>, hash: u64, key: u64) {
    *table.upsert(hash, key, || 0) += key;
}

fn updates(title: &str, distinct: u64, skewed: bool, n: usize) {
    let keys = keys(n, distinct, skewed);
    let records: Vec<(u64, u64)> = keys.iter().map(|&k| (hash_u64(k), k)).collect();
    let mut rounds = Rounds { clock: SystemClock::new(), results: Vec::new() };
    let mut table = HeapTable::<u64, u64>::new();
    let mut std = StdMap::default();
    let mut states = States::<u64>::default();
    let Ok(state) = states.value::<u64>("sum", None) else { return };
    let current = states.key().clone();
    for k in 0..distinct {
        update(&mut table, hash_u64(k), k);
        std.insert(k, k);
        current.set(hash_u64(k), k);
        state.set(k);
    }
    for _ in 0..7 {
        rounds.run("std map", n, || {
            for &k in &keys {
                *std.entry(k).or_insert(0) += k;
            }
        });
        rounds.run("plain", n, || {
            for &(h, k) in &records {
                update(&mut table, h, k);
            }
        });
        rounds.run("prefetch index, entry", n, || {
            for batch in records.chunks(BATCH) {
                batch.iter().for_each(|r| table.prefetch_index(r.0));
                batch.iter().for_each(|r| table.prefetch_entry(r.0));
                batch.iter().for_each(|r| update(&mut table, r.0, r.1));
            }
        });
        rounds.run("prefetch in blocks of 64", n, || {
            for batch in records.chunks(64) {
                batch.iter().for_each(|r| table.prefetch_index(r.0));
                batch.iter().for_each(|r| table.prefetch_entry(r.0));
                batch.iter().for_each(|r| update(&mut table, r.0, r.1));
            }
        });
        rounds.run("prefetch 32/16 ahead", n, || {
            for batch in records.chunks(BATCH) {
                for i in 0..batch.len() + 32 {
                    if let Some(r) = batch.get(i) {
                        table.prefetch_index(r.0);
                    }
                    if let Some(r) = batch.get(i.wrapping_sub(16)) {
                        table.prefetch_entry(r.0);
                    }
                    if let Some(r) = batch.get(i.wrapping_sub(32)) {
                        update(&mut table, r.0, r.1);
                    }
                }
            }
        });
        rounds.run("for_batch", n, || {
            for batch in records.chunks(BATCH) {
                let add = |i: usize, v: &mut u64| *v += batch[i].1;
                table.for_batch(batch.len(), |i| batch[i], |_| 0, add);
            }
        });
        rounds.run("value state handle", n, || {
            for &(h, k) in &records {
                current.set(h, k);
                state.update(|v| *v += k);
            }
        });
    }
    black_box((table.len(), std.len()));
    rounds.print(title);
}

#[derive(Default)]
struct Count(usize);

impl SnapshotSink for Count {
    fn batch(&mut self, _: i64, batch: Batch) -> Option<Buffer> {
        self.0 += batch.len();
        Some(batch.into_buffer())
    }
}

/// Longest and mean time of single calls.
struct Pauses<'a> {
    clock: &'a SystemClock,
    longest: u64,
    total: u64,
    calls: u64,
}

impl<'a> Pauses<'a> {
    fn new(clock: &'a SystemClock) -> Self {
        Pauses { clock, longest: 0, total: 0, calls: 0 }
    }
    fn time<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let start = self.clock.now();
        let result = f();
        let took = self.clock.now() - start;
        self.longest = self.longest.max(took);
        self.total += took;
        self.calls += 1;
        result
    }
    fn print(&self, name: &str) {
        let mean = self.total as f64 / self.calls as f64;
        let (longest, total) = (self.longest, self.total / 1000);
        println!("  {name:28} longest {longest:6} us   mean {mean:8.2} us   total {total} ms");
    }
}

fn growth_and_snapshot(n: u64) {
    let clock = SystemClock::new();
    let mut table = HeapTable::<u64, u64>::new();
    let mut grow = Pauses::new(&clock);
    for k in 0..n {
        if k % 16 == 0 {
            grow.time(|| update(&mut table, hash_u64(k), k));
        } else {
            update(&mut table, hash_u64(k), k);
        }
    }
    println!("{n} keys, {} MiB", table.bytes() >> 20);
    drop(table);
    let mut table = HeapTable::<u64, u64>::new();
    let mut grow = Pauses::new(&clock);
    for k in 0..n / 16 {
        grow.time(|| (k * 16..k * 16 + 16).for_each(|k| update(&mut table, hash_u64(k), k)));
    }
    grow.print("16 inserts");
    let random = keys(4_000_000, n, false);
    for round in 0..2 {
        let mut plain = Pauses::new(&clock);
        for batch in random.chunks(BATCH) {
            plain.time(|| batch.iter().for_each(|&k| update(&mut table, hash_u64(k), k)));
        }
        plain.print("800 updates");
        let (mut step, mut busy) = (Pauses::new(&clock), Pauses::new(&clock));
        let mut begin = Pauses::new(&clock);
        begin.time(|| table.begin_snapshot(round, 0));
        begin.print("begin snapshot");
        let mut sink = Count::default();
        for batch in random.chunks(BATCH).cycle() {
            busy.time(|| batch.iter().for_each(|&k| update(&mut table, hash_u64(k), k)));
            if step.time(|| table.snapshot_step(2_000, &mut sink)).is_ok_and(|done| done) {
                break;
            }
        }
        assert_eq!(sink.0 as u64, n);
        step.print("snapshot step of 2000");
        busy.print("800 updates beside it");
    }
    let mut fire = Pauses::new(&clock);
    let (mut cursor, mut sum) = (Default::default(), 0u64);
    while !fire.time(|| table.drain_scan(&mut cursor, 2_000, |_, v| sum = sum.wrapping_add(v))) {}
    black_box(sum);
    fire.print("drain step of 2000");
}

fn main() {
    updates("1 M keys, uniform", 1_000_000, false, 4_000_000);
    updates("1 M keys, skewed", 1_000_000, true, 4_000_000);
    updates("10 k keys, uniform", 10_000, false, 4_000_000);
    updates("10 M keys, uniform", 10_000_000, false, 4_000_000);
    growth_and_snapshot(10_000_000);
}
