//! Firing of listed windows: timers are taken one by one, in bounded steps.

use super::super::function::WindowFunction;
use super::Listed;
use super::cell::{Cell, END_OF_STREAM, Rules};
use crate::operator::Flow;
use crate::stage::Stage;
use tidemill_base::{Key, Record, Result, Timestamp, WATERMARK_MIN};

/// Timers between two looks at the outputs.
const TIMERS_LOOK: usize = 64;

/// Timers in one step of the task.
const TIMERS_STEP: usize = 1024;

/// The same where each may have to be read.
const TIMERS_STEP_ON_DISK: usize = 128;

/// Which timers are due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Firing {
    /// Those of the windows' time up to here.
    Time(Timestamp),
    /// Those of the clock up to here.
    Wall(Timestamp),
}

impl<K, T, F, A> Listed<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + 'static,
    A: WindowFunction<K, T>,
{
    /// The windows' time is `target`.
    pub(super) fn advance<S: Stage<A::Out>>(
        &mut self,
        target: Timestamp,
        out: &mut S,
    ) -> Result<Flow> {
        if target <= self.frontier.now() {
            return Ok(Flow::Done);
        }
        self.firing = Some(Firing::Time(target));
        self.resume(out)
    }

    /// The clock is `wall`.
    pub(in super::super) fn tick<S: Stage<A::Out>>(
        &mut self,
        wall: Timestamp,
        out: &mut S,
    ) -> Result<Flow> {
        match self.rules.domain {
            super::Domain::ProcessingTime => self.advance(wall, out),
            super::Domain::EventTime => {
                self.firing = Some(Firing::Wall(wall));
                self.resume(out)
            }
        }
    }

    /// Goes on with a firing.
    pub(in super::super) fn resume<S: Stage<A::Out>>(&mut self, out: &mut S) -> Result<Flow> {
        let Some(firing) = self.firing else { return Ok(Flow::Done) };
        let on_disk = self.keys.is_on_disk();
        for step in 1..=if on_disk { TIMERS_STEP_ON_DISK } else { TIMERS_STEP } {
            if on_disk && step % TIMERS_LOOK == 1 {
                self.read_ahead(firing)?;
            }
            let worked = match firing {
                Firing::Time(target) => self.fire_next(target, out)?,
                Firing::Wall(wall) => self.fire_next_early(wall, out)?,
            };
            if !worked {
                if let Firing::Time(target) = firing {
                    self.frontier.advance(target);
                }
                self.firing = None;
                return Ok(Flow::Done);
            }
            if !out.room() || (step % TIMERS_LOOK == 0 && !out.writable()) {
                break;
            }
        }
        Ok(Flow::More)
    }

    /// Reads the windows of the keys whose timers are next.
    fn read_ahead(&mut self, firing: Firing) -> Result<()> {
        let (timers, until) = match firing {
            Firing::Time(target) => (&mut self.timers, target),
            Firing::Wall(wall) => (&mut self.wall_timers, wall),
        };
        let keys = &mut self.keys;
        timers.look_ahead(until, TIMERS_LOOK, |hash, key| keys.want(hash, key))?;
        keys.fetch()
    }

    /// Handles the next timer of the windows' time; false if none is due.
    fn fire_next<S: Stage<A::Out>>(&mut self, target: Timestamp, out: &mut S) -> Result<bool> {
        let current = &self.current;
        let Some(time) = self.timers.pop_due(target, |time, hash, key| {
            current.set(hash, key);
            time
        })?
        else {
            return Ok(false);
        };
        let Listed { rules, function, keys, timers, frontier, .. } = self;
        let empty = current.with(|hash, key| {
            let Some(cells) = keys.get_mut(hash, K::shorten(key)) else { return false };
            // The key may have been here before (frontier.rs). What has come due since then, by a
            // record for a window that had ended, waits until its time goes on.
            let next = frontier.of(hash).saturating_add(1).min(END_OF_STREAM);
            cells.retain_mut(|cell| {
                if cell.timer > time {
                    return true;
                }
                if next > target {
                    cell.timer = next;
                    timers.register(next, hash, K::shorten(key));
                    return true;
                }
                let verdict = rules.on_time(cell, time);
                let mut kept = !verdict.removed;
                if verdict.fires {
                    emit(rules, function, K::shorten(key), cell, frontier.of(hash), out);
                    kept &= !rules.forget(cell);
                }
                if kept {
                    cell.timer = rules.due(cell);
                    timers.register(cell.timer, hash, K::shorten(key));
                }
                kept
            });
            cells.is_empty()
        });
        if empty {
            current.with(|hash, key| keys.remove(hash, key));
        }
        Ok(true)
    }

    /// Handles the next timer of the clock for event-time windows; false if none is due.
    fn fire_next_early<S: Stage<A::Out>>(&mut self, wall: Timestamp, out: &mut S) -> Result<bool> {
        let current = &self.current;
        let Some(time) = self.wall_timers.pop_due(wall, |time, hash, key| {
            current.set(hash, key);
            time
        })?
        else {
            return Ok(false);
        };
        let Listed { rules, function, keys, frontier, .. } = self;
        let empty = current.with(|hash, key| {
            let Some(cells) = keys.get_mut(hash, K::shorten(key)) else { return false };
            cells.retain_mut(|cell| {
                if !rules.on_wall(cell, time) {
                    return true;
                }
                emit(rules, function, K::shorten(key), cell, frontier.of(hash), out);
                !rules.forget(cell)
            });
            cells.is_empty()
        });
        if empty {
            current.with(|hash, key| keys.remove(hash, key));
        }
        Ok(true)
    }
}

/// Emits what a window holds. Global windows have no end: what they emit is not before `now`.
fn emit<K, T, A, S>(
    rules: &Rules,
    function: &mut A,
    key: K::View<'_>,
    cell: &Cell<A::Acc>,
    now: Timestamp,
    out: &mut S,
) where
    K: Key,
    T: Record,
    A: WindowFunction<K, T>,
    S: Stage<A::Out>,
{
    let Some(acc) = &cell.acc else { return };
    let last = cell.window().last_timestamp();
    let timestamp = if rules.is_global() && now != WATERMARK_MIN { last.max(now) } else { last };
    function.emit(key, cell.window(), acc, timestamp, out);
}
