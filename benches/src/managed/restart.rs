//! The JobManager is killed and started again: what the data plane feels of it.

use super::cluster::Job;
use super::statistics::{summary, table};
use super::{Managed, Settings, broken};
use crate::cluster::monotonic;
use serde_json::{Value, json};
use std::time::Duration;
use tidemill::Result;
use tidemill_base::Micros;

/// How long the JobManager is away, and how long is looked at before that and after it is back.
const AWAY: Duration = Duration::from_secs(2);
const BESIDE: Duration = Duration::from_secs(3);

/// Records of a time, at all sinks.
#[derive(Clone, Copy, Debug)]
struct Flow {
    per_second: f64,
    /// The longest time in which a sink had no record, in milliseconds.
    gap: f64,
}

/// Kills and restarts it `times` times. The line, and a table for people.
///
/// # Errors
/// When the job does not go on.
pub fn jobmanager_restart(settings: &Settings, times: usize) -> Result<(Value, String)> {
    let mut cluster = Managed::start(settings.clone())?;
    let job = cluster.submit()?;
    let (mut before, mut meanwhile, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        checkpoint(&cluster, &job)?;
        before.push(flow(&cluster, &job, pause(BESIDE))?);
        let at = monotonic();
        cluster.kill_manager();
        pause(AWAY);
        let restarted = monotonic();
        cluster.restart_manager()?;
        cluster.until("the job is found", |c| {
            // Before it listens and leads it refuses.
            Ok(c.of(&job, "").ok().map(|_| ()))
        })?;
        checkpoint(&cluster, &job)?;
        back.push((monotonic() - restarted) as f64 / 1e3);
        meanwhile.push(flow(&cluster, &job, at)?);
    }
    let head = cluster.of(&job, "")?;
    if head["attempt"] != 0 {
        return Err(broken(format!("the job was restarted: {head}")));
    }
    cluster.end(&job)?;
    let of =
        |flows: &[Flow], get: fn(&Flow) -> f64| -> Vec<f64> { flows.iter().map(get).collect() };
    let rows = [
        ("records/s before", of(&before, |f| f.per_second)),
        ("records/s from the kill to the next checkpoint", of(&meanwhile, |f| f.per_second)),
        ("longest gap at a sink before, ms", of(&before, |f| f.gap)),
        ("longest gap at a sink from the kill on, ms", of(&meanwhile, |f| f.gap)),
        ("JobManager started to a checkpoint complete, ms", back),
    ];
    let line = json!({
        "benchmark": "jobmanager-restart",
        "keys": settings.keys,
        "rate": settings.rate,
        "restarts": times,
        "before_per_s": summary(&rows[0].1),
        "meanwhile_per_s": summary(&rows[1].1),
        "gap_before_ms": summary(&rows[2].1),
        "gap_meanwhile_ms": summary(&rows[3].1),
        "checkpoint_after_ms": summary(&rows[4].1),
    });
    Ok((line, table("the JobManager is killed, away for 2 s", &rows)))
}

/// Lets time pass; when it began.
fn pause(time: Duration) -> Micros {
    let begun = monotonic();
    let end = begun + time.as_micros() as Micros;
    while monotonic() < end {
        std::thread::park_timeout(Duration::from_micros(end.saturating_sub(monotonic())));
    }
    begun
}

/// Waits for a checkpoint that begins from now on.
fn checkpoint(cluster: &Managed, job: &Job) -> Result<()> {
    let newest =
        |c: &Managed| Ok::<_, tidemill::Error>(c.of(job, "")?["latest_checkpoint"].as_u64());
    let now = newest(cluster)?;
    cluster.until("the next checkpoint", |c| Ok((newest(c)? > now).then_some(())))
}

/// What sinks have told since `from`.
fn flow(cluster: &Managed, job: &Job, from: Micros) -> Result<Flow> {
    let beats = cluster.beats.heard(|b| b.run == job.run && b.last_us >= from);
    let last = beats.iter().map(|b| b.last_us).max();
    let last = last.ok_or_else(|| broken("the sinks are silent"))?;
    let records: u64 = beats.iter().map(|b| b.records).sum();
    // A sink that has nothing any more tells nothing.
    let silent = (0..2).map(|subtask| {
        let own = beats.iter().filter(|b| b.subtask == subtask);
        monotonic() - own.map(|b| b.last_us).max().unwrap_or(from)
    });
    let gap = beats.iter().map(|b| b.gap_us).chain(silent).max().unwrap_or(0);
    Ok(Flow {
        per_second: records as f64 * 1e6 / (last - from).max(1) as f64,
        gap: gap as f64 / 1e3,
    })
}
