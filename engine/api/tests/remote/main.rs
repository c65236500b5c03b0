//! A job in two halves over loopback TCP: the same output as in one process, checkpoints that pass
//! under backpressure, and a clean failure when a connection breaks.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod cluster;

use cluster::{Cluster, Said};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemill::connectors::CollectSink;
use tidemill::{
    Emit, Env, Polled, Result, Sink, SinkContext, SinkWriter, Source, SourceContext, SourceReader,
};

const RECORDS: u64 = 200_000;

/// Numbers, each subtask its share; with `end`, for ever until it is set.
#[derive(Clone)]
struct Numbers {
    next: u64,
    step: u64,
    most: u64,
    padding: usize,
    end: Option<Arc<AtomicBool>>,
}

impl Numbers {
    fn up_to(most: u64) -> Self {
        Numbers { next: 0, step: 1, most, padding: 0, end: None }
    }
}

type Row = (u64, u64, String);

impl Source for Numbers {
    type Item = Row;
    type Reader = Numbers;
    fn open(&self, cx: &SourceContext) -> Result<Numbers> {
        Ok(Numbers { next: u64::from(cx.subtask), step: u64::from(cx.parallelism), ..self.clone() })
    }
    fn name(&self) -> String {
        "numbers".into()
    }
}

impl SourceReader for Numbers {
    type Item = Row;
    fn poll<O: Emit<Row>>(&mut self, out: &mut O) -> Result<Polled> {
        out.split(0);
        let ended = self.end.as_ref().is_some_and(|end| end.load(Ordering::Relaxed));
        let padding = "x".repeat(self.padding);
        while out.remaining() > 0 && self.next < self.most && !ended {
            out.emit((self.next % 1000, self.next, &padding), self.next as i64);
            self.next += self.step;
        }
        Ok(if self.next >= self.most || ended { Polled::End } else { Polled::More })
    }
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(vec![self.next.to_le_bytes().to_vec()])
    }
}

fn sums(source: &Numbers, sink: &CollectSink<(u64, u64)>, parallelism: u32) -> Env {
    let env = Env::new("sums").parallelism(parallelism);
    env.add_source(source.clone())
        .key_by::<u64, _>(|row| row.0)
        .sum(|row| row.1)
        .rebalance()
        .map(|(key, sum)| (key, sum))
        .add_sink(sink.sink());
    env
}

/// The last sum of each key, and the number of rows.
fn outcome(rows: Vec<(u64, u64)>) -> (BTreeMap<u64, u64>, usize) {
    let (mut last, n) = (BTreeMap::new(), rows.len());
    for (key, sum) in rows {
        let entry = last.entry(key).or_insert(0);
        *entry = sum.max(*entry);
    }
    (last, n)
}

fn expected() -> (BTreeMap<u64, u64>, usize) {
    let mut sums = BTreeMap::new();
    for i in 0..RECORDS {
        *sums.entry(i % 1000).or_insert(0) += i;
    }
    (sums, RECORDS as usize)
}

/// Tests of this file run one after the other: each has pinned threads for all CPUs.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn two_processes_compute_what_one_does() {
    let _alone = alone();
    for (slots, split) in [(2, 1), (4, 1), (3, 2)] {
        let source = Numbers { padding: slots as usize * 10, ..Numbers::up_to(RECORDS) };
        let sink = CollectSink::immediate();
        let (mut cluster, _wires) = Cluster::start(|| sums(&source, &sink, slots), split);
        cluster.finish();
        assert_eq!(outcome(sink.take()), expected(), "{slots} slots, {split} of them here");
    }
}

#[test]
fn large_records_cross() {
    let _alone = alone();
    let source = Numbers { padding: 3 << 20, ..Numbers::up_to(40) };
    let sink = CollectSink::immediate();
    let compose = || {
        let env = Env::new("large").parallelism(2);
        let rows = env.add_source(source.clone()).rebalance();
        rows.map(|(key, number, padding)| (key + padding.len() as u64, number))
            .add_sink(sink.sink());
        env
    };
    let (mut cluster, _wires) = Cluster::start(compose, 1);
    cluster.finish();
    let mut rows = sink.take();
    rows.sort_unstable();
    let want: Vec<(u64, u64)> = (0..40).map(|i| (i + (3 << 20), i)).collect();
    assert_eq!(rows, want);
}

/// Takes a while for a record, until told to end.
#[derive(Clone)]
struct Slow {
    end: Arc<AtomicBool>,
    rows: Arc<AtomicU64>,
}

impl Sink<Row> for Slow {
    type Writer = Slow;
    fn open(&self, _: &SinkContext) -> Result<Slow> {
        Ok(self.clone())
    }
    fn name(&self) -> String {
        "slow".into()
    }
}

impl SinkWriter<Row> for Slow {
    #[expect(clippy::disallowed_methods, reason = "a sink that blocks is what is tested")]
    fn write(&mut self, _: (u64, u64, &str), _: i64) -> Result<()> {
        self.rows.fetch_add(1, Ordering::Relaxed);
        if !self.end.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the job goes on meanwhile")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

struct Pressed {
    end: Arc<AtomicBool>,
    cluster: Cluster,
    wires: cluster::Wires,
}

/// A source that could do a hundred times what its sink takes, on the other side of a connection.
fn pressed() -> Pressed {
    let end = Arc::new(AtomicBool::new(false));
    let source = Numbers { end: Some(end.clone()), padding: 20, ..Numbers::up_to(u64::MAX) };
    let sink = Slow { end: end.clone(), rows: Arc::default() };
    let compose = || {
        let env = Env::new("pressed").parallelism(2);
        let rows = env.add_source(source.clone()).rebalance();
        rows.map(|(key, number, padding)| (key, number, padding.to_owned())).add_sink(sink.clone());
        env
    };
    let (cluster, wires) = Cluster::start(compose, 1);
    // Until every buffer is full.
    pause(Duration::from_secs(1));
    Pressed { end, cluster, wires }
}

#[test]
fn unaligned_barriers_pass_backpressure() {
    let _alone = alone();
    let mut job = pressed();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let checkpoint = job.cluster.checkpoint(Some(0), Duration::from_secs(20)).unwrap();
        eprintln!("unaligned: {checkpoint:?}");
        best = best.min(checkpoint.took);
        assert!(checkpoint.channel_state > 0, "{checkpoint:?}");
    }
    // The best of them: a machine that is busy with something else delays one or two.
    assert!(best < Duration::from_secs(2), "{best:?}");
    // One that turns unaligned after its timeout.
    let turned = job.cluster.checkpoint(Some(300_000), Duration::from_secs(20)).unwrap();
    eprintln!("after 300 ms: {turned:?}");
    let took = turned.took;
    assert!(took > Duration::from_millis(300) && took < Duration::from_secs(10), "{turned:?}");
    assert!(turned.channel_state > 0, "{turned:?}");
    // One that never does waits for thousands of records of five milliseconds each.
    let aligned = job.cluster.checkpoint(None, Duration::from_secs(3));
    assert!(aligned.is_none(), "{aligned:?}");
    job.end.store(true, Ordering::Relaxed);
    job.cluster.finish();
}

#[test]
fn a_cut_connection_fails_the_attempt_and_says_which() {
    let _alone = alone();
    let job = pressed();
    job.wires[0].shutdown(std::net::Shutdown::Both).unwrap();
    let mut failures = job.cluster.failures(2);
    failures.sort();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures[0].contains("slot 0 to slot 1 at 127.0.0.1:"), "{failures:?}");
    assert!(failures[1].contains("slot 1 to slot 0 at 127.0.0.1:"), "{failures:?}");
    job.end.store(true, Ordering::Relaxed);
    // The process survives: another attempt runs.
    let (source, sink) = (Numbers::up_to(1000), CollectSink::immediate());
    let (mut next, _wires) = Cluster::start(|| sums(&source, &sink, 2), 1);
    next.finish();
    assert_eq!(outcome(sink.take()).1, 1000);
}

#[test]
fn a_stopped_half_is_named_to_the_other() {
    let _alone = alone();
    let mut job = pressed();
    job.cluster.halves.remove(1).stop();
    let failures = job.cluster.failures(1);
    assert!(failures[0].contains("slot 0 to slot 1"), "{failures:?}");
    assert!(failures[0].contains("its worker was stopped"), "{failures:?}");
    job.end.store(true, Ordering::Relaxed);
    assert!(!matches!(job.cluster.said.try_recv(), Ok(Said::Failed(_))));
}
