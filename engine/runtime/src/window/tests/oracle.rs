//! What windows must do, one key and one window at a time, time stepping by the millisecond.

use super::driver::Output;
use crate::window::{Assigner, Domain, Spec};
use std::collections::BTreeMap;
use tidemill_base::{Timestamp, WATERMARK_MAX, WATERMARK_MIN};

/// Every window of a test has ended by then.
const HORIZON: Timestamp = 5_000;

#[derive(Clone, Debug)]
struct Pane {
    start: i64,
    end: i64,
    ids: Vec<u64>,
    pending: u64,
    early: Option<i64>,
    early_wall: Option<i64>,
    ended: bool,
}

#[derive(Clone, Debug)]
struct KeyState {
    now: Timestamp,
    windows: Vec<Pane>,
    /// Count windows: id and timestamp of every record.
    all: Vec<(u64, i64)>,
}

/// The state of all keys.
#[derive(Clone, Debug)]
pub(super) struct Oracle {
    spec: Spec,
    keys: BTreeMap<String, KeyState>,
    wall: i64,
    pub(super) outputs: Vec<(Output, Timestamp)>,
    pub(super) late: Vec<u64>,
}

impl Oracle {
    pub(super) fn new(spec: Spec, keys: impl Iterator<Item = String>) -> Self {
        let fresh = KeyState { now: WATERMARK_MIN, windows: Vec::new(), all: Vec::new() };
        let keys = keys.map(|key| (key, fresh.clone())).collect();
        Oracle { spec, keys, wall: 0, outputs: Vec::new(), late: Vec::new() }
    }

    fn closes(&self, pane: &Pane) -> i64 {
        if self.spec.assigner == Assigner::Global { i64::MAX - 1 } else { pane.end }
    }

    pub(super) fn record(&mut self, key: &str, id: u64, timestamp: Timestamp) {
        let by_clock = self.spec.domain == Domain::ProcessingTime;
        let at = if by_clock { self.wall } else { timestamp };
        let mut state = self.keys[key].clone();
        let late = |end: i64| end + self.spec.lateness <= state.now;
        let mut windows = Vec::new();
        match self.spec.assigner {
            Assigner::Count { size, slide } => {
                state.all.push((id, timestamp));
                if (state.all.len() as u64).is_multiple_of(slide) {
                    let from = state.all.len().saturating_sub(size as usize);
                    let last = &state.all[from..];
                    let ids = last.iter().map(|r| r.0).collect();
                    let start = last.iter().map(|r| r.1).min().unwrap();
                    let end = last.iter().map(|r| r.1).max().unwrap() + 1;
                    self.outputs.push(((key.to_owned(), start, end, ids), end - 1));
                }
                self.keys.insert(key.to_owned(), state);
                return;
            }
            Assigner::Aligned(a) => {
                let mut any = false;
                for start in at - a.size + 1..=at {
                    if (start - a.offset).rem_euclid(a.slide) == 0 {
                        any = true;
                        if !late(start + a.size) {
                            windows.push((start, start + a.size));
                        }
                    }
                }
                if any && windows.is_empty() {
                    self.late.push(id);
                }
            }
            Assigner::Session { gap } => match self.merge(&mut state, at, gap) {
                Some(window) => windows.push(window),
                None => self.late.push(id),
            },
            Assigner::Global => match state.windows.first_mut() {
                Some(p) => {
                    (p.start, p.end) = (p.start.min(at), p.end.max(at + 1));
                    windows.push((p.start, p.end));
                }
                None => windows.push((at, at + 1)),
            },
        }
        for window in windows {
            self.add(key, &mut state, window, id, at);
        }
        self.keys.insert(key.to_owned(), state);
    }

    /// Merges the sessions that a record meets with its own; `None` if that is late.
    fn merge(&self, state: &mut KeyState, at: i64, gap: i64) -> Option<(i64, i64)> {
        let (mine, others): (Vec<Pane>, Vec<Pane>) =
            state.windows.drain(..).partition(|p| p.start <= at + gap && at <= p.end);
        state.windows = others;
        let start = mine.iter().map(|p| p.start).min().map_or(at, |s| s.min(at));
        let end = mine.iter().map(|p| p.end).max().map_or(at + gap, |e| e.max(at + gap));
        if end + self.spec.lateness <= state.now {
            assert!(mine.is_empty(), "sessions that are kept are not late");
            return None;
        }
        state.windows.push(Pane {
            start,
            end,
            ids: mine.iter().flat_map(|p| p.ids.clone()).collect(),
            pending: mine.iter().map(|p| p.pending).sum(),
            early: mine.iter().filter_map(|p| p.early).min(),
            early_wall: mine.iter().filter_map(|p| p.early_wall).min(),
            ended: false,
        });
        Some((start, end))
    }

    fn add(&mut self, key: &str, state: &mut KeyState, window: (i64, i64), id: u64, at: i64) {
        let known = state.windows.iter().position(|p| (p.start, p.end) == window);
        let place = known.unwrap_or_else(|| {
            state.windows.push(Pane {
                start: window.0,
                end: window.1,
                ids: Vec::new(),
                pending: 0,
                early: None,
                early_wall: None,
                ended: false,
            });
            state.windows.len() - 1
        });
        let closes = self.closes(&state.windows[place]);
        let (trigger, now) = (self.spec.trigger, state.now);
        let pane = &mut state.windows[place];
        pane.ids.push(id);
        pane.pending += 1;
        pane.ended &= closes <= now;
        if trigger.at_end && closes <= now || trigger.count.is_some_and(|n| pane.pending >= n) {
            pane.ended |= trigger.at_end && closes <= now;
            let last = pane.end - 1;
            self.fire(key, pane, last);
            if trigger.purging && !matches!(self.spec.assigner, Assigner::Session { .. }) {
                state.windows.remove(place);
            }
            return;
        }
        let next = |t: i64, every: i64| (t..).skip(1).find(|t| t % every == 0).unwrap();
        let by_clock = self.spec.domain == Domain::ProcessingTime;
        let (mut every, mut every_wall) = (trigger.every, trigger.every_wall);
        if by_clock {
            every = [every, every_wall.take()].into_iter().flatten().min();
        }
        if let (Some(every), None) = (every, pane.early) {
            pane.early = Some(next(at.max(now), every).min(closes));
        }
        if let (Some(every), None) = (every_wall, pane.early_wall) {
            pane.early_wall = Some(next(self.wall, every));
        }
    }

    fn fire(&mut self, key: &str, pane: &mut Pane, timestamp: i64) {
        if !pane.ids.is_empty() {
            let mut ids = pane.ids.clone();
            ids.sort_unstable();
            self.outputs.push(((key.to_owned(), pane.start, pane.end, ids), timestamp));
        }
        pane.pending = 0;
        pane.early = None;
        pane.early_wall = None;
        if self.spec.trigger.purging {
            pane.ids.clear();
        }
    }

    /// The windows' time of a key is `to`.
    pub(super) fn advance(&mut self, key: &str, to: Timestamp) {
        let mut state = self.keys[key].clone();
        let from = state.now;
        if to <= from {
            return;
        }
        let step_from = from.clamp(-HORIZON, HORIZON);
        for t in step_from..=to.clamp(-HORIZON, HORIZON) {
            self.step(key, &mut state, t, from);
        }
        if to == WATERMARK_MAX {
            self.step(key, &mut state, to, from);
        }
        state.now = to;
        self.keys.insert(key.to_owned(), state);
    }

    fn step(&mut self, key: &str, state: &mut KeyState, t: i64, before: i64) {
        let global = self.spec.assigner == Assigner::Global;
        let session = matches!(self.spec.assigner, Assigner::Session { .. });
        for mut pane in std::mem::take(&mut state.windows) {
            let closes = self.closes(&pane);
            let at_end = self.spec.trigger.at_end && !pane.ended && closes <= t;
            let mut gone = closes.saturating_add(self.spec.lateness) <= t;
            if at_end || pane.early.is_some_and(|early| early <= t) {
                pane.ended |= at_end;
                let last = pane.end - 1;
                let timestamp =
                    if global && before != WATERMARK_MIN { last.max(before) } else { last };
                self.fire(key, &mut pane, timestamp);
                gone |= self.spec.trigger.purging && !session;
            }
            if !gone {
                state.windows.push(pane);
            }
        }
    }

    /// The clock is `wall`.
    pub(super) fn pass(&mut self, wall: i64) {
        self.wall = wall;
        let keys: Vec<String> = self.keys.keys().cloned().collect();
        for key in keys {
            if self.spec.domain == Domain::ProcessingTime {
                self.advance(&key, wall);
                continue;
            }
            let mut state = self.keys[&key].clone();
            let global = self.spec.assigner == Assigner::Global;
            let session = matches!(self.spec.assigner, Assigner::Session { .. });
            for mut pane in std::mem::take(&mut state.windows) {
                if pane.early_wall.is_none_or(|early| early > wall) {
                    state.windows.push(pane);
                    continue;
                }
                let last = pane.end - 1;
                let now = state.now;
                let timestamp = if global && now != WATERMARK_MIN { last.max(now) } else { last };
                self.fire(&key, &mut pane, timestamp);
                if !self.spec.trigger.purging || session {
                    state.windows.push(pane);
                }
            }
            self.keys.insert(key, state);
        }
    }

    /// After a restore the clock goes on; what is due fires at the first tick.
    pub(super) fn pass_silently(&mut self, wall: i64) {
        self.wall = wall;
    }

    /// What is to be emitted since the last call, sorted.
    pub(super) fn take_outputs(&mut self) -> Vec<(Output, Timestamp)> {
        let mut outputs = std::mem::take(&mut self.outputs);
        for ((_, _, _, ids), _) in &mut outputs {
            ids.sort_unstable();
        }
        outputs.sort();
        outputs
    }

    /// The records that are late since the last call, sorted.
    pub(super) fn take_late(&mut self) -> Vec<u64> {
        let mut late = std::mem::take(&mut self.late);
        late.sort_unstable();
        late
    }
}
