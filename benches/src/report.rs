//! The benchmark's output: one JSON line.

use crate::workloads::Run;
use serde_json::{Value, json};

/// The line for a run.
pub fn line(workload: &str, cores: u32, events: u64, run: &Run) -> Value {
    let seconds = run.summary.running_us as f64 / 1e6;
    let (rows, checksum) = run.tally.get();
    let mut line = json!({
        "workload": workload,
        "cores": cores,
        "events": events,
        "seconds": seconds,
        "events_per_s": (events as f64 / seconds).round(),
        "rows": rows,
        "checksum": format!("{checksum:016x}"),
        "allocations_per_event": run.allocations_after_warm_up,
        "peak_rss_mib": peak_rss_mib(),
        "longest_pause_ms": run.summary.longest_step_us as f64 / 1e3,
        "checkpoints": run.summary.checkpoints,
    });
    if let (Some(latencies), Some(object)) = (&run.latencies, line.as_object_mut()) {
        for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)] {
            let ms = latencies.percentile_us(percent) as f64 / 1e3;
            object.insert(format!("latency_{name}_ms"), json!(ms));
        }
    }
    line
}

/// The most memory that this process has had, in MiB; 0 where the kernel does not tell.
fn peak_rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
