//! A channel between two subtasks of one process: a ring of elements one way, emptied buffers
//! the other way.
//!
//! Memory is counted in *credits*: a pooled buffer is one, a dedicated buffer for a large record as
//! many as its bytes would fill (of its rest, no page is ever touched).
//!
//! Invariants
//!   H1  Every buffer is in exactly one place: free at the sender, or in use: being written, queued,
//!       being read, or on its way back. `in_use` is the credits of the latter. Pooled buffers are
//!       allocated on first use; at most `credits` of them are kept.
//!   H2  `has_credit` is false only while `credits` or more are in use: the sender waits for nothing
//!       else.
//!   H3  A sender may go beyond its credits. It is asked to stop, between two records, when twice as
//!       many are in use (`has_room`); one record may expand further, by up to `overdraft`. Who
//!       cannot stop there (it has gathered records, or walks a table) says where the next record
//!       begins (`begin_record`), so that no record pays for those before it. Buffers beyond the
//!       credits are dropped when the consumer has read them.
//!   H4  The ring has room for as many batches as there are credits, and for `CONTROL_SLOTS` control
//!       elements; an element that finds it full waits at the sender, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tidemill_base::{Batch, Buffer, Element};
use tidemill_ring::{Doorbell, Receiver, Sender, ring};

/// Room for watermarks, barriers and status beside the batches.
const CONTROL_SLOTS: usize = 256;

/// How many buffers a channel has.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOptions {
    /// Pooled buffers, at least 2.
    pub credits: usize,
    /// Credits beyond that, for what one record expands to. Must hold the largest record.
    pub overdraft: usize,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        ChannelOptions { credits: 8, overdraft: 2040 }
    }
}

impl ChannelOptions {
    /// Credits in use from which on a run of records ends, whatever is left of it (H3). As many
    /// beyond the credits as there are: a run of small records then never ends for it.
    fn room(&self) -> usize {
        2 * self.credits
    }
}

/// The producer's end.
pub struct ChannelSender {
    elements: Sender<Element>,
    returned: Receiver<Buffer>,
    /// Credits of the buffers that the consumer has dropped.
    dropped: Arc<AtomicUsize>,
    free: Vec<Buffer>,
    /// Elements that found the ring full.
    waiting: VecDeque<Element>,
    /// H1.
    in_use: usize,
    /// Credits that were in use when the record at hand began; `credits` unless they were more (H3).
    begun: usize,
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
    dropped: Arc<AtomicUsize>,
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
    let (back, returned) = ring(options.credits);
    let dropped = Arc::new(AtomicUsize::new(0));
    let sender = ChannelSender {
        elements,
        returned,
        dropped: dropped.clone(),
        free: Vec::with_capacity(options.credits),
        waiting: VecDeque::new(),
        in_use: 0,
        begun: options.credits,
        options,
        doorbell: consumer,
        #[cfg(any(debug_assertions, feature = "check"))]
        checker: Default::default(),
    };
    let (elements, doorbell) = (elements_rx, producer);
    (sender, ChannelReceiver { elements, back, dropped, ordered: false, doorbell })
}

impl ChannelSender {
    /// Whether fewer credits are in use than there are, and nothing waits for the ring.
    #[inline]
    pub fn has_credit(&mut self) -> bool {
        self.begun = self.options.credits;
        if self.waiting.is_empty() && self.in_use < self.options.credits {
            return true;
        }
        self.flush_waiting();
        self.collect_returned();
        self.waiting.is_empty() && self.in_use < self.options.credits
    }

    /// Whether a run of records may go on (H3).
    pub fn has_room(&mut self) -> bool {
        if self.in_use >= self.options.room() {
            self.collect_returned();
        }
        self.in_use < self.options.room()
    }

    /// The next record begins, although there is no room (H3).
    pub fn begin_record(&mut self) {
        self.collect_returned();
        self.begun = self.in_use.max(self.options.credits);
    }

    /// The most credits that may be in use.
    fn limit(&self) -> usize {
        self.begun + self.options.overdraft
    }

    fn collect_returned(&mut self) {
        while let Some(buffer) = self.returned.try_pop() {
            self.give_back(buffer);
        }
        if self.dropped.load(Ordering::Relaxed) != 0 {
            self.in_use -= self.dropped.swap(0, Ordering::Acquire);
        }
    }

    /// A pooled buffer to write into, beyond the credits too; `None` at the limit (H3).
    pub fn take_buffer(&mut self) -> Option<Buffer> {
        if self.free.is_empty() || self.in_use >= self.limit() {
            self.collect_returned();
        }
        if self.in_use >= self.limit() {
            return None;
        }
        self.in_use += 1;
        Some(self.free.pop().unwrap_or_else(Buffer::pooled))
    }

    /// Takes the credits of a dedicated buffer of so many bytes; false at the limit (H3).
    pub fn take_credits(&mut self, bytes: usize) -> bool {
        self.collect_returned();
        let in_use = self.in_use + tidemill_base::batch::credits(bytes);
        let taken = in_use <= self.limit();
        if taken {
            self.in_use = in_use;
        }
        taken
    }

    /// Credits in use (H1).
    pub fn in_use(&mut self) -> usize {
        self.collect_returned();
        self.in_use
    }

    /// Puts a pooled buffer back that is no longer in use. It is kept, unless there are enough.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.in_use -= 1;
        if self.free.len() + self.in_use < self.options.credits {
            self.free.push(buffer);
        }
    }

    /// The most bytes that one record may become.
    pub fn bytes_max(&self) -> usize {
        (self.options.credits + self.options.overdraft) * tidemill_base::BUFFER_BYTES
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

    /// Gives the credits of a batch that has been read back to the producer: a pooled buffer goes
    /// back itself, unless there are enough of them on the way; others are dropped here and now.
    pub fn recycle(&mut self, batch: Batch) {
        let (credits, buffer) = (batch.credits(), batch.into_buffer());
        let rest = if buffer.is_pooled() {
            self.back.try_push(buffer).err().map(|full| full.0)
        } else {
            Some(buffer)
        };
        if let Some(buffer) = rest {
            drop(buffer);
            self.dropped.fetch_add(credits, Ordering::Release);
        }
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
    }

    /// Whether the producer is gone and nothing is left.
    pub fn is_disconnected(&self) -> bool {
        self.elements.is_disconnected()
    }
}

#[cfg(test)]
mod tests;
