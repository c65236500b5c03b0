//! A channel between two subtasks of one process: a ring of elements one way, emptied buffers
//! the other way.
//!
//! Invariants
//!   H1  A channel has `credits` pooled buffers, allocated on first use; each is in exactly one
//!       place: free at the sender, being written, queued, being read, or on its way back.
//!   H2  `has_credit` is false only while all of them are in use: the sender waits for nothing else.
//!   H3  Beyond the credits a sender may use overdraft buffers, at most `overdraft`; as many are
//!       dropped when they come back.
//!   H4  The ring has room for every buffer and `CONTROL_SLOTS` control elements; a control
//!       element that finds it full waits at the sender, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use tidemill_base::{Buffer, Element};
use tidemill_ring::{Doorbell, Receiver, Sender, ring};

/// Room for watermarks, barriers and status beside the batches.
const CONTROL_SLOTS: usize = 256;

/// How many buffers a channel has.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOptions {
    /// Pooled buffers, at least 2.
    pub credits: usize,
    /// Buffers beyond that, for one batch that expands.
    pub overdraft: usize,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        ChannelOptions { credits: 8, overdraft: 1016 }
    }
}

/// The producer's end.
pub struct ChannelSender {
    elements: Sender<Element>,
    returned: Receiver<Buffer>,
    free: Vec<Buffer>,
    /// Elements that found the ring full.
    waiting: VecDeque<Element>,
    /// Buffers in circulation, overdraft included.
    allocated: usize,
    options: ChannelOptions,
    /// The consumer's slot, if it is another one.
    doorbell: Option<Arc<Doorbell>>,
    #[cfg(any(debug_assertions, feature = "check"))]
    checker: crate::check::ChannelChecker,
}

/// The consumer's end.
pub struct ChannelReceiver {
    elements: Receiver<Element>,
    back: Sender<Buffer>,
    /// No barrier may overtake its batches.
    ordered: bool,
    /// The producer's slot, if it is another one.
    doorbell: Option<Arc<Doorbell>>,
}

/// A channel. The doorbells belong to the slots of consumer and producer; `None` where both sit
/// on the same slot.
pub fn channel(
    options: ChannelOptions,
    consumer: Option<Arc<Doorbell>>,
    producer: Option<Arc<Doorbell>>,
) -> (ChannelSender, ChannelReceiver) {
    let (elements, elements_rx) = ring(options.credits + CONTROL_SLOTS);
    let (back, returned) = ring(options.credits + options.overdraft);
    let sender = ChannelSender {
        elements,
        returned,
        free: Vec::with_capacity(options.credits),
        waiting: VecDeque::new(),
        allocated: 0,
        options,
        doorbell: consumer,
        #[cfg(any(debug_assertions, feature = "check"))]
        checker: Default::default(),
    };
    (sender, ChannelReceiver { elements: elements_rx, back, ordered: false, doorbell: producer })
}

impl ChannelSender {
    /// Whether [`ChannelSender::take_buffer`] would return a pooled buffer.
    #[inline]
    pub fn has_credit(&mut self) -> bool {
        if self.waiting.is_empty() && !self.free.is_empty() {
            return true;
        }
        self.flush_waiting();
        self.collect_returned();
        self.waiting.is_empty() && (!self.free.is_empty() || self.allocated < self.options.credits)
    }

    fn collect_returned(&mut self) {
        while let Some(buffer) = self.returned.try_pop() {
            if self.allocated > self.options.credits {
                self.allocated -= 1;
            } else {
                self.free.push(buffer);
            }
        }
    }

    /// A buffer to write into; beyond the credits an overdraft one, `None` when that is used up.
    pub fn take_buffer(&mut self) -> Option<Buffer> {
        if self.free.is_empty() {
            self.collect_returned();
        }
        self.free.pop().or_else(|| {
            (self.allocated < self.options.credits + self.options.overdraft).then(|| {
                self.allocated += 1;
                Buffer::pooled()
            })
        })
    }

    /// Puts an unused buffer back.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.free.push(buffer);
    }

    /// Buffers that a sender may hold beyond its credits.
    pub fn overdraft(&self) -> usize {
        self.options.overdraft
    }

    /// Sends an element. Never fails and never waits: a full ring keeps it here, in order.
    pub fn send(&mut self, element: Element) {
        #[cfg(any(debug_assertions, feature = "check"))]
        self.checker.element(&element);
        self.flush_waiting();
        if self.waiting.is_empty() {
            if let Err(full) = self.elements.try_push(element) {
                self.waiting.push_back(full.0);
            }
        } else {
            self.waiting.push_back(element);
        }
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
    }

    /// Pushes what found the ring full; true if something is left.
    pub fn flush_waiting(&mut self) -> bool {
        let before = self.waiting.len();
        while let Some(element) = self.waiting.pop_front() {
            if let Err(full) = self.elements.try_push(element) {
                self.waiting.push_front(full.0);
                break;
            }
        }
        if self.waiting.len() < before
            && let Some(doorbell) = &self.doorbell
        {
            doorbell.ring();
        }
        !self.waiting.is_empty()
    }

    /// Whether the consumer is gone.
    pub fn is_disconnected(&self) -> bool {
        self.elements.is_disconnected()
    }
}

impl ChannelReceiver {
    /// Barriers stay behind the batches before them: for one-to-one edges. Channel state of such an
    /// edge would be restored in one subtask while what feeds it goes on in another (splits are
    /// dealt out anew), and records of a key would overtake each other.
    pub fn keep_order(&mut self) {
        self.ordered = true;
    }

    /// Whether barriers stay behind the batches before them.
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Moves everything that has arrived to `inbox`.
    #[inline]
    pub fn drain_into(&mut self, inbox: &mut VecDeque<Element>) -> usize {
        self.elements.drain_into(inbox)
    }

    /// Gives a buffer back to the producer; a dedicated one is dropped.
    pub fn recycle(&mut self, buffer: Buffer) {
        if buffer.is_pooled()
            && self.back.try_push(buffer).is_ok()
            && let Some(doorbell) = &self.doorbell
        {
            doorbell.ring();
        }
    }

    /// Whether the producer is gone and nothing is left.
    pub fn is_disconnected(&self) -> bool {
        self.elements.is_disconnected()
    }
}
