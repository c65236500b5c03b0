//! Jobs that are scraped while they run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod exposition;

use exposition::{Scrape, parse};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemill::{Env, RestartStrategy, Result};
use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};
use tidemill_runtime::source::{Emit, Polled, Source, SourceContext, SourceReader};

/// What a test and its job tell each other.
#[derive(Clone, Default)]
struct Shared {
    /// The source has nothing more after its records.
    end: Arc<AtomicBool>,
    /// Subtasks of the source that were opened.
    opened: Arc<AtomicU64>,
    /// Records that reached the sink.
    rows: Arc<AtomicU64>,
    /// Microseconds that the sink takes for a record.
    pace_us: Arc<AtomicU64>,
}

/// Emits `total` records a subtask, then waits for the end; each subtask skips 3 records.
#[derive(Clone)]
struct Numbers {
    name: &'static str,
    total: u64,
    shared: Shared,
}

struct NumbersReader {
    next: u64,
    source: Numbers,
}

impl Source for Numbers {
    type Item = u64;
    type Reader = NumbersReader;
    fn open(&self, cx: &SourceContext) -> Result<NumbersReader> {
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        cx.context.metrics.malformed_skipped.add(3);
        let next = match &cx.restored {
            Some(splits) => u64::from_le_bytes(splits[0][..8].try_into().unwrap()),
            None => 0,
        };
        Ok(NumbersReader { next, source: self.clone() })
    }
    fn name(&self) -> String {
        self.name.into()
    }
}

impl SourceReader for NumbersReader {
    type Item = u64;
    fn poll<O: Emit<u64>>(&mut self, out: &mut O) -> Result<Polled> {
        out.split(0);
        let end = self.source.shared.end.load(Ordering::Relaxed);
        while out.remaining() > 0 {
            if self.next >= self.source.total {
                out.watermark(0, self.next as i64);
                return Ok(if end { Polled::End } else { Polled::Idle { until: None } });
            }
            out.emit(self.next, self.next as i64);
            self.next += 1;
        }
        Ok(if end && self.source.total == u64::MAX { Polled::End } else { Polled::More })
    }
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(vec![self.next.to_le_bytes().to_vec()])
    }
}

impl Sink<u64> for Shared {
    type Writer = Shared;
    fn open(&self, _: &SinkContext) -> Result<Shared> {
        Ok(self.clone())
    }
    fn name(&self) -> String {
        "rows".into()
    }
}

impl SinkWriter<u64> for Shared {
    fn write(&mut self, _: u64, _: i64) -> Result<()> {
        self.rows.fetch_add(1, Ordering::Relaxed);
        match self.pace_us.load(Ordering::Relaxed) {
            0 => {}
            pace => std::thread::park_timeout(Duration::from_micros(pace)),
        }
        Ok(())
    }
}

/// A port that was free a moment ago.
fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn scrape(addr: SocketAddr) -> Option<Scrape> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    Some(parse(body))
}

/// Scrapes again and again until it is as wished.
fn scrape_until(addr: SocketAddr, wish: &str, done: impl Fn(&Scrape) -> bool) -> Scrape {
    for _ in 0..600 {
        if let Some(found) = scrape(addr).filter(|s| done(s)) {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let found = scrape(addr).map(|s| s.samples);
    panic!("{wish}: not within 30 s: {found:#?}");
}

/// Runs a job on a thread of its own while `watch` looks at it; `watch` sets `shared.end`.
fn run(
    shared: &Shared,
    addr: SocketAddr,
    flags: &[&str],
    compose: impl FnOnce() -> Env + Send,
    watch: impl FnOnce(),
) -> tidemill::job::Summary {
    let addr = addr.to_string();
    std::thread::scope(|scope| {
        let job = scope.spawn(|| {
            let mut all = vec!["--metrics-addr", &addr];
            all.extend(flags);
            compose().execute_with(&all)
        });
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(watch));
        // Without this a failed assertion would wait for a job that never ends.
        shared.pace_us.store(0, Ordering::Relaxed);
        shared.end.store(true, Ordering::Relaxed);
        let summary = job.join().unwrap().unwrap();
        watched.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        summary
    })
}

const HOSTILE: &str = "a\"} 1\nevil_total{x=\"\\";

#[test]
fn a_scrape_tells_what_the_job_did() {
    let (shared, addr) = (Shared::default(), free_addr());
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--checkpoint-dir", dir.path().to_str().unwrap()];
    let compose = || {
        let env = Env::new(HOSTILE).parallelism(2).checkpoint_every(Duration::from_millis(100));
        env.add_source(Numbers { name: HOSTILE, total: 10_000, shared: shared.clone() })
            .rebalance()
            .map(|n| n + 1)
            .add_sink(shared.clone());
        env
    };
    let watch = || {
        let first = scrape_until(addr, "all rows, a checkpoint and rates", |s| {
            s.sum("records_processed_total", "rows") == Some(20_000.0)
                && s.sum("tidemill_job_checkpoints_completed_total", "") >= Some(2.0)
                && s.sum("tidemill_current_watermark_timestamp_seconds", "rows") == Some(20.0)
                // Not the second in which the slots started.
                && rates(s) >= 3990.0
        });
        check_counts(&first);
        check_times(&first);
        let more = first.sum("tidemill_job_last_completed_epoch", "").unwrap() + 2.0;
        let second = scrape_until(addr, "another checkpoint", |s| {
            s.sum("tidemill_job_last_completed_epoch", "") >= Some(more)
        });
        second.assert_follows(&first);
        assert_eq!(second.sum("records_processed_total", "rows"), Some(20_000.0));
    };
    let summary = run(&shared, addr, &flags, compose, watch);
    assert_eq!(shared.rows.load(Ordering::Relaxed), 20_000);
    assert_eq!(summary.outcome, "finished");
    assert!(TcpStream::connect(addr).is_err(), "the server ends with the job");
}

fn check_counts(s: &Scrape) {
    for sample in s.samples.iter().filter(|s| s.labels.contains_key("subtask")) {
        let labels: Vec<_> = sample.labels.keys().filter(|k| *k != "le").collect();
        assert_eq!(labels, ["job", "subtask", "task"], "{sample:?}");
        assert_eq!(sample.labels["job"], HOSTILE);
    }
    let source = "evil_total";
    assert_eq!(s.sum("records_processed_total", source), Some(20_000.0));
    assert_eq!(s.sum("tidemill_records_in_total", source), Some(20_000.0));
    assert_eq!(s.sum("tidemill_records_out_total", source), Some(20_000.0));
    assert_eq!(s.sum("tidemill_records_in_total", "rows"), Some(20_000.0));
    assert_eq!(s.sum("tidemill_records_out_total", "rows"), Some(20_000.0));
    assert_eq!(s.sum("tidemill_bytes_in_total", source), Some(0.0));
    let bytes = s.sum("tidemill_bytes_out_total", source).unwrap();
    assert!(bytes >= 20_000.0 * 8.0, "{bytes} bytes");
    assert_eq!(s.sum("tidemill_bytes_in_total", "rows"), Some(bytes));
    assert_eq!(s.sum("tidemill_malformed_records_skipped_total", source), Some(6.0));
    assert_eq!(s.sum("tidemill_late_records_dropped_total", ""), Some(0.0));
    assert_eq!(s.sum("processing_latency_seconds_count", source), None);
    assert_eq!(s.sum("processing_latency_seconds_count", "rows"), Some(20_000.0));
    assert!(s.sum("processing_latency_seconds_sum", "rows") > Some(0.0));

    // The position of each source is 8 bytes; the others have no state.
    assert_eq!(s.sum("tidemill_checkpoint_size_bytes", source), Some(16.0));
    assert_eq!(s.sum("tidemill_checkpoint_size_bytes", "rows"), Some(0.0));
    assert!(s.sum("tidemill_job_checkpoint_size_bytes", "") >= Some(16.0));
    let whole = s.sum("tidemill_job_checkpoint_duration_seconds", "").unwrap();
    assert!(whole > 0.0 && whole < 30.0, "{whole} s");
    assert!(s.sum("tidemill_checkpoint_duration_seconds", "rows") > Some(0.0));
    let aligned = s.sum("tidemill_checkpoint_alignment_seconds", "rows").unwrap();
    assert!((0.0..60.0).contains(&aligned), "{aligned} s");
    assert!(s.sum("tidemill_checkpoints_acknowledged_total", "") >= Some(8.0));
    assert_eq!(s.sum("tidemill_job_attempts_total", ""), Some(1.0));
    assert_eq!(s.sum("tidemill_job_restarts_total", ""), Some(0.0));
    assert_eq!(s.sum("tidemill_job_checkpoints_failed_total", ""), Some(0.0));
    assert!(s.sum("tidemill_job_uptime_seconds", "") > Some(0.5));
    assert_eq!(s.sum("tidemill_build_info", ""), Some(1.0));
}

/// Milliseconds per second of all activities of all subtasks.
fn rates(s: &Scrape) -> f64 {
    let rate = |kind: &str| s.sum(&format!("tidemill_{kind}_ms_per_second"), "");
    ["busy", "idle", "backpressured", "ready"].into_iter().filter_map(rate).sum()
}

/// All four subtasks exist for the same time, and their activities fill it.
fn check_times(s: &Scrape) {
    let total = |kind: &str| s.sum(&format!("tidemill_{kind}_seconds_total"), "").unwrap();
    let all = total("busy") + total("idle") + total("backpressured") + total("ready");
    let uptime = s.sum("tidemill_job_uptime_seconds", "").unwrap();
    assert!(all > 2.0 && all <= 4.0 * uptime + 0.001, "{all} s of 4 x {uptime} s");
    assert!(rates(s) <= 4001.0, "{} ms/s", rates(s));
    let backpressured = s.sum("tidemill_backpressured_ms_per_second", "").unwrap();
    assert_eq!(s.sum("backpressure_ratio", ""), Some(backpressured / 1e3));
    assert!(s.sum("tidemill_idle_ms_per_second", "") > Some(2000.0), "there is nothing to do");
}

/// Both subtasks of the source feed one sink. One of them shares the sink's slot and keeps in step
/// with it, ready but not stepped; the other, on a slot of its own, runs out of buffers.
#[test]
fn a_slow_sink_shows_as_backpressure_upstream() {
    let (shared, addr) = (Shared::default(), free_addr());
    shared.pace_us.store(1_000, Ordering::Relaxed);
    let compose = || {
        let env = Env::new("slow").parallelism(2);
        env.add_source(Numbers { name: "endless", total: u64::MAX, shared: shared.clone() })
            .rebalance()
            .parallelism(1)
            .add_sink(shared.clone());
        env
    };
    let watch = || {
        let s = scrape_until(addr, "backpressure", |s| {
            s.sum("backpressure_ratio", "endless") > Some(0.9)
                && s.sum("tidemill_busy_ms_per_second", "rows") > Some(900.0)
        });
        assert!(s.sum("tidemill_backpressured_ms_per_second", "endless") > Some(900.0));
        assert!(s.sum("backpressure_ratio", "rows") < Some(0.1));
        assert!(s.sum("tidemill_busy_ms_per_second", "endless") < Some(200.0));
    };
    run(&shared, addr, &[], compose, watch);
}

#[test]
fn restarts_are_counted_and_series_go_on() {
    let (shared, addr) = (Shared::default(), free_addr());
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--checkpoint-dir", dir.path().to_str().unwrap()];
    let (source, sink, failed) = (shared.clone(), shared.clone(), Arc::new(AtomicBool::new(false)));
    let compose = move || {
        let env = Env::new("restarted")
            .parallelism(1)
            .checkpoint_every(Duration::from_millis(50))
            .restart(RestartStrategy::FixedDelay { attempts: 1, delay_us: 1_000 });
        env.add_source(Numbers { name: "numbers", total: 1_000, shared: source })
            .rebalance()
            .map(move |n| {
                assert!(n < 500 || failed.swap(true, Ordering::Relaxed), "once, on purpose");
                n
            })
            .add_sink(sink);
        env
    };
    let watch = || {
        let s = scrape_until(addr, "all records after a restart", |s| {
            s.sum("tidemill_job_restarts_total", "") == Some(1.0)
                && s.sum("tidemill_job_checkpoints_completed_total", "") >= Some(1.0)
        });
        assert_eq!(s.sum("tidemill_job_attempts_total", ""), Some(2.0));
        let subtasks = s.samples.iter().filter(|s| s.name == "records_processed_total").count();
        assert_eq!(subtasks, 2, "the subtasks of the first attempt are gone");
    };
    let summary = run(&shared, addr, &flags, compose, watch);
    assert_eq!(summary.restarts, 1);
}

#[test]
fn an_address_that_cannot_be_had_fails_before_the_job_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (addr, word) in [(taken.as_str(), "in use"), ("0.0.0.0:0", "--insecure")] {
        let shared = Shared::default();
        let env = Env::new("none");
        env.add_source(Numbers { name: "numbers", total: 1, shared: shared.clone() })
            .add_sink(shared.clone());
        let error = env.execute_with(&["--metrics-addr", addr]).unwrap_err().to_string();
        assert!(error.contains(addr) && error.contains(word), "{error}");
        assert_eq!(shared.opened.load(Ordering::Relaxed), 0);
    }
    let env = Env::new("none");
    let error = env.execute_with(&["--metrics-addr", "9249"]).unwrap_err().to_string();
    assert!(error.contains("HOST:PORT"), "{error}");
}
