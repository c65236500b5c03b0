//! Which windows: the argument of `keyed.window(..)`.

use std::time::Duration;
use tidemill_runtime::window::{Aligned, Assigner, Domain, Spec, millis};

/// What [`KeyedStream::window`](crate::KeyedStream::window) takes; made from [`Tumbling`],
/// [`Sliding`], [`Session`], [`Count`] or [`Global`].
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    pub(crate) spec: Spec,
}

impl Windows {
    fn new(assigner: Assigner, domain: Domain) -> Self {
        Windows { spec: Spec { domain, ..Spec::new(assigner) } }
    }
}

macro_rules! time_window {
    ($name:ident) => {
        impl $name {
            /// Windows by the machine's clock instead of the records' timestamps. At the end of a
            /// bounded stream, windows that are open fire too.
            #[must_use]
            pub fn processing_time(self) -> Self {
                $name { domain: Domain::ProcessingTime, ..self }
            }
        }

        impl From<$name> for Windows {
            fn from(from: $name) -> Windows {
                Windows::new(from.assigner, from.domain)
            }
        }
    };
}

macro_rules! aligned_window {
    ($name:ident) => {
        impl $name {
            /// Windows start at `offset` behind the multiples of size or slide, e.g. 8 hours for
            /// days that begin at 8:00 UTC.
            #[must_use]
            pub fn offset(mut self, offset: Duration) -> Self {
                if let Assigner::Aligned(aligned) = &mut self.assigner {
                    aligned.offset = millis(offset);
                }
                self
            }
        }
    };
}

/// Windows of equal size, one behind the other. By event time.
#[derive(Clone, Copy, Debug)]
pub struct Tumbling {
    assigner: Assigner,
    domain: Domain,
}

impl Tumbling {
    /// Windows of `size`, at least 1 ms.
    pub fn of(size: Duration) -> Self {
        let size = millis(size);
        let assigner = Assigner::Aligned(Aligned { size, slide: size, offset: 0 });
        Tumbling { assigner, domain: Domain::EventTime }
    }
}
aligned_window!(Tumbling);
time_window!(Tumbling);

/// Windows of equal size that overlap. By event time.
#[derive(Clone, Copy, Debug)]
pub struct Sliding {
    assigner: Assigner,
    domain: Domain,
}

impl Sliding {
    /// Windows of `size`, one every `slide`. With a slide greater than the size, records between
    /// two windows are in none.
    pub fn of(size: Duration, slide: Duration) -> Self {
        let (size, slide) = (millis(size), millis(slide));
        let assigner = Assigner::Aligned(Aligned { size, slide, offset: 0 });
        Sliding { assigner, domain: Domain::EventTime }
    }
}
aligned_window!(Sliding);
time_window!(Sliding);

/// Windows of records of a key with no gap between them. By event time.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    assigner: Assigner,
    domain: Domain,
}

impl Session {
    /// A window ends when `gap` has passed without a record; records exactly `gap` apart share
    /// one. Its end is its last record's timestamp plus `gap`.
    pub fn gap(gap: Duration) -> Self {
        let assigner = Assigner::Session { gap: millis(gap) };
        Session { assigner, domain: Domain::EventTime }
    }
}
time_window!(Session);

/// Windows of a number of records of a key, in the order of their arrival. What has not filled a
/// window when the stream ends is not emitted.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    size: u64,
    slide: u64,
}

impl Count {
    /// Windows of `n` records.
    pub fn of(n: u64) -> Self {
        Count { size: n, slide: n }
    }

    /// Windows of the last `n` records, one every `slide` records.
    pub fn sliding(n: u64, slide: u64) -> Self {
        Count { size: n, slide }
    }
}

impl From<Count> for Windows {
    fn from(Count { size, slide }: Count) -> Windows {
        Windows::new(Assigner::Count { size, slide }, Domain::EventTime)
    }
}

/// One window for all records of a key. Without a trigger it fires at the end of the stream.
#[derive(Clone, Copy, Debug)]
pub struct Global;

impl From<Global> for Windows {
    fn from(_: Global) -> Windows {
        Windows::new(Assigner::Global, Domain::EventTime)
    }
}
