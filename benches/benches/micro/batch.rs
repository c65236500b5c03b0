//! Records into a buffer and out of it, in place. One iteration is one full buffer.

use crate::input::{TRIPLES, Triple, bids, fill, triples};
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use tidemill::connectors::{Bid, BidView};
use tidemill_base::{Batch, Buffer, Record};

/// More bids than a buffer holds.
const BIDS: usize = 400;

pub(crate) fn all(criterion: &mut Criterion) {
    let triples = triples(TRIPLES);
    both(criterion, "24 bytes", &triples, |(a, b, c): Triple| a ^ b ^ c);
    let bids = bids(BIDS);
    both::<Bid>(criterion, "bid with strings", &bids, |bid: BidView<'_>| {
        bid.price ^ bid.channel.len() as u64 ^ bid.url.len() as u64
    });
}

fn both<T: Record>(
    criterion: &mut Criterion,
    name: &str,
    records: &[T],
    digest: impl for<'a> Fn(T::View<'a>) -> u64,
) {
    let batch = fill(Buffer::pooled(), records);
    assert!(batch.len() <= records.len() && batch.bytes_used() > 28_000, "a full buffer");
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(batch.len() as u64));
    group.bench_function(format!("write, {name}"), |b| {
        let mut spare = Some(Buffer::pooled());
        b.iter(|| {
            let buffer = spare.take().unwrap_or_else(Buffer::pooled);
            spare = Some(fill(buffer, black_box(records)).into_buffer());
        });
    });
    group.bench_function(format!("read, {name}"), |b| {
        b.iter(|| read::<T>(black_box(&batch), &digest));
    });
    group.finish();
}

#[inline(never)]
fn read<T: Record>(batch: &Batch, digest: impl for<'a> Fn(T::View<'a>) -> u64) -> u64 {
    batch.iter::<T>().fold(0, |sum: u64, (view, timestamp, _)| {
        sum.wrapping_add(digest(view)).wrapping_add(timestamp as u64)
    })
}
