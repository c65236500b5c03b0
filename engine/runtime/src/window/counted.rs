//! Windows of `size` records of a key, one every `slide` records, in the order of arrival.
//!
//! Records are kept in panes of gcd(size, slide) records: a window merges its panes. The first
//! windows of a key hold fewer than `size` records if `slide < size`; what is left when the
//! stream ends is not emitted.
//!
//! Invariants
//!   C1  Between records a key has at most `(size - slide) / pane` full panes and those of the
//!       records since its last firing; a key without both has no entry.

use super::function::{WindowFunction, copy};
use super::late::LateOutput;
use super::spec::Window;
use super::store::{Store, WINDOWS};
use crate::blame::Blame;
use crate::operator::Flow;
use crate::stage::{Control, Stage};
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Record, Result, Timestamp};
use tidemill_keyed::Table;
use tidemill_macros::Record;

/// Records in a row.
#[derive(Record)]
#[record(crate = tidemill_base)]
pub(super) struct Pane<A> {
    acc: A,
    records: u64,
    start: i64,
    end: i64,
}

/// What is kept for a key.
#[derive(Record)]
#[record(crate = tidemill_base)]
pub(super) struct Panes<A> {
    /// Oldest first; only the last one may be unfinished.
    panes: Vec<Pane<A>>,
    /// Records since the last firing.
    since: u64,
}

/// The operator.
pub(super) struct Counted<K: Key, T: Record, F, A: WindowFunction<K, T>> {
    size: u64,
    slide: u64,
    pane: u64,
    selector: F,
    function: A,
    keys: Table<K, Panes<A::Acc>>,
    late: LateOutput<T>,
    store: Store,
    types: PhantomData<fn(T)>,
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl<K, T, F, A> Counted<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
    A: WindowFunction<K, T>,
{
    pub(super) fn open(
        (size, slide): (u64, u64),
        selector: F,
        function: A,
        late: LateOutput<T>,
        mut store: Store,
    ) -> Result<Self> {
        let mut keys = store.backend().table::<K, Panes<A::Acc>>(WINDOWS)?;
        let part = store.part(&mut keys);
        store.restore(&mut [part])?;
        let pane = gcd(size, slide);
        let types = PhantomData;
        Ok(Counted { size, slide, pane, selector, function, keys, late, store, types })
    }

    pub(super) fn records<S: Stage<A::Out>>(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        let end = range.end;
        if self.keys.is_on_disk() {
            for i in range.clone() {
                let (view, _, hash) = batch.get::<T>(i);
                let view = T::shorten(view);
                let blame = Blame::new(0, view);
                self.keys.want(hash, (self.selector)(&view))?;
                blame.clear();
            }
            self.keys.fetch()?;
        }
        for i in range.clone() {
            self.keys.prefetch_index(batch.hash(i));
        }
        for i in range.clone() {
            self.keys.prefetch_entry(batch.hash(i));
        }
        for i in range {
            let (view, timestamp, hash) = batch.get::<T>(i);
            let blame = Blame::new(0, view);
            self.record(view, timestamp, hash, out);
            blame.clear();
            if !(out.room() & self.late.room()) {
                return Ok(i + 1);
            }
        }
        Ok(end)
    }

    fn record<S: Stage<A::Out>>(
        &mut self,
        view: T::View<'_>,
        timestamp: Timestamp,
        hash: u64,
        out: &mut S,
    ) {
        let view = T::shorten(view);
        let key = (self.selector)(&view);
        let fresh = || Panes { panes: Vec::new(), since: 0 };
        let state = self.keys.upsert(hash, K::shorten(key), fresh);
        match state.panes.last_mut().filter(|p| p.records < self.pane) {
            Some(pane) => {
                self.function.add(&mut pane.acc, T::shorten(view));
                pane.records += 1;
                pane.start = pane.start.min(timestamp);
                pane.end = pane.end.max(timestamp.saturating_add(1));
            }
            None => {
                let (start, end) = (timestamp, timestamp.saturating_add(1));
                let acc = self.function.first(T::shorten(view));
                state.panes.push(Pane { acc, records: 1, start, end });
            }
        }
        state.since += 1;
        if state.since < self.slide {
            return;
        }
        state.since = 0;
        let panes = (self.size / self.pane) as usize;
        let from = state.panes.len().saturating_sub(panes);
        emit(&mut self.function, K::shorten(key), &state.panes[from..], out);
        // The next window takes what is left of this one after `slide` records.
        let keep = (self.size.saturating_sub(self.slide) / self.pane) as usize;
        let drop = state.panes.len().saturating_sub(keep);
        state.panes.drain(..drop);
        if state.panes.is_empty() {
            self.keys.remove(hash, key);
        }
    }

    pub(super) fn watermark<S>(&mut self, _: Timestamp, _: &mut S) -> Result<Flow> {
        Ok(Flow::Done)
    }

    pub(super) fn resume<S>(&mut self, _: &mut S) -> Result<Flow> {
        Ok(Flow::Done)
    }

    pub(super) fn tick<S>(&mut self, _: i64, _: &mut S) -> Result<Flow> {
        Ok(Flow::Done)
    }

    pub(super) fn snapshot(&mut self, epoch: u64) -> Result<()> {
        let part = self.store.part(&mut self.keys);
        self.store.begin(epoch, None, &mut [part])
    }

    pub(super) fn snapshot_step(&mut self, epoch: u64) -> Result<bool> {
        let part = self.store.part(&mut self.keys);
        self.store.step(epoch, &mut [part])
    }

    pub(super) fn abort_snapshot(&mut self) {
        let part = self.store.part(&mut self.keys);
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

/// Emits the merge of some panes.
fn emit<K, T, A, S>(function: &mut A, key: K::View<'_>, panes: &[Pane<A::Acc>], out: &mut S)
where
    K: Key,
    T: Record,
    A: WindowFunction<K, T>,
    S: Stage<A::Out>,
{
    let [first, rest @ ..] = panes else { return };
    let mut window = Window { start: first.start, end: first.end };
    if rest.is_empty() {
        return function.emit(key, window, &first.acc, window.last_timestamp(), out);
    }
    let mut merged = copy(&first.acc);
    for pane in rest {
        function.merge(&mut merged, &pane.acc);
        window.start = window.start.min(pane.start);
        window.end = window.end.max(pane.end);
    }
    function.emit(key, window, &merged, window.last_timestamp(), out);
}
