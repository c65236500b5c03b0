//! One window of one key, and the rules by which it fires. Pure.

use super::super::spec::{Assigner, Domain, Spec, Trigger, Window, floor};
use tidemill_base::Timestamp;
use tidemill_macros::Record;

/// No such time.
pub(super) const NEVER: Timestamp = i64::MAX;

/// When global windows end: only the last watermark is behind it.
pub(super) const END_OF_STREAM: Timestamp = i64::MAX - 1;

/// One window of one key.
#[derive(Record)]
#[record(crate = tidemill_base)]
pub(in super::super) struct Cell<A> {
    pub(super) start: i64,
    pub(super) end: i64,
    /// `None` after a purge.
    pub(super) acc: Option<A>,
    /// Records since the last firing.
    pub(super) pending: u64,
    /// Next early firing in the windows' time, or never.
    pub(super) early: i64,
    /// Next early firing by the clock, or never.
    pub(super) early_wall: i64,
    /// Whether it has fired at its end.
    pub(super) ended: bool,
    /// A timer of the key at or before what is next due (L1).
    pub(super) timer: i64,
}

impl<A> Cell<A> {
    pub(super) fn new(window: Window) -> Self {
        Cell {
            start: window.start,
            end: window.end,
            acc: None,
            pending: 0,
            early: NEVER,
            early_wall: NEVER,
            ended: false,
            timer: NEVER,
        }
    }

    pub(super) fn window(&self) -> Window {
        Window { start: self.start, end: self.end }
    }

    /// Whether two sessions are one: they overlap or touch.
    pub(super) fn meets(&self, other: Window) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Takes over another session, except for its accumulator.
    pub(super) fn absorb(&mut self, other: &Cell<A>) {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.pending += other.pending;
        self.early = self.early.min(other.early);
        self.early_wall = self.early_wall.min(other.early_wall);
    }

    fn fired(&mut self) {
        self.pending = 0;
        self.early = NEVER;
        self.early_wall = NEVER;
    }
}

/// What a timer does to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) fires: bool,
    pub(super) removed: bool,
}

/// When windows fire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) assigner: Assigner,
    pub(super) domain: Domain,
    trigger: Trigger,
    lateness: i64,
}

impl Rules {
    pub(super) fn new(spec: &Spec) -> Self {
        let mut trigger = spec.trigger;
        if spec.domain == Domain::ProcessingTime {
            // The clock is the windows' time: both intervals are of one kind.
            let both = [trigger.every, trigger.every_wall.take()];
            trigger.every = both.into_iter().flatten().min();
        }
        let (assigner, domain, lateness) = (spec.assigner, spec.domain, spec.lateness);
        Rules { assigner, domain, trigger, lateness }
    }

    pub(super) fn is_global(&self) -> bool {
        self.assigner == Assigner::Global
    }

    /// When the window ends.
    fn closes<A>(&self, cell: &Cell<A>) -> Timestamp {
        if self.is_global() { END_OF_STREAM } else { cell.end }
    }

    /// Whether a window with this end is done with.
    pub(super) fn is_late(&self, end: Timestamp, now: Timestamp) -> bool {
        end.saturating_add(self.lateness) <= now
    }

    /// A record with time `at` has come; whether the window fires.
    pub(super) fn on_record<A>(
        &self,
        cell: &mut Cell<A>,
        at: Timestamp,
        now: Timestamp,
        wall: Timestamp,
    ) -> bool {
        let closes = self.closes(cell);
        cell.pending += 1;
        if closes > now {
            // A session may have grown.
            cell.ended = false;
        }
        let at_end = self.trigger.at_end && closes <= now;
        if at_end || self.trigger.count.is_some_and(|n| cell.pending >= n) {
            cell.ended |= at_end;
            cell.fired();
            return true;
        }
        if let Some(every) = self.trigger.every
            && cell.early == NEVER
        {
            cell.early = (floor(at.max(now), every, 0).saturating_add(every)).min(closes);
        }
        if let Some(every) = self.trigger.every_wall
            && cell.early_wall == NEVER
        {
            cell.early_wall = floor(wall, every, 0) + every;
        }
        false
    }

    /// The windows' time is `t`.
    pub(super) fn on_time<A>(&self, cell: &mut Cell<A>, t: Timestamp) -> Verdict {
        let closes = self.closes(cell);
        let at_end = self.trigger.at_end && !cell.ended && closes <= t;
        let fires = at_end || cell.early <= t;
        if fires {
            cell.ended |= at_end;
            cell.fired();
        }
        Verdict { fires, removed: closes.saturating_add(self.lateness) <= t }
    }

    /// The clock is `wall`; whether the window fires.
    pub(super) fn on_wall<A>(&self, cell: &mut Cell<A>, wall: Timestamp) -> bool {
        let fires = cell.early_wall <= wall;
        if fires {
            cell.fired();
        }
        fires
    }

    /// Purges a window that has fired, if the trigger does; whether nothing of it is left. An
    /// empty session still takes in records that come within its gap.
    pub(super) fn forget<A>(&self, cell: &mut Cell<A>) -> bool {
        if !self.trigger.purging {
            return false;
        }
        cell.acc = None;
        !matches!(self.assigner, Assigner::Session { .. })
    }

    /// When the window next has something to do in its time.
    pub(super) fn due<A>(&self, cell: &Cell<A>) -> Timestamp {
        let closes = self.closes(cell);
        let end = if self.trigger.at_end && !cell.ended { closes } else { NEVER };
        let removal = closes.saturating_add(self.lateness).min(END_OF_STREAM);
        cell.early.min(end).min(removal)
    }
}
