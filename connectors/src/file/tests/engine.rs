//! In the engine's task: watermarks do not depend on the rate, nor on which file is in turn.

use super::dir_with;
use crate::FileSource;
use crate::testing::{at, source_context};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tidemill_base::{Micros, Result, Timestamp, WATERMARK_MAX, WATERMARK_MIN};
use tidemill_runtime::skew::{SkewGroup, SkewSeat};
use tidemill_runtime::source::{Assigner, Source, SourceTask};
use tidemill_runtime::stage::{Control, Stage};
use tidemill_runtime::task::{Progress, Task};

/// Counts records that are behind the watermark, and how far the greatest timestamp was ahead of it.
#[derive(Clone, Default)]
struct Late {
    ahead: Rc<Cell<Timestamp>>,
    seen: Rc<RefCell<(usize, usize, Vec<Timestamp>)>>,
}

impl Stage<String> for Late {
    fn push(&mut self, _: &str, timestamp: Timestamp) {
        let mut seen = self.seen.borrow_mut();
        let watermark = seen.2.last().copied().unwrap_or(WATERMARK_MIN);
        seen.0 += 1;
        seen.1 += usize::from(timestamp < watermark);
        if watermark > WATERMARK_MIN {
            self.ahead.set(self.ahead.get().max(timestamp - watermark));
        }
    }
    fn control(&mut self, control: Control) -> Result<()> {
        if let Control::Watermark(watermark) = control {
            self.seen.borrow_mut().2.push(watermark);
        }
        Ok(())
    }
    fn writable(&mut self) -> bool {
        true
    }
    fn room(&self) -> bool {
        true
    }
}

/// The line is its event time; so many records between two watermarks.
#[derive(Clone)]
struct ByNumber(usize);

impl Assigner<String> for ByNumber {
    fn timestamp(&mut self, line: &str, _: Timestamp) -> Timestamp {
        line.parse().unwrap_or(0)
    }
    fn lateness(&self) -> Option<i64> {
        Some(2)
    }
    fn idle_after(&self) -> Option<Micros> {
        Some(1_000_000)
    }
    fn watermark_every(&self) -> usize {
        self.0
    }
}

fn run(source: &FileSource<crate::Lines>) -> Late {
    run_within(source, 1024, None)
}

/// Splits may be so far ahead of each other.
fn run_within(source: &FileSource<crate::Lines>, every: usize, max_skew: Option<i64>) -> Late {
    let late = Late::default();
    let mut cx = source_context(0, 1, None);
    cx.context.skew = Some(SkewSeat::new(SkewGroup::new(1), 0, max_skew));
    let time = cx.context.time.clone();
    let reader = source.open(&cx).unwrap();
    let mut task = SourceTask::new(reader, ByNumber(every), late.clone(), cx.context, 7);
    let mut now = 1_000_000;
    loop {
        at(&time, now);
        match task.step().unwrap() {
            Progress::Finished => return late,
            Progress::Idle { until: Some(until) } => now = until.max(now + 1),
            _ => now += 1,
        }
    }
}

#[test]
fn no_record_of_an_ordered_file_is_late() {
    // Each file is in order; together they span the same time, which is long.
    let numbers = |from: usize| (from..4000).step_by(5).map(|n| format!("{n}\n")).collect();
    let texts: Vec<String> = (0..5).map(numbers).collect();
    let names = ["a", "b", "c", "d", "e"];
    let files: Vec<_> = names.into_iter().zip(texts.iter().map(|t| t.as_bytes())).collect();
    let dir = dir_with(&files);
    let source = FileSource::lines(dir.path()).split_bytes(999);
    for source in [source.clone(), source.rate(20.0)] {
        let late = run(&source);
        let (records, late, watermarks) = &*late.seen.borrow();
        assert_eq!((*records, *late), (4000, 0));
        assert_eq!(watermarks.last(), Some(&WATERMARK_MAX));
        assert!(watermarks.len() > 2 && watermarks.is_sorted());
    }
}

#[test]
fn the_parts_of_one_file_advance_the_watermark_one_after_the_other() {
    let text: String = (0..5000).map(|n| format!("{n}\n")).collect();
    let dir = dir_with(&[("a", text.as_bytes())]);
    let late = run(&FileSource::lines(dir.path().join("a")).split_bytes(500).rate(10_000.0));
    let (records, late, watermarks) = &*late.seen.borrow();
    assert_eq!((*records, *late), (5000, 0));
    assert!(watermarks.len() > 100, "{} watermarks", watermarks.len());
}

/// R3: more files than blocks are kept for, some with a line each 10 ms, some with one each 50 ms.
#[test]
fn files_keep_together_in_event_time_if_told_to() {
    let numbers = |every: usize| -> String {
        (0..100_000).step_by(every).map(|n| format!("{n:0100}\n")).collect()
    };
    let (slow, fast) = (numbers(50), numbers(10));
    let names: Vec<String> = (0..24).map(|i| format!("{i:02}")).collect();
    let texts = names.iter().enumerate().map(|(i, name)| {
        (name.as_str(), if i % 6 == 0 { fast.as_bytes() } else { slow.as_bytes() })
    });
    let dir = dir_with(&texts.collect::<Vec<_>>());
    let source = FileSource::lines(dir.path());
    let records = 4 * 10_000 + 20 * 2_000;
    for max_skew in [None, Some(5_000), Some(0)] {
        let late = run_within(&source, 256, max_skew);
        assert_eq!((late.seen.borrow().0, late.seen.borrow().1), (records, 0), "{max_skew:?}");
        let ahead = late.ahead.get();
        match max_skew {
            // A block of a fast file.
            None => assert!(ahead > 20_000, "{ahead} ms without a limit"),
            // Beyond the limit by what one poll reads, and by the lateness.
            Some(limit) => assert!(ahead <= limit + 256 * 50 + 2, "{ahead} ms, limit {limit}"),
        }
    }
}
