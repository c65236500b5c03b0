//! Following a job: to its end, to its cancellation, to another parallelism.
//!
//! Invariants
//!   G1  A JobManager that is away for a while ends no following: jobs go on without it.
//!   G2  Nothing is written to standard output while something is followed, but what was asked for.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::lists::event_time;
use super::{Asker, LOOK_EVERY};
use crate::exit::{self, Failure};
use crate::show::{self, count, field};

/// A JobManager that is away for longer is not waited for.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Between two lines where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Statuses of jobs that are over.
fn is_over(status: &str) -> bool {
    matches!(status, "FINISHED" | "STOPPED" | "CANCELLED" | "FAILED")
}

/// Follows a job, its progress on standard error; the exit code tells how it ended.
///
/// # Errors
/// It cannot be followed any more.
pub(super) async fn to_the_end(asker: &Asker<'_>, id: &str) -> Result<ExitCode, Failure> {
    let mut line = Line::new();
    let mut rate = Rate::default();
    let follow = until(asker, id, |job| {
        line.show(&progress(job, rate.of(job)), &field(&job["status"]));
        is_over(&field(&job["status"]))
    });
    let job = tokio::select! {
        job = follow => job,
        _ = tokio::signal::ctrl_c() => {
            line.end();
            let look = format!("tidemill status {id} shows it, tidemill cancel {id} ends it");
            show::note(format_args!("the job goes on; {look}"));
            return Ok(ExitCode::from(exit::INTERRUPTED));
        }
    };
    line.end();
    let job = job?;
    if asker.wants_json() {
        show::json(&job)?;
    }
    Ok(end(&job))
}

/// Says how a job ended.
fn end(job: &Value) -> ExitCode {
    let status = field(&job["status"]);
    let took = job["ended_at_ms"].as_u64().zip(job["submitted_at_ms"].as_u64());
    let took = took.map_or(String::new(), |(end, start)| {
        format!(" after {}", show::duration(end.saturating_sub(start)))
    });
    let restarts = job["attempt"].as_u64().unwrap_or(0);
    let restarts = if restarts == 0 { String::new() } else { format!(", attempt {restarts}") };
    show::note(format_args!("{status}{took}{restarts}"));
    match status.as_str() {
        "FINISHED" | "STOPPED" => ExitCode::SUCCESS,
        "CANCELLED" => ExitCode::from(exit::CANCELLED),
        _ => {
            show::note(format_args!("error: {}", field(&job["cause"])));
            ExitCode::from(exit::FAILED)
        }
    }
}

/// Looks at a job until it is as wanted, and returns it (G1).
async fn until(
    asker: &Asker<'_>,
    id: &str,
    mut done: impl FnMut(&Value) -> bool,
) -> Result<Value, Failure> {
    let path = format!("/jobs/{id}");
    let mut heard = now();
    loop {
        match asker.client.get(&path).await {
            Ok(job) => {
                heard = now();
                if done(&job) {
                    return Ok(job);
                }
            }
            Err(e) if e.may_pass() && heard.elapsed() < AWAY_MAX => {}
            Err(e) => return Err(e),
        }
        sleep(LOOK_EVERY).await;
    }
}

fn now() -> Instant {
    Instant::now()
}

/// A line about a running job.
fn progress(job: &Value, rate: f64) -> String {
    let mut text = field(&job["status"]);
    let read = job["records_read"].as_u64().unwrap_or(0);
    text.push_str(&format!("  records {}  {}/s", count(read), count(rate.round().max(0.0) as u64)));
    if !job["watermark_ms"].is_null() {
        text.push_str(&format!("  watermark {}", event_time(&job["watermark_ms"])));
    }
    if !job["latest_checkpoint"].is_null() {
        text.push_str(&format!("  checkpoint {}", job["latest_checkpoint"]));
    }
    if job["attempt"].as_u64().is_some_and(|n| n > 0) {
        text.push_str(&format!("  attempt {}", job["attempt"]));
    }
    text
}

/// Records a second, over the last few looks.
#[derive(Default)]
struct Rate {
    seen: Vec<(Option<Instant>, u64)>,
}

impl Rate {
    fn of(&mut self, job: &Value) -> f64 {
        let read = job["records_read"].as_u64().unwrap_or(0);
        let at = now();
        // Counters are those of an attempt: a new one begins anew.
        if self.seen.last().is_some_and(|(_, last)| *last > read) {
            self.seen.clear();
        }
        self.seen.push((Some(at), read));
        if self.seen.len() > 20 {
            self.seen.remove(0);
        }
        match self.seen.first() {
            Some((Some(first), old)) if at > *first => {
                (read - old) as f64 / (at - *first).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// One line that is written over on a terminal; elsewhere lines, when the status changes and now and then.
struct Line {
    terminal: bool,
    written: Option<(Instant, String)>,
}

impl Line {
    fn new() -> Self {
        Line { terminal: std::io::stderr().is_terminal(), written: None }
    }

    fn show(&mut self, text: &str, status: &str) {
        let known = self.written.as_ref();
        if self.terminal {
            let mut stderr = std::io::stderr();
            let _ = write!(stderr, "\r\x1b[K{text}");
            let _ = stderr.flush();
        } else if known.is_none_or(|(at, old)| old != status || at.elapsed() >= LINE_EVERY) {
            show::note(text);
        } else {
            return;
        }
        self.written = Some((now(), status.to_owned()));
    }

    fn end(&self) {
        if self.terminal && self.written.is_some() {
            show::note("");
        }
    }
}

/// `tidemill cancel`.
pub(super) async fn cancel(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let id = asker.job().await?;
    let answer = asker.client.post(&format!("/jobs/{id}/cancel"), None).await?;
    if asker.detaches() {
        return asker.show(&answer, |job| format!("{id} is {}", field(&job["status"])));
    }
    let job = until(asker, &id, |job| is_over(&field(&job["status"]))).await?;
    asker.show(&job, |job| format!("{id} is {}", field(&job["status"])))
}

/// `tidemill rescale`.
pub(super) async fn rescale(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let id = asker.job().await?;
    let wanted = asker.matches.get_one::<u32>("PARALLELISM").copied().unwrap_or(1);
    let path = format!("/jobs/{id}/rescale");
    let exceptions = asker.client.get(&format!("/jobs/{id}/exceptions")).await?;
    let answer = asker.client.post(&path, Some(json!({ "parallelism": wanted }))).await?;
    if asker.detaches() {
        return asker.show(&answer, |a| format!("{id} is to have {} slots", a["slots"]));
    }
    let mut refused = None;
    let known = exceptions["exceptions"].as_array().map_or(0, Vec::len);
    loop {
        let at_it = |job: &Value| {
            let status = field(&job["status"]);
            (status == "RUNNING" && job["parallelism"] == wanted) || is_over(&status)
        };
        let mut looks = 0;
        let job = until(asker, &id, |job| {
            looks += 1;
            at_it(job) || looks > 5
        });
        let job = job.await?;
        if at_it(&job) {
            let code = if is_over(&field(&job["status"])) { end(&job) } else { ExitCode::SUCCESS };
            asker.show(&job, |job| {
                format!("{id} is {} with parallelism {}", field(&job["status"]), job["parallelism"])
            })?;
            return Ok(code);
        }
        // Why it did not come to it.
        let all = asker.client.get(&format!("/jobs/{id}/exceptions")).await?;
        let new = all["exceptions"].as_array().map_or(0, Vec::len).saturating_sub(known);
        for e in all["exceptions"].as_array().into_iter().flatten().take(new) {
            let message = field(&e["message"]);
            if message.starts_with("the job is not rescaled") {
                refused = Some(message);
            }
        }
        if let Some(why) = refused {
            return Err(Failure::new(exit::REFUSED, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_is_known() {
        let job = json!({"status": "RUNNING", "records_read": 1_200_000, "watermark_ms": 5,
                         "latest_checkpoint": 3, "attempt": 1});
        let text = progress(&job, 12_345.6);
        assert_eq!(
            text,
            "RUNNING  records 1,200,000  12,346/s  watermark 5 ms  checkpoint 3  attempt 1"
        );
        let bare = json!({"status": "SCHEDULING", "records_read": 0, "watermark_ms": null,
                          "latest_checkpoint": null, "attempt": 0});
        assert_eq!(progress(&bare, 0.0), "SCHEDULING  records 0  0/s");
    }
}
