//! Random lives: safety under anything (the checker asserts at every step), and liveness once the
//! world behaves.

use proptest::prelude::*;
use tidemill_coordination::{Action, Config, Event, Outcome, Store};
use tidemill_plan::SubtaskId;

use crate::world::{Step, World};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// C1 to C13 under answers in any order, twice, lost and spoilt, and under noise.
    #[test]
    fn invariants_hold_whatever_happens(
        config in configs(), steps in prop::collection::vec(wild_step(), 1..300),
    ) {
        let mut world = World::new(config);
        for step in steps {
            world.step(step);
        }
    }

    /// Where all answers arrive, in any order and some twice, every epoch completes, every savepoint is
    /// taken, and the job ends when its input does.
    #[test]
    fn epochs_complete_where_all_answer(
        config in configs(), steps in prop::collection::vec(calm_step(), 1..300),
    ) {
        let durable = config.store == Store::Durable;
        let mut world = World::new(config);
        for step in steps {
            world.step(step);
        }
        prop_assert_eq!(world.illegal, 0);
        for subtask in world.subtasks.clone() {
            world.send(Event::SubtaskFinished { subtask });
        }
        world.run_until(|_| false);
        prop_assert_eq!(&world.job.outcome, &Some(Action::JobDone { outcome: Outcome::Finished }));
        prop_assert_eq!(world.job.completed() as u64,
            world.job.coordinator.last_epoch() + 1 - world.job.first_epoch(), "none aborted");
        prop_assert!(world.job.all_savepoints_done() || !durable);
    }

    /// However bad it was: where any number of failures is tolerated and answers arrive again, the next
    /// epochs complete.
    #[test]
    fn a_coordinator_recovers(
        config in configs(), steps in prop::collection::vec(bad_step(), 1..200),
    ) {
        let interval_us = Some(config.interval_us.unwrap_or(1_000));
        let store = Store::Durable;
        let mut world = World::new(Config { tolerated_failures: None, interval_us, store, ..config });
        for step in steps {
            world.step(step);
        }
        if world.job.has_ended() {
            return Ok(()); // An epoch in doubt past its deadline is for the restart to mend.
        }
        world.answer_again();
        let enough = world.job.completed() + 3;
        world.run_until(|w| w.job.completed() >= enough);
        prop_assert!(!world.job.has_ended());
        for subtask in world.subtasks.clone() {
            world.send(Event::SubtaskFinished { subtask });
        }
        world.run_until(|_| false);
        prop_assert_eq!(&world.job.outcome, &Some(Action::JobDone { outcome: Outcome::Finished }));
    }
}

fn configs() -> impl Strategy<Value = Config> {
    let interval_us = prop::option::of(1_u64..3_000);
    let tolerated = prop::option::of(0_u32..3);
    (interval_us, 5_000_u64..20_000, 0_u64..2_000, tolerated, 1_u32..3, 1_u64..9, any::<bool>())
        .prop_map(
            |(interval_us, timeout_us, min_pause_us, tolerated, writers, first_epoch, none)| {
                let store =
                    if none && interval_us.is_none() { Store::None } else { Store::Durable };
                Config {
                    interval_us,
                    timeout_us,
                    min_pause_us,
                    tolerated_failures: tolerated,
                    aligned_timeout_ms: None,
                    store,
                    writers,
                    first_epoch,
                }
            },
        )
}

/// Nothing is lost, 300 steps pass less time than a timeout, and one subtask goes on.
fn calm_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => any::<usize>().prop_map(Step::Deliver),
        3 => any::<usize>().prop_map(Step::Repeat),
        10 => (0_u64..15).prop_map(Step::Pass),
        1 => (0_usize..2).prop_map(Step::Finish),
        1 => Just(Step::Savepoint),
    ]
}

fn bad_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => any::<usize>().prop_map(Step::Deliver),
        3 => any::<usize>().prop_map(Step::Repeat),
        2 => any::<usize>().prop_map(Step::Lose),
        2 => any::<usize>().prop_map(Step::Spoil),
        5 => (0_u64..3_000).prop_map(Step::Pass),
    ]
}

fn wild_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => bad_step(),
        2 => any::<usize>().prop_map(Step::Finish),
        1 => Just(Step::Savepoint),
        5 => noise().prop_map(Step::Noise),
    ]
}

fn noise() -> impl Strategy<Value = Event> {
    let subtask = (0_u32..3, 0_u32..2).prop_map(|(t, s)| SubtaskId::new(t, s));
    let reason = || "noise".to_owned();
    (0_u8..60, 0_u64..16, subtask, 0_u32..3).prop_map(move |(which, epoch, subtask, writer)| {
        match which {
            0 => Event::Failed { reason: reason() },
            1 => Event::CancelRequested,
            2..5 => Event::StopWithSavepoint { id: epoch },
            5..8 => Event::Started { subtasks: [subtask].into() },
            8..15 => Event::Tick,
            15..23 => Event::Acked { epoch, subtask },
            23..29 => Event::Declined { epoch, subtask, reason: reason() },
            29..33 => Event::SubtaskFinished { subtask },
            33..38 => Event::WriterFinished { epoch, writer },
            38..43 => Event::WriterFailed { epoch, writer, reason: reason() },
            43..47 => Event::ManifestStored { epoch },
            47..51 => Event::ManifestFailed { epoch, reason: reason() },
            51..57 => Event::CommitAcked { epoch, subtask },
            _ => Event::SavepointRequested { id: 100 + epoch },
        }
    })
}
