//! Keyed sums in RocksDB behind the write-back cache: uniform keys, batches of 800.
//! Run: `cargo bench -p tidemill-keyed --features rocksdb --bench rocks`.

use tidemill_base::clock::SystemClock;
use tidemill_base::hash::hash_u64;
use tidemill_base::{Batch, Buffer, Clock, Result};
use tidemill_keyed::SnapshotSink;
use tidemill_keyed::rocks::{Database, Memory, RocksOptions, RocksTable};

const BATCH: usize = 800;

#[derive(Default)]
struct Count(usize);

impl SnapshotSink for Count {
    fn batch(&mut self, _: i64, batch: Batch) -> Option<Buffer> {
        self.0 += batch.len();
        Some(batch.into_buffer())
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn fill(table: &mut RocksTable<u64, u64>, from: u64) -> Result<()> {
    let record = |i: usize| (hash_u64(from + i as u64), from + i as u64);
    table.fold_batch(BATCH, record, |_, _| Some(1))
}

fn run(keys: u64, memory_mib: usize, seconds: u64) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("tidemill-rocks-bench-{keys}"));
    let _ = std::fs::remove_dir_all(&dir);
    let clock = SystemClock::new();
    let options = RocksOptions { memory_bytes: memory_mib << 20, ..RocksOptions::default() };
    let db = Database::open(&dir, &Memory::new(options)?)?;
    let mut table = RocksTable::<u64, u64>::open(&db, "sum")?;
    let start = clock.now();
    for from in (0..keys).step_by(BATCH) {
        fill(&mut table, from)?;
    }
    let filled = clock.now();
    let mut random = Random(88_172_645_463_325_252);
    let (mut records, mut longest) = (0u64, 0);
    while clock.now() - filled < seconds * 1_000_000 {
        let batch: Vec<u64> = (0..BATCH).map(|_| random.next() % keys).collect();
        let before = clock.now();
        table.fold_batch(
            BATCH,
            |i| (hash_u64(batch[i]), batch[i]),
            |i, v| match v {
                Some(v) => {
                    *v = v.wrapping_add(batch[i]);
                    None
                }
                None => Some(batch[i]),
            },
        )?;
        longest = longest.max(clock.now() - before);
        records += BATCH as u64;
    }
    let rate = records as f64 / (clock.now() - filled) as f64;
    println!("{keys} keys, {memory_mib} MiB, {} cached", table.cached());
    println!("  fill    {:8.3} M/s", keys as f64 / (filled - start) as f64);
    println!("  update  {rate:8.3} M/s   longest batch {longest} us");
    let (start, dirty) = (clock.now(), table.dirty());
    table.begin_snapshot(1, 0);
    let (mut step, mut steps) = (0, 0);
    loop {
        let before = clock.now();
        let done = table.flush_step(2_000)?;
        step = step.max(clock.now() - before);
        steps += 1;
        if done {
            break;
        }
    }
    let flushed = clock.now();
    let checkpoint = db.checkpoint_job(dir.join("checkpoint")).run()?;
    table.end_flush();
    let (flush, native) = ((flushed - start) / 1000, (clock.now() - flushed) / 1000);
    println!("  flush   {dirty} dirty in {steps} steps, {flush} ms, longest {step} us");
    println!("  native  {} files, {native} ms", checkpoint.files.len());
    let start = clock.now();
    table.begin_snapshot(2, 0);
    let mut sink = Count::default();
    while !table.snapshot_step(2_000, &mut sink)? {}
    println!("  batches {} entries in {} ms", sink.0, (clock.now() - start) / 1000);
    drop((table, db));
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}

fn main() -> Result<()> {
    run(1_000_000, 256, 5)?;
    run(10_000_000, 64, 10)
}
