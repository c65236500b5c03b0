//! Milliseconds per second of a subtask's activities, from two samples of its times. Pure.

use tidemill_base::Micros;
use tidemill_base::metrics::ActivityTimes;

/// The shortest interval that rates are computed over.
pub(crate) const INTERVAL_US_MIN: Micros = 500_000;

/// Milliseconds in each second, each in `0.0..=1000.0`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) busy: f64,
    pub(crate) idle: f64,
    pub(crate) backpressured: f64,
    pub(crate) ready: f64,
}

impl Rates {
    /// Between two samples `elapsed` apart.
    fn between(before: ActivityTimes, after: ActivityTimes, elapsed: Micros) -> Rates {
        let rate = |before: u64, after: u64| {
            let ms = after.saturating_sub(before) as f64 / 1e3;
            // A sample may have been taken a little after its time was read.
            (ms / (elapsed.max(1) as f64 / 1e6)).min(1e3)
        };
        Rates {
            busy: rate(before.busy_us, after.busy_us),
            idle: rate(before.idle_us, after.idle_us),
            backpressured: rate(before.backpressured_us, after.backpressured_us),
            ready: rate(before.ready_us, after.ready_us),
        }
    }
}

/// The samples of one subtask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    at: Micros,
    times: ActivityTimes,
    rates: Option<Rates>,
}

impl Sampler {
    /// A subtask that starts now.
    pub(crate) fn new(now: Micros) -> Self {
        Sampler { at: now, times: ActivityTimes::default(), rates: None }
    }

    /// Takes a sample; too soon after the last one it is ignored.
    pub(crate) fn sample(&mut self, now: Micros, times: ActivityTimes) {
        let elapsed = now.saturating_sub(self.at);
        if elapsed >= INTERVAL_US_MIN {
            self.rates = Some(Rates::between(self.times, times, elapsed));
            (self.at, self.times) = (now, times);
        }
    }

    /// Over the last interval between samples; `None` before the first has passed.
    pub(crate) fn rates(&self) -> Option<Rates> {
        self.rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(busy_us: u64, idle_us: u64, backpressured_us: u64) -> ActivityTimes {
        ActivityTimes { busy_us, idle_us, backpressured_us, ready_us: busy_us / 10 }
    }

    #[test]
    fn rates_are_of_the_last_interval() {
        let mut s = Sampler::new(5_000_000);
        assert_eq!(s.rates(), None);
        s.sample(5_100_000, times(100_000, 0, 0));
        assert_eq!(s.rates(), None, "a tenth of a second says little");
        s.sample(6_000_000, times(250_000, 500_000, 250_000));
        let first = Rates { busy: 250.0, idle: 500.0, backpressured: 250.0, ready: 25.0 };
        assert_eq!(s.rates(), Some(first));
        s.sample(6_000_001, times(250_001, 500_000, 250_000));
        assert_eq!(s.rates(), Some(first), "a second sample at once changes nothing");
        s.sample(8_000_000, times(250_000, 500_000, 2_250_000));
        assert_eq!(s.rates(), Some(Rates { backpressured: 1000.0, ..Rates::default() }));
    }

    #[test]
    fn rates_stay_within_a_second() {
        let mut s = Sampler::new(0);
        s.sample(1_000_000, times(1_000_200, 0, 0));
        assert_eq!(s.rates().map(|r| r.busy), Some(1000.0));
        s.sample(2_000_000, times(1_000_100, 0, 0));
        assert_eq!(s.rates().map(|r| r.busy), Some(0.0), "times never run backwards");
    }
}
