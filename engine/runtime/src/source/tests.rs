//! The task of a source, stepped by hand.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;
use tidemill_base::BarrierKind;
use tidemill_base::clock::ManualClock;

/// What a test lets happen.
#[derive(Default)]
struct Plan {
    /// `(split, timestamp)` of the next poll.
    next: Vec<(usize, Timestamp)>,
    /// Records of splits that were ahead, and not emitted.
    passed_over: Vec<(usize, Timestamp)>,
    /// Whether the reader asks which are.
    asks: bool,
    writable: bool,
    /// What the chain's sinks have begun is not at its end.
    unsettled: bool,
    controls: Vec<Control>,
}

#[derive(Clone)]
struct Reader(Rc<RefCell<Plan>>);

impl SourceReader for Reader {
    type Item = u64;
    fn poll<O: Emit<u64>>(&mut self, out: &mut O) -> Result<Polled> {
        let plan = &mut *self.0.borrow_mut();
        let mut emitted = false;
        for (split, at) in plan.next.drain(..) {
            out.split(split);
            if plan.asks && out.is_ahead(split) {
                plan.passed_over.push((split, at));
            } else {
                out.emit(1, at);
                emitted = true;
            }
        }
        let all_ahead = plan.asks && !emitted && !plan.passed_over.is_empty();
        Ok(if all_ahead { Polled::Idle { until: None } } else { Polled::More })
    }
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}

struct Chain(Rc<RefCell<Plan>>);

impl Stage<u64> for Chain {
    fn push(&mut self, _: u64, _: Timestamp) {}
    fn control(&mut self, control: Control) -> Result<()> {
        self.0.borrow_mut().controls.push(control);
        Ok(())
    }
    fn settled(&mut self) -> Result<bool> {
        Ok(!self.0.borrow().unsettled)
    }
    fn writable(&mut self) -> bool {
        self.0.borrow().writable
    }
    fn room(&self) -> bool {
        true
    }
}

/// Its own timestamps, watermarks right behind, idle after 1 s.
#[derive(Clone)]
struct Ascending;

impl Assigner<u64> for Ascending {
    fn timestamp(&mut self, _: u64, native: Timestamp) -> Timestamp {
        native
    }
    fn lateness(&self) -> Option<i64> {
        Some(0)
    }
    fn idle_after(&self) -> Option<Micros> {
        Some(1_000_000)
    }
}

struct Driver {
    plan: Rc<RefCell<Plan>>,
    clock: ManualClock,
    context: Context,
    task: SourceTask<Reader, Ascending, Chain>,
}

impl Driver {
    fn new(skew: Option<SkewSeat>) -> Self {
        let plan = Rc::new(RefCell::new(Plan { writable: true, ..Plan::default() }));
        let context = Context { skew, ..Context::for_test() };
        let (reader, chain) = (Reader(plan.clone()), Chain(plan.clone()));
        let task = SourceTask::new(reader, Ascending, chain, context.clone(), 0);
        Driver { plan, clock: ManualClock::new(), context, task }
    }

    /// Steps once with these records at hand; the watermarks that were sent.
    fn step(&mut self, next: &[(usize, Timestamp)]) -> Vec<Timestamp> {
        self.plan.borrow_mut().next = next.to_vec();
        self.context.time.refresh(&self.clock);
        self.task.step().unwrap();
        let controls = std::mem::take(&mut self.plan.borrow_mut().controls);
        let watermark = |c: Control| if let Control::Watermark(w) = c { Some(w) } else { None };
        controls.into_iter().filter_map(watermark).collect()
    }
}

/// S3: the second split has records waiting, the task could not read them for long.
#[test]
fn waiting_is_not_idleness() {
    let group = crate::skew::SkewGroup::new(1);
    group.set_elsewhere(WATERMARK_MIN);
    let seat = SkewSeat::new(group.clone(), 0, Some(1_000));
    for skewed in [false, true] {
        let mut driver = Driver::new(skewed.then(|| seat.clone()));
        group.set_elsewhere(0);
        assert_eq!(driver.step(&[(0, 5_000), (1, 4_000)]), [4_000]);
        // Blocked, or ahead.
        driver.plan.borrow_mut().writable = skewed;
        for _ in 0..5 {
            assert!(driver.step(&[(0, 5_500)]).is_empty());
            driver.clock.advance(1_000_000);
            assert_eq!(driver.plan.borrow().next.len(), 1, "it does not poll");
        }
        driver.plan.borrow_mut().writable = true;
        group.set_elsewhere(WATERMARK_MAX);
        assert!(driver.step(&[(0, 6_000)]).is_empty(), "split 1 is not idle yet");
        driver.clock.advance(1_000_000);
        assert_eq!(driver.step(&[(0, 7_000)]), [7_000], "now it is");
    }
}

fn said(context: &Context) -> Vec<String> {
    let events = std::iter::from_fn(|| context.outbox.pop());
    events.map(|e| format!("{e:?}").replace(" { epoch: ", " ").replace(" }", "")).collect()
}

/// T7: a source whose chain ends in a sink that makes its files durable beside the core.
#[test]
fn sinks_that_settle_later_hold_back_what_is_said_and_nothing_else() {
    let mut driver = Driver::new(None);
    let barrier = |epoch| Barrier { epoch, triggered_at: 0, kind: BarrierKind::Unaligned };
    driver.plan.borrow_mut().unsettled = true;
    driver.task.trigger(barrier(1)).unwrap();
    assert_eq!(driver.step(&[(0, 5)]), [5], "records go on");
    assert_eq!(said(&driver.context), [""; 0]);
    // Given up: the next one is acknowledged, not this one.
    driver.task.outcome(Control::Abort(1)).unwrap();
    driver.plan.borrow_mut().unsettled = false;
    driver.step(&[]);
    assert_eq!(said(&driver.context), [""; 0]);
    driver.plan.borrow_mut().unsettled = true;
    driver.task.trigger(barrier(2)).unwrap();
    driver.plan.borrow_mut().writable = false;
    driver.context.time.refresh(&driver.clock);
    let soon = driver.context.time.now() + 1_000;
    assert_eq!(driver.task.step().unwrap(), Progress::Blocked { until: Some(soon) });
    driver.plan.borrow_mut().unsettled = false;
    driver.step(&[]);
    assert_eq!(said(&driver.context), ["Acknowledged 2"]);
    driver.plan.borrow_mut().unsettled = true;
    driver.task.outcome(Control::Commit(2)).unwrap();
    driver.step(&[]);
    assert_eq!(said(&driver.context), [""; 0]);
    driver.plan.borrow_mut().unsettled = false;
    driver.step(&[]);
    assert_eq!(said(&driver.context), ["Committed 2"]);
    assert_eq!(driver.task.step().unwrap(), Progress::Blocked { until: None });
}

/// E1 for splits: of one subtask, and beside another one.
#[test]
fn a_split_that_is_ahead_is_passed_over() {
    let group = crate::skew::SkewGroup::new(1);
    let mut driver = Driver::new(Some(SkewSeat::new(group.clone(), 0, Some(1_000))));
    driver.plan.borrow_mut().asks = true;
    let passed_over = |driver: &Driver| std::mem::take(&mut driver.plan.borrow_mut().passed_over);
    assert_eq!(driver.step(&[(0, 0), (1, 0)]), [0]);
    // Within a poll, a split may go as far as it likes.
    assert_eq!(driver.step(&[(0, 3_000), (1, 10)]), [10]);
    assert!(passed_over(&driver).is_empty());
    assert_eq!(driver.step(&[(0, 3_001), (1, 1_600)]), [1_600]);
    assert_eq!(passed_over(&driver), [(0, 3_001)]);
    // Nothing else at hand: it looks again soon, and the split is not idle for it.
    driver.plan.borrow_mut().next = vec![(0, 3_001)];
    driver.context.time.refresh(&driver.clock);
    let soon = driver.context.time.now() + 1_000;
    assert_eq!(driver.task.step().unwrap(), Progress::Idle { until: Some(soon) });
    assert_eq!(passed_over(&driver), [(0, 3_001)]);
    for at in (0..20).map(|i| 1_700 + i) {
        driver.clock.advance(900_000);
        assert_eq!(driver.step(&[(0, 3_001), (1, at)]), [at], "a second of idleness has passed");
        assert_eq!(passed_over(&driver), [(0, 3_001)]);
    }
    // The slowest is never ahead; another subtask may be slower than both, and then this one waits.
    assert_eq!(driver.step(&[(1, 2_500)]), [2_500]);
    assert_eq!(driver.step(&[(0, 3_001), (1, 2_501)]), [2_501]);
    assert!(passed_over(&driver).is_empty());
    group.set_elsewhere(1_600);
    assert!(
        driver.step(&[(0, 3_002), (1, 2_502)]) == [2_502] && passed_over(&driver) == [(0, 3_002)]
    );
    group.set_elsewhere(0);
    assert!(driver.step(&[(0, 3_002), (1, 2_503)]).is_empty());
    assert_eq!(driver.plan.borrow().next.len(), 2, "it does not poll");
}
