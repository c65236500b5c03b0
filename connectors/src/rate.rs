//! Records per second, on the engine's clock: open loop, so that a source that was held up makes
//! up for it, within a bound.
//!
//! Invariants
//!   R1  Record k is due k / rate after the first look at the clock, and not emitted before.
//!   R2  At most `burst` records are made up for at once; what is beyond is never emitted early
//!       later, the schedule moves.

use tidemill_base::{Error, Micros, Result};

/// What is made up for after a pause, in seconds of the rate.
const BURST_S: f64 = 1.0;

/// The schedule of one subtask.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    per_us: f64,
    burst: Option<u64>,
    started: Option<Micros>,
    /// Records of the schedule that are emitted, or given up by R2.
    passed: u64,
}

impl Limiter {
    /// `per_second` records in all, of which one subtask of `parallelism` emits its share.
    pub(crate) fn new(per_second: f64, parallelism: u32) -> Result<Self> {
        if per_second.is_nan() || per_second <= 0.0 {
            return Err(Error::job(format!(
                "a rate of {per_second} records/s: it must be positive; leave it out for no limit"
            )));
        }
        let share = per_second / f64::from(parallelism.max(1));
        let burst = Some((share * BURST_S).max(1.0) as u64);
        Ok(Limiter { per_us: share / 1e6, burst, started: None, passed: 0 })
    }

    /// Without R2: the schedule never moves, as latencies without coordinated omission need it.
    pub(crate) fn unbounded(mut self) -> Self {
        self.burst = None;
        self
    }

    /// How many records are due.
    pub(crate) fn allowance(&mut self, now: Micros) -> usize {
        let started = *self.started.get_or_insert(now);
        let due = ((now.saturating_sub(started) as f64 * self.per_us) as u64).saturating_add(1);
        let mut allowance = due.saturating_sub(self.passed);
        if let Some(burst) = self.burst.filter(|&b| allowance > b) {
            self.passed = due - burst;
            allowance = burst;
        }
        usize::try_from(allowance).unwrap_or(usize::MAX)
    }

    /// `n` records have been emitted.
    pub(crate) fn took(&mut self, n: usize) {
        self.passed = self.passed.saturating_add(n as u64);
    }

    /// When record `ahead` after those emitted is due.
    pub(crate) fn due(&self, ahead: u64) -> Micros {
        let after = (self.passed.saturating_add(ahead) as f64 / self.per_us).ceil();
        self.started.unwrap_or(0).saturating_add(after as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_early_and_never_slower(
            rate in 1.0..1e6f64, parallelism in 1u32..9, waits in prop::collection::vec(1u64..90_000, 1..50),
        ) {
            let mut limiter = Limiter::new(rate, parallelism).unwrap();
            let share = rate / f64::from(parallelism);
            let (mut now, mut emitted) = (77, 0u64);
            let start = now;
            for wait in waits {
                let n = limiter.allowance(now);
                limiter.took(n);
                emitted += n as u64;
                let due = (now - start) as f64 * share / 1e6 + 1.0;
                prop_assert!((emitted as f64) <= due + 1e-3 && (emitted as f64) > due - 1.001);
                prop_assert!(limiter.due(0) >= now);
                now += wait;
            }
        }
    }

    #[test]
    fn any_rate_is_refused_or_kept() {
        for rate in [0.0, -0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            let error = Limiter::new(rate, 2).unwrap_err().to_string();
            assert!(error.contains("records/s: it must be positive"), "{error}");
        }
        for rate in [f64::INFINITY, f64::MAX, 1e18, f64::MIN_POSITIVE] {
            let mut limiter = Limiter::new(rate, 2).unwrap();
            for now in [0, 1, 1_000, u64::MAX / 2, u64::MAX] {
                let allowance = limiter.allowance(now);
                limiter.took(allowance.min(1 << 20));
                assert!(limiter.due(1) >= limiter.due(0));
            }
        }
    }

    #[test]
    fn a_pause_is_made_up_for_within_the_bound() {
        let mut limiter = Limiter::new(100.0, 1).unwrap();
        limiter.allowance(0);
        limiter.took(1);
        assert_eq!(limiter.allowance(60_000_000), 100);
        limiter.took(100);
        assert_eq!(limiter.allowance(60_000_000), 0);
        assert_eq!(limiter.allowance(60_010_000), 1);
        let mut open = Limiter::new(100.0, 1).unwrap().unbounded();
        open.allowance(0);
        assert_eq!(open.allowance(60_000_000), 6001);
    }
}
