//! Windows kept one by one: a list of windows for each key, a timer for each window. For
//! sessions, global windows, and aligned windows with early or purging triggers.
//!
//! Invariants
//!   L1  A window with something to do at a time has a timer of its key at or before that time;
//!       `cell.timer` is one of them. Other timers are stale and do no harm.
//!   L2  A window is removed when time reaches `closes + lateness`: those in the lists are not
//!       late.
//!   L3  The sessions of a key neither overlap nor touch.
//!   L4  Timers are not in snapshots of entries: they follow from the windows. In RocksDB they are,
//!       and its files have both as they were at one moment.

mod cell;
mod fire;
mod restore;

use super::frontier::Frontier;
use super::function::WindowFunction;
use super::late::LateOutput;
use super::spec::{Assigner, Domain, Spec, Window};
use super::store::{Store, WINDOWS, check_timestamp};
use crate::blame::Blame;
use crate::operator::Flow;
use crate::process::part::PartRef;
use crate::stage::{Control, Stage};
pub(super) use cell::Cell;
use cell::{NEVER, Rules};
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Record, Result, Timestamp, WATERMARK_MAX};
use tidemill_keyed::{CurrentKey, Table, TimerQueue};

/// Names of the timers in a database.
const TIMERS: &str = "timers of windows";
const WALL_TIMERS: &str = "timers by the clock";

/// The operator.
pub(super) struct Listed<K: Key, T: Record, F, A: WindowFunction<K, T>> {
    rules: Rules,
    selector: F,
    function: A,
    keys: Table<K, Vec<Cell<A::Acc>>>,
    /// In the windows' time.
    timers: TimerQueue<K>,
    /// Early firings of event-time windows by the clock.
    wall_timers: TimerQueue<K>,
    frontier: Frontier,
    /// The firing under way.
    firing: Option<fire::Firing>,
    /// The key whose timer fires.
    current: CurrentKey<K>,
    late: LateOutput<T>,
    store: Store,
    types: PhantomData<fn(T)>,
}

impl<K, T, F, A> Listed<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
    A: WindowFunction<K, T>,
{
    pub(super) fn open(
        spec: &Spec,
        selector: F,
        function: A,
        late: LateOutput<T>,
        mut store: Store,
    ) -> Result<Self> {
        let rules = Rules::new(spec);
        let mut keys = store.backend().table(WINDOWS)?;
        let mut timers = store.backend().timers(TIMERS)?;
        let mut wall_timers = store.backend().timers(WALL_TIMERS)?;
        let mut restoring = restore::Restoring {
            rules: &rules,
            keys: &mut keys,
            timers: &mut timers,
            wall_timers: &mut wall_timers,
        };
        let part = store.part(&mut restoring);
        store.restore(&mut [part])?;
        Ok(Listed {
            rules,
            selector,
            function,
            keys,
            timers,
            wall_timers,
            frontier: store.frontier()?,
            firing: None,
            current: CurrentKey::new(),
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
            let at = match self.rules.domain {
                Domain::EventTime => timestamp,
                Domain::ProcessingTime => self.store.wall_ms().max(self.frontier.now()),
            };
            check_timestamp(at)?;
            let blame = Blame::new(0, view);
            self.record(view, timestamp, at, hash, out);
            blame.clear();
            if !(out.room() & self.late.room()) {
                return Ok(i + 1);
            }
        }
        Ok(end)
    }

    /// Adds a record, whose time is `at`, to its windows.
    fn record<S: Stage<A::Out>>(
        &mut self,
        record: T::View<'_>,
        timestamp: Timestamp,
        at: Timestamp,
        hash: u64,
        out: &mut S,
    ) {
        let view = T::shorten(record);
        let key = (self.selector)(&view);
        let now = self.frontier.of(hash);
        let mut add = Add {
            rules: &self.rules,
            function: &mut self.function,
            timers: &mut self.timers,
            wall_timers: &mut self.wall_timers,
            wall: self.store.wall_ms(),
            now,
            at,
            hash,
        };
        let known = match self.rules.assigner {
            Assigner::Aligned(aligned) => {
                let last = aligned.last_end(at);
                if last <= at {
                    return;
                }
                !self.rules.is_late(last, now)
            }
            Assigner::Session { gap } => {
                let window = Window { start: at, end: at + gap };
                !self.rules.is_late(window.end, now)
                    || self
                        .keys
                        .get(hash, K::shorten(key))
                        .is_some_and(|cells| cells.iter().any(|c| c.meets(window)))
            }
            _ => true,
        };
        if !known {
            return self.late.push(record, timestamp);
        }
        let cells = self.keys.upsert(hash, K::shorten(key), Vec::new);
        match self.rules.assigner {
            Assigner::Aligned(aligned) => {
                for window in aligned.windows(at) {
                    if !self.rules.is_late(window.end, now) {
                        let place = find(cells, window);
                        add.add(cells, place, window, K::shorten(key), T::shorten(view), out);
                    }
                }
            }
            Assigner::Session { gap } => {
                let window = Window { start: at, end: at + gap };
                let place = add.merge(cells, window);
                add.add(cells, place, window, K::shorten(key), T::shorten(view), out);
            }
            _ => {
                let window = Window { start: at, end: at + 1 };
                let place = (!cells.is_empty()).then_some(0);
                add.add(cells, place, window, K::shorten(key), T::shorten(view), out);
            }
        }
        if cells.is_empty() {
            self.keys.remove(hash, key);
        }
    }

    /// The watermark is `now`.
    pub(super) fn watermark<S: Stage<A::Out>>(
        &mut self,
        now: Timestamp,
        out: &mut S,
    ) -> Result<Flow> {
        if self.rules.domain == Domain::ProcessingTime && now < WATERMARK_MAX {
            return Ok(Flow::Done);
        }
        self.advance(now, out)
    }

    /// When the next timer by the clock is due.
    pub(super) fn deadline(&self) -> Option<i64> {
        match self.rules.domain {
            Domain::EventTime => self.wall_timers.next_time(),
            Domain::ProcessingTime => self.timers.next_time().filter(|&t| t < cell::END_OF_STREAM),
        }
    }

    pub(super) fn snapshot(&mut self, epoch: u64) -> Result<()> {
        let mut parts = parts(&self.store, &mut self.keys, &mut self.timers, &mut self.wall_timers);
        self.store.begin(epoch, Some(&self.frontier), &mut parts)
    }

    pub(super) fn snapshot_step(&mut self, epoch: u64) -> Result<bool> {
        let mut parts = parts(&self.store, &mut self.keys, &mut self.timers, &mut self.wall_timers);
        self.store.step(epoch, &mut parts)
    }

    pub(super) fn abort_snapshot(&mut self) {
        let mut parts = parts(&self.store, &mut self.keys, &mut self.timers, &mut self.wall_timers);
        self.store.abort(&mut parts);
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

/// What snapshots have (L4).
fn parts<'a, K: Key, V: Record>(
    store: &Store,
    keys: &'a mut Table<K, V>,
    timers: &'a mut TimerQueue<K>,
    wall_timers: &'a mut TimerQueue<K>,
) -> [PartRef<'a>; 3] {
    let derived = |part| PartRef { derived: true, ..part };
    [
        store.part(keys),
        derived(PartRef::timers(0, TIMERS, timers)),
        derived(PartRef::timers(1, WALL_TIMERS, wall_timers)),
    ]
}

fn find<A>(cells: &[Cell<A>], window: Window) -> Option<usize> {
    cells.iter().position(|c| c.window() == window)
}

/// Adds one record to windows of its key.
struct Add<'a, K: Key, A> {
    rules: &'a Rules,
    function: &'a mut A,
    timers: &'a mut TimerQueue<K>,
    wall_timers: &'a mut TimerQueue<K>,
    wall: Timestamp,
    now: Timestamp,
    at: Timestamp,
    hash: u64,
}

impl<K: Key, A> Add<'_, K, A> {
    /// Adds the record to the window at `place`, or to a new one; fires it if it is due.
    fn add<T, S>(
        &mut self,
        cells: &mut Vec<Cell<A::Acc>>,
        place: Option<usize>,
        window: Window,
        key: K::View<'_>,
        record: T::View<'_>,
        out: &mut S,
    ) where
        T: Record,
        A: WindowFunction<K, T>,
        S: Stage<A::Out>,
    {
        let place = place.unwrap_or_else(|| {
            cells.push(Cell::new(window));
            cells.len() - 1
        });
        let cell = &mut cells[place];
        cell.start = cell.start.min(window.start);
        cell.end = cell.end.max(window.end);
        match &mut cell.acc {
            Some(acc) => self.function.add(acc, record),
            none => *none = Some(self.function.first(record)),
        }
        let early_wall = cell.early_wall;
        let fires = self.rules.on_record(cell, self.at, self.now, self.wall);
        if fires && let Some(acc) = &cell.acc {
            let timestamp = cell.window().last_timestamp();
            self.function.emit(K::shorten(key), cell.window(), acc, timestamp, out);
        }
        if fires && self.rules.forget(cell) {
            cells.swap_remove(place);
            return;
        }
        let due = self.rules.due(cell);
        if due < cell.timer {
            cell.timer = due;
            self.timers.register(due, self.hash, K::shorten(key));
        }
        if cell.early_wall != NEVER && cell.early_wall != early_wall {
            self.wall_timers.register(cell.early_wall, self.hash, key);
        }
    }

    /// Merges the sessions that `window` meets into one (L3); returns its place, if there is one.
    fn merge<T>(&mut self, cells: &mut Vec<Cell<A::Acc>>, window: Window) -> Option<usize>
    where
        T: Record,
        A: WindowFunction<K, T>,
    {
        let place = cells.iter().position(|c| c.meets(window))?;
        let mut other = place + 1;
        while other < cells.len() {
            if !cells[other].meets(window) {
                other += 1;
                continue;
            }
            let mut later = cells.swap_remove(other);
            let into = &mut cells[place];
            if later.start < into.start {
                std::mem::swap(into, &mut later);
            }
            match (&mut into.acc, later.acc.take()) {
                (Some(acc), Some(from)) => self.function.merge(acc, &from),
                (none @ None, from) => *none = from,
                (Some(_), None) => {}
            }
            into.absorb(&later);
        }
        Some(place)
    }
}
