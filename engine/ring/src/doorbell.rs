//! How one consumer thread that watches many rings goes to sleep, and how a producer wakes it.
//!
//! ```text
//!   consumer                                producer
//!   c0  register(waker)                     p1  push (Release store of the ring's index)
//!   c1  prepare_park: sleeping = true       p2  ring: SeqCst fence
//!   c2                SeqCst fence          p3        load sleeping; false -> done
//!   c3  re-check every ring                 p4        take it: true -> false, or done
//!   c4  something there -> cancel_park      p5        wake
//!       nothing there   -> sleep
//! ```
//!
//! Invariants
//!   D1  The consumer sleeps only after c0 to c3 in this order, and c3 found nothing. After it has run
//!       again, for whatever reason, it begins with c0 before it sleeps once more.
//!   D2  A producer rings after its push (or after its drop, which the consumer re-checks likewise).
//!   D3  Only the consumer writes `true`. A producer writes `false` only in place of a `true` (p4), and
//!       then it wakes. The consumer writes `false` only when it is awake.
//!   D4  c1 is a Release store and p4 acquires it: who takes a `true` finds the waker of its c0, unless
//!       a wake-up under way from an earlier park has used that waker, and then that one wakes.
//!
//! **No wake-up is lost.** Take a park that ends in sleep, and a push p1 that its re-check c3 did not
//! see. SeqCst fences have one total order. Had the producer's p2 come before the consumer's c2 in it,
//! then c3, which follows c2, would have seen p1, which precedes p2. So c2 comes before p2, and then p3
//! and p4, which follow p2, see what c1 wrote, or something written later. One of three things is true:
//!   1. p4 takes the `true` of c1: this producer wakes the consumer (D3, D4).
//!   2. p3 or p4 sees a `false` that another producer wrote in place of it: that one wakes (D3, D4).
//!   3. p3 or p4 sees, or takes, what the consumer wrote later: it has not slept through this park, and
//!      what holds for this park holds for the next one too (D1).
//!
//! It is Dekker's argument: each side writes its own word, fences, and reads the other's; they cannot
//! both miss. Without either fence both loads could see old values: every common processor has store
//! buffers that allow it.
//!
//! A wake-up may come too often, though: p5 of an old park may arrive in a new one, and `cancel_park`
//! does not take back a wake-up under way. The consumer then finds nothing and parks again. The
//! registered waker is used up by it, which is why D1 says to begin with c0.
//!
//! Cost of `ring` while nobody sleeps: one fence and one load of a cache line that nobody writes.
//!
//! Not here: how the thread sleeps; it is whatever the waker undoes.

use crate::sync::{AtomicBool, AtomicWaker, Ordering, fence};
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::task::Waker;

#[cfg(all(test, not(loom)))]
mod tests;

/// The wake-up call of one consumer thread, shared with every producer that pushes to it.
///
/// ```
/// # use std::task::{Context, Poll};
/// # use tidemill_ring::{Doorbell, Receiver};
/// /// The end of a consumer's step: pending means that the thread may sleep.
/// fn park(doorbell: &Doorbell, rings: &[Receiver<u64>], cx: &mut Context<'_>) -> Poll<()> {
///     doorbell.register(cx.waker());
///     doorbell.prepare_park();
///     if rings.iter().any(|ring| !ring.is_empty() || ring.is_disconnected()) {
///         doorbell.cancel_park();
///         return Poll::Ready(());
///     }
///     Poll::Pending
/// }
///
/// # let doorbell = Doorbell::new();
/// # let (mut sender, receiver) = tidemill_ring::ring(8);
/// # let rings = [receiver];
/// # let mut cx = Context::from_waker(std::task::Waker::noop());
/// assert!(park(&doorbell, &rings, &mut cx).is_pending());
/// sender.try_push(7)?; // A producer: push as much as there is,
/// doorbell.ring(); //     then ring once.
/// assert!(park(&doorbell, &rings, &mut cx).is_ready());
/// # Ok::<(), tidemill_ring::Full<u64>>(())
/// ```
#[derive(Debug)]
pub struct Doorbell {
    /// On cache lines of its own: producers read it at every ring.
    sleeping: CachePadded<AtomicBool>,
    waker: AtomicWaker,
}

impl Doorbell {
    /// A doorbell whose consumer is awake.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            sleeping: CachePadded::new(AtomicBool::new(false)),
            waker: AtomicWaker::new(),
        })
    }

    /// Consumer, c0: `waker` is what [`ring`](Self::ring) wakes. To be called anew before each
    /// [`prepare_park`](Self::prepare_park) (D1); the last call counts.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Consumer, c1 and c2: announces that it is about to sleep. It must now look at all its rings once
    /// more, for elements and for disconnection, and then either [`cancel_park`](Self::cancel_park) or
    /// sleep.
    pub fn prepare_park(&self) {
        // Release: D4.
        self.sleeping.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Consumer, c4: it stays awake after all, or something other than the doorbell woke it (a timer, I/O):
    /// producers need not wake it. Harmless when it was not about to sleep.
    pub fn cancel_park(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Producer, p2 to p5: wakes the consumer if it sleeps or is about to. Call it after pushing, once for
    /// a whole run of pushes, and after dropping a side of a ring.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        // Acquire: D4. One producer of many gets the `true` and does the waking: D3. Not a plain swap,
        // which would write `false` over `false` as well: then no longer each `false` of a producer has
        // a wake-up behind it.
        let flag = self.sleeping.compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed);
        if flag.is_ok() {
            self.waker.wake();
        }
    }
}
