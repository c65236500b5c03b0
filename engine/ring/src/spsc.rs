//! A bounded ring between exactly one sending and one receiving thread.
//!
//! ```text
//!            receiver's                 sender's
//!         +---+---+---+---+---+---+---+---+
//!         |   |   | a | b | c |   |   |   |     capacity = 8 slots, a power of two
//!         +---+---+---+---+---+---+---+---+
//!                   ^           ^
//!                  head        tail             both count up for ever and wrap at 2^64;
//!                                               slot of index i = i & (capacity - 1)
//! ```
//!
//! Invariants
//!   R1  `tail - head` (wrapping) lies in `0..=capacity`.
//!   R2  The slots of `head..tail` are initialised and belong to the receiver; all others are
//!       uninitialised and belong to the sender.
//!   R3  Only the sender stores `tail`, only the receiver stores `head`; each keeps its own index in a
//!       plain field, equal to the shared one between calls.
//!   R4  A slot changes hands by one Release store of an index, made after the slot's last use by the
//!       old owner, and one Acquire load of it, made before the first use by the new owner.
//!   R5  A cached index of the peer is one that the peer once stored. Indices only grow, so a cached one
//!       understates what is available and never overstates it.
//!   R6  An element leaves the ring exactly once: by `try_pop` or `drain_into`, or dropped by
//!       `Receiver::drop`, or dropped by `State::drop`, which runs when both sides are gone.
//!   R7  `gone` is a side's last word on the elements it moved: who has seen the sender's `gone` finds
//!       every element that was ever pushed.
//!
//! Cost: an uncontended push or pop touches the peer's cache line only when its cached index says full
//! or empty, thus about once for every `capacity` elements.
//!
//! Not here: waking the peer (doorbell.rs).

use crate::sync::Arc;
use std::error::Error;
use std::fmt;

#[expect(unsafe_code, reason = "takes elements out of slots that R2 gives to the receiver")]
mod recv;
#[expect(unsafe_code, reason = "puts elements into slots that R2 gives to the sender")]
mod send;
#[expect(unsafe_code, reason = "slots are uninitialised memory shared by two threads")]
mod state;

#[cfg(all(test, not(loom)))]
mod tests;

pub use recv::Receiver;
pub use send::Sender;
use state::State;

/// The largest capacity that [`ring`] accepts, in elements.
pub const CAPACITY_MAX: usize = 1 << 30;

// R1 needs `tail - head` to tell a full ring from an empty one after the indices wrap.
const _: () = assert!(CAPACITY_MAX.is_power_of_two() && CAPACITY_MAX <= usize::MAX / 2);

/// A ring for at least `capacity` elements, rounded up to a power of two (0 counts as 1): `ring(5)` holds
/// 8 elements. All memory is allocated here, `capacity * size_of::<T>()` bytes plus two cache lines a side.
///
/// # Panics
/// When `capacity` exceeds [`CAPACITY_MAX`].
pub fn ring<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    ring_at(capacity, 0)
}

/// As [`ring`], with the indices starting at `start`, so that tests reach their wrap-around.
fn ring_at<T: Send>(capacity: usize, start: usize) -> (Sender<T>, Receiver<T>) {
    assert!(
        capacity <= CAPACITY_MAX,
        "a ring of {capacity} elements was asked for, the limit is {CAPACITY_MAX}: use a smaller capacity"
    );
    let state = Arc::new(State::new(capacity.next_power_of_two(), start));
    (Sender::new(Arc::clone(&state), start), Receiver::new(state, start))
}

/// The ring was full: here is the element back, push it again when the receiver has made room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Full<T>(pub T);

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full(..)")
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the ring is full: keep the element and push it again when the receiver has made room",
        )
    }
}

impl<T> Error for Full<T> {}
