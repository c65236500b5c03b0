//! Models of the ring and the doorbell: loom runs each through every interleaving and every outcome that
//! the memory model allows, and fails on a data race, a leak, a deadlock or an assertion.
//!
//! Run by `scripts/loom.sh`. Capacities and counts are small on purpose: the rings wrap and fill up all
//! the same.

#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "a helper of the tests joins its threads, too")]

use loom::future::block_on;
use loom::model::Builder;
use loom::thread;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tidemill_ring::{Doorbell, Full, Receiver, Sender, ring};

/// Explores every schedule of `model`.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    Builder::new().check(model);
}

/// Explores every schedule with at most `preemptions` forced switches, where all are too many.
fn explore_bounded(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// An element that counts its drops outside of the model.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn push_all(sender: &mut Sender<usize>, elements: std::ops::Range<usize>) {
    for mut element in elements {
        while let Err(Full(back)) = sender.try_push(element) {
            element = back;
            thread::yield_now();
        }
    }
}

/// R1 to R5: a ring that fills up and wraps, `capacity` slots and `count` elements, taken by `take`.
fn transfer(capacity: usize, count: usize, take: fn(&mut Receiver<usize>, &mut VecDeque<usize>)) {
    explore_bounded(4, move || {
        let (mut sender, mut receiver) = ring(capacity);
        let producer = thread::spawn(move || push_all(&mut sender, 0..count));
        let mut taken = VecDeque::new();
        while taken.len() < count {
            let before = taken.len();
            take(&mut receiver, &mut taken);
            if taken.len() == before {
                thread::yield_now();
            }
        }
        producer.join().unwrap();
        assert!(taken.into_iter().eq(0..count));
        assert!(receiver.is_empty() && receiver.is_disconnected());
    });
}

#[test]
fn pops_in_order_through_one_slot() {
    transfer(1, 3, |receiver, taken| taken.extend(receiver.try_pop()));
}

#[test]
fn pops_in_order_through_two_slots() {
    transfer(2, 4, |receiver, taken| taken.extend(receiver.try_pop()));
}

#[test]
fn drains_in_order_through_two_slots() {
    transfer(2, 4, |receiver, taken| {
        receiver.drain_into(taken);
    });
}

#[test]
fn free_slots_never_promise_too_much() {
    explore(|| {
        let (mut sender, mut receiver) = ring(2);
        let producer = thread::spawn(move || {
            let mut pushed = 0;
            for _ in 0..3 {
                for _ in 0..sender.free_slots() {
                    assert_eq!(sender.try_push(pushed), Ok(()));
                    pushed += 1;
                }
            }
            pushed
        });
        let popped = [receiver.try_pop(), receiver.try_pop()].into_iter().flatten();
        let mut all: Vec<usize> = popped.collect();
        let pushed = producer.join().unwrap();
        all.extend(std::iter::from_fn(|| receiver.try_pop()));
        assert!(all.into_iter().eq(0..pushed));
    });
}

/// R7: disconnected, then drained: that was all.
#[test]
fn the_end_comes_after_the_last_element() {
    explore(|| {
        let (mut sender, mut receiver) = ring(2);
        let producer = thread::spawn(move || {
            assert_eq!(sender.try_push(0), Ok(()));
            assert_eq!(sender.try_push(1), Ok(()));
        });
        let mut taken = VecDeque::new();
        loop {
            let is_last = receiver.is_disconnected();
            receiver.drain_into(&mut taken);
            if is_last {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(taken, [0, 1]);
        producer.join().unwrap();
    });
}

/// R6: the sides leave in any order, with elements in the ring, and each element is dropped once.
#[test]
fn each_element_is_dropped_once_whoever_leaves_first() {
    explore(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let (mut sender, mut receiver) = ring(2);
        let ledger = Arc::clone(&drops);
        let producer = thread::spawn(move || {
            for _ in 0..3 {
                // A full ring hands the element back, and it is dropped here.
                let _ = sender.try_push(Counted(Arc::clone(&ledger)));
            }
        });
        drop(receiver.try_pop());
        drop(receiver);
        producer.join().unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn elements_left_by_both_sides_are_dropped_by_the_last() {
    explore(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let (mut sender, receiver) = ring(4);
        assert!(sender.try_push(Counted(Arc::clone(&drops))).is_ok());
        let ledger = Arc::clone(&drops);
        let producer = thread::spawn(move || {
            assert!(sender.try_push(Counted(ledger)).is_ok());
        });
        let consumer = thread::spawn(move || drop(receiver));
        producer.join().unwrap();
        consumer.join().unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 2);
    });
}

/// The consumer's step: takes what is there; sleeps, when there is nothing and not all rings have ended.
fn step(
    rings: &mut [Receiver<usize>],
    taken: &mut VecDeque<usize>,
    doorbell: &Doorbell,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        let ended: Vec<bool> = rings.iter().map(Receiver::is_disconnected).collect();
        for ring in rings.iter_mut() {
            ring.drain_into(taken);
        }
        if ended.iter().all(|ended| *ended) {
            return Poll::Ready(());
        }
        doorbell.register(cx.waker());
        doorbell.prepare_park();
        let mut news = rings.iter().zip(&ended);
        if news.any(|(ring, ended)| !ring.is_empty() || ring.is_disconnected() != *ended) {
            doorbell.cancel_park();
        } else {
            return Poll::Pending;
        }
    }
}

/// Consumes until all senders are gone. A lost wake-up is a deadlock, which loom reports.
fn consume(mut rings: Vec<Receiver<usize>>, doorbell: &Doorbell) -> VecDeque<usize> {
    let mut taken = VecDeque::new();
    block_on(poll_fn(|cx| step(&mut rings, &mut taken, doorbell, cx)));
    taken
}

#[test]
fn a_parked_consumer_hears_of_a_push() {
    explore(|| {
        let doorbell = Doorbell::new();
        let (mut sender, receiver) = ring(2);
        let bell = Arc::clone(&doorbell);
        let producer = thread::spawn(move || {
            assert_eq!(sender.try_push(0), Ok(()));
            bell.ring();
            // Keeps the sender, so that nothing but the push can be the news.
            sender
        });
        let mut receiver = receiver;
        let taken = block_on(poll_fn(|cx| {
            loop {
                if let Some(element) = receiver.try_pop() {
                    return Poll::Ready(element);
                }
                doorbell.register(cx.waker());
                doorbell.prepare_park();
                if receiver.is_empty() {
                    return Poll::Pending;
                }
                doorbell.cancel_park();
            }
        }));
        assert_eq!(taken, 0);
        drop(producer.join().unwrap());
    });
}

#[test]
fn a_parked_consumer_hears_of_the_end() {
    explore(|| {
        let doorbell = Doorbell::new();
        let (sender, receiver) = ring(2);
        let bell = Arc::clone(&doorbell);
        let producer = thread::spawn(move || {
            drop(sender);
            bell.ring();
        });
        assert_eq!(consume(vec![receiver], &doorbell), []);
        producer.join().unwrap();
    });
}

#[test]
fn a_consumer_parks_again_and_again() {
    explore_bounded(3, || {
        let doorbell = Doorbell::new();
        let (mut sender, receiver) = ring(2);
        let bell = Arc::clone(&doorbell);
        let producer = thread::spawn(move || {
            for element in 0..2 {
                assert_eq!(sender.try_push(element), Ok(()));
                bell.ring();
            }
            drop(sender);
            bell.ring();
        });
        assert_eq!(consume(vec![receiver], &doorbell), [0, 1]);
        producer.join().unwrap();
    });
}

#[test]
fn two_producers_share_a_doorbell() {
    explore_bounded(3, || {
        let doorbell = Doorbell::new();
        let (rings, producers): (Vec<_>, Vec<_>) = (0..2)
            .map(|element| {
                let (mut sender, receiver) = ring(1);
                let bell = Arc::clone(&doorbell);
                let producer = thread::spawn(move || {
                    assert_eq!(sender.try_push(element), Ok(()));
                    drop(sender);
                    bell.ring();
                });
                (receiver, producer)
            })
            .unzip();
        let mut taken: Vec<usize> = consume(rings, &doorbell).into();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1]);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}
