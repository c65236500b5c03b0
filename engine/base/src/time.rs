//! Units of time. Event time is in milliseconds, as users write it; the engine's own clock is in
//! microseconds since an arbitrary start, as latencies need it.

/// Event time or watermark: milliseconds, usually since the Unix epoch.
pub type Timestamp = i64;

/// Monotonic time of the engine: microseconds since the clock's start.
pub type Micros = u64;

/// No watermark yet: every record is on time.
pub const WATERMARK_MIN: Timestamp = i64::MIN;

/// After the last record: every window may close.
pub const WATERMARK_MAX: Timestamp = i64::MAX;
