//! Which windows there are and when they fire: plain values, no state.

use std::time::Duration;
use tidemill_base::{Error, Result, Timestamp};

/// A window of time, `start..end` in milliseconds. For count and global windows it spans the
/// timestamps of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// First timestamp.
    pub start: Timestamp,
    /// The first timestamp behind it.
    pub end: Timestamp,
}

impl Window {
    /// The timestamp of what the window emits: the last one that belongs to it.
    #[inline(always)]
    pub fn last_timestamp(&self) -> Timestamp {
        self.end - 1
    }
}

/// A duration in milliseconds; too long ones become `i64::MAX`, which [`Spec::validate`] refuses.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Which time windows follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// The timestamps of records; the watermark closes windows.
    EventTime,
    /// The machine's clock; at the end of a bounded stream, windows still open fire too.
    ProcessingTime,
}

/// Timestamps must be within `±TIMESTAMP_MAX` (146 million years), durations at most
/// `DURATION_MAX`, so that no window arithmetic overflows.
pub const TIMESTAMP_MAX: Timestamp = 1 << 62;

/// The longest window, slide, gap or lateness, in milliseconds.
pub const DURATION_MAX: i64 = 1 << 58;

/// Windows of equal size, one every `slide` milliseconds; tumbling if `slide == size`.
///
/// Slices cut time at every start and every end of a window, so each window is a run of whole
/// slices. There are one or two slices a slide:
/// ```text
///  |-- size --------|          slide 4, size 6: slices of 2 and 2
///  |--|--|--|--|--|--|
///        |-- size --------|
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aligned {
    /// Length in milliseconds, at least 1.
    pub size: i64,
    /// From start to start in milliseconds, at least 1.
    pub slide: i64,
    /// A window starts at `offset`.
    pub offset: i64,
}

/// `t` rounded down to `offset + k * step`.
#[inline]
pub(super) fn floor(t: i64, step: i64, offset: i64) -> i64 {
    t - (t - offset).rem_euclid(step)
}

impl Aligned {
    /// The slice of a timestamp.
    #[inline]
    pub(super) fn slice(&self, t: Timestamp) -> Window {
        let start = floor(t, self.slide, self.offset);
        let cut = start + self.size.rem_euclid(self.slide);
        if cut == start {
            Window { start, end: start + self.slide }
        } else if t < cut {
            Window { start, end: cut }
        } else {
            Window { start: cut, end: start + self.slide }
        }
    }

    /// The smallest end of a window that is at least `t`.
    #[inline]
    pub(super) fn end_from(&self, t: Timestamp) -> Timestamp {
        let end = floor(t, self.slide, self.offset + self.size % self.slide);
        if end < t { end + self.slide } else { end }
    }

    /// The end of the last window that starts at or before `t`; it holds `t` if it is greater.
    #[inline]
    pub(super) fn last_end(&self, t: Timestamp) -> Timestamp {
        floor(t, self.slide, self.offset) + self.size
    }

    /// The windows that hold `t`, by end.
    pub(super) fn windows(&self, t: Timestamp) -> impl Iterator<Item = Window> + use<> {
        let (size, slide) = (self.size, self.slide);
        let mut end = self.end_from(t + 1);
        std::iter::from_fn(move || {
            let window = Window { start: end - size, end };
            end += slide;
            (window.start <= t).then_some(window)
        })
    }
}

/// How records get their windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assigner {
    /// Tumbling or sliding.
    Aligned(Aligned),
    /// Records of a key that are at most `gap` milliseconds apart share a window.
    Session {
        /// Milliseconds without a record that end a session.
        gap: i64,
    },
    /// One window a key, for ever.
    Global,
    /// Windows of `size` records of a key, one every `slide` records.
    Count {
        /// Records in a window.
        size: u64,
        /// Records from firing to firing.
        slide: u64,
    },
}

/// When windows fire. Its parts add up: a window fires whenever one of them says so.
///
/// Early firings happen only if the window has changed since its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub(super) at_end: bool,
    pub(super) count: Option<u64>,
    pub(super) every: Option<i64>,
    pub(super) every_wall: Option<i64>,
    pub(super) purging: bool,
}

impl Trigger {
    const NONE: Trigger =
        Trigger { at_end: false, count: None, every: None, every_wall: None, purging: false };

    /// When the window ends, and again for each record that comes later within the allowed
    /// lateness. A global window ends with the stream.
    pub fn at_end() -> Self {
        Trigger { at_end: true, ..Self::NONE }
    }

    /// Each time `n` more records have come; what is left at the end of the window is not
    /// emitted, unless another part says so.
    pub fn count(n: u64) -> Self {
        Trigger { count: Some(n), ..Self::NONE }
    }

    /// Also each time `n` more records have come since the last firing.
    #[must_use]
    pub fn or_count(self, n: u64) -> Self {
        Trigger { count: Some(n), ..self }
    }

    /// At the end, and each time the windows' time passes a multiple of `interval` before.
    pub fn every(interval: Duration) -> Self {
        Self::at_end().or_every(interval)
    }

    /// At the end, and each time the machine's clock passes a multiple of `interval` before.
    pub fn every_processing_time(interval: Duration) -> Self {
        Self::at_end().or_every_processing_time(interval)
    }

    /// Also each time the windows' time passes a multiple of `interval`.
    #[must_use]
    pub fn or_every(self, interval: Duration) -> Self {
        Trigger { every: Some(millis(interval)), ..self }
    }

    /// Also each time the machine's clock passes a multiple of `interval`.
    #[must_use]
    pub fn or_every_processing_time(self, interval: Duration) -> Self {
        Trigger { every_wall: Some(millis(interval)), ..self }
    }

    /// A firing forgets what it has emitted: the next one covers only what has come since.
    #[must_use]
    pub fn purging(self) -> Self {
        Trigger { purging: true, ..self }
    }
}

/// Everything about the windows of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Which windows.
    pub assigner: Assigner,
    /// Which time.
    pub domain: Domain,
    /// When they fire.
    pub trigger: Trigger,
    /// Milliseconds that a window is kept for late records after its end.
    pub lateness: i64,
}

impl Spec {
    /// Event time, firing at the end, no lateness.
    pub fn new(assigner: Assigner) -> Self {
        Spec { assigner, domain: Domain::EventTime, trigger: Trigger::at_end(), lateness: 0 }
    }

    /// Fails, naming the value, if the windows make no sense.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::job(format!("window: {what}")));
        let duration = |name: &str, ms: i64, least: i64| {
            if (least..=DURATION_MAX).contains(&ms) {
                return Ok(());
            }
            wrong(format!("{name} is {ms} ms, must be from {least} to {DURATION_MAX} ms"))
        };
        match self.assigner {
            Assigner::Aligned(a) => {
                duration("size", a.size, 1)?;
                duration("slide", a.slide, 1)?;
                if a.offset.abs() > DURATION_MAX {
                    return wrong(format!("offset is {} ms", a.offset));
                }
            }
            Assigner::Session { gap } => duration("gap", gap, 1)?,
            Assigner::Global if self.domain == Domain::ProcessingTime => {
                return wrong(
                    "a global window has no time: leave out processing time; the trigger can go \
                     by the machine's clock (every_processing_time)"
                        .into(),
                );
            }
            Assigner::Global => {}
            Assigner::Count { size, slide } => {
                if size == 0 || slide == 0 {
                    return wrong(format!("count {size} with slide {slide}: both at least 1"));
                }
                if self.trigger != Trigger::at_end() {
                    return wrong("count windows fire by count: remove the trigger".into());
                }
            }
        }
        duration("allowed lateness", self.lateness, 0)?;
        let timeless = matches!(self.assigner, Assigner::Count { .. } | Assigner::Global);
        if self.lateness > 0 && (timeless || self.domain == Domain::ProcessingTime) {
            return wrong(format!(
                "allowed lateness of {} ms: no record is late for count, global and \
                 processing-time windows; remove it",
                self.lateness
            ));
        }
        self.trigger.every.map_or(Ok(()), |ms| duration("trigger interval", ms, 1))?;
        self.trigger.every_wall.map_or(Ok(()), |ms| duration("trigger interval", ms, 1))?;
        if self.trigger.count == Some(0) {
            return wrong("a trigger every 0 records: at least 1".into());
        }
        Ok(())
    }

    /// Whether aligned windows can be stored by slice: nothing happens to a single window.
    pub(super) fn by_slice(&self) -> bool {
        let purges = self.trigger.purging && self.lateness > 0;
        !purges && Trigger { purging: false, ..self.trigger } == Trigger::at_end()
    }

    /// For the shape of the state: a restored operator must have the same windows.
    pub(super) fn text(&self) -> String {
        let time = match self.domain {
            Domain::EventTime => "event",
            Domain::ProcessingTime => "processing",
        };
        match self.assigner {
            Assigner::Aligned(a) if a.size == a.slide => {
                format!("tumbling {} ms from {} by {time} time", a.size, a.offset)
            }
            Assigner::Aligned(a) => {
                format!("sliding {} ms every {} from {} by {time} time", a.size, a.slide, a.offset)
            }
            Assigner::Session { gap } => format!("session gap {gap} ms by {time} time"),
            Assigner::Global => "global".into(),
            Assigner::Count { size, slide } => format!("count {size} every {slide}"),
        }
    }
}
