//! Credits of one channel, as its sender and as its receiver count them. Pure.
//!
//! A credit is a pooled buffer; a larger batch costs one for each pooled buffer's worth begun. Both
//! sides count from the start of the connection, so nothing is lost by rounding or by order.
//!
//! ```text
//!   sender    granted - sent      > 0: may send; <= 0: must wait; < 0: in debt
//!   receiver  window + received - in use - granted: what it may grant now
//! ```
//!
//! Invariants
//!   E1  Without force a sender begins no batch unless it has a credit, so what is in flight or in use
//!       at the receiver exceeds the window by less than one batch.
//!   E2  A buffer whose batch was sent by force comes back to its producer only when credits have
//!       covered it: sender's pool and receiver's pool bound the channel, however many barriers pass.
//!   E3  What was granted never exceeds the window plus what was received and is no longer in use.
//!   E4  Every unit that was received is granted again once it is no longer in use.

use std::collections::VecDeque;

#[cfg(test)]
mod tests;

/// The sender's side. `B` is what is withheld while in debt.
#[derive(Debug)]
pub struct SendCredit<B> {
    granted: u64,
    sent: u64,
    withheld: VecDeque<(u64, B)>,
}

impl<B> Default for SendCredit<B> {
    fn default() -> Self {
        SendCredit { granted: 0, sent: 0, withheld: VecDeque::new() }
    }
}

/// Until when a sent batch's buffer is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoveredAt(u64);

impl<B> SendCredit<B> {
    /// Whether a batch may be sent without force (E1).
    #[inline]
    pub fn may_send(&self) -> bool {
        self.granted > self.sent
    }

    /// A batch of `units` is sent. By force it says when its buffer may go back (E2).
    pub fn send(&mut self, units: u64) -> Option<CoveredAt> {
        let forced = !self.may_send();
        self.sent += units;
        forced.then_some(CoveredAt(self.sent))
    }

    /// The bytes of a batch sent by force have left: keeps its buffer, or hands it back where credits
    /// have covered it meanwhile.
    pub fn withhold(&mut self, until: CoveredAt, buffer: B) -> Option<B> {
        if self.granted >= until.0 {
            return Some(buffer);
        }
        self.withheld.push_back((until.0, buffer));
        None
    }

    /// Credits have arrived; call [`SendCredit::release`] until it returns `None`.
    pub fn grant(&mut self, units: u64) {
        self.granted = self.granted.saturating_add(units);
    }

    /// The next buffer that is covered by now.
    pub fn release(&mut self) -> Option<B> {
        if self.withheld.front().is_none_or(|(at, _)| *at > self.granted) {
            return None;
        }
        self.withheld.pop_front().map(|(_, buffer)| buffer)
    }

    /// Buffers withheld.
    pub fn withheld(&self) -> usize {
        self.withheld.len()
    }
}

/// The receiver's side.
#[derive(Debug)]
pub struct ReceiveCredit {
    window: u64,
    received: u64,
    granted: u64,
}

impl ReceiveCredit {
    /// For a pool of `window` buffers.
    pub fn new(window: u64) -> Self {
        ReceiveCredit { window, received: 0, granted: 0 }
    }

    /// A batch of `units` has arrived.
    pub fn receive(&mut self, units: u64) {
        self.received += units;
    }

    /// What to grant while `in_use` units are not yet given back; 0 where a message would not be worth
    /// it: less than half a window while the sender still has a quarter.
    pub fn grant(&mut self, in_use: u64) -> u64 {
        let target = (self.window + self.received).saturating_sub(in_use);
        let more = target.saturating_sub(self.granted);
        let left = self.granted.saturating_sub(self.received);
        if more == 0 || (left > self.window / 4 && more < self.window.div_ceil(2)) {
            return 0;
        }
        let more = more.min(u64::from(u32::MAX));
        self.granted += more;
        more
    }
}
