//! A source that could do millions of records a second under a sink that takes a thousand: memory
//! stays flat, and the time is accounted for. Alone in its process, because it measures that.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemill::job::Summary;
use tidemill::{
    Emit, Env, Polled, Result, Sink, SinkContext, SinkWriter, Source, SourceContext, SourceReader,
};

/// Emits lines as fast as it may until told to end.
#[derive(Clone)]
struct Endless {
    end: Arc<AtomicBool>,
    emitted: Arc<AtomicU64>,
}

impl Source for Endless {
    type Item = String;
    type Reader = Endless;
    fn open(&self, _: &SourceContext) -> Result<Endless> {
        Ok(self.clone())
    }
    fn name(&self) -> String {
        "endless".into()
    }
}

impl SourceReader for Endless {
    type Item = String;
    fn poll<O: Emit<String>>(&mut self, out: &mut O) -> Result<Polled> {
        out.split(0);
        if self.end.load(Ordering::Relaxed) {
            return Ok(Polled::End);
        }
        self.emitted.fetch_add(out.remaining() as u64, Ordering::Relaxed);
        while out.remaining() > 0 {
            out.emit("a line of one hundred bytes, or so: it is long enough to fill buffers", 0);
        }
        Ok(Polled::More)
    }
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(vec![Vec::new()])
    }
}

/// Takes a millisecond for a record, until told to end.
#[derive(Clone)]
struct Slow {
    end: Arc<AtomicBool>,
    rows: Arc<AtomicU64>,
}

impl Sink<String> for Slow {
    type Writer = Slow;
    fn open(&self, _: &SinkContext) -> Result<Slow> {
        Ok(self.clone())
    }
    fn name(&self) -> String {
        "slow".into()
    }
}

impl SinkWriter<String> for Slow {
    #[expect(clippy::disallowed_methods, reason = "a sink that blocks is what is tested")]
    fn write(&mut self, _: &str, _: i64) -> Result<()> {
        self.rows.fetch_add(1, Ordering::Relaxed);
        if !self.end.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Resident memory of this process in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Seen {
    growth_kib: u64,
    emitted: u64,
    rows: u64,
    summary: Summary,
}

/// Runs for 4 s, of which the first is for warming up.
fn run(sources: u32, sinks: u32, checkpoints: Option<&std::path::Path>) -> Seen {
    let end = Arc::new(AtomicBool::new(false));
    let (emitted, rows) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let source = Endless { end: end.clone(), emitted: emitted.clone() };
    let sink = Slow { end: end.clone(), rows: rows.clone() };
    std::thread::scope(|scope| {
        let job = scope.spawn(move || {
            let env = Env::new("slow").parallelism(sources);
            let env = env.checkpoint_every(Duration::from_millis(200));
            let lines = env.add_source(source).rebalance().parallelism(sinks);
            lines.map(|l| l.to_owned()).add_sink(sink);
            let dir = checkpoints.map(|d| d.to_str().unwrap().to_owned());
            let flags: Vec<&str> = match &dir {
                Some(dir) => vec!["--checkpoint-dir", dir, "--aligned-timeout", "0s"],
                None => Vec::new(),
            };
            env.execute_with(&flags)
        });
        std::thread::park_timeout(Duration::from_secs(1));
        let (before, count) = (resident_kib(), rows.load(Ordering::Relaxed));
        std::thread::park_timeout(Duration::from_secs(3));
        let growth_kib = resident_kib().saturating_sub(before);
        let rows = rows.load(Ordering::Relaxed) - count;
        end.store(true, Ordering::Relaxed);
        let emitted = emitted.load(Ordering::Relaxed);
        Seen { growth_kib, emitted, rows, summary: job.join().unwrap().unwrap() }
    })
}

fn busy_ms(seen: &Seen, task: usize) -> u64 {
    seen.summary.tasks[task].busy_us / 1000
}

#[test]
fn memory_is_flat_under_a_slow_sink() {
    let dir = tempfile::tempdir().unwrap();
    let unaligned = dir.path();
    for (sources, sinks, dir) in [(1, 1, None), (2, 2, None), (2, 1, None), (1, 2, Some(unaligned))]
    {
        let seen = run(sources, sinks, dir);
        let what = format!("{sources} sources, {sinks} sinks: {:#?}", seen.summary);
        let (rows, emitted) = (seen.rows, seen.emitted);
        eprintln!("{sources} -> {sinks}: {rows} rows, +{} KiB", seen.growth_kib);
        assert_eq!(seen.summary.outcome, "finished", "{what}");
        assert!(rows > 300 && rows <= 3_100 * u64::from(sinks), "{rows} rows, {what}");
        // No more than the channels' buffers hold, however late they were touched first. Without
        // backpressure it would be hundreds of MiB.
        assert!(seen.growth_kib < 16 << 10, "grew by {} KiB, {what}", seen.growth_kib);
        // What is ahead of the sink fits into the channels' buffers.
        let ahead_bytes = (emitted - rows.min(emitted)) * 100;
        assert!(ahead_bytes < 16 << 20, "{emitted} records emitted for {rows}, {what}");
        assert!(busy_ms(&seen, 1) > 2_000, "the sink works all the time: {what}");
        assert!(busy_ms(&seen, 0) < 1_500, "the source waits: {what}");
        if sources > sinks {
            // One of the sources has a slot of its own, and nothing to write into.
            let blocked = seen.summary.tasks[0].backpressured_us / 1000;
            assert!(blocked > 2_000, "{blocked} ms backpressured, {what}");
        }
        if dir.is_some() {
            // A run of records in the sink takes half a second, and a checkpoint waits for its end.
            let checkpoints = seen.summary.checkpoints;
            assert!(checkpoints >= 3, "{checkpoints} unaligned checkpoints, {what}");
        }
    }
}
