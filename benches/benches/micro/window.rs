//! A tumbling window of 100,000 keys that fires: one record a key, counted. What fills the window
//! is not measured.

use crate::input::Stopwatch;
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::time::Duration;
use tidemill_base::{Batch, BatchBuilder, Buffer, Key as _, Record as _, Result, Timestamp};
use tidemill_benches::definitions::mix;
use tidemill_runtime::context::Context;
use tidemill_runtime::operator::{Flow, Operator as _};
use tidemill_runtime::stage::{Control, Stage};
use tidemill_runtime::window::{Aligned, Assigner, Spec, Window, WindowFunction, WindowOperator};

/// Keys of each window.
const KEYS: u64 = 100_000;
/// Length of a window in milliseconds.
const SIZE: i64 = 10_000;
/// Records of a batch.
const BATCH: usize = 680;

/// Counts records.
struct Count;

impl WindowFunction<u64, u64> for Count {
    type Acc = u64;
    type Out = (u64, u64);

    #[inline(always)]
    fn first(&mut self, _: u64) -> u64 {
        1
    }
    #[inline(always)]
    fn add(&mut self, acc: &mut u64, _: u64) {
        *acc += 1;
    }
    #[inline(always)]
    fn merge(&mut self, into: &mut u64, from: &u64) {
        *into += from;
    }
    #[inline(always)]
    fn emit<S: Stage<(u64, u64)>>(
        &mut self,
        key: u64,
        _: Window,
        acc: &u64,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        out.push((key, *acc).view(), timestamp);
    }
}

/// Takes results.
#[derive(Default)]
struct Results {
    rows: u64,
    sum: u64,
}

impl Stage<(u64, u64)> for Results {
    #[inline(always)]
    fn push(&mut self, (key, count): (u64, u64), _: Timestamp) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(key ^ count);
    }
    fn control(&mut self, _: Control) -> Result<()> {
        Ok(())
    }
    fn writable(&mut self) -> bool {
        true
    }
    fn room(&self) -> bool {
        true
    }
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window fire");
    group.sample_size(10);
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("100 k keys", |b| {
        b.iter_custom(|windows| fire(windows, |watch| watch.total()));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("longest step of 100 k keys", |b| {
        b.iter_custom(|windows| fire(windows, |watch| watch.longest()));
    });
    group.finish();
}

/// Fills and fires windows one after the other; the sum of what is wanted of each.
fn fire(windows: u64, wanted: impl Fn(&Stopwatch) -> Duration) -> Duration {
    let spec = Spec::new(Assigner::Aligned(Aligned { size: SIZE, slide: SIZE, offset: 0 }));
    let context = Context::for_test();
    let selector = |key: &u64| *key;
    let operator =
        WindowOperator::<u64, u64, _, _>::open(&spec, selector, Count, Vec::new(), &context, 1);
    let mut operator = operator.expect("windows of 10 s make sense");
    let mut results = Results::default();
    let mut sum = Duration::ZERO;
    for window in 0..windows as i64 {
        for batch in &records(window * SIZE) {
            let taken = operator.records(0, batch, 0..batch.len(), &mut results);
            taken.expect("the records of a window");
        }
        let mut watch = Stopwatch::new();
        let end = (window + 1) * SIZE;
        let mut flow = watch.time(|| operator.watermark(end, &mut results));
        while matches!(flow, Ok(Flow::More)) {
            flow = watch.time(|| operator.resume(&mut results));
        }
        assert!(matches!(flow, Ok(Flow::Done)), "{flow:?}");
        sum += wanted(&watch);
    }
    assert_eq!(results.rows, windows * KEYS);
    black_box(results.sum);
    sum
}

/// One record for each key, in some order, at the start of a window.
fn records(start: Timestamp) -> Vec<Batch> {
    let keys: Vec<u64> = (0..KEYS).map(mix).collect();
    let batch = |keys: &[u64]| {
        let mut builder = BatchBuilder::new(Buffer::pooled());
        for &key in keys {
            let pushed = builder.push::<u64>(key, start, u64::hash(key));
            pushed.expect("a buffer holds more than a batch");
        }
        builder.seal()
    };
    keys.chunks(BATCH).map(batch).collect()
}
