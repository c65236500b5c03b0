//! A fast source and a slow one that meet in a window: the fast one waits, so that few windows are
//! open at any time, and what comes out is the same.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tidemill::connectors::{CollectSink, GeneratorSource};
use tidemill::{
    Emit, Env, Polled, RestartStrategy, Result, Source, SourceContext, SourceReader, Tumbling,
    event_time,
};

/// Records of the slow source; the fast one has as many a millisecond of event time.
const SLOW: u64 = 4_000;
const TOTAL: u64 = 3 * SLOW;
const WINDOW_MS: i64 = 10;
const MAX_SKEW_MS: i64 = 100;

/// The greatest event time of each source, and the greatest distance between them.
#[derive(Clone, Default)]
struct Distance {
    at: [Arc<AtomicI64>; 2],
    most: Arc<AtomicI64>,
}

impl Distance {
    fn note(&self, source: usize, at: i64) {
        self.at[source].fetch_max(at, Ordering::Relaxed);
        let [slow, fast] = [0, 1].map(|i| self.at[i].load(Ordering::Relaxed));
        // Ended sources hold nobody back.
        if slow < SLOW as i64 - 1 {
            self.most.fetch_max(fast - slow, Ordering::Relaxed);
        }
    }
}

/// Runs the job; what it counted, and how far the fast source was ahead.
fn run(job: Option<Duration>, source: Option<Duration>) -> (Vec<(u64, i64, i64, u64)>, i64) {
    let env = Env::new("skewed").parallelism(2).restart(RestartStrategy::None).max_skew(job);
    let distance = Distance::default();
    let out = CollectSink::new();
    let strategy = || {
        let strategy = event_time(|r: (u64, i64)| r.1).watermark_every(16);
        match source {
            Some(max_skew) => strategy.max_skew(max_skew),
            None => strategy,
        }
    };
    let slow = GeneratorSource::new(Some(SLOW), |i| (i % 7, i as i64)).rate(4_000.0);
    let fast = GeneratorSource::new(Some(TOTAL), |i| (i % 7, i as i64 / 3));
    let (notes, noted) = (distance.clone(), distance.clone());
    let slow = env.add_source_with(slow, strategy()).inspect(move |r, _| notes.note(0, r.1));
    let fast = env.add_source_with(fast, strategy()).inspect(move |r, _| noted.note(1, r.1));
    slow.union(fast)
        .key_by::<u64, _>(|r| r.0)
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
        .with_window()
        .count()
        .add_sink(out.sink());
    env.execute().unwrap();
    let mut rows = out.take();
    rows.sort_unstable();
    (rows, distance.most.load(Ordering::Relaxed))
}

fn oracle() -> Vec<(u64, i64, i64, u64)> {
    let slow = (0..SLOW).map(|i| (i % 7, i as i64));
    let fast = (0..TOTAL).map(|i| (i % 7, i as i64 / 3));
    let mut counts = BTreeMap::new();
    for (key, at) in slow.chain(fast) {
        let start = at - at % WINDOW_MS;
        *counts.entry((key, start)).or_insert(0) += 1;
    }
    counts.into_iter().map(|((key, start), n)| (key, start, start + WINDOW_MS, n)).collect()
}

#[test]
fn a_source_that_is_ahead_waits_for_the_slowest() {
    let limit = Some(Duration::from_millis(MAX_SKEW_MS as u64));
    let wanted = oracle();
    let (rows, ahead) = run(None, None);
    assert!(rows == wanted, "{} rows, not {}", rows.len(), wanted.len());
    assert!(ahead > 10 * MAX_SKEW_MS, "without a limit it runs ahead, {ahead} ms");
    for (job, source) in [(limit, None), (None, limit), (Some(Duration::from_secs(9)), limit)] {
        let (rows, ahead) = run(job, source);
        assert!(rows == wanted, "{} rows, not {}", rows.len(), wanted.len());
        // Beyond the limit by what one poll reads, and what the slow one reads in one.
        assert!(ahead <= 2 * MAX_SKEW_MS, "{ahead} ms ahead, limits {job:?}, {source:?}");
    }
}

/// Two splits in one subtask, of which one comes ten times as far with each record.
#[derive(Clone)]
struct Uneven;

struct UnevenReader([u64; 2]);

impl Source for Uneven {
    type Item = (u64, i64);
    type Reader = UnevenReader;

    fn open(&self, _: &SourceContext) -> Result<UnevenReader> {
        Ok(UnevenReader([0, 0]))
    }
    fn name(&self) -> String {
        "uneven".into()
    }
}

impl SourceReader for UnevenReader {
    type Item = (u64, i64);

    fn poll<O: Emit<(u64, i64)>>(&mut self, out: &mut O) -> Result<Polled> {
        let ends = [SLOW, SLOW / 10];
        (0..2).for_each(|split| out.split(split));
        let mut any = false;
        for split in 0..2 {
            let (next, end) = (self.0[split], ends[split]);
            if next == end || out.remaining() == 0 || out.is_ahead(split) {
                continue;
            }
            out.split(split);
            out.emit((split as u64, next as i64 * [1, 10][split]), 0);
            self.0[split] += 1;
            any = true;
            if next + 1 == end {
                out.split_ended(split);
            }
        }
        Ok(match any {
            true => Polled::More,
            false if self.0 == ends => Polled::End,
            false => Polled::Idle { until: None },
        })
    }
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(vec![Vec::new()])
    }
}

#[test]
fn splits_of_one_subtask_keep_together() {
    for max_skew in [None, Some(MAX_SKEW_MS)] {
        let limit = max_skew.map(|ms| Duration::from_millis(ms as u64));
        let env = Env::new("uneven").restart(RestartStrategy::None).max_skew(limit);
        let (distance, out) = (Distance::default(), CollectSink::new());
        let noted = distance.clone();
        env.add_source_with(Uneven, event_time(|r: (u64, i64)| r.1).watermark_every(4))
            .inspect(move |r, _| noted.note(r.0 as usize, r.1))
            .add_sink(out.sink());
        env.execute().unwrap();
        let mut rows = out.take();
        rows.sort_unstable();
        let slow = (0..SLOW).map(|n| (0, n as i64));
        let wanted: Vec<_> = slow.chain((0..SLOW / 10).map(|n| (1, n as i64 * 10))).collect();
        assert!(rows == wanted, "{} rows, not {}", rows.len(), wanted.len());
        let most = distance.most.load(Ordering::Relaxed);
        match max_skew {
            None => assert!(most > SLOW as i64 / 2, "{most} ms ahead without a limit"),
            // Beyond it by the record that it reads before it is too far.
            Some(max_skew) => assert!(most <= max_skew + 20, "{most} ms ahead"),
        }
    }
}

/// Sources that never meet do not wait for each other, nor for one without event time.
#[test]
fn only_sources_that_meet_wait() {
    let env = Env::new("apart").parallelism(2).max_skew(Some(Duration::from_millis(1)));
    let distance = Distance::default();
    let slow = GeneratorSource::new(Some(1_000), |i| (0u64, i as i64)).rate(1_000.0);
    let fast = GeneratorSource::new(Some(TOTAL), |i| (0u64, i as i64));
    let timeless = GeneratorSource::new(Some(1_000), |i| (0u64, i as i64)).rate(1_000.0);
    let strategy = || event_time(|r: (u64, i64)| r.1).watermark_every(16);
    let (notes, noted) = (distance.clone(), distance.clone());
    let (out, other) = (CollectSink::new(), CollectSink::new());
    let slow = env.add_source_with(slow, strategy()).inspect(move |r, _| notes.note(0, r.1));
    slow.add_sink(out.sink());
    let fast = env.add_source_with(fast, strategy()).inspect(move |r, _| noted.note(1, r.1));
    fast.union(env.add_source(timeless)).add_sink(other.sink());
    env.execute().unwrap();
    assert_eq!((out.take().len(), other.take().len()), (1_000, TOTAL as usize + 1_000));
    let ahead = distance.most.load(Ordering::Relaxed);
    assert!(ahead > TOTAL as i64 / 2, "{ahead} ms ahead");
}
