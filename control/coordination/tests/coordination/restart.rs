//! R1 to R4.

use proptest::prelude::*;
use tidemill_coordination::{Backoff, Decision, RestartStrategy, Restarts};

/// In the middle: no jitter, up to rounding.
const MIDDLE: u64 = 1 << 63;

fn at(decision: Decision) -> u64 {
    match decision {
        Decision::RestartAt(at) => at,
        Decision::GiveUp { reason } => panic!("gave up: {reason}"),
    }
}

#[test]
fn pauses_double_up_to_the_longest_and_start_over_after_success() {
    let mut restarts = Restarts::new(RestartStrategy::default());
    let mut now = 5_000_000;
    let mut pauses_ms = Vec::new();
    for _ in 0..12 {
        let restart_at = at(restarts.on_failure(now, MIDDLE));
        pauses_ms.push((restart_at - now) / 1_000);
        now = restart_at + 59_999_999;
    }
    let doubled = [50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
    assert_eq!(pauses_ms, doubled);
    now += 1;
    assert_eq!(at(restarts.on_failure(now, MIDDLE)), now + 50_000, "60 s of success");
    assert_eq!(restarts.restarts(), 13);
}

#[test]
fn a_second_failure_of_the_same_attempt_is_not_counted() {
    let mut restarts = Restarts::new(RestartStrategy::FixedDelay { attempts: 2, delay_us: 10 });
    assert_eq!(restarts.on_failure(100, 0), Decision::RestartAt(110));
    assert_eq!(restarts.on_failure(109, 0), Decision::RestartAt(110));
    assert_eq!(restarts.on_failure(110, 0), Decision::RestartAt(120));
    let Decision::GiveUp { reason } = restarts.on_failure(500, 0) else { panic!("two attempts") };
    assert!(reason.contains("restarted 2 times"), "{reason}");
    assert_eq!(restarts.on_failure(10_000, 0), Decision::GiveUp { reason }, "R4");
}

#[test]
fn none_gives_up_at_once() {
    let decision = Restarts::new(RestartStrategy::None).on_failure(7, 7);
    let reason = "the job's restart strategy is none".to_owned();
    assert_eq!(decision, Decision::GiveUp { reason });
}

#[test]
fn strategies_read_back_from_json() {
    let all = [
        RestartStrategy::default(),
        RestartStrategy::FixedDelay { attempts: 3, delay_us: 10 },
        RestartStrategy::None,
    ];
    for strategy in all {
        let json = serde_json::to_string(&strategy).unwrap();
        assert_eq!(serde_json::from_str::<RestartStrategy>(&json).unwrap(), strategy);
    }
}

proptest! {
    /// R1, R2: any settings, any chance, any times.
    #[test]
    fn pauses_stay_within_their_jitter(
        initial_us in 0_u64..1_000_000, factor in 0_u32..5, max_us in 0_u64..10_000_000,
        jitter_percent in 0_u32..150, reset_after_us in 1_u64..1_000_000,
        lives in prop::collection::vec((0_u64..2_000_000, any::<u64>()), 1..40),
    ) {
        let backoff = Backoff { initial_us, factor, max_us, jitter_percent, reset_after_us };
        let mut restarts = Restarts::new(RestartStrategy::ExponentialBackoff(backoff));
        let (mut now, mut pause, mut first) = (1_000_u64, 0.0_f64, true);
        for (lasted, random) in lives {
            now += if first { 0 } else { lasted };
            // The naive pause, in floating point as a user would compute it.
            pause = if first || lasted >= reset_after_us {
                (initial_us as f64).min(max_us as f64)
            } else {
                (pause * f64::from(factor.max(1))).min(max_us as f64)
            };
            first = false;
            let restart_at = at(restarts.on_failure(now, random));
            prop_assert!(restart_at >= now);
            let actual = (restart_at - now) as f64;
            let spread = pause * f64::from(jitter_percent.min(100)) / 100.0;
            prop_assert!(actual >= pause - spread - 1.0, "{actual} for {pause}");
            prop_assert!(actual <= (pause + spread + 1.0).min(max_us as f64), "{actual} for {pause}");
            now = restart_at;
        }
    }

    /// Both ends of the jitter are reached.
    #[test]
    fn chance_spreads_over_the_whole_jitter(pause_us in 1_000_u64..1_000_000) {
        let pause = |random| {
            let backoff = Backoff { initial_us: pause_us, ..Backoff::default() };
            at(Restarts::new(RestartStrategy::ExponentialBackoff(backoff)).on_failure(0, random))
        };
        prop_assert_eq!(pause(0), pause_us - pause_us / 10);
        prop_assert_eq!(pause(u64::MAX), pause_us + pause_us / 10);
    }
}
