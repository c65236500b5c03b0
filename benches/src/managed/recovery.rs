//! SIGKILL of one of two workers with state: how long until it is noticed, until the state is back, and
//! until records are processed again.

use super::beacon::Beat;
use super::cluster::Job;
use super::statistics::{summary, table};
use super::{Managed, Settings, broken};
use crate::cluster::monotonic;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tidemill::Result;

/// Complete checkpoints before the kill.
const CHECKPOINTS: u64 = 2;

/// The part of the keys that the last of them must hold.
const FILLED: f64 = 0.99;

/// One kill, in milliseconds from it.
#[derive(Clone, Copy, Debug)]
struct Recovery {
    /// The attempt is failed.
    detected: f64,
    /// The next one is deployed: all processes there, the restart strategy's pause over.
    deployed: f64,
    /// All of its tasks run: state is restored.
    restored: f64,
    /// Its first record has arrived at a sink.
    resumed: f64,
    /// Records arrive at all sinks.
    all_resumed: f64,
    /// Keys in the checkpoint that it started from, and its size in bytes.
    keys: f64,
    bytes: f64,
}

/// Kills `times` workers, each of a job of its own. The line, and a table for people.
///
/// # Errors
/// When a job does not come back.
pub fn recovery(settings: &Settings, times: usize) -> Result<(Value, String)> {
    let cluster = Managed::start(settings.clone())?;
    let mut all = Vec::new();
    for time in 0..times {
        let job = cluster.submit()?;
        let one = kill(&cluster, &job, settings.keys, time as u32 % 2);
        all.push(one.map_err(|e| e.context(cluster.logs(&job)))?);
        cluster.end(&job)?;
    }
    let of = |get: fn(&Recovery) -> f64| -> Vec<f64> { all.iter().map(get).collect() };
    let rows = [
        ("detection", of(|r| r.detected)),
        ("deployed", of(|r| r.deployed)),
        ("restored", of(|r| r.restored)),
        ("resumed: first record at a sink", of(|r| r.resumed)),
        ("... at every sink", of(|r| r.all_resumed)),
    ];
    let line = json!({
        "benchmark": "recovery",
        "keys": settings.keys,
        "rate": settings.rate,
        "kills": times,
        "state_mib": summary(&of(|r| r.bytes / f64::from(1 << 20))),
        "keys_restored": summary(&of(|r| r.keys)),
        "detection_ms": summary(&rows[0].1),
        "deployed_ms": summary(&rows[1].1),
        "restored_ms": summary(&rows[2].1),
        "resumed_ms": summary(&rows[3].1),
        "all_resumed_ms": summary(&rows[4].1),
    });
    Ok((line, table("milliseconds from the kill", &rows)))
}

/// The wall clock, in milliseconds.
fn wall_ms() -> f64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn kill(cluster: &Managed, job: &Job, keys: u64, subtask: u32) -> Result<Recovery> {
    cluster.until("checkpoints with all keys", |c| {
        let newest = &c.of(job, "")?["checkpoints_completed"];
        let checkpoints = c.of(job, "/checkpoints")?;
        let records = checkpoints["latest"]["completed"]["records"].as_f64().unwrap_or(0.0);
        let ready = newest.as_u64() >= Some(CHECKPOINTS) && records >= FILLED * keys as f64;
        Ok(ready.then_some(()))
    })?;
    let process = cluster.beats.process_of(job.run, subtask)?;
    let pid = Pid::from_raw(process.cast_signed()).ok_or_else(|| broken("no process"))?;
    let (wall, at) = (wall_ms(), monotonic());
    kill_process(pid, Signal::KILL).map_err(broken)?;
    let first = |subtask: u32| {
        let next = |b: &Beat| b.run == job.run && b.attempt > 0 && b.subtask == subtask;
        let beat = cluster.first_beat("after the kill", next)?;
        Ok::<_, tidemill::Error>((beat.first_us - at) as f64 / 1e3)
    };
    let (one, other) = (first(0)?, first(1)?);
    let history = cluster.until("the attempt runs", |c| {
        let detail = c.of(job, "")?;
        Ok((detail["status"] == "RUNNING" && detail["attempt"] == 1).then_some(detail))
    })?;
    let exceptions = cluster.of(job, "/exceptions")?;
    let checkpoints = cluster.of(job, "/checkpoints")?;
    // Times in the history are cut to milliseconds.
    let after = |ms: &Value| ms.as_f64().map(|ms| (ms + 0.5 - wall).max(0.0));
    let last = |status: &str| {
        let entries = history["history"].as_array()?;
        after(&entries.iter().rev().find(|entry| entry["status"] == status)?["at_ms"])
    };
    let detected = exceptions["exceptions"].as_array().and_then(|e| after(&e.last()?["at_ms"]));
    let missing = || broken(format!("the history is not whole: {history} {exceptions}"));
    let size = |of: &str| restored_from(&history, &checkpoints, of).ok_or_else(missing);
    Ok(Recovery {
        detected: detected.ok_or_else(missing)?,
        deployed: last("DEPLOYING").ok_or_else(missing)?,
        restored: last("RUNNING").ok_or_else(missing)?,
        resumed: one.min(other),
        all_resumed: one.max(other),
        keys: size("records")?,
        bytes: size("size_bytes")?,
    })
}

/// A number of the checkpoint that the attempt started from: the newest that was complete by then.
fn restored_from(history: &Value, checkpoints: &Value, of: &str) -> Option<f64> {
    let deployed = history["history"].as_array()?.iter().rev();
    let at = deployed.clone().find(|e| e["status"] == "DEPLOYING")?["at_ms"].as_i64()?;
    let rows = checkpoints["history"].as_array()?;
    let known = |row: &&Value| {
        ["COMPLETED", "EXPIRED"].iter().any(|s| row["status"] == *s)
            && row["triggered_at_ms"].as_i64().is_some_and(|ms| ms < at)
    };
    rows.iter().find(known)?[of].as_f64()
}
