//! The doorbell on real threads; every interleaving of a small case is in `tests/loom.rs`.

use super::Doorbell;
use crate::{Receiver, Sender, ring};
use std::collections::VecDeque;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// Counts how often it was woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Counter {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bed for the thread that made it, which says when nobody came to wake it. An atomic flag and not a
/// lock, so that the thread sanitizer need not see into the standard library.
struct Bed {
    woken: AtomicBool,
    sleeper: Thread,
}

impl Bed {
    fn new() -> Self {
        Self { woken: AtomicBool::new(false), sleeper: thread::current() }
    }

    fn sleep(&self) {
        for _ in 0..60 {
            if self.woken.swap(false, Ordering::Acquire) {
                return;
            }
            thread::park_timeout(Duration::from_secs(1));
        }
        panic!("lost wake-up: nobody rang for a minute");
    }
}

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.sleeper.unpark();
    }
}

#[test]
fn rings_only_for_a_sleeper_and_only_once_a_park() {
    let (doorbell, counter) = (Doorbell::new(), Arc::new(Counter::default()));
    let waker = Waker::from(Arc::clone(&counter));

    doorbell.ring();
    doorbell.register(&waker);
    doorbell.ring();
    assert_eq!(counter.count(), 0, "awake");

    doorbell.prepare_park();
    doorbell.ring();
    doorbell.ring();
    assert_eq!(counter.count(), 1, "D3: who swaps the flag off wakes, no one else");

    doorbell.register(&waker);
    doorbell.prepare_park();
    doorbell.cancel_park();
    doorbell.ring();
    assert_eq!(counter.count(), 1, "cancelled");

    doorbell.prepare_park();
    doorbell.ring();
    assert_eq!(counter.count(), 2, "an unused waker outlives a cancelled park");
}

#[test]
fn the_last_registered_waker_counts() {
    let doorbell = Doorbell::new();
    let (first, second) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
    doorbell.register(&Waker::from(Arc::clone(&first)));
    doorbell.register(&Waker::from(Arc::clone(&second)));
    doorbell.prepare_park();
    doorbell.ring();
    assert_eq!((first.count(), second.count()), (0, 1));
}

/// Sends `0..count` in bursts of growing size, so that the consumer sleeps often, and leaves.
fn produce(mut sender: Sender<u64>, count: u64, doorbell: &Doorbell) {
    let mut burst = 1;
    let mut next = 0;
    while next < count {
        for _ in 0..burst {
            while next < count && sender.try_push(next).is_err() {
                doorbell.ring();
                thread::yield_now();
            }
            next += 1;
        }
        doorbell.ring();
        burst = burst % 37 + 1;
        // A pause for the consumer to fall asleep in.
        (0..burst * 20).for_each(|_| hint::spin_loop());
    }
    drop(sender);
    doorbell.ring();
}

/// Takes everything from all `rings`, sleeping whenever they are empty; how often it slept.
fn consume(rings: &mut [Receiver<u64>], expected: u64, doorbell: &Doorbell) -> u64 {
    let bed = Arc::new(Bed::new());
    let waker = Waker::from(Arc::clone(&bed));
    let mut next = vec![0; rings.len()];
    let mut ended = vec![false; rings.len()];
    let (mut inbox, mut sleeps) = (VecDeque::new(), 0);
    while !ended.iter().all(|ended| *ended) {
        for (ring, (next, ended)) in rings.iter_mut().zip(next.iter_mut().zip(&mut ended)) {
            *ended = ring.is_disconnected();
            ring.drain_into(&mut inbox);
            for element in inbox.drain(..) {
                assert_eq!(element, *next);
                *next += 1;
            }
        }
        doorbell.register(&waker);
        doorbell.prepare_park();
        let is_news = |(ring, ended): (&Receiver<u64>, &bool)| {
            !ring.is_empty() || ring.is_disconnected() != *ended
        };
        if ended.iter().all(|ended| *ended) || rings.iter().zip(&ended).any(is_news) {
            doorbell.cancel_park();
        } else {
            sleeps += 1;
            bed.sleep();
        }
    }
    assert_eq!(next, vec![expected; rings.len()]);
    sleeps
}

#[test]
fn a_consumer_of_two_rings_never_oversleeps() {
    const COUNT: u64 = 200_000;
    let doorbell = Doorbell::new();
    let (senders, mut receivers): (Vec<_>, Vec<_>) = [ring(4), ring(64)].into_iter().unzip();
    let sleeps = thread::scope(|scope| {
        for sender in senders {
            scope.spawn(|| produce(sender, COUNT, &doorbell));
        }
        consume(&mut receivers, COUNT, &doorbell)
    });
    assert!(sleeps > 0, "the test must have tried what it is about");
}
