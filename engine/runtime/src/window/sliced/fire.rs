//! Firing of sliced windows, in bounded steps.
//!
//! ```text
//!            +-- one slice, its last window --> Drain --+
//!   Seek ----+-- one slice ------------------> Read ----+--> Seek ... --> none is due: done
//!            +-- several --> Merge --> Emit ------------+
//!            +-- in RocksDB: Walk, or Gather --> Part (disk.rs)
//! ```

mod disk;

use super::super::function::{WindowFunction, copy};
use super::super::spec::{TIMESTAMP_MAX, Window};
use super::{Sliced, UNKNOWN};
use crate::operator::Flow;
use crate::stage::Stage;
use tidemill_base::{Batch, Key, Record, Result, Timestamp};
use tidemill_keyed::Cursor;

/// Entries emitted between two looks at the outputs: doubled while what they become is small, back
/// to one when it leaves an output without room.
const EMIT_ENTRIES: usize = 128;

/// Entries merged at once.
const MERGE_ENTRIES: usize = 1024;

/// Entries emitted or merged in one step of the task.
const STEP_ENTRIES: usize = if cfg!(feature = "check") { 20 } else { 2048 };

/// A firing under way.
pub(super) struct Firing {
    /// Windows that end up to here fire.
    target: Timestamp,
    /// Windows that end up to here have fired.
    fired: Timestamp,
    phase: Phase,
}

enum Phase {
    Seek,
    Drain { window: Window, slice: i64, cursor: Cursor },
    Read { window: Window, slice: i64, cursor: Cursor },
    Merge { window: Window, slice: i64, cursor: Cursor },
    Emit { window: Window, cursor: Cursor },
    Disk { window: Window, at: disk::At },
}

impl<K, T, F, A> Sliced<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
    A: WindowFunction<K, T>,
{
    /// Fires the windows that end up to `target`.
    pub(super) fn advance<S: Stage<A::Out>>(
        &mut self,
        target: Timestamp,
        out: &mut S,
    ) -> Result<Flow> {
        if target <= self.frontier.now() {
            return Ok(Flow::Done);
        }
        self.known = [UNKNOWN; 2];
        let fired = self.frontier.now().min(TIMESTAMP_MAX);
        self.firing = Some(Firing { target, fired, phase: Phase::Seek });
        self.run(out)
    }

    /// Goes on with a firing.
    pub(in super::super) fn resume<S: Stage<A::Out>>(&mut self, out: &mut S) -> Result<Flow> {
        self.run(out)
    }

    /// The end of the next window after `fired` that holds a slice.
    pub(super) fn next_end(&self, fired: Timestamp) -> Option<Timestamp> {
        let mut next = None;
        loop {
            // The first slice that no window up to `next` is known to hold, or any.
            let from = next.map_or(i64::MIN, |end: i64| end - self.aligned.size);
            let start = self.slices.next_from(from)?;
            let slice = self.aligned.slice(start);
            let first = self.aligned.end_from(slice.end.max(fired.saturating_add(1)));
            match next {
                Some(end) if end >= first => return next,
                _ => next = Some(first),
            }
        }
    }

    fn run<S: Stage<A::Out>>(&mut self, out: &mut S) -> Result<Flow> {
        let mut budget = if self.slices.is_on_disk() { disk::STEP_ENTRIES } else { STEP_ENTRIES };
        while let Some(mut firing) = self.firing.take() {
            firing.phase = match firing.phase {
                Phase::Seek => match self.next_end(firing.fired) {
                    Some(end) if end <= firing.target => self.begin(end),
                    _ => {
                        self.settle(firing.target);
                        return Ok(Flow::Done);
                    }
                },
                phase => {
                    if budget == 0 || !out.writable() {
                        firing.phase = phase;
                        self.firing = Some(firing);
                        return Ok(Flow::More);
                    }
                    let next = self.work(phase, &mut firing.fired, &mut budget, out)?;
                    self.pace = if out.room() { EMIT_ENTRIES.min(2 * self.pace) } else { 1 };
                    next
                }
            };
            self.firing = Some(firing);
        }
        Ok(Flow::Done)
    }

    /// Begins the firing of the window that ends at `end`.
    fn begin(&mut self, end: Timestamp) -> Phase {
        let window = Window { start: end - self.aligned.size, end };
        let cursor = Cursor::default();
        let first = self.slices.next_in(window.start, window.end);
        let Some(slice) = first else { return Phase::Emit { window, cursor } };
        let second = self.slices.next_in(slice + 1, window.end);
        if self.slices.is_on_disk() {
            Phase::Disk { window, at: self.begin_on_disk(slice, second.is_some()) }
        } else if second.is_some() {
            Phase::Merge { window, slice, cursor }
        } else if self.lateness == 0 && self.aligned.last_end(slice) <= end {
            Phase::Drain { window, slice, cursor }
        } else {
            Phase::Read { window, slice, cursor }
        }
    }

    /// A bounded step of the firing of one window.
    fn work<S: Stage<A::Out>>(
        &mut self,
        phase: Phase,
        fired: &mut Timestamp,
        budget: &mut usize,
        out: &mut S,
    ) -> Result<Phase> {
        if let Phase::Disk { window, at } = phase {
            *budget = budget.saturating_sub(at.entries(self.pace));
            return Ok(match self.work_on_disk(window, at, out)? {
                Some(at) => Phase::Disk { window, at },
                None => self.finish(window, fired),
            });
        }
        let entries = if matches!(phase, Phase::Merge { .. }) { MERGE_ENTRIES } else { self.pace };
        *budget = budget.saturating_sub(entries);
        Ok(match phase {
            Phase::Seek | Phase::Disk { .. } => phase,
            Phase::Drain { window, slice, mut cursor } => {
                if !self.drain_slice(window, slice, &mut cursor, out) {
                    return Ok(Phase::Drain { window, slice, cursor });
                }
                self.finish(window, fired)
            }
            Phase::Read { window, slice, mut cursor } => {
                if !self.read_slice(window, slice, &mut cursor, out) {
                    return Ok(Phase::Read { window, slice, cursor });
                }
                self.finish(window, fired)
            }
            Phase::Merge { window, slice, mut cursor } => {
                if !self.merge_slice(slice, &mut cursor) {
                    return Ok(Phase::Merge { window, slice, cursor });
                }
                let cursor = Cursor::default();
                match self.slices.next_in(slice + 1, window.end) {
                    Some(slice) => Phase::Merge { window, slice, cursor },
                    None => Phase::Emit { window, cursor },
                }
            }
            Phase::Emit { window, mut cursor } => {
                if !self.emit_scratch(window, &mut cursor, out) {
                    return Ok(Phase::Emit { window, cursor });
                }
                self.finish(window, fired)
            }
        })
    }

    fn drain_slice<S: Stage<A::Out>>(
        &mut self,
        window: Window,
        slice: i64,
        cursor: &mut Cursor,
        out: &mut S,
    ) -> bool {
        let Some(table) = self.slices.heap_mut().and_then(|s| s.get_mut(slice)) else {
            return true;
        };
        let (function, frontier) = (&mut self.function, &self.frontier);
        table.drain_scan(cursor, self.pace, |key, acc| {
            if !frontier.is_split() || frontier.of(K::hash(K::shorten(key))) < window.end {
                function.emit(key, window, &acc, window.last_timestamp(), out);
                out.room();
            }
        })
    }

    fn read_slice<S: Stage<A::Out>>(
        &mut self,
        window: Window,
        slice: i64,
        cursor: &mut Cursor,
        out: &mut S,
    ) -> bool {
        let Some(table) = self.slices.heap_mut().and_then(|s| s.get_mut(slice)) else {
            return true;
        };
        let (function, frontier) = (&mut self.function, &self.frontier);
        table.scan_ref(cursor, self.pace, |hash, key, acc| {
            if frontier.of(hash) < window.end {
                function.emit(key, window, acc, window.last_timestamp(), out);
                out.room();
            }
        })
    }

    fn merge_slice(&mut self, slice: i64, cursor: &mut Cursor) -> bool {
        let Some(table) = self.slices.heap_mut().and_then(|s| s.get_mut(slice)) else {
            return true;
        };
        let (function, scratch) = (&mut self.function, &mut self.scratch);
        table.scan_ref(cursor, MERGE_ENTRIES, |hash, key, acc| {
            match scratch.get_mut(hash, K::shorten(key)) {
                Some(into) => function.merge(into, acc),
                None => {
                    scratch.insert(hash, key, copy(acc));
                }
            }
        })
    }

    fn emit_scratch<S: Stage<A::Out>>(
        &mut self,
        window: Window,
        cursor: &mut Cursor,
        out: &mut S,
    ) -> bool {
        let (function, frontier) = (&mut self.function, &self.frontier);
        self.scratch.drain_scan(cursor, self.pace, |key, acc| {
            if !frontier.is_split() || frontier.of(K::hash(K::shorten(key))) < window.end {
                function.emit(key, window, &acc, window.last_timestamp(), out);
                out.room();
            }
        })
    }

    /// A window has fired.
    fn finish(&mut self, window: Window, fired: &mut Timestamp) -> Phase {
        *fired = window.end;
        if self.lateness == 0 {
            self.retire(window.end);
        }
        Phase::Seek
    }

    /// All windows up to `now` have fired.
    fn settle(&mut self, now: Timestamp) {
        self.retire(now);
        self.frontier.advance(now);
    }

    /// Ends the slices that no window needs any more (W1).
    fn retire(&mut self, now: Timestamp) {
        while let Some(slice) = self.slices.first() {
            if self.aligned.last_end(slice).saturating_add(self.lateness) > now {
                return;
            }
            self.slices.retire(slice);
        }
    }

    /// A record of a slice has come late but in time for windows that have fired: they fire again
    /// for its key.
    pub(super) fn refire<S: Stage<A::Out>>(
        &mut self,
        batch: &Batch,
        at: usize,
        slice: Window,
        out: &mut S,
    ) -> Result<()> {
        let (view, _, hash) = batch.get::<T>(at);
        let view = T::shorten(view);
        let key = (self.selector)(&view);
        let now = self.frontier.of(hash);
        for window in self.aligned.windows(slice.start) {
            if window.end > now {
                break;
            }
            if window.end.saturating_add(self.lateness) <= now {
                continue;
            }
            let mut merged: Option<A::Acc> = None;
            let mut next = window.start;
            while let Some(slice) = self.slices.next_in(next, window.end) {
                self.slices.want(slice, hash, K::shorten(key))?;
                next = slice + 1;
            }
            self.slices.fetch()?;
            let mut next = window.start;
            while let Some(slice) = self.slices.next_in(next, window.end) {
                next = slice + 1;
                let Some(acc) = self.slices.get(slice, hash, K::shorten(key)) else { continue };
                match &mut merged {
                    Some(into) => self.function.merge(into, acc),
                    None => merged = Some(copy(acc)),
                }
            }
            if let Some(acc) = merged {
                let timestamp = window.last_timestamp();
                self.function.emit(K::shorten(key), window, &acc, timestamp, out);
            }
        }
        Ok(())
    }
}
