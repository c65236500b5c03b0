//! The ring against a `VecDeque`, drop counting, and two real threads; loom is in `tests/loom.rs`.

use super::{Full, Receiver, Sender, ring, ring_at};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// Who was dropped how often.
#[derive(Default)]
struct Ledger(Vec<AtomicU32>);

impl Ledger {
    fn new(elements: usize) -> Arc<Self> {
        Arc::new(Self((0..elements).map(|_| AtomicU32::new(0)).collect()))
    }

    fn drops(&self) -> Vec<u32> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// An element that enters its drop into the ledger.
struct Counted {
    id: usize,
    ledger: Arc<Ledger>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.ledger.0[self.id].fetch_add(1, Ordering::Relaxed);
    }
}

fn push_counted(sender: &mut Sender<Counted>, ledger: &Arc<Ledger>, ids: std::ops::Range<usize>) {
    for id in ids {
        assert!(sender.try_push(Counted { id, ledger: Arc::clone(ledger) }).is_ok());
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Push,
    Pop,
    Drain,
    DropSender,
    DropReceiver,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        60 => Just(Operation::Push),
        30 => Just(Operation::Pop),
        10 => Just(Operation::Drain),
        1 => Just(Operation::DropSender),
        1 => Just(Operation::DropReceiver),
    ]
}

/// A ring beside the naive queue that it must equal.
struct Pair {
    sender: Option<Sender<Counted>>,
    receiver: Option<Receiver<Counted>>,
    oracle: VecDeque<usize>,
    capacity: usize,
    ledger: Arc<Ledger>,
    next: usize,
}

impl Pair {
    fn new(capacity: usize, start: usize, elements: usize) -> Self {
        let (sender, receiver) = ring_at(capacity, start);
        Self {
            sender: Some(sender),
            receiver: Some(receiver),
            oracle: VecDeque::new(),
            capacity: capacity.next_power_of_two(),
            ledger: Ledger::new(elements),
            next: 0,
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Push => self.push(),
            Operation::Pop => {
                if let Some(receiver) = &mut self.receiver {
                    let popped = receiver.try_pop().map(|element| element.id);
                    assert_eq!(popped, self.oracle.pop_front());
                }
            }
            Operation::Drain => {
                if let Some(receiver) = &mut self.receiver {
                    let mut inbox = VecDeque::new();
                    assert_eq!(receiver.drain_into(&mut inbox), self.oracle.len());
                    assert!(inbox.iter().map(|element| element.id).eq(self.oracle.drain(..)));
                }
            }
            Operation::DropSender => self.sender = None,
            Operation::DropReceiver => {
                if self.receiver.take().is_some() {
                    for id in self.oracle.drain(..) {
                        assert_eq!(self.ledger.drops()[id], 1, "R6: dropped with the receiver");
                    }
                }
            }
        }
    }

    fn push(&mut self) {
        let Some(sender) = &mut self.sender else {
            return;
        };
        let (id, free) = (self.next, sender.free_slots());
        self.next += 1;
        match sender.try_push(Counted { id, ledger: Arc::clone(&self.ledger) }) {
            Ok(()) => {
                assert!(free > 0);
                if self.receiver.is_some() {
                    self.oracle.push_back(id);
                }
            }
            Err(Full(element)) => {
                assert_eq!((element.id, free), (id, 0));
                if self.receiver.is_some() {
                    assert_eq!(self.oracle.len(), self.capacity);
                }
            }
        }
    }

    fn check(&self) {
        if let Some(receiver) = &self.receiver {
            assert_eq!(receiver.is_empty(), self.oracle.is_empty());
            assert_eq!(receiver.is_disconnected(), self.sender.is_none());
            assert_eq!(receiver.capacity(), self.capacity);
        }
        if let Some(sender) = &self.sender {
            assert_eq!(sender.is_disconnected(), self.receiver.is_none());
            assert_eq!(sender.capacity(), self.capacity);
            if self.receiver.is_some() {
                assert_eq!(sender.free_slots(), self.capacity - self.oracle.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// R1 to R7 as one thread can see them. Half of the runs carry the indices over `usize::MAX`.
    #[test]
    fn equals_a_queue(
        capacity in 0_usize..10,
        start in prop_oneof![0_usize..4, usize::MAX - 12..usize::MAX],
        operations in vec(operation(), 0..300),
    ) {
        let mut pair = Pair::new(capacity, start, operations.len());
        for operation in operations.iter().copied() {
            pair.apply(operation);
            pair.check();
        }
        let (ledger, made) = (Arc::clone(&pair.ledger), pair.next);
        drop(pair);
        let expected: Vec<u32> = (0..operations.len()).map(|id| u32::from(id < made)).collect();
        prop_assert_eq!(ledger.drops(), expected, "R6: each element dropped exactly once");
    }
}

#[test]
fn capacity_is_rounded_up_to_a_power_of_two() {
    for (asked, given) in [(0, 1), (1, 1), (2, 2), (3, 4), (5, 8), (64, 64), (65, 128)] {
        let (sender, receiver) = ring::<u8>(asked);
        assert_eq!((sender.capacity(), receiver.capacity()), (given, given), "asked for {asked}");
        assert_eq!(sender.free_slots(), given);
    }
}

#[test]
#[should_panic(expected = "use a smaller capacity")]
fn too_large_a_ring_is_refused() {
    let _ = ring::<u8>(usize::MAX);
}

#[test]
fn elements_without_size_are_counted_too() {
    let (mut sender, mut receiver) = ring::<()>(2);
    assert_eq!([sender.try_push(()), sender.try_push(())], [Ok(()), Ok(())]);
    assert_eq!(sender.try_push(()), Err(Full(())));
    let mut inbox = VecDeque::new();
    assert_eq!((receiver.drain_into(&mut inbox), inbox.len()), (2, 2));
    assert_eq!(receiver.try_pop(), None);
}

#[test]
fn drain_appends_behind_what_the_inbox_holds() {
    let (mut sender, mut receiver) = ring_at(4, usize::MAX - 1);
    let mut inbox = VecDeque::from([0]);
    for element in 1..=4 {
        assert_eq!(sender.try_push(element), Ok(()));
    }
    assert_eq!(receiver.drain_into(&mut inbox), 4);
    assert_eq!(receiver.drain_into(&mut inbox), 0);
    assert_eq!(inbox, [0, 1, 2, 3, 4]);
    assert_eq!(sender.free_slots(), 4);
}

#[test]
fn what_is_left_outlives_the_sender() {
    let (mut sender, mut receiver) = ring(4);
    assert_eq!([sender.try_push(1), sender.try_push(2)], [Ok(()), Ok(())]);
    drop(sender);
    assert!(receiver.is_disconnected());
    assert_eq!(
        [receiver.try_pop(), receiver.try_pop(), receiver.try_pop()],
        [Some(1), Some(2), None]
    );
}

#[test]
fn a_receiver_drops_what_it_leaves_at_once_and_the_ring_the_rest() {
    let ledger = Ledger::new(5);
    let (mut sender, mut receiver) = ring(4);
    push_counted(&mut sender, &ledger, 0..3);
    drop(receiver.try_pop());
    drop(receiver);
    assert_eq!(ledger.drops(), [1, 1, 1, 0, 0]);
    assert!(sender.is_disconnected());
    assert_eq!(sender.free_slots(), 4);
    push_counted(&mut sender, &ledger, 3..5);
    assert_eq!(ledger.drops(), [1, 1, 1, 0, 0]);
    drop(sender);
    assert_eq!(ledger.drops(), [1; 5]);
}

#[test]
fn sides_may_be_shared_for_looking() {
    fn is_send_and_sync<T: Send + Sync>() {}
    // `Cell` is `Send` and not `Sync`: enough, because no side hands out a reference to an element.
    is_send_and_sync::<Sender<std::cell::Cell<u8>>>();
    is_send_and_sync::<Receiver<std::cell::Cell<u8>>>();
}

/// Sends `0..count` and leaves.
fn produce(mut sender: Sender<Box<u64>>, count: u64) {
    for number in 0..count {
        let mut element = Box::new(number);
        while let Err(Full(back)) = sender.try_push(element) {
            element = back;
            thread::yield_now();
        }
    }
}

/// Takes by pops and drains alternately until the sender is gone and the ring empty.
fn consume(mut receiver: Receiver<Box<u64>>, count: u64) {
    let (mut inbox, mut next, mut rounds) = (VecDeque::new(), 0, 0_u64);
    loop {
        let is_last = receiver.is_disconnected();
        rounds += 1;
        if !is_last && rounds.is_multiple_of(2) {
            inbox.extend(receiver.try_pop());
        } else {
            receiver.drain_into(&mut inbox);
        }
        let is_idle = inbox.is_empty();
        for element in inbox.drain(..) {
            assert_eq!(*element, next);
            next += 1;
        }
        if is_last {
            break;
        }
        if is_idle {
            thread::yield_now();
        }
    }
    assert_eq!(next, count, "R7: the sender's end comes after its elements");
}

#[test]
fn two_threads_exchange_millions_in_order() {
    for (capacity, count) in [(1, 50_000), (2, 200_000), (16, 1_000_000), (1024, 2_000_000)] {
        let (sender, receiver) = ring_at(capacity, usize::MAX - 1000);
        thread::scope(|scope| {
            scope.spawn(|| produce(sender, count));
            scope.spawn(|| consume(receiver, count));
        });
    }
}

#[test]
fn a_receiver_that_leaves_in_the_middle_loses_no_drop() {
    const COUNT: usize = 20_000;
    let ledger = Ledger::new(COUNT);
    let (mut sender, mut receiver) = ring(8);
    let made = thread::scope(|scope| {
        scope.spawn(move || {
            let mut taken = 0;
            while taken < COUNT / 2 && !receiver.is_disconnected() {
                match receiver.try_pop() {
                    Some(_) => taken += 1,
                    None => thread::yield_now(),
                }
            }
        });
        let mut made = 0;
        while made < COUNT && !sender.is_disconnected() {
            let element = Counted { id: made, ledger: Arc::clone(&ledger) };
            made += 1;
            if sender.try_push(element).is_err() {
                thread::yield_now();
            }
        }
        drop(sender);
        made
    });
    let drops = ledger.drops();
    assert!(drops[..made].iter().all(|count| *count == 1), "{made} made");
    assert!(drops[made..].iter().all(|count| *count == 0), "{made} made");
}
