//! A fused chain, map - filter - map into a sum, beside the same as a loop. One iteration is one
//! buffer of records of 24 bytes.

use crate::input::{TRIPLES, Triple, fill, triples};
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::marker::PhantomData;
use tidemill_base::{Batch, Buffer, Result, Timestamp};
use tidemill_runtime::stage::{Control, FilterStage, MapStage, Stage};

/// The end of the chain.
#[derive(Default)]
struct Sum {
    sum: u64,
}

impl Stage<u64> for Sum {
    #[inline(always)]
    fn push(&mut self, view: u64, _: Timestamp) {
        self.sum = self.sum.wrapping_add(view);
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

#[inline(always)]
fn convert((id, price, i): Triple) -> Triple {
    (id, price.wrapping_mul(908) / 1000, i)
}

#[inline(always)]
fn keep((id, _, _): Triple) -> bool {
    id & 1 == 0
}

#[inline(always)]
fn digest((id, price, i): Triple) -> u64 {
    id ^ price ^ i
}

pub(crate) fn all(criterion: &mut Criterion) {
    let batch = fill(Buffer::pooled(), &triples(TRIPLES));
    assert_eq!(batch.len(), TRIPLES);
    let second = MapStage {
        operator: 2,
        function: digest,
        tail: Sum::default(),
        types: PhantomData::<fn(Triple) -> u64>,
    };
    let filter = FilterStage::<Triple, _, _>::new(1, keep, second);
    let mut chain = MapStage {
        operator: 0,
        function: convert,
        tail: filter,
        types: PhantomData::<fn(Triple) -> Triple>,
    };
    run(&mut chain, &batch);
    assert_eq!(chain.tail.tail().tail.sum, by_hand(&batch));

    let mut group = criterion.benchmark_group("chain");
    group.throughput(Throughput::Elements(TRIPLES as u64));
    group.bench_function("map, filter, map, fold", |b| {
        b.iter(|| run(&mut chain, black_box(&batch)));
    });
    group.bench_function("the same by hand", |b| b.iter(|| by_hand(black_box(&batch))));
    group.finish();
}

#[inline(never)]
fn run(chain: &mut impl Stage<Triple>, batch: &Batch) {
    for (view, timestamp, _) in batch.iter::<Triple>() {
        chain.push(view, timestamp);
    }
    chain.end_run();
}

#[inline(never)]
fn by_hand(batch: &Batch) -> u64 {
    let mut sum = 0u64;
    for (view, ..) in batch.iter::<Triple>() {
        let converted = convert(view);
        if keep(converted) {
            sum = sum.wrapping_add(digest(converted));
        }
    }
    sum
}
