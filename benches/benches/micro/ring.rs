//! Rings: on one thread, between two threads, and with the way back that buffers take.

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use tidemill_base::{Batch, BatchBuilder, Buffer};
use tidemill_ring::{Receiver, Sender, ring};

/// Slots of a ring.
const SLOTS: usize = 256;
/// Elements pushed, then popped, on one thread.
const RUN: u64 = 64;
/// Elements from thread to thread in an iteration: many, as an iteration starts a thread.
const ELEMENTS: u64 = 1 << 20;
/// Batches from thread to thread in an iteration.
const BATCHES: u64 = 1 << 16;
/// Buffers that go around.
const BUFFERS: usize = 16;

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    group.throughput(Throughput::Elements(RUN));
    group.bench_function("push and pop, one thread", |b| {
        let (mut sender, mut receiver) = ring::<u64>(SLOTS);
        b.iter(|| {
            for i in 0..RUN {
                let full = sender.try_push(black_box(i)).is_err();
                assert!(!full, "a run fits");
            }
            (0..RUN).filter_map(|_| receiver.try_pop()).fold(0, u64::wrapping_add)
        });
    });
    group.sample_size(10);
    group.throughput(Throughput::Elements(ELEMENTS));
    group.bench_function("push and pop, two threads", |b| {
        b.iter(|| {
            let (mut sender, mut receiver) = ring::<u64>(SLOTS);
            let sum = std::thread::scope(|scope| {
                scope.spawn(move || (0..ELEMENTS).for_each(|i| push(&mut sender, i)));
                (0..ELEMENTS).map(|_| pop(&mut receiver)).fold(0, u64::wrapping_add)
            });
            assert_eq!(sum, ELEMENTS * (ELEMENTS - 1) / 2);
        });
    });
    group.throughput(Throughput::Elements(BATCHES));
    group.bench_function("batches there and buffers back, two threads", |b| {
        b.iter(hand_over);
    });
    group.finish();
}

/// Hands empty batches over; their buffers come back through a second ring.
fn hand_over() {
    let (mut batches, mut inbox) = ring::<Batch>(SLOTS);
    let (mut used, mut free) = ring::<Buffer>(SLOTS);
    (0..BUFFERS).for_each(|_| push(&mut used, Buffer::pooled()));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..BATCHES {
                let buffer = pop(&mut free);
                push(&mut batches, BatchBuilder::new(buffer).seal());
            }
        });
        for _ in 0..BATCHES {
            let batch = pop(&mut inbox);
            push(&mut used, batch.into_buffer());
        }
    });
}

/// Tries again until there is room, and lets the other thread run if there is none.
#[inline(always)]
fn push<T: Send>(sender: &mut Sender<T>, mut element: T) {
    while let Err(full) = sender.try_push(element) {
        element = full.0;
        std::thread::yield_now();
    }
}

/// Tries again until there is an element, and lets the other thread run if there is none.
#[inline(always)]
fn pop<T: Send>(receiver: &mut Receiver<T>) -> T {
    loop {
        match receiver.try_pop() {
            Some(element) => return element,
            None => std::thread::yield_now(),
        }
    }
}
