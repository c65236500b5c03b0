//! What a process function can do beside looking at its record.

use super::side::{SideOutputs, SideTag};
use crate::context::Failure;
use crate::stage::Stage;
use tidemill_base::{Error, Key, Record, Result, Timestamp, WATERMARK_MAX, WATERMARK_MIN};
use tidemill_keyed::{Backend, TimerQueue};

/// What a timer's time is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// Due when the watermark reaches it.
    Event,
    /// Due when the wall clock reaches it.
    Processing,
}

/// A timer that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// The time it was registered for, in milliseconds.
    pub time: Timestamp,
    /// The time's kind.
    pub kind: TimerKind,
}

/// Names of the timers in checkpoints' messages, and in a database.
pub(crate) const EVENT_TIMERS: &str = "event-time timers";
pub(crate) const PROCESSING_TIMERS: &str = "processing-time timers";

/// What the contexts of one subtask share.
pub struct Services<K: Key> {
    pub(crate) event: TimerQueue<K>,
    pub(crate) processing: TimerQueue<K>,
    pub(crate) watermark: Timestamp,
    pub(crate) processing_ms: i64,
    pub(crate) sides: SideOutputs,
    pub(crate) failure: Failure,
}

impl<K: Key> Services<K> {
    pub(crate) fn open(backend: &Backend, failure: Failure, sides: SideOutputs) -> Result<Self> {
        Ok(Services {
            event: backend.timers(EVENT_TIMERS)?,
            processing: backend.timers(PROCESSING_TIMERS)?,
            watermark: WATERMARK_MIN,
            processing_ms: 0,
            sides,
            failure,
        })
    }
}

/// The key, times, timers and outputs of the record (or timer) at hand. `K` is the key's type,
/// `O` that of the records emitted.
pub struct ProcessContext<'a, K: Key, O: Record> {
    pub(crate) key: K::View<'a>,
    pub(crate) hash: u64,
    pub(crate) timestamp: Timestamp,
    pub(crate) services: &'a mut Services<K>,
    pub(crate) out: &'a mut dyn Stage<O>,
}

impl<'a, K: Key, O: Record> ProcessContext<'a, K, O> {
    /// Emits a record with the timestamp of the one at hand (of the timer, if it is in event
    /// time; the watermark, if it is in processing time).
    #[inline]
    pub fn emit(&mut self, record: O::View<'_>) {
        self.out.push(record, self.timestamp);
    }

    /// Emits a record with a timestamp. One before the watermark makes it late downstream.
    #[inline]
    pub fn emit_at(&mut self, record: O::View<'_>, timestamp: Timestamp) {
        self.out.push(record, timestamp);
    }

    /// Emits a record to a side output. The job fails if the operator was not given the output
    /// with `.side_output(&tag)`.
    #[inline]
    pub fn side<T: Record>(&mut self, tag: &impl AsRef<SideTag<T>>, record: T::View<'_>) {
        let tag = *tag.as_ref();
        if !self.services.sides.push(tag, record, self.timestamp) {
            missing_side(&self.services.failure, tag.number());
        }
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> K::View<'a> {
        self.key
    }

    /// Event time of the record, or of the event-time timer, at hand.
    #[inline]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The watermark: no later record is expected before it.
    #[inline]
    pub fn watermark(&self) -> Timestamp {
        self.services.watermark
    }

    /// Whether the input has ended. All event-time timers fire then, those that `on_timer`
    /// registers too: a timer that renews itself must ask.
    #[inline]
    pub fn at_end(&self) -> bool {
        self.services.watermark == WATERMARK_MAX
    }

    /// The wall clock, in milliseconds since the Unix epoch.
    #[inline]
    pub fn processing_time(&self) -> i64 {
        self.services.processing_ms
    }

    /// Calls `on_timer` for this key when the watermark reaches `time`. A key has at most one
    /// timer for each time; one that is past fires when the watermark next advances.
    #[inline]
    pub fn register_event_timer(&mut self, time: Timestamp) {
        self.services.event.register(time, self.hash, self.key);
    }

    /// Takes an event-time timer of this key back, if there is one.
    #[inline]
    pub fn delete_event_timer(&mut self, time: Timestamp) {
        self.services.event.delete(time, self.hash, self.key);
    }

    /// Calls `on_timer` for this key when the wall clock reaches `time`. Timers that are not due
    /// when the input ends are dropped.
    #[inline]
    pub fn register_processing_timer(&mut self, time: Timestamp) {
        self.services.processing.register(time, self.hash, self.key);
    }

    /// Takes a processing-time timer of this key back, if there is one.
    #[inline]
    pub fn delete_processing_timer(&mut self, time: Timestamp) {
        self.services.processing.delete(time, self.hash, self.key);
    }

    /// Fails this attempt of the job.
    #[cold]
    pub fn fail(&mut self, error: Error) {
        self.services.failure.set(error);
    }
}

#[cold]
pub(crate) fn missing_side(failure: &Failure, number: u64) {
    failure.set(Error::job(format!(
        "a function emits to side output {number}, which its operator does not have: call \
         .side_output(&tag) behind .process(..)"
    )));
}
