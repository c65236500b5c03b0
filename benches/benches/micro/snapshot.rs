//! A snapshot of a heap table of a million keys, in steps as the engine takes them, into buffers
//! that are used again.

use crate::input::Stopwatch;
use crate::keyed::{KEYS, table};
use criterion::{Criterion, Throughput};
use std::time::Duration;
use tidemill_base::{Batch, Buffer};
use tidemill_keyed::{HeapTable, SnapshotSink};

/// Entries of a step.
const STEP: usize = 2_000;

/// Counts entries and gives buffers back.
#[derive(Default)]
struct Recycle {
    entries: u64,
}

impl SnapshotSink for Recycle {
    fn batch(&mut self, _: i64, batch: Batch) -> Option<Buffer> {
        self.entries += batch.len() as u64;
        Some(batch.into_buffer())
    }
}

/// One snapshot: the time of beginning it, and of its steps.
fn snapshot(table: &mut HeapTable<u64, u64>, sink: &mut Recycle, epoch: u64) -> [Stopwatch; 2] {
    let (mut begin, mut steps) = (Stopwatch::new(), Stopwatch::new());
    sink.entries = 0;
    begin.time(|| table.begin_snapshot(epoch, 0));
    while !steps.time(|| table.snapshot_step(STEP, sink)).expect("entries of 16 bytes fit") {}
    assert_eq!(sink.entries, KEYS);
    [begin, steps]
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut made = None;
    let mut sink = Recycle::default();
    let mut epoch = 0;
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(10);
    let mut bench = |name: &str, elements: u64, wanted: fn(&[Stopwatch; 2]) -> Duration| {
        group.throughput(Throughput::Elements(elements));
        group.bench_function(name, |b| {
            let table = made.get_or_insert_with(table);
            b.iter_custom(|snapshots| {
                let one = |_| {
                    epoch += 1;
                    wanted(&snapshot(table, &mut sink, epoch))
                };
                (0..snapshots).map(one).sum()
            });
        });
    };
    bench("1 M keys, begin and steps", KEYS, |[begin, steps]| begin.total() + steps.total());
    bench("1 M keys, begin", 1, |[begin, _]| begin.total());
    bench("1 M keys, longest step of 2000", 1, |[_, steps]| steps.longest());
    group.finish();
}
