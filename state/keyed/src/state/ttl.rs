//! Time to live: when a value was last used, and whether it has expired.

use crate::current::StateTime;
use tidemill_base::Record;

/// The time that a TTL is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlTime {
    /// A value written at a record expires when the watermark reaches the record's timestamp (or
    /// the watermark at that moment, if later) plus the duration.
    Event,
    /// A value expires when the wall clock reaches the time of writing plus the duration.
    Processing,
}

/// How long state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateTtl {
    /// Life after the last use, in milliseconds.
    pub duration_ms: i64,
    /// Whether reading is a use, as writing is.
    pub update_on_read: bool,
    /// The time it is measured in.
    pub time: TtlTime,
}

impl StateTtl {
    /// Lives for `duration_ms` of processing time after the last write.
    pub fn processing(duration_ms: i64) -> Self {
        StateTtl { duration_ms, update_on_read: false, time: TtlTime::Processing }
    }

    /// Lives for `duration_ms` of event time after the last write.
    pub fn event(duration_ms: i64) -> Self {
        StateTtl { duration_ms, update_on_read: false, time: TtlTime::Event }
    }

    /// Reading prolongs life too.
    #[must_use]
    pub fn update_on_read(self) -> Self {
        StateTtl { update_on_read: true, ..self }
    }
}

/// A TTL and the time to apply it at.
#[derive(Clone, Debug)]
pub(crate) struct Lifetime {
    pub(crate) ttl: StateTtl,
    pub(crate) time: StateTime,
}

impl Lifetime {
    /// When something used now expires.
    #[inline]
    pub(crate) fn expiry(&self) -> i64 {
        let used = match self.ttl.time {
            TtlTime::Event => self.time.timestamp().max(self.time.watermark()),
            TtlTime::Processing => self.time.processing_ms(),
        };
        used.saturating_add(self.ttl.duration_ms)
    }

    /// What is not after this has expired.
    #[inline]
    pub(crate) fn now(&self) -> i64 {
        match self.ttl.time {
            TtlTime::Event => self.time.watermark(),
            TtlTime::Processing => self.time.processing_ms(),
        }
    }

    #[inline]
    pub(crate) fn expired(&self, expiry: i64) -> bool {
        expiry <= self.now()
    }
}

/// How a value of type `V` is kept: as it is, or with its expiry.
pub(crate) trait Stored<V>: Record {
    /// What tells the time: nothing, or a [`Lifetime`].
    type Life: Clone + 'static;
    fn wrap(value: V, life: &Self::Life) -> Self;
    fn value(&self) -> &V;
    fn value_mut(&mut self) -> &mut V;
    fn into_value(self) -> V;
    fn expired(&self, life: &Self::Life) -> bool;
    fn used(&mut self, life: &Self::Life);
    /// Whether reading has to mark the value as used.
    fn marks_reads(life: &Self::Life) -> bool;
    /// Whether values expire at all.
    const EXPIRES: bool;
}

impl<V: Record> Stored<V> for V {
    type Life = ();
    const EXPIRES: bool = false;
    #[inline(always)]
    fn wrap(value: V, (): &()) -> V {
        value
    }
    #[inline(always)]
    fn value(&self) -> &V {
        self
    }
    #[inline(always)]
    fn value_mut(&mut self) -> &mut V {
        self
    }
    #[inline(always)]
    fn into_value(self) -> V {
        self
    }
    #[inline(always)]
    fn expired(&self, (): &()) -> bool {
        false
    }
    #[inline(always)]
    fn used(&mut self, (): &()) {}
    #[inline(always)]
    fn marks_reads((): &()) -> bool {
        false
    }
}

impl<V: Record> Stored<V> for (i64, V) {
    type Life = Lifetime;
    const EXPIRES: bool = true;
    fn wrap(value: V, life: &Lifetime) -> Self {
        (life.expiry(), value)
    }
    fn value(&self) -> &V {
        &self.1
    }
    fn value_mut(&mut self) -> &mut V {
        &mut self.1
    }
    fn into_value(self) -> V {
        self.1
    }
    fn expired(&self, life: &Lifetime) -> bool {
        life.expired(self.0)
    }
    fn used(&mut self, life: &Lifetime) {
        // Never shortens: an out-of-order record must not take life away.
        self.0 = self.0.max(life.expiry());
    }
    fn marks_reads(life: &Lifetime) -> bool {
        life.ttl.update_on_read
    }
}
