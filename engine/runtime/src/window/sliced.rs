//! Tumbling and sliding windows that fire at their end, stored by slice: a record updates the one
//! slice it is in, a firing merges the slices of the window. There is no timer.
//!
//! On the heap a slice is a table. In RocksDB it is a range of rows: a run of records has what it
//! needs of them read at once, and a firing walks them in order (`fire/disk.rs`).
//!
//! Invariants
//!   W1  A slice is there only while a window that holds the slice may still fire:
//!       `last_end(slice) + lateness > now`.
//!   W2  Windows with `end <= now` have fired for every key, those of a key up to its floor.
//!   W3  No record is taken and no snapshot begins while a firing is under way (task law T2).

mod fire;

use super::frontier::Frontier;
use super::function::WindowFunction;
use super::late::LateOutput;
use super::spec::{Aligned, Domain, Spec, TIMESTAMP_MAX, Window, floor};
use super::store::{Store, WINDOWS, check_timestamp};
use crate::blame::Blame;
use crate::operator::Flow;
use crate::stage::{Control, Stage};
use fire::Firing;
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Record, Result, Timestamp, WATERMARK_MAX};
use tidemill_keyed::{Found, HeapTable, Slices};

/// What happens to records of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// No window that holds it has fired, or those that have are done with.
    OnTime,
    /// A window that holds it has fired and still allows late records.
    Refire,
    /// All windows that hold it are done with.
    Late,
    /// No window holds it.
    Nowhere,
}

/// A slice with the fate of its records; valid until time advances.
#[derive(Clone, Copy)]
struct Known {
    slice: Window,
    fate: Fate,
}

/// An empty slice: matches no timestamp.
const UNKNOWN: Known = Known { slice: Window { start: 0, end: 0 }, fate: Fate::Late };

/// The operator.
pub(super) struct Sliced<K: Key, T: Record, F, A: WindowFunction<K, T>> {
    aligned: Aligned,
    domain: Domain,
    lateness: i64,
    selector: F,
    function: A,
    slices: Slices<K, A::Acc>,
    /// Where a firing merges slices; empty otherwise.
    scratch: HeapTable<K, A::Acc>,
    frontier: Frontier,
    /// The slices of the last records: neighbours alternate while records are out of order.
    known: [Known; 2],
    firing: Option<Firing>,
    /// Entries to emit before the next look at the outputs.
    pace: usize,
    late: LateOutput<T>,
    store: Store,
    types: PhantomData<fn(T)>,
}

impl<K, T, F, A> Sliced<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
    A: WindowFunction<K, T>,
{
    pub(super) fn open(
        spec: &Spec,
        aligned: Aligned,
        selector: F,
        function: A,
        late: LateOutput<T>,
        mut store: Store,
    ) -> Result<Self> {
        let mut slices = store.backend().slices::<K, A::Acc>(WINDOWS)?;
        let part = store.part(&mut slices);
        store.restore(&mut [part])?;
        Ok(Sliced {
            aligned,
            domain: spec.domain,
            lateness: spec.lateness,
            selector,
            function,
            slices,
            scratch: HeapTable::new(),
            frontier: store.frontier()?,
            known: [UNKNOWN; 2],
            firing: None,
            pace: 1,
            late,
            store,
            types: PhantomData,
        })
    }

    pub(super) fn records<S: Stage<A::Out>>(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        self.slices.step()?;
        if self.slices.is_on_disk() {
            self.read_ahead(batch, range.clone())?;
        }
        let end = range.end;
        if self.domain == Domain::ProcessingTime {
            self.records_by_clock(batch, range)?;
            return Ok(end);
        }
        let mut at = range.start;
        while at < range.end {
            let timestamp = batch.timestamp(at);
            if !contains(self.known[0].slice, timestamp) {
                self.known.swap(0, 1);
                if !contains(self.known[0].slice, timestamp) {
                    check_timestamp(timestamp)?;
                    self.known[0] = self.look_up(timestamp, self.frontier.now());
                }
            }
            let mut known = self.known[0];
            if self.frontier.is_split() {
                let now = self.frontier.of(batch.hash(at));
                known.fate = self.fate(known.slice, now);
            }
            at = match known.fate {
                Fate::OnTime if !self.frontier.is_split() => {
                    self.add_run(batch, at..range.end, known.slice)
                }
                fate => {
                    self.add_one(batch, at, known.slice, fate, out)?;
                    if !(out.room() & self.late.room()) {
                        return Ok(at + 1);
                    }
                    at + 1
                }
            };
        }
        Ok(end)
    }

    /// Adds the records from the start of `range` on that are in `slice`; returns where they end.
    #[inline(always)]
    fn add_run(&mut self, batch: &Batch, range: Range<usize>, slice: Window) -> usize {
        let mut end = range.start + 1;
        while end < range.end && contains(slice, batch.timestamp(end)) {
            end += 1;
        }
        self.add_all(batch, range.start..end, slice.start);
        end
    }

    /// Adds records to a slice. There is one copy of it, so that the user's code is inlined there.
    #[inline(never)]
    fn add_all(&mut self, batch: &Batch, range: Range<usize>, slice: i64) {
        let (selector, function) = (&mut self.selector, &mut self.function);
        let hash = |i| batch.hash(i);
        let Some(tables) = self.slices.heap_mut() else {
            return self.add_all_on_disk(batch, range, slice);
        };
        tables.table_mut(slice).each(range, hash, |i, aim| {
            let (view, ..) = batch.get::<T>(i);
            let blame = Blame::new(0, view);
            let view = T::shorten(view);
            let key = selector(&view);
            match aim.find(K::shorten(key)) {
                Found::Value(acc) => function.add(acc, T::shorten(view)),
                Found::Vacant(place) => {
                    place.insert(key, function.first(T::shorten(view)));
                }
            }
            blame.clear();
            true
        });
    }

    /// Like `add_all`, for slices whose entries may have to be read.
    #[inline(never)]
    fn add_all_on_disk(&mut self, batch: &Batch, range: Range<usize>, slice: i64) {
        let Sliced { selector, function, slices, .. } = self;
        for i in range {
            let (view, _, hash) = batch.get::<T>(i);
            let blame = Blame::new(0, view);
            let view = T::shorten(view);
            let key = selector(&view);
            let mut fresh = false;
            let acc = slices.upsert(slice, hash, K::shorten(key), || {
                fresh = true;
                function.first(T::shorten(view))
            });
            if !fresh {
                function.add(acc, T::shorten(view));
            }
            blame.clear();
        }
    }

    /// Reads at once what a run of records needs.
    fn read_ahead(&mut self, batch: &Batch, range: Range<usize>) -> Result<()> {
        let clock = (self.domain == Domain::ProcessingTime)
            .then(|| self.store.wall_ms().max(self.frontier.now()));
        let mut slice = UNKNOWN.slice;
        for i in range {
            let (view, timestamp, hash) = batch.get::<T>(i);
            let timestamp = clock.unwrap_or(timestamp);
            if !contains(slice, timestamp) {
                check_timestamp(timestamp)?;
                slice = self.aligned.slice(timestamp);
            }
            let blame = Blame::new(0, view);
            let view = T::shorten(view);
            self.slices.want(slice.start, hash, (self.selector)(&view))?;
            blame.clear();
        }
        self.slices.fetch()
    }

    /// Adds a record that needs a closer look.
    #[inline(never)]
    fn add_one<S: Stage<A::Out>>(
        &mut self,
        batch: &Batch,
        at: usize,
        slice: Window,
        fate: Fate,
        out: &mut S,
    ) -> Result<()> {
        match fate {
            Fate::Nowhere => {}
            Fate::Late => {
                let (view, timestamp, _) = batch.get::<T>(at);
                self.late.push(view, timestamp);
            }
            Fate::OnTime => self.add_all(batch, at..at + 1, slice.start),
            Fate::Refire => {
                self.add_all(batch, at..at + 1, slice.start);
                self.refire(batch, at, slice, out)?;
            }
        }
        Ok(())
    }

    fn records_by_clock(&mut self, batch: &Batch, range: Range<usize>) -> Result<()> {
        let now = self.store.wall_ms().max(self.frontier.now());
        check_timestamp(now)?;
        if !contains(self.known[0].slice, now) {
            self.known[0] = self.look_up(now, self.frontier.now());
        }
        let Known { slice, fate } = self.known[0];
        if fate != Fate::Nowhere {
            self.add_all(batch, range, slice.start);
        }
        Ok(())
    }

    #[inline(never)]
    fn look_up(&self, timestamp: Timestamp, now: Timestamp) -> Known {
        let slice = self.aligned.slice(timestamp);
        Known { slice, fate: self.fate(slice, now) }
    }

    fn fate(&self, slice: Window, now: Timestamp) -> Fate {
        let last = self.aligned.last_end(slice.start);
        if last <= slice.start {
            return Fate::Nowhere;
        }
        if last.saturating_add(self.lateness) <= now {
            return Fate::Late;
        }
        if self.lateness == 0 || self.aligned.end_from(slice.end) > now {
            return Fate::OnTime;
        }
        // The greatest end that has passed, of a window that holds the slice.
        let passed = if now < last { floor(now, self.aligned.slide, last) } else { last };
        if passed.saturating_add(self.lateness) > now { Fate::Refire } else { Fate::OnTime }
    }

    /// The watermark is `now`.
    pub(super) fn watermark<S: Stage<A::Out>>(
        &mut self,
        now: Timestamp,
        out: &mut S,
    ) -> Result<Flow> {
        if self.domain == Domain::ProcessingTime && now < WATERMARK_MAX {
            return Ok(Flow::Done);
        }
        self.advance(now, out)
    }

    /// The clock is `now`.
    pub(super) fn tick<S: Stage<A::Out>>(&mut self, now: Timestamp, out: &mut S) -> Result<Flow> {
        self.advance(now, out)
    }

    /// When the next window by processing time ends.
    pub(super) fn deadline(&self) -> Option<i64> {
        if self.domain == Domain::EventTime {
            return None;
        }
        self.next_end(self.frontier.now().min(TIMESTAMP_MAX))
    }

    pub(super) fn snapshot(&mut self, epoch: u64) -> Result<()> {
        let part = self.store.part(&mut self.slices);
        self.store.begin(epoch, Some(&self.frontier), &mut [part])
    }

    pub(super) fn snapshot_step(&mut self, epoch: u64) -> Result<bool> {
        self.slices.step()?;
        let part = self.store.part(&mut self.slices);
        self.store.step(epoch, &mut [part])
    }

    pub(super) fn abort_snapshot(&mut self) {
        let part = self.store.part(&mut self.slices);
        self.store.abort(&mut [part]);
    }

    pub(super) fn side_control(&mut self, control: Control) -> Result<()> {
        self.late.control(control)
    }

    pub(super) fn side_end_run(&mut self) {
        self.late.end_run();
    }

    pub(super) fn side_settled(&mut self) -> Result<bool> {
        self.late.settled()
    }

    pub(super) fn side_writable(&mut self) -> bool {
        self.late.writable()
    }
}

#[inline(always)]
fn contains(slice: Window, timestamp: Timestamp) -> bool {
    slice.start <= timestamp && timestamp < slice.end
}
