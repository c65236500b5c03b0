//! A source and a sink written by a user of the crate, in a job with an exchange, checkpoints and
//! a restore.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill::{Env, Result};
use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};
use tidemill_runtime::source::{Emit, Polled, Source, SourceContext, SourceReader};

/// Emits 0..total, subtask s of p emits s, s + p, ...
#[derive(Clone)]
struct Numbers {
    total: u64,
}

struct NumbersReader {
    next: u64,
    step: u64,
    total: u64,
}

impl Source for Numbers {
    type Item = u64;
    type Reader = NumbersReader;
    fn open(&self, cx: &SourceContext) -> Result<NumbersReader> {
        let mut next = u64::from(cx.subtask);
        if let Some(splits) = &cx.restored {
            next = u64::from_le_bytes(splits[0][..8].try_into().unwrap());
        }
        Ok(NumbersReader { next, step: u64::from(cx.parallelism), total: self.total })
    }
    fn name(&self) -> String {
        "numbers".into()
    }
}

impl SourceReader for NumbersReader {
    type Item = u64;
    fn poll<O: Emit<u64>>(&mut self, out: &mut O) -> Result<Polled> {
        out.split(0);
        while out.remaining() > 0 {
            if self.next >= self.total {
                return Ok(Polled::End);
            }
            out.emit(self.next, self.next as i64);
            self.next += self.step;
        }
        Ok(Polled::More)
    }
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(vec![self.next.to_le_bytes().to_vec()])
    }
}

#[derive(Clone, Default)]
struct Sum {
    rows: Arc<AtomicU64>,
    sum: Arc<AtomicU64>,
}

impl Sink<u64> for Sum {
    type Writer = Sum;
    fn open(&self, _: &SinkContext) -> Result<Sum> {
        Ok(self.clone())
    }
    fn name(&self) -> String {
        "sum".into()
    }
}

impl SinkWriter<u64> for Sum {
    fn write(&mut self, view: u64, _: i64) -> Result<()> {
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(view, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn every_record_arrives_once_through_chains_and_exchanges() {
    for parallelism in 1..=3 {
        let sum = Sum::default();
        let env = Env::new("numbers").parallelism(parallelism);
        env.add_source(Numbers { total: 100_000 })
            .filter(|n| n % 2 == 0)
            .rebalance()
            .map(|n| n * 2)
            .add_sink(sum.clone());
        let summary = env.execute().unwrap();
        assert_eq!(summary.outcome, "finished");
        assert_eq!(summary.source_records(), 100_000);
        assert_eq!(sum.rows.load(Ordering::Relaxed), 50_000);
        let expected: u64 = (0..100_000u64).filter(|n| n % 2 == 0).map(|n| n * 2).sum();
        assert_eq!(sum.sum.load(Ordering::Relaxed), expected);
    }
}

#[test]
fn a_finished_job_restores_as_finished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let run = |restore: bool| {
        let sum = Sum::default();
        let env = Env::new("numbers").parallelism(2).checkpoint_every(Duration::from_millis(20));
        env.add_source(Numbers { total: 10_000 }).shared().stream().add_sink(sum.clone());
        let mut flags = vec!["--checkpoint-dir", path];
        if restore {
            flags.extend(["--restore", "latest"]);
        }
        let summary = env.execute_with(&flags).unwrap();
        assert!(summary.last_checkpoint.is_some());
        sum.rows.load(Ordering::Relaxed)
    };
    assert_eq!(run(false), 10_000);
    assert_eq!(run(true), 0);
}

/// Only subtask 0 has a split. All end when enough windows have fired.
#[derive(Clone)]
struct OneSplit {
    fired: Arc<AtomicU64>,
}

struct OneSplitReader {
    next: Option<i64>,
    fired: Arc<AtomicU64>,
}

impl Source for OneSplit {
    type Item = u64;
    type Reader = OneSplitReader;
    fn open(&self, cx: &SourceContext) -> Result<OneSplitReader> {
        Ok(OneSplitReader { next: (cx.subtask == 0).then_some(0), fired: self.fired.clone() })
    }
    fn name(&self) -> String {
        "one split".into()
    }
}

impl SourceReader for OneSplitReader {
    type Item = u64;
    fn poll<O: Emit<u64>>(&mut self, out: &mut O) -> Result<Polled> {
        if self.fired.load(Ordering::Relaxed) >= 50 {
            return Ok(Polled::End);
        }
        if let Some(next) = &mut self.next {
            out.split(0);
            out.emit(7, *next);
            *next += 1;
        }
        Ok(Polled::Idle { until: None })
    }
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(vec![self.next.unwrap_or(-1).to_le_bytes().to_vec()])
    }
}

/// A subtask without a split is idle from the start: windows fire long before 10 s, after which
/// a silent split is idle.
#[test]
fn a_subtask_without_a_split_holds_no_watermark_back() {
    let fired = Arc::new(AtomicU64::new(0));
    let counted = fired.clone();
    let env = Env::new("one split").parallelism(3);
    let time = tidemill::source_time();
    env.add_source_with(OneSplit { fired: fired.clone() }, time)
        .key_by::<u64, _>(|n| *n)
        .window(tidemill::Tumbling::of(Duration::from_millis(1)))
        .count()
        .inspect(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .add_sink(tidemill::connectors::DiscardSink);
    let summary = env.execute().unwrap();
    assert!(summary.running_us < 8_000_000, "{summary:?}");
    assert!(fired.load(Ordering::Relaxed) >= 50);
}
