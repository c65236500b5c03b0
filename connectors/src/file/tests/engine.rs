//! In the engine's task: watermarks do not depend on the rate, nor on which file is in turn.

use super::dir_with;
use crate::FileSource;
use crate::testing::{at, source_context};
use std::cell::RefCell;
use std::rc::Rc;
use tidemill_base::{Micros, Result, Timestamp, WATERMARK_MAX, WATERMARK_MIN};
use tidemill_runtime::source::{Assigner, Source, SourceTask};
use tidemill_runtime::stage::{Control, Stage};
use tidemill_runtime::task::{Progress, Task};

/// Counts records that are behind the watermark.
#[derive(Clone, Default)]
struct Late {
    seen: Rc<RefCell<(usize, usize, Vec<Timestamp>)>>,
}

impl Stage<String> for Late {
    fn push(&mut self, _: &str, timestamp: Timestamp) {
        let mut seen = self.seen.borrow_mut();
        let watermark = seen.2.last().copied().unwrap_or(WATERMARK_MIN);
        seen.0 += 1;
        seen.1 += usize::from(timestamp < watermark);
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

/// The line is its event time.
#[derive(Clone)]
struct ByNumber;

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
}

fn run(source: &FileSource<crate::Lines>) -> Late {
    let late = Late::default();
    let cx = source_context(0, 1, None);
    let time = cx.context.time.clone();
    let reader = source.open(&cx).unwrap();
    let mut task = SourceTask::new(reader, ByNumber, late.clone(), cx.context, 7);
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
