//! What all process operators have in common: states, timers, times, snapshots.
//!
//! Invariants
//!   C1  Timers of one kind fire in the order of their times, each once, at the first watermark
//!       (or processing time) that is not less.
//!   C2  A firing does at most `FIRE_TIMERS` timers a step, and no snapshot comes between its
//!       steps (task.rs, T2).
//!   C3  Before user code runs, the store has the key and the times of the record or timer.

use super::context::{EVENT_TIMERS, PROCESSING_TIMERS, ProcessContext, Services, Timer, TimerKind};
use super::part::{PartRef, Snapshots};
use super::side::SideOutputs;
use super::store::Store;
use crate::blame::Blame;
use crate::context::Context;
use crate::operator::Flow;
use crate::stage::{Control, Stage};
use std::ops::Range;
use tidemill_base::key::KeyHeap;
use tidemill_base::{Batch, Key, Record, Result, Timestamp, WATERMARK_MIN};

/// Timers that one step of a firing calls.
pub const FIRE_TIMERS: usize = 128;

/// Entries of each table looked at for expiry, each run of records.
const EXPIRE_ENTRIES: usize = 64;

/// The firing in progress, up to which time.
#[derive(Clone, Copy, Debug)]
enum Firing {
    Event(Timestamp),
    Processing(i64),
}

/// The key of the timer at hand, in memory that is reused.
struct StoredKey<K: Key> {
    slot: K::Slot,
    heap: KeyHeap,
}

impl<K: Key> StoredKey<K> {
    fn set(&mut self, key: K::View<'_>) {
        self.heap.clear();
        self.slot = K::store(key, &mut self.heap);
    }
    fn view(&self) -> K::View<'_> {
        K::load(&self.slot, &self.heap)
    }
}

/// States, timers and times of a process operator's subtask.
pub struct Host<K: Key, St: Store<K>> {
    store: St,
    services: Services<K>,
    context: Context,
    snapshots: Snapshots,
    firing: Option<Firing>,
    timer_key: StoredKey<K>,
    /// Whether states or timers may have to be read.
    on_disk: bool,
}

fn parts<'a, K: Key, St: Store<K>>(
    store: &'a mut St,
    services: &'a mut Services<K>,
) -> Vec<PartRef<'a>> {
    let mut parts = store.parts();
    parts.push(PartRef::timers(0, EVENT_TIMERS, &mut services.event));
    parts.push(PartRef::timers(1, PROCESSING_TIMERS, &mut services.processing));
    parts
}

impl<K: Key, St: Store<K>> Host<K, St> {
    /// Restores states, timers and watermark.
    pub fn open(
        context: &Context,
        operator: u64,
        mut store: St,
        sides: SideOutputs,
    ) -> Result<Self> {
        let backend = store.backend();
        let mut services = Services::open(&backend, context.failure.clone(), sides)?;
        let mut parts = parts(&mut store, &mut services);
        let (snapshots, watermark) = Snapshots::open(context, operator, &mut parts)?;
        drop(parts);
        services.watermark = watermark;
        let timer_key = StoredKey { slot: K::Slot::default(), heap: KeyHeap::default() };
        let context = context.clone();
        let on_disk = services.event.is_on_disk();
        let host = Host { store, services, context, snapshots, firing: None, timer_key, on_disk };
        host.store.set_times(watermark, host.services.processing_ms);
        Ok(host)
    }

    /// Prepares for a run of records.
    #[inline]
    pub fn start_run(&mut self, batch: &Batch, range: Range<usize>, keyed: bool) {
        let now = self.context.time.wall_ms();
        if now != self.services.processing_ms {
            self.services.processing_ms = now;
            self.store.set_times(self.services.watermark, now);
        }
        self.store.expire(EXPIRE_ENTRIES);
        if keyed {
            for i in range.clone() {
                self.store.prefetch_index(batch.hash(i));
            }
            for i in range {
                self.store.prefetch_entry(batch.hash(i));
            }
        }
    }

    /// Whether the keys of a run of records are to be announced.
    #[inline]
    pub fn looks_ahead(&mut self, records: usize) -> bool {
        self.on_disk && self.store.looks_ahead(records)
    }

    /// The store and the context for a record (C3).
    #[inline(always)]
    pub fn enter<'a, O: Record>(
        &'a mut self,
        hash: u64,
        key: K::View<'a>,
        timestamp: Timestamp,
        out: &'a mut dyn Stage<O>,
    ) -> (&'a mut St, ProcessContext<'a, K, O>) {
        self.store.set_key(hash, key, timestamp);
        let services = &mut self.services;
        (&mut self.store, ProcessContext { key, hash, timestamp, services, out })
    }

    /// The store, outside of the call for a key.
    #[inline(always)]
    pub fn store_mut(&mut self) -> &mut St {
        &mut self.store
    }

    /// The watermark has advanced: due timers are to be fired.
    pub fn advance(&mut self, watermark: Timestamp) {
        let watermark = self.services.watermark.max(watermark);
        self.services.watermark = watermark;
        self.services.processing_ms = self.context.time.wall_ms();
        self.store.set_times(watermark, self.services.processing_ms);
        self.firing = Some(Firing::Event(watermark));
    }

    /// Processing time has advanced: due timers are to be fired.
    pub fn tick(&mut self, wall_ms: i64) {
        self.services.processing_ms = wall_ms;
        self.store.set_times(self.services.watermark, wall_ms);
        self.firing = Some(Firing::Processing(wall_ms));
    }

    /// When the next processing-time timer is due.
    #[inline]
    pub fn deadline(&self) -> Option<i64> {
        self.services.processing.next_time()
    }

    /// Fires due timers, a bounded number (C1, C2).
    pub fn fire<O: Record>(
        &mut self,
        out: &mut dyn Stage<O>,
        mut on_timer: impl FnMut(&mut St, Timer, &mut ProcessContext<'_, K, O>),
    ) -> Result<Flow> {
        let Some(firing) = self.firing else { return Ok(Flow::Done) };
        if self.on_disk {
            self.read_ahead(firing)?;
        }
        for _ in 0..FIRE_TIMERS {
            let (kind, timers, until) = match firing {
                Firing::Event(w) => (TimerKind::Event, &mut self.services.event, w),
                Firing::Processing(ms) => {
                    (TimerKind::Processing, &mut self.services.processing, ms)
                }
            };
            let stored = &mut self.timer_key;
            let due = timers.pop_due(until, |time, hash, key| {
                stored.set(key);
                (time, hash)
            })?;
            let Some((time, hash)) = due else {
                self.firing = None;
                return Ok(Flow::Done);
            };
            let key = self.timer_key.view();
            let timestamp = match kind {
                TimerKind::Event => time,
                // Without event time in the job, the timer's own time is the best there is.
                TimerKind::Processing if self.services.watermark == WATERMARK_MIN => time,
                TimerKind::Processing => self.services.watermark,
            };
            self.store.set_key(hash, key, timestamp);
            let blame = Blame::new(0, (time, key));
            let services = &mut self.services;
            let mut cx = ProcessContext { key, hash, timestamp, services, out: &mut *out };
            on_timer(&mut self.store, Timer { time, kind }, &mut cx);
            blame.clear();
            if !(out.room() && self.services.sides.room()) {
                break;
            }
        }
        self.context.failure.check()?;
        Ok(Flow::More)
    }

    /// Reads the states of the keys whose timers are next.
    fn read_ahead(&mut self, firing: Firing) -> Result<()> {
        let (timers, until) = match firing {
            Firing::Event(w) => (&mut self.services.event, w),
            Firing::Processing(ms) => (&mut self.services.processing, ms),
        };
        if self.store.looks_ahead(FIRE_TIMERS) {
            let store = &mut self.store;
            timers.look_ahead(until, FIRE_TIMERS, |hash, key| store.want(hash, key))?;
            store.fetch()?;
        }
        Ok(())
    }

    /// Begins a snapshot.
    pub fn snapshot(&mut self, epoch: u64) -> Result<()> {
        let watermark = self.services.watermark;
        let mut parts = parts(&mut self.store, &mut self.services);
        self.snapshots.begin(epoch, watermark, &mut parts)
    }

    /// A bounded step of the snapshot; true when it is complete.
    pub fn snapshot_step(&mut self, epoch: u64) -> Result<bool> {
        self.snapshots.step(epoch, &mut parts(&mut self.store, &mut self.services))
    }

    /// Forgets the snapshot.
    pub fn abort_snapshot(&mut self) {
        self.snapshots.abort(&mut parts(&mut self.store, &mut self.services));
    }

    /// Passes a control element to the side outputs.
    pub fn side_control(&mut self, control: Control) -> Result<()> {
        self.services.sides.control(control)
    }

    /// The side outputs pass on what they gathered.
    #[inline]
    pub fn side_end_run(&mut self) {
        self.services.sides.end_run();
    }

    /// Whether the sinks behind the side outputs have settled.
    pub fn side_settled(&mut self) -> Result<bool> {
        self.services.sides.settled()
    }

    /// Whether `out` and the side outputs have room for more of the run at hand.
    #[inline(always)]
    pub fn room<O: Record>(&self, out: &impl Stage<O>) -> bool {
        out.room() && self.services.sides.room()
    }

    /// Whether the side outputs have free buffers.
    #[inline]
    pub fn side_writable(&mut self) -> bool {
        self.services.sides.writable()
    }
}

/// Reads the states of the keys of a run of records, if they are on disk.
macro_rules! read_ahead {
    ($host:expr, $record:ty, $batch:expr, $range:expr, $selector:expr) => {
        if $host.looks_ahead($range.len()) {
            for i in $range.clone() {
                let (view, _, hash) = $batch.get::<$record>(i);
                let view = <$record as tidemill_base::Record>::shorten(view);
                let blame = crate::blame::Blame::new(0, view);
                $host.store_mut().want(hash, ($selector)(&view))?;
                blame.clear();
            }
            $host.store_mut().fetch()?;
        }
    };
}
pub(super) use read_ahead;

/// The methods of [`Operator`](crate::operator::Operator) that are the same for every operator
/// with a `host` and an `on_timer`.
macro_rules! host_operator {
    ($out:ty) => {
        fn watermark<S: crate::stage::Stage<$out>>(
            &mut self,
            w: tidemill_base::Timestamp,
            out: &mut S,
        ) -> tidemill_base::Result<crate::operator::Flow> {
            self.host.advance(w);
            self.resume(out)
        }

        fn resume<S: crate::stage::Stage<$out>>(
            &mut self,
            out: &mut S,
        ) -> tidemill_base::Result<crate::operator::Flow> {
            let logic = &mut self.logic;
            self.host.fire(out, |store, timer, cx| logic.on_timer(store, timer, cx))
        }

        fn tick<S: crate::stage::Stage<$out>>(
            &mut self,
            wall_ms: i64,
            out: &mut S,
        ) -> tidemill_base::Result<crate::operator::Flow> {
            self.host.tick(wall_ms);
            self.resume(out)
        }

        fn deadline(&self) -> Option<i64> {
            self.host.deadline()
        }

        fn snapshot(&mut self, epoch: u64) -> tidemill_base::Result<()> {
            self.host.snapshot(epoch)
        }

        fn snapshot_step(
            &mut self,
            epoch: u64,
            _: tidemill_base::Micros,
        ) -> tidemill_base::Result<bool> {
            self.host.snapshot_step(epoch)
        }

        fn abort_snapshot(&mut self, _: u64) {
            self.host.abort_snapshot();
        }

        fn side_control(&mut self, control: crate::stage::Control) -> tidemill_base::Result<()> {
            self.host.side_control(control)
        }

        fn side_end_run(&mut self) {
            self.host.side_end_run();
        }

        fn side_settled(&mut self) -> tidemill_base::Result<bool> {
            self.host.side_settled()
        }

        fn side_writable(&mut self) -> bool {
            self.host.side_writable()
        }
    };
}
pub(super) use host_operator;
