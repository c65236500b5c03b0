//! Which timestamps of the two sides of a join meet. Plain values, no state.

use crate::window::Window;
use tidemill_base::{Error, Result, Timestamp};

/// The side that a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Input 0.
    Left,
    /// Input 1.
    Right,
}

/// Which timestamps meet, and how long they may have to wait.
///
/// Laws: `a` and `b` meet only if each is in the other's `partners`. A record on time at a
/// watermark `w` meets no record whose `expiry` is at most `w`. `expiry` grows with the timestamp.
pub trait Matching: Copy + Send + 'static {
    /// Where two records meet.
    type Place;
    /// Length of the slices in which records are kept.
    fn slice_ms(&self) -> i64;
    /// The partners of a record: timestamps in `.0 .. .1`.
    fn partners(&self, side: Side, t: Timestamp) -> (Timestamp, Timestamp);
    /// A record is of no use once the watermark has reached this.
    fn expiry(&self, side: Side, t: Timestamp) -> Timestamp;
    /// Whether a record comes too late to meet anything.
    fn late(&self, side: Side, t: Timestamp, watermark: Timestamp) -> bool;
    /// Calls `f` with timestamp and place of each meeting of two records, the later of which
    /// arrives at this watermark.
    fn meet(
        &self,
        left: Timestamp,
        right: Timestamp,
        watermark: Timestamp,
        f: impl FnMut(Timestamp, Self::Place),
    );
}

/// The records of the same window meet, once for each window that both are in. Window `i` is
/// `i * slide .. i * slide + size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    size: i64,
    slide: i64,
}

impl Windows {
    /// Windows of `size` every `slide`, in milliseconds. Fails unless both are positive.
    pub fn new(size: i64, slide: i64) -> Result<Self> {
        let good = |ms: i64| (1..=crate::window::DURATION_MAX).contains(&ms);
        if !good(size) || !good(slide) {
            return Err(Error::job(format!(
                "windows of {size} ms every {slide} ms: both must be at least 1 ms and at most \
                 {} ms",
                crate::window::DURATION_MAX
            )));
        }
        Ok(Windows { size, slide })
    }

    /// Starts of the first and the last window of a timestamp; first > last where there is none.
    #[inline(always)]
    fn starts(&self, t: Timestamp) -> (Timestamp, Timestamp) {
        let last = t.saturating_sub(t.rem_euclid(self.slide));
        if self.slide == self.size {
            return (last, last);
        }
        let before = t.saturating_sub(self.size);
        (before.saturating_sub(before.rem_euclid(self.slide)).saturating_add(self.slide), last)
    }
}

impl Matching for Windows {
    type Place = Window;

    fn slice_ms(&self) -> i64 {
        self.size
    }

    #[inline(always)]
    fn partners(&self, _: Side, t: Timestamp) -> (Timestamp, Timestamp) {
        let (first, last) = self.starts(t);
        if first > last { (t, t) } else { (first, last.saturating_add(self.size)) }
    }

    #[inline(always)]
    fn expiry(&self, _: Side, t: Timestamp) -> Timestamp {
        self.starts(t).1.saturating_add(self.size)
    }

    #[inline(always)]
    fn late(&self, side: Side, t: Timestamp, watermark: Timestamp) -> bool {
        self.expiry(side, t) <= watermark
    }

    #[inline(always)]
    fn meet(
        &self,
        left: Timestamp,
        right: Timestamp,
        watermark: Timestamp,
        mut f: impl FnMut(Timestamp, Window),
    ) {
        let (mut start, last) = (self.starts(left.max(right)).0, self.starts(left.min(right)).1);
        while start <= last {
            let window = Window { start, end: start.saturating_add(self.size) };
            if window.end > watermark {
                f(window.last_timestamp(), window);
            }
            start = start.saturating_add(self.slide);
        }
    }
}

/// A left record at `t` meets the right ones at `t + lower ..= t + upper`. A record before the
/// watermark is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    lower: i64,
    upper: i64,
}

/// Slices of narrow intervals would be many.
const INTERVAL_SLICE_MS_MIN: i64 = 1_000;

impl Interval {
    /// Bounds in milliseconds, both inclusive, either may be negative. Fails if `lower > upper`.
    pub fn new(lower: i64, upper: i64) -> Result<Self> {
        let limit = crate::window::DURATION_MAX;
        if lower > upper || lower < -limit || upper > limit {
            return Err(Error::job(format!(
                "interval join from {lower} ms to {upper} ms: the lower bound must not be above \
                 the upper one, and both within {limit} ms"
            )));
        }
        Ok(Interval { lower, upper })
    }
}

impl Matching for Interval {
    type Place = ();

    fn slice_ms(&self) -> i64 {
        (self.upper - self.lower + 1).max(INTERVAL_SLICE_MS_MIN)
    }

    #[inline(always)]
    fn partners(&self, side: Side, t: Timestamp) -> (Timestamp, Timestamp) {
        let (from, to) = match side {
            Side::Left => (t.saturating_add(self.lower), t.saturating_add(self.upper)),
            Side::Right => (t.saturating_sub(self.upper), t.saturating_sub(self.lower)),
        };
        (from, to.saturating_add(1))
    }

    #[inline(always)]
    fn expiry(&self, side: Side, t: Timestamp) -> Timestamp {
        self.partners(side, t).1
    }

    #[inline(always)]
    fn late(&self, _: Side, t: Timestamp, watermark: Timestamp) -> bool {
        t < watermark
    }

    #[inline(always)]
    fn meet(
        &self,
        left: Timestamp,
        right: Timestamp,
        _: Timestamp,
        mut f: impl FnMut(Timestamp, ()),
    ) {
        f(left.max(right), ());
    }
}
