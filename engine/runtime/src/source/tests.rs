//! The task of a source, stepped by hand.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;
use tidemill_base::clock::ManualClock;

/// What a test lets happen.
#[derive(Default)]
struct Plan {
    /// `(split, timestamp)` of the next poll.
    next: Vec<(usize, Timestamp)>,
    writable: bool,
    controls: Vec<Control>,
}

#[derive(Clone)]
struct Reader(Rc<RefCell<Plan>>);

impl SourceReader for Reader {
    type Item = u64;
    fn poll<O: Emit<u64>>(&mut self, out: &mut O) -> Result<Polled> {
        for (split, at) in self.0.borrow_mut().next.drain(..) {
            out.split(split);
            out.emit(1, at);
        }
        Ok(Polled::More)
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
