//! Lives told step by step: what goes in, and exactly what comes out.

use tidemill_coordination::{
    AbortReason, Action, Config, ConfigError, Coordinator, EpochKind, Event, EventName, FailReason,
    Outcome, Phase, SAVEPOINTS_QUEUED_MAX, SavepointError, Store,
};
use tidemill_plan::SubtaskId;

const S0: SubtaskId = SubtaskId::new(0, 0);
const S1: SubtaskId = SubtaskId::new(1, 0);

struct Life(Coordinator);

impl Life {
    fn new(config: Config) -> Self {
        Self(Coordinator::new(config).unwrap())
    }

    /// Started at 0 with two subtasks; interval 1000, timeout 5000, min_pause 100, epochs from 7.
    fn started() -> Self {
        let mut life = Self::new(periodic());
        let subtasks = [S0, S1].into();
        assert_eq!(life.on(0, Event::Started { subtasks }), [Action::WakeAt { at: 1000 }]);
        life
    }

    fn on(&mut self, now: u64, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.0.on(now, event, &mut out).unwrap();
        out
    }

    /// The last of these events' actions; those before are not looked at.
    fn all(&mut self, now: u64, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        events.into_iter().map(|event| self.on(now, event)).last().unwrap()
    }

    /// The pending epoch from its trigger to its last commit.
    fn complete(&mut self, now: u64, epoch: u64) -> Vec<Action> {
        self.until_storing(now, epoch);
        self.on(now, Event::ManifestStored { epoch });
        self.all(now, commits(epoch))
    }

    fn until_storing(&mut self, now: u64, epoch: u64) {
        assert_eq!(self.all(now, acks(epoch)), [Action::FinishObjects { epoch }]);
        let written = self.on(now, Event::WriterFinished { epoch, writer: 0 });
        assert_eq!(written, [Action::StoreManifest { epoch }]);
    }
}

fn periodic() -> Config {
    Config {
        interval_us: Some(1000),
        timeout_us: 5000,
        min_pause_us: 100,
        tolerated_failures: Some(1),
        aligned_timeout_ms: Some(3),
        first_epoch: 7,
        ..Config::default()
    }
}

fn acks(epoch: u64) -> [Event; 2] {
    [S0, S1].map(|subtask| Event::Acked { epoch, subtask })
}

fn commits(epoch: u64) -> [Event; 2] {
    [S0, S1].map(|subtask| Event::CommitAcked { epoch, subtask })
}

fn finishes() -> [Event; 2] {
    [S0, S1].map(|subtask| Event::SubtaskFinished { subtask })
}

fn failed() -> Event {
    Event::Failed { reason: "boom".to_owned() }
}

fn trigger(epoch: u64, kind: EpochKind) -> Action {
    let aligned_timeout_ms = (kind == EpochKind::Periodic).then_some(3);
    Action::Trigger { epoch, kind, aligned_timeout_ms }
}

fn wake(at: u64) -> Action {
    Action::WakeAt { at }
}

fn done(outcome: Outcome) -> Action {
    Action::JobDone { outcome }
}

#[test]
fn a_periodic_checkpoint() {
    let mut life = Life::started();
    assert_eq!(life.on(999, Event::Tick), [wake(1000)]);
    assert_eq!(life.on(1000, Event::Tick), [trigger(7, EpochKind::Periodic), wake(6000)]);
    assert_eq!(life.on(1100, Event::Acked { epoch: 7, subtask: S0 }), []);
    assert_eq!(life.on(1100, Event::Acked { epoch: 7, subtask: S0 }), [], "twice is once");
    life.until_storing(1200, 7);
    assert_eq!(life.0.completed_epoch(), None);
    let stored = life.on(1300, Event::ManifestStored { epoch: 7 });
    assert_eq!(stored, [Action::Commit { epoch: 7 }, wake(6300)]);
    assert_eq!(life.0.completed_epoch(), Some(7));
    assert_eq!(life.all(1400, commits(7)), [Action::Retain, wake(2000)]);
    assert_eq!(life.on(2000, Event::Tick)[0], trigger(8, EpochKind::Periodic));
}

#[test]
fn a_slow_checkpoint_is_followed_after_the_pause() {
    let mut life = Life::started();
    life.on(1000, Event::Tick);
    assert_eq!(life.complete(4000, 7), [Action::Retain, wake(4100)]);
    assert_eq!(life.on(4100, Event::Tick)[0], trigger(8, EpochKind::Periodic));
}

#[test]
fn the_end_of_input_commits_and_ends_the_job() {
    let mut life = Life::started();
    life.on(1000, Event::Tick);
    assert_eq!(life.all(1100, finishes()), [], "an epoch is pending");
    let next = life.complete(1200, 7);
    assert_eq!(next, [Action::Retain, trigger(8, EpochKind::Final)], "the same wake-up");
    let last = life.complete(1300, 8);
    assert_eq!(last, [Action::Retain, done(Outcome::Finished)]);
    assert_eq!(life.on(9000, Event::Tick), []);
}

#[test]
fn without_a_store_only_the_last_epoch_exists() {
    let config = Config { store: Store::None, timeout_us: 5000, ..Config::default() };
    let mut life = Life::new(config);
    assert_eq!(life.on(0, Event::Started { subtasks: [S0, S1].into() }), []);
    let reason = SavepointError::NoStore;
    let refused = life.on(10, Event::SavepointRequested { id: 1 });
    assert_eq!(refused, [Action::SavepointFailed { id: 1, reason }]);
    assert_eq!(life.all(20, finishes()), [trigger(1, EpochKind::Final), wake(5020)]);
    assert_eq!(life.all(30, acks(1)), [Action::Commit { epoch: 1 }, wake(5030)]);
    assert_eq!(life.all(40, commits(1)), [done(Outcome::Finished)]);
}

#[test]
fn failures_in_a_row_are_counted_and_success_forgets_them() {
    let mut life = Life::started();
    let decline = |epoch| Event::Declined { epoch, subtask: S1, reason: "full".to_owned() };
    let reason = AbortReason::Declined { subtask: S1, reason: "full".to_owned() };
    life.on(1000, Event::Tick);
    let aborted = life.on(1100, decline(7));
    assert_eq!(aborted, [Action::Abort { epoch: 7, reason: reason.clone() }, wake(2000)]);
    assert_eq!(life.all(1200, acks(7)), [], "late");
    life.on(2000, Event::Tick);
    life.complete(2100, 8);
    life.on(3000, Event::Tick);
    assert_eq!(life.on(3100, decline(9)).len(), 2, "the first in a row again");
    life.on(4000, Event::Tick);
    let failed = life.on(4100, decline(10));
    let last = reason.clone();
    let too_many = FailReason::TooManyFailures { failures: 2, tolerated: 1, epoch: 10, last };
    let fail = Action::FailJob { reason: too_many };
    assert_eq!(failed, [Action::Abort { epoch: 10, reason }, fail]);
}

#[test]
fn a_slow_subtask_expires_the_epoch_and_is_named() {
    let mut life = Life::started();
    life.on(1000, Event::Tick);
    life.on(1100, Event::Acked { epoch: 7, subtask: S0 });
    let expired = life.on(6000, Event::Tick);
    let Action::Abort { epoch: 7, reason } = &expired[0] else { panic!("{expired:?}") };
    assert_eq!(
        reason.to_string(),
        "it took longer than 5000 us; missing: task 1 subtask 0; raise the checkpoint timeout, \
         or find what holds them up"
    );
    assert_eq!(expired[1..], [wake(6100)], "after the pause, the interval being long over");
}

#[test]
fn a_manifest_that_may_be_there_is_never_aborted() {
    for event in [failed(), Event::Tick] {
        let mut life = Life::started();
        life.on(1000, Event::Tick);
        life.until_storing(1100, 7);
        let expected = match event {
            Event::Tick => {
                let reason = FailReason::ManifestInDoubt { epoch: 7, timeout_us: 5000 };
                vec![Action::FailJob { reason }]
            }
            _ => vec![],
        };
        assert_eq!(life.on(6000, event), expected);
        assert_eq!(life.on(6001, Event::ManifestStored { epoch: 7 }), [], "for the restart");
    }
    let mut life = Life::started();
    life.on(1000, Event::Tick);
    life.until_storing(1100, 7);
    let reason = "exists".to_owned();
    let failed = life.on(1200, Event::ManifestFailed { epoch: 7, reason: reason.clone() });
    let reason = AbortReason::Manifest { reason };
    assert_eq!(failed, [Action::Abort { epoch: 7, reason }, wake(2000)], "it certainly is not");
}

#[test]
fn a_commit_that_does_not_come_fails_the_attempt() {
    let mut life = Life::started();
    life.on(1000, Event::Tick);
    life.until_storing(1100, 7);
    life.on(1200, Event::ManifestStored { epoch: 7 });
    life.on(1300, Event::CommitAcked { epoch: 7, subtask: S0 });
    let expired = life.on(6200, Event::Tick);
    let [Action::FailJob { reason }] = &expired[..] else { panic!("{expired:?}") };
    let text = reason.to_string();
    assert!(text.contains("by task 1 subtask 0;"), "{text}");
}

#[test]
fn savepoints_wait_their_turn_but_not_for_the_pause() {
    let mut life = Life::started();
    life.on(1000, Event::Tick);
    assert_eq!(life.on(1100, Event::SavepointRequested { id: 1 }), []);
    assert_eq!(life.on(1100, Event::SavepointRequested { id: 1 }), [], "the same one");
    let next = life.complete(1200, 7);
    assert_eq!(next, [Action::Retain, trigger(8, EpochKind::Savepoint(1))]);
    life.until_storing(1300, 8);
    let stored = life.on(1300, Event::ManifestStored { epoch: 8 });
    let saved = Action::SavepointDone { id: 1, epoch: 8 };
    assert_eq!(stored, [Action::Commit { epoch: 8 }, saved, wake(6300)]);
    assert_eq!(life.all(1300, commits(8)), [wake(2200)], "nothing to retain");
}

#[test]
fn a_savepoint_asked_for_again_after_its_answer_is_a_new_one() {
    let mut life = Life::started();
    life.on(10, Event::SavepointRequested { id: 1 });
    life.until_storing(20, 7);
    assert_eq!(life.on(20, Event::SavepointRequested { id: 1 }), [], "not answered: the same");
    life.on(30, Event::ManifestStored { epoch: 7 });
    assert_eq!(life.on(30, Event::SavepointRequested { id: 1 }), [], "answered: another");
    let next = life.all(40, commits(7));
    assert_eq!(next[0], trigger(8, EpochKind::Savepoint(1)));
}

#[test]
fn a_failed_savepoint_is_answered_and_not_counted() {
    let mut life = Life::started();
    for (id, epoch) in (1..5).zip(7..) {
        life.on(10, Event::SavepointRequested { id });
        let reason = "full".to_owned();
        let out = life.on(20, Event::Declined { epoch, subtask: S0, reason });
        let answer = Action::SavepointFailed {
            id,
            reason: SavepointError::Aborted {
                epoch,
                reason: AbortReason::Declined { subtask: S0, reason: "full".to_owned() },
            },
        };
        assert_eq!(out[1], answer);
        assert_eq!(life.0.phase(), Phase::Waiting);
    }
}

#[test]
fn too_many_savepoints_are_refused_and_the_rest_answered_at_the_end() {
    let mut life = Life::new(periodic());
    let waiting = SAVEPOINTS_QUEUED_MAX;
    for id in 0..waiting as u64 {
        assert_eq!(life.on(0, Event::SavepointRequested { id }), []);
    }
    let refused = life.on(0, Event::SavepointRequested { id: 99 });
    let reason = SavepointError::QueueFull { waiting };
    assert_eq!(refused, [Action::SavepointFailed { id: 99, reason }]);
    let out = life.on(0, failed());
    assert_eq!(out.len(), waiting);
    let reason = SavepointError::JobEnded;
    assert!(out.contains(&Action::SavepointFailed { id: 0, reason: reason.clone() }));
    let late = life.on(1, Event::StopWithSavepoint { id: 7 });
    assert_eq!(late, [Action::SavepointFailed { id: 7, reason }]);
}

#[test]
fn stop_with_savepoint_ends_the_job_after_its_commit() {
    let mut life = Life::started();
    let out = life.on(10, Event::StopWithSavepoint { id: 4 });
    assert_eq!(out, [trigger(7, EpochKind::StopWithSavepoint(4)), wake(5010)]);
    assert_eq!(life.complete(20, 7), [done(Outcome::Stopped(4))]);
}

#[test]
fn cancelling_aborts_before_the_manifest_and_waits_after_it() {
    let mut life = Life::started();
    assert_eq!(life.on(10, Event::CancelRequested), [done(Outcome::Cancelled)]);

    let mut life = Life::started();
    life.on(1000, Event::Tick);
    let reason = AbortReason::Cancelled;
    let cancelled = [Action::Abort { epoch: 7, reason }, done(Outcome::Cancelled)];
    assert_eq!(life.on(1100, Event::CancelRequested), cancelled);

    let storing = || {
        let mut life = Life::started();
        life.on(1000, Event::Tick);
        life.until_storing(1100, 7);
        assert_eq!(life.on(1200, Event::CancelRequested), []);
        life
    };
    let mut life = storing();
    life.on(1300, Event::ManifestStored { epoch: 7 });
    let out = life.all(1300, commits(7));
    assert_eq!(out, [Action::Retain, done(Outcome::Cancelled)]);
    for event in [Event::CancelRequested, failed(), Event::Tick] {
        assert_eq!(storing().on(9000, event.clone()), [done(Outcome::Cancelled)], "{event:?}");
    }
}

#[test]
fn a_last_epoch_that_fails_is_tried_again_after_a_second() {
    let mut life = Life::new(Config { tolerated_failures: None, ..Config::default() });
    life.on(0, Event::Started { subtasks: [S0, S1].into() });
    life.all(10, finishes());
    let out = life.on(20, Event::Declined { epoch: 1, subtask: S0, reason: "full".to_owned() });
    assert_eq!(out[1], wake(1_000_020));
    assert_eq!(life.on(1_000_020, Event::Tick)[0], trigger(2, EpochKind::Final));
    let last = life.complete(1_000_030, 2);
    assert_eq!(last, [Action::Retain, done(Outcome::Finished)]);
}

#[test]
fn what_cannot_be_is_said() {
    let mut life = Life::started();
    let mut illegal = |event| life.0.on(5, event, &mut Vec::new()).unwrap_err();
    let error = illegal(Event::Acked { epoch: 7, subtask: S0 });
    assert_eq!((error.event, error.phase), (EventName::Acked, Phase::Waiting));
    assert!(error.to_string().contains("epoch 7 was never triggered"), "{error}");
    illegal(Event::Started { subtasks: [S0].into() });
    illegal(Event::SubtaskFinished { subtask: SubtaskId::new(5, 5) });
    life.on(1000, Event::Tick);
    let mut illegal = |event| life.0.on(1001, event, &mut Vec::new()).unwrap_err();
    illegal(Event::ManifestStored { epoch: 7 });
    illegal(Event::CommitAcked { epoch: 7, subtask: S0 });
    illegal(Event::WriterFailed { epoch: 7, writer: 1, reason: String::new() });
}

#[test]
fn settings_are_checked() {
    let bad = |config: Config| Coordinator::new(config).unwrap_err();
    let good = periodic;
    assert_eq!(bad(Config { interval_us: Some(0), ..good() }), ConfigError::Interval);
    assert_eq!(bad(Config { timeout_us: 0, ..good() }), ConfigError::Timeout);
    assert_eq!(bad(Config { store: Store::None, ..good() }), ConfigError::NowhereToStore);
    assert_eq!(bad(Config { writers: 0, ..good() }), ConfigError::Writers);
    assert_eq!(bad(Config { first_epoch: 0, ..good() }), ConfigError::FirstEpoch);
}
