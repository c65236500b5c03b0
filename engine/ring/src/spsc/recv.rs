//! The receiving side. Invariants R1 to R7: spsc.rs; who owns a slot: state.rs.

use super::state::State;
use crate::sync::Arc;
use std::collections::VecDeque;
use std::fmt;

/// The side of a ring that pops. Not `Clone`: there is one.
///
/// When it is dropped, it drops the elements that are in the ring at that moment, so that their buffers
/// go home at once; one that the sender pushes afterwards is dropped with the sender. A sender that parks
/// must be told: drop the receiver first, then ring its [`Doorbell`](crate::Doorbell).
pub struct Receiver<T: Send> {
    state: Arc<State<T>>,
    /// Equal to the shared `head` between calls (R3).
    head: usize,
    /// A `tail` that the sender once stored (R5).
    tail_seen: usize,
}

impl<T: Send> Receiver<T> {
    pub(super) fn new(state: Arc<State<T>>, start: usize) -> Self {
        Self { state, head: start, tail_seen: start }
    }

    /// Takes the oldest element, or `None` when there is none now.
    #[inline]
    pub fn try_pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.state.sender.index();
            if self.head == self.tail_seen {
                return None;
            }
        }
        // SAFETY: `head` precedes `tail_seen`, which came by an Acquire load, so by R5 and R2 the slot
        // is the receiver's; `head` moves past it here.
        let element = unsafe { self.state.read(self.head) };
        self.head = self.head.wrapping_add(1);
        self.state.receiver.publish(self.head);
        Some(element)
    }

    /// Appends all elements that are in the ring now to `inbox`, oldest first, and says how many: one
    /// Acquire load and one Release store, however many there are. At most `capacity` elements.
    pub fn drain_into(&mut self, inbox: &mut VecDeque<T>) -> usize {
        self.tail_seen = self.state.sender.index();
        let count = self.tail_seen.wrapping_sub(self.head);
        if count == 0 {
            return 0;
        }
        // This may panic, the loop below may not: elements leave the ring once (R6).
        inbox.reserve(count);
        for offset in 0..count {
            // SAFETY: `head + offset` precedes `tail_seen`, which came by an Acquire load, so by R2 the
            // slot is the receiver's; nothing between here and moving `head` past all of them can unwind.
            inbox.push_back(unsafe { self.state.read(self.head.wrapping_add(offset)) });
        }
        self.head = self.tail_seen;
        self.state.receiver.publish(self.head);
        count
    }

    /// Whether there is nothing to pop now. `false` stays `false` until the next pop.
    ///
    /// It looks at the sender's index unless an element is known to be there already, so it serves as the
    /// re-check between [`Doorbell::prepare_park`](crate::Doorbell::prepare_park) and sleeping.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail_seen && self.head == self.state.sender.index()
    }

    /// How many elements the ring holds when full: a power of two.
    pub fn capacity(&self) -> usize {
        self.state.capacity()
    }

    /// Whether the sender has been dropped. What it pushed is still there to be popped.
    ///
    /// Ask **before** the last drain, not after it: `true` and then an empty ring mean the end (R7), an
    /// empty ring and then `true` do not, because the sender may have pushed in between.
    pub fn is_disconnected(&self) -> bool {
        self.state.sender.is_gone()
    }
}

impl<T: Send> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.state.receiver.leave();
        // As many as there are now, not until empty: a busy sender must not keep this thread here.
        let count = self.state.sender.index().wrapping_sub(self.head);
        for _ in 0..count {
            drop(self.try_pop());
        }
    }
}

impl<T: Send> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("capacity", &self.capacity())
            .field("is_empty", &self.is_empty())
            .finish_non_exhaustive()
    }
}
