//! From submitting a program that the cluster knows to its first record at a sink.

use super::statistics::{summary, table};
use super::{Managed, Settings};
use crate::cluster::monotonic;
use serde_json::{Value, json};
use tidemill::Result;

/// Submits `times` jobs one after the other, after one that does not count. The line, and a table for
/// people.
///
/// # Errors
/// When a job does not start.
pub fn submit(settings: &Settings, times: usize) -> Result<(Value, String)> {
    let cluster = Managed::start(settings.clone())?;
    let (mut answered, mut first) = (Vec::new(), Vec::new());
    let mut cold = 0.0;
    for time in 0..=times {
        let at = monotonic();
        let job = cluster.submit()?;
        let accepted = (monotonic() - at) as f64 / 1e3;
        let beat = cluster.first_beat("after a submission", |beat| beat.run == job.run);
        let beat = beat.map_err(|e| e.context(cluster.logs(&job)))?;
        let started = (beat.first_us - at) as f64 / 1e3;
        if time == 0 {
            cold = started;
        } else {
            answered.push(accepted);
            first.push(started);
        }
        cluster.end(&job)?;
    }
    let line = json!({
        "benchmark": "submit",
        "submissions": times,
        "not_cached_ms": cold,
        "accepted_ms": summary(&answered),
        "first_record_ms": summary(&first),
    });
    let rows =
        [("accepted", answered), ("first record at a sink", first), ("... not cached", vec![cold])];
    Ok((line, table("milliseconds from the submission", &rows)))
}
