//! When a lease has ended, as one candidate sees it. Pure: time comes with the call.
//!
//! Invariants
//!   L1  It has ended only for who has looked at it, without a failure or a long pause between two looks,
//!       for its whole length and has seen the same.

use tidemill_coordination::Micros;

/// What a look sees: it differs after each renewal.
pub(super) type Seen = (i64, i64);

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    length: Micros,
    since: Option<Since>,
}

#[derive(Debug)]
struct Since {
    seen: Seen,
    first: Micros,
    last: Micros,
}

impl Watch {
    pub(super) fn new(length: Micros) -> Self {
        Watch { length, since: None }
    }

    /// Whether the lease has ended.
    pub(super) fn look(&mut self, now: Micros, seen: Seen) -> bool {
        match &mut self.since {
            Some(since) if since.seen == seen && now.saturating_sub(since.last) <= self.length => {
                since.last = now;
                now.saturating_sub(since.first) >= self.length
            }
            since => {
                *since = Some(Since { seen, first: now, last: now });
                self.length == 0
            }
        }
    }

    /// A look failed: what was seen before does not count any more.
    pub(super) fn interrupt(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_not_renewed_ends() {
        let mut watch = Watch::new(100);
        for now in [1_000, 1_040, 1_099] {
            assert!(!watch.look(now, (1, 1)));
        }
        assert!(watch.look(1_100, (1, 1)));
    }

    #[test]
    fn a_renewal_or_another_term_begins_anew() {
        let mut watch = Watch::new(100);
        assert!(!watch.look(0, (1, 1)));
        assert!(!watch.look(90, (1, 2)));
        assert!(!watch.look(150, (1, 2)));
        assert!(!watch.look(180, (2, 2)));
        assert!(!watch.look(279, (2, 2)));
        assert!(watch.look(280, (2, 2)));
    }

    #[test]
    fn a_failure_or_a_long_pause_begins_anew() {
        let mut watch = Watch::new(100);
        assert!(!watch.look(0, (1, 1)));
        assert!(!watch.look(60, (1, 1)));
        watch.interrupt();
        assert!(!watch.look(120, (1, 1)));
        assert!(!watch.look(321, (1, 1)), "it slept, and the leader may have");
        assert!(!watch.look(420, (1, 1)));
        assert!(watch.look(421, (1, 1)));
    }
}
