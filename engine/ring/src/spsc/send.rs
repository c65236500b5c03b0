//! The sending side. Invariants R1 to R7: spsc.rs; who owns a slot: state.rs.

use super::Full;
use super::state::State;
use crate::sync::Arc;
use std::fmt;

/// The side of a ring that pushes. Not `Clone`: there is one.
///
/// When it is dropped, what it pushed stays in the ring for the receiver. A receiver that parks must be
/// told: drop the sender first, then ring its [`Doorbell`](crate::Doorbell).
pub struct Sender<T: Send> {
    state: Arc<State<T>>,
    /// Equal to the shared `tail` between calls (R3).
    tail: usize,
    /// A `head` that the receiver once stored (R5).
    head_seen: usize,
}

impl<T: Send> Sender<T> {
    pub(super) fn new(state: Arc<State<T>>, start: usize) -> Self {
        Self { state, tail: start, head_seen: start }
    }

    /// Appends `element`, or hands it back when the ring is full.
    ///
    /// It does not wake the receiver: ring its [`Doorbell`](crate::Doorbell) after the last push of a run.
    /// A push into a ring whose receiver is gone succeeds while there is room, and the element is dropped
    /// with the ring: ask [`is_disconnected`](Self::is_disconnected).
    ///
    /// # Errors
    /// [`Full`] with the element, when the receiver has not yet taken enough.
    #[inline]
    pub fn try_push(&mut self, element: T) -> Result<(), Full<T>> {
        if self.tail.wrapping_sub(self.head_seen) == self.state.capacity() {
            self.head_seen = self.state.receiver.index();
            if self.tail.wrapping_sub(self.head_seen) == self.state.capacity() {
                return Err(Full(element));
            }
        }
        // SAFETY: `tail - head_seen < capacity`, and `head_seen` came by an Acquire load or is the
        // start, so by R5 and R2 the slot of `tail` is the sender's.
        unsafe { self.state.write(self.tail, element) };
        self.tail = self.tail.wrapping_add(1);
        self.state.sender.publish(self.tail);
        Ok(())
    }

    /// How many pushes will surely succeed now, in elements. Only the receiver changes it behind the
    /// sender's back, and only upwards.
    pub fn free_slots(&self) -> usize {
        self.capacity() - self.tail.wrapping_sub(self.state.receiver.index())
    }

    /// How many elements the ring holds when full: a power of two.
    pub fn capacity(&self) -> usize {
        self.state.capacity()
    }

    /// Whether the receiver has been dropped: nobody will ever pop again.
    pub fn is_disconnected(&self) -> bool {
        self.state.receiver.is_gone()
    }
}

impl<T: Send> Drop for Sender<T> {
    fn drop(&mut self) {
        self.state.sender.leave();
    }
}

impl<T: Send> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("capacity", &self.capacity())
            .field("free_slots", &self.free_slots())
            .finish_non_exhaustive()
    }
}
