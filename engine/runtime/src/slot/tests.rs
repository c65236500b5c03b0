//! Where the time of tasks goes, on a clock that only they move.

use super::*;
use tidemill_base::clock::ManualClock;
use tidemill_base::metrics::ActivityTimes;

/// Takes the given time for each step and returns what the script says.
struct Scripted {
    clock: ManualClock,
    steps: std::vec::IntoIter<(Micros, Progress)>,
}

impl Task for Scripted {
    fn step(&mut self) -> Result<Progress> {
        let (takes, progress) = self.steps.next().unwrap_or((0, Progress::Finished));
        self.clock.advance(takes);
        Ok(progress)
    }
    fn trigger(&mut self, _: Barrier) -> Result<()> {
        Ok(())
    }
    fn outcome(&mut self, _: Control) -> Result<()> {
        Ok(())
    }
}

const WORKED: Progress = Progress::Worked;
const IDLE: Progress = Progress::Idle { until: None };
const BLOCKED: Progress = Progress::Blocked { until: None };

fn slot(clock: &ManualClock, scripts: Vec<Vec<(Micros, Progress)>>) -> Slot {
    let hosted = |steps: Vec<_>| Hosted {
        task: Box::new(Scripted { clock: clock.clone(), steps: steps.into_iter() }),
        context: Context::for_test(),
        operators: Vec::new(),
    };
    Slot::new(scripts.into_iter().map(hosted).collect())
}

/// `(busy, idle, backpressured, ready)` of task `i` up to now.
fn times(slot: &Slot, i: usize, clock: &ManualClock) -> (u64, u64, u64, u64) {
    let ActivityTimes { busy_us, idle_us, backpressured_us, ready_us } =
        slot.context(i).metrics.times(clock.now());
    (busy_us, idle_us, backpressured_us, ready_us)
}

#[test]
fn a_slots_time_is_shared_out_to_its_tasks() {
    let clock = ManualClock::new();
    // A quick source, a slow sink behind it on the same slot.
    let mut slot = slot(&clock, vec![vec![(1, WORKED); 10], vec![(99, WORKED); 10]]);
    for _ in 0..10 {
        slot.round(&clock).unwrap();
    }
    assert_eq!(clock.now(), 1_000);
    assert_eq!(times(&slot, 0, &clock), (10, 0, 0, 990));
    // The sink's first turn came after the source's first step.
    assert_eq!(times(&slot, 1, &clock), (990, 0, 0, 9));
}

#[test]
fn a_parked_slots_tasks_stay_what_they_were() {
    let clock = ManualClock::new();
    let mut slot = slot(&clock, vec![vec![(5, BLOCKED), (2, BLOCKED)], vec![(7, IDLE)], vec![]]);
    slot.round(&clock).unwrap();
    clock.advance(1_000);
    assert_eq!(times(&slot, 0, &clock), (5, 0, 1_007, 0));
    assert_eq!(times(&slot, 1, &clock), (7, 1_000, 0, 0));
    assert_eq!(times(&slot, 2, &clock), (0, 0, 0, 0), "a finished task has no time");
    // Still blocked after a second look: the look counts as part of it.
    slot.step(0, &clock).unwrap();
    clock.advance(10);
    assert_eq!(times(&slot, 0, &clock), (5, 0, 1_019, 0));
}

#[test]
fn a_step_that_emits_and_goes_idle_was_work() {
    let clock = ManualClock::new();
    let mut slot = slot(&clock, vec![vec![(30, IDLE); 3]]);
    for _ in 0..3 {
        slot.round(&clock).unwrap();
        clock.advance(70);
    }
    assert_eq!(times(&slot, 0, &clock), (90, 210, 0, 0));
}
