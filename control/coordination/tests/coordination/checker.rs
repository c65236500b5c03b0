//! Watches a coordinator from outside and asserts its invariants C1 to C13, from nothing but the events
//! that went in and the actions that came out.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_coordination::{
    Action, Config, Coordinator, Epoch, EpochKind, Event, Illegal, Micros, Outcome, SavepointId,
    Store,
};
use tidemill_plan::SubtaskId;

/// What was seen of one epoch.
#[derive(Debug)]
struct Seen {
    kind: EpochKind,
    triggered_at: Micros,
    after_all_finished: bool,
    acked: BTreeSet<SubtaskId>,
    finish_objects: bool,
    written: BTreeSet<u32>,
    store_manifest: bool,
    stored: bool,
    manifest_failed: bool,
    committed: bool,
    aborted: bool,
    commit_acked: BTreeSet<SubtaskId>,
}

/// A coordinator under watch.
pub(crate) struct Checked {
    pub(crate) coordinator: Coordinator,
    config: Config,
    subtasks: BTreeSet<SubtaskId>,
    unfinished: BTreeSet<SubtaskId>,
    epochs: BTreeMap<Epoch, Seen>,
    over_at: Micros,
    ended: bool,
    asked: BTreeSet<SavepointId>,
    answered: BTreeSet<SavepointId>,
    pub(crate) wake_at: Option<Micros>,
    pub(crate) outcome: Option<Action>,
}

impl Checked {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            coordinator: Coordinator::new(config.clone()).unwrap(),
            config,
            subtasks: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            epochs: BTreeMap::new(),
            over_at: 0,
            ended: false,
            asked: BTreeSet::new(),
            answered: BTreeSet::new(),
            wake_at: None,
            outcome: None,
        }
    }

    pub(crate) fn on(&mut self, now: Micros, event: Event) -> Result<Vec<Action>, Illegal> {
        let before = self.coordinator.clone();
        let mut out = Vec::new();
        if let Err(illegal) = self.coordinator.on(now, event.clone(), &mut out) {
            assert!(out.is_empty(), "C10: {out:?}");
            assert_eq!(before, self.coordinator, "C10");
            return Err(illegal);
        }
        let was_pending = self.pending();
        if self.is_late(&event) {
            assert!(out.is_empty(), "C11: {event:?} gave {out:?}");
            assert_eq!(before, self.coordinator, "C11");
            return Ok(out);
        }
        self.note(&event);
        if was_pending.is_some() && self.pending().is_none() {
            self.over_at = now;
        }
        let was_ended = self.ended;
        for action in &out {
            self.check(now, action, &event);
        }
        if was_ended {
            let refusal = |a: &Action| matches!(a, Action::SavepointFailed { .. });
            assert!(out.iter().all(refusal), "C8: {event:?} gave {out:?}");
        }
        self.ended |= matches!(event, Event::Failed { .. });
        if self.ended {
            assert_eq!(self.asked, self.answered, "C12");
        }
        Ok(out)
    }

    fn pending(&self) -> Option<Epoch> {
        let over = |s: &Seen| s.aborted || (s.committed && s.commit_acked == self.subtasks);
        let mut pending = self.epochs.iter().filter(|(_, seen)| !over(seen)).map(|(&e, _)| e);
        let first = pending.next();
        assert_eq!(pending.next(), None, "C1");
        first.filter(|_| !self.ended)
    }

    fn is_late(&self, event: &Event) -> bool {
        epoch_of(event).is_some_and(|epoch| Some(epoch) != self.pending())
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Started { subtasks } => {
                self.subtasks.clone_from(subtasks);
                self.unfinished.clone_from(subtasks);
            }
            Event::SubtaskFinished { subtask } => {
                self.unfinished.remove(subtask);
            }
            Event::SavepointRequested { id } | Event::StopWithSavepoint { id } => {
                self.asked.insert(*id);
                // Asked again after its answer it is a new one.
                self.answered.remove(id);
            }
            _ => {}
        }
        let Some(seen) = epoch_of(event).and_then(|epoch| self.epochs.get_mut(&epoch)) else {
            return;
        };
        match event {
            Event::Acked { subtask, .. } => _ = seen.acked.insert(*subtask),
            Event::WriterFinished { writer, .. } => _ = seen.written.insert(*writer),
            Event::ManifestStored { .. } => seen.stored = true,
            Event::ManifestFailed { .. } => seen.manifest_failed = true,
            Event::CommitAcked { subtask, .. } => _ = seen.commit_acked.insert(*subtask),
            _ => {}
        }
    }

    fn check(&mut self, now: Micros, action: &Action, event: &Event) {
        assert!(!self.ended || matches!(action, Action::SavepointFailed { .. }), "C8: {action:?}");
        match action {
            Action::Trigger { epoch, kind, .. } => self.check_trigger(now, *epoch, *kind),
            Action::FinishObjects { epoch } => {
                let seen = self.epochs.get_mut(epoch).unwrap();
                assert_eq!(seen.acked, self.subtasks, "C3");
                assert!(!seen.finish_objects && !seen.aborted, "C3 once");
                assert_eq!(self.config.store, Store::Durable);
                seen.finish_objects = true;
            }
            Action::StoreManifest { epoch } => {
                let seen = self.epochs.get_mut(epoch).unwrap();
                assert!(seen.finish_objects && !seen.store_manifest && !seen.aborted, "C4");
                assert_eq!(seen.written, (0..self.config.writers).collect(), "C4");
                seen.store_manifest = true;
            }
            Action::Commit { epoch } => {
                let seen = self.epochs.get_mut(epoch).unwrap();
                match self.config.store {
                    Store::Durable => assert!(seen.store_manifest && seen.stored, "C5"),
                    Store::None => assert_eq!(seen.acked, self.subtasks, "C5"),
                }
                assert!(!seen.committed && !seen.aborted, "C6");
                seen.committed = true;
            }
            Action::Abort { epoch, .. } => {
                let seen = self.epochs.get_mut(epoch).unwrap();
                assert!(!seen.committed && !seen.aborted, "C6");
                assert!(!seen.store_manifest || seen.manifest_failed, "C7");
                seen.aborted = true;
                self.over_at = now;
            }
            Action::Retain => {
                let (_, last) = self.epochs.last_key_value().unwrap();
                assert!(last.stored && last.commit_acked == self.subtasks);
            }
            Action::SavepointDone { id, epoch } => {
                let seen = &self.epochs[epoch];
                assert!(seen.stored && seen.kind.savepoint() == Some(*id));
                assert!(self.asked.contains(id) && self.answered.insert(*id), "C12 once");
            }
            Action::SavepointFailed { id, .. } => {
                assert!(self.asked.contains(id) && self.answered.insert(*id), "C12 once");
            }
            Action::JobDone { outcome } => {
                self.check_done(*outcome);
                self.end(action);
            }
            Action::FailJob { .. } => self.end(action),
            Action::WakeAt { at } => {
                let due = matches!(event, Event::Tick) || *at >= now || self.pending().is_some();
                assert!(due, "C13: {at} at {now} after {event:?}");
                self.wake_at = Some(*at);
            }
        }
        self.pending();
    }

    fn check_trigger(&mut self, now: Micros, epoch: Epoch, kind: EpochKind) {
        assert_eq!(self.pending(), None, "C1");
        assert!(epoch >= self.config.first_epoch, "C2");
        let last = self.epochs.last_key_value();
        assert!(last.is_none_or(|(&last, _)| last < epoch), "C2");
        let was_last = |s: &Seen| {
            s.committed && matches!(s.kind, EpochKind::Final | EpochKind::StopWithSavepoint(_))
        };
        assert!(!last.is_some_and(|(_, last)| was_last(last)), "nothing after the last epoch");
        match kind {
            EpochKind::Periodic => {
                let interval = self.config.interval_us.unwrap();
                assert!(last.is_none_or(|(_, l)| now >= l.triggered_at + interval), "interval");
                let pause = self.config.min_pause_us;
                assert!(last.is_none() || now >= self.over_at + pause, "min_pause");
            }
            EpochKind::Final => assert!(self.unfinished.is_empty(), "C9"),
            EpochKind::Savepoint(id) | EpochKind::StopWithSavepoint(id) => {
                assert!(self.asked.contains(&id) && !self.answered.contains(&id), "C12");
                assert_eq!(self.config.store, Store::Durable);
            }
        }
        let seen = Seen {
            kind,
            triggered_at: now,
            after_all_finished: self.unfinished.is_empty(),
            acked: BTreeSet::new(),
            finish_objects: false,
            written: BTreeSet::new(),
            store_manifest: false,
            stored: false,
            manifest_failed: false,
            committed: false,
            aborted: false,
            commit_acked: BTreeSet::new(),
        };
        self.epochs.insert(epoch, seen);
    }

    fn check_done(&self, outcome: Outcome) {
        let last = self.epochs.last_key_value().map(|(_, seen)| seen);
        let complete = |s: &Seen| s.committed && s.commit_acked == self.subtasks;
        match outcome {
            Outcome::Finished => {
                let last = last.unwrap();
                assert!(complete(last) && last.after_all_finished, "C9");
                assert_eq!(last.kind, EpochKind::Final, "C9");
            }
            Outcome::Stopped(id) => {
                let last = last.unwrap();
                assert!(complete(last));
                assert_eq!(last.kind, EpochKind::StopWithSavepoint(id));
            }
            Outcome::Cancelled => {}
        }
    }

    fn end(&mut self, action: &Action) {
        self.ended = true;
        self.outcome = Some(action.clone());
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn first_epoch(&self) -> Epoch {
        self.config.first_epoch
    }

    pub(crate) fn completed(&self) -> usize {
        self.epochs.values().filter(|s| s.committed && s.commit_acked == self.subtasks).count()
    }

    pub(crate) fn all_savepoints_done(&self) -> bool {
        let done: BTreeSet<_> =
            self.epochs.values().filter(|s| s.stored).filter_map(|s| s.kind.savepoint()).collect();
        done == self.asked && self.answered == self.asked
    }
}

fn epoch_of(event: &Event) -> Option<Epoch> {
    match event {
        Event::Acked { epoch, .. }
        | Event::Declined { epoch, .. }
        | Event::WriterFinished { epoch, .. }
        | Event::WriterFailed { epoch, .. }
        | Event::ManifestStored { epoch }
        | Event::ManifestFailed { epoch, .. }
        | Event::CommitAcked { epoch, .. } => Some(*epoch),
        _ => None,
    }
}
