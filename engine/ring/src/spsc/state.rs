//! What the two sides share, and the only code that touches a slot.
//!
//! # Who owns a slot
//!
//! The slots are `MaybeUninit`, so the compiler drops nothing by itself, and `UnsafeCell`, so that both
//! sides may hold `&State`. What makes each access exclusive is not a lock but an index: R2 splits the
//! slots at `head` and `tail` into a receiver's part and a sender's part, and each side moves only the
//! border at which it gives slots away (R3). Moving it is the Release store that publishes everything
//! done to the slot before (R4): the element's bytes when the sender moves `tail`, the fact that the
//! bytes have been moved out when the receiver moves `head`. The other side learns of the move by an
//! Acquire load of the same index, and may know it late (R5): then it believes it owns less than it
//! does, which is safe.
//!
//! There is one `Sender` and one `Receiver`, neither is `Clone`, and every method that touches a slot
//! takes `&mut self`: so no two threads act for the same side at once, and moving a side to another
//! thread synchronises by whatever moved it. Methods on `&self` only load atomics, which is why both
//! sides may be `Sync`. A `T` crosses threads by value and is never shared: `T: Send` suffices.
//!
//! After both sides are gone, `State::drop` holds `&mut State`; the reference count's last decrement
//! has acquired what both sides released, so it sees the final `head` and `tail`, and R2 names exactly
//! the elements that are left (R6).

use crate::sync::{AtomicBool, AtomicUsize, Ordering, UnsafeCell};
use crossbeam_utils::CachePadded;
use std::mem::MaybeUninit;

/// The ring's memory.
pub(super) struct State<T> {
    /// Length a power of two; never reallocated.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Its `index` is `tail`. Written by the sender alone.
    pub(super) sender: CachePadded<Side>,
    /// Its `index` is `head`. Written by the receiver alone.
    pub(super) receiver: CachePadded<Side>,
}

/// What one side tells the other; on cache lines of its own.
pub(super) struct Side {
    index: AtomicUsize,
    gone: AtomicBool,
}

// SAFETY: the essay above: a slot is accessed by the one side that R2 gives it to, so elements only move
// between threads (`T: Send`); everything else in `State` is atomic.
unsafe impl<T: Send> Send for State<T> {}
// SAFETY: as above; `&State` gives out no `&T`.
unsafe impl<T: Send> Sync for State<T> {}

impl<T> State<T> {
    /// An empty ring of `capacity` slots (a power of two) whose indices begin at `start`.
    pub(super) fn new(capacity: usize, start: usize) -> Self {
        debug_assert!(capacity.is_power_of_two());
        Self {
            slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
            sender: CachePadded::new(Side::new(start)),
            receiver: CachePadded::new(Side::new(start)),
        }
    }

    #[inline(always)]
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline(always)]
    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // The mask keeps the position below the length, which is a power of two.
        &self.slots[index & (self.slots.len() - 1)]
    }

    /// Moves `element` into the slot of `index`.
    ///
    /// # Safety
    /// By R2 the slot belongs to the sender, on whose behalf the caller acts, and it knows so by an
    /// Acquire load of `head` (R4).
    #[inline(always)]
    pub(super) unsafe fn write(&self, index: usize, element: T) {
        self.slot(index).with_mut(|slot| {
            // SAFETY: the slot is the sender's by the caller's promise, so nobody else accesses it now;
            // the pointer comes from a cell in `slots`, so it is valid and aligned.
            unsafe { (*slot).write(element) };
        });
    }

    /// Moves the element out of the slot of `index`, which is uninitialised from then on.
    ///
    /// # Safety
    /// By R2 the slot belongs to the receiver, on whose behalf the caller acts, and it knows so by an
    /// Acquire load of `tail` (R4). It moves `head` past `index` and never reads this `index` again.
    #[inline(always)]
    pub(super) unsafe fn read(&self, index: usize) -> T {
        self.slot(index).with(|slot| {
            // SAFETY: the slot is the receiver's by the caller's promise, thus initialised (R2) and not
            // accessed by anybody else; the caller reads it once, so the element is not duplicated.
            unsafe { (*slot).assume_init_read() }
        })
    }
}

impl<T> Drop for State<T> {
    fn drop(&mut self) {
        let mut head = self.receiver.index();
        let tail = self.sender.index();
        while head != tail {
            // SAFETY: R2 and R6: both sides are gone, `head..tail` is what no one has taken, and each
            // index is read once.
            drop(unsafe { self.read(head) });
            head = head.wrapping_add(1);
        }
    }
}

impl Side {
    fn new(start: usize) -> Self {
        Self { index: AtomicUsize::new(start), gone: AtomicBool::new(false) }
    }

    /// R4, the new owner's half.
    #[inline(always)]
    pub(super) fn index(&self) -> usize {
        self.index.load(Ordering::Acquire)
    }

    /// R4, the old owner's half. Only the side itself calls it (R3).
    #[inline(always)]
    pub(super) fn publish(&self, index: usize) {
        self.index.store(index, Ordering::Release);
    }

    /// R7: pairs with [`Side::leave`].
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// R7: comes after the side's last `publish`.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }
}
