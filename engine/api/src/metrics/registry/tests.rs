//! What a job's text says after each event.

use super::*;
use std::sync::Arc;
use tidemill_coordination::{AbortReason, EpochKind};

fn watched(task: usize, name: &str, subtask: u32, is_source: bool) -> Watched {
    Watched { task, name: name.into(), subtask, is_source, metrics: Arc::default() }
}

fn trigger(epoch: u64) -> Action {
    Action::Trigger { epoch, kind: EpochKind::Periodic, aligned_timeout_ms: None }
}

/// The number of the one sample that starts with this.
fn number(text: &str, start: &str) -> Option<f64> {
    let mut found = text.lines().filter(|l| l.starts_with(start));
    let line = found.next()?;
    assert_eq!(found.next(), None, "two lines start with {start}");
    Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[test]
fn a_checkpoint_is_completed_or_failed_once() {
    let job = JobMetrics::new("j", 1_000_000);
    job.attempt(1_000_000, None, &[]);
    let text = job.render(3_500_000);
    assert_eq!(number(&text, "tidemill_job_uptime_seconds{job=\"j\"}"), Some(2.5));
    assert_eq!(number(&text, "tidemill_job_last_completed_epoch{"), None);

    job.on(&trigger(1), 4_000_000);
    job.written(1, 777);
    job.written(9, 1);
    job.on(&Action::Commit { epoch: 1 }, 4_250_000);
    job.on(&Action::Commit { epoch: 1 }, 9_000_000);
    job.on(&trigger(2), 5_000_000);
    job.on(&Action::Abort { epoch: 2, reason: AbortReason::Cancelled }, 6_000_000);
    job.on(&Action::Abort { epoch: 2, reason: AbortReason::Cancelled }, 6_000_000);
    job.on(&trigger(3), 7_000_000);
    let text = job.render(8_000_000);
    assert_eq!(number(&text, "tidemill_job_last_completed_epoch{"), Some(1.0));
    assert_eq!(number(&text, "tidemill_job_checkpoints_completed_total{"), Some(1.0));
    assert_eq!(number(&text, "tidemill_job_checkpoints_failed_total{"), Some(1.0));
    assert_eq!(number(&text, "tidemill_job_checkpoint_duration_seconds{"), Some(0.25));
    assert_eq!(number(&text, "tidemill_job_checkpoint_size_bytes{"), Some(777.0));
    assert_eq!(number(&text, "tidemill_job_restarts_total{"), Some(0.0));

    // The attempt fails while checkpoint 3 is on its way.
    job.attempt(9_000_000, Some(1), &[]);
    let text = job.render(9_000_000);
    assert_eq!(number(&text, "tidemill_job_checkpoints_failed_total{"), Some(2.0));
    assert_eq!(number(&text, "tidemill_job_attempts_total{"), Some(2.0));
    assert_eq!(number(&text, "tidemill_job_restarts_total{"), Some(1.0));
    assert_eq!(number(&text, "tidemill_job_last_completed_epoch{"), Some(1.0));
}

#[test]
fn a_parked_subtask_is_idle_in_every_sampled_second() {
    let job = JobMetrics::new("j", 0);
    let w = watched(0, "t", 0, false);
    job.attempt(0, None, std::slice::from_ref(&w));
    w.metrics.enter(Activity::Busy, 0);
    w.metrics.enter(Activity::Idle, 250_000);
    assert!(!job.render(900_000).contains("ms_per_second"), "no full second yet");
    for second in 1..=3u64 {
        job.sample(second * 1_000_000);
        let text = job.render(second * 1_000_000 + 500_000);
        let idle = if second == 1 { 750.0 } else { 1000.0 };
        assert_eq!(number(&text, "tidemill_idle_ms_per_second{"), Some(idle));
        assert_eq!(number(&text, "tidemill_busy_ms_per_second{"), Some(1000.0 - idle));
        assert_eq!(number(&text, "backpressure_ratio{"), Some(0.0));
        let total = second as f64 + 0.25;
        assert_eq!(number(&text, "tidemill_idle_seconds_total{"), Some(total));
    }
}

#[test]
fn watermarks_have_a_beginning_and_an_end() {
    let job = JobMetrics::new("j", 0);
    let w = watched(0, "t", 0, false);
    job.attempt(0, None, std::slice::from_ref(&w));
    let name = "tidemill_current_watermark_timestamp_seconds{";
    assert_eq!(number(&job.render(0), name), None);
    w.metrics.watermark.set(1_700_000_000_123);
    assert_eq!(number(&job.render(0), name), Some(1_700_000_000.123));
    w.metrics.watermark.set(WATERMARK_MAX);
    assert!(job.render(0).contains("\"} +Inf\n"));
}

#[test]
fn no_two_subtasks_have_the_same_labels() {
    let names = ["a -> b", "a -> b", "a -> b #1", "c", "\0", "\r"];
    let watched: Vec<_> = names
        .iter()
        .enumerate()
        .flat_map(|(task, name)| (0..2).map(move |s| watched(task, name, s, task == 0)))
        .collect();
    let job = JobMetrics::new("\"\\\n", 0);
    job.attempt(0, None, &watched);
    let text = job.render(0);
    let mut series: Vec<&str> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.rsplit_once(' ').unwrap().0)
        .collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all, "a series appears twice:\n{text}");
    assert!(text.contains(r#"{job="\"\\\n",task="c",subtask="1"}"#));
    // Sources read no batches: only the others have a latency.
    assert_eq!(text.matches("processing_latency_seconds_count{").count(), 10);
}

#[test]
fn an_ended_attempt_is_not_busy() {
    let job = JobMetrics::new("j", 0);
    let w = watched(0, "t", 0, true);
    job.attempt(0, None, std::slice::from_ref(&w));
    w.metrics.enter(Activity::Busy, 0);
    job.ended(600_000);
    job.sample(30_000_000);
    assert_eq!(number(&job.render(40_000_000), "tidemill_busy_seconds_total{"), Some(0.6));
}

/// Everything that a job can tell stands in docs/metrics.md, and the dashboard asks for nothing
/// else.
#[test]
fn the_documentation_and_the_dashboard_know_the_names() {
    let job = JobMetrics::new("j", 0);
    let w = watched(0, "t", 0, false);
    w.metrics.watermark.set(1);
    job.attempt(0, None, &[w]);
    job.on(&trigger(1), 0);
    job.written(1, 1);
    job.on(&Action::Commit { epoch: 1 }, 1);
    job.sample(1_000_000);
    let text = job.render(1_000_000);
    let names: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE "))
        .map(|l| l.split(' ').next().unwrap())
        .collect();
    assert_eq!(names.len(), 9 + TASK_FAMILIES.len() + 4 + 5 + 1);
    let read = |path: &str| {
        std::fs::read_to_string(format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let docs = read("docs/metrics.md");
    for name in &names {
        assert!(docs.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
    }
    let words = |text: &str| -> Vec<String> {
        let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        let ours = |w: &&str| w.starts_with("tidemill_") || w.ends_with("_total");
        text.split(word).filter(ours).map(str::to_owned).collect()
    };
    let dashboard = read("deployment/grafana/dashboard.json");
    let _: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let (in_docs, in_dashboard) = (words(&docs), words(&dashboard));
    assert!(in_dashboard.len() > 10);
    for word in in_docs.iter().chain(&in_dashboard) {
        assert!(names.contains(&word.as_str()), "no metric is called {word}");
    }
}
