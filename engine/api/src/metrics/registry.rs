//! What there is to tell of a job: the counters of the running attempt's subtasks, and what
//! the coordinating thread says of attempts and checkpoints.
//!
//! Invariants
//!   R1  No two subtasks have the same labels: tasks of the same name are told apart by number.
//!   R2  The attempt is no label: the series of a subtask go on over restarts, its counters start
//!       from zero again, as after a restart of the process.
//!   R3  A checkpoint that was triggered is counted as completed or failed, once.

use super::sampler::{Rates, Sampler};
use super::text::{Exposition, Kind, Labels, Value, printable};
use crate::job::Watched;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidemill_base::metrics::{Activity, ActivityTimes, LATENCY_BOUNDS_US, TaskMetrics};
use tidemill_base::{Micros, WATERMARK_MAX, WATERMARK_MIN};
use tidemill_coordination::Action;

#[cfg(test)]
mod tests;

/// A subtask of the running attempt.
struct Subtask {
    labels: Labels,
    watched: Watched,
    sampler: Sampler,
}

/// A checkpoint between trigger and commit.
struct InFlight {
    epoch: u64,
    triggered_at: Micros,
    bytes: Option<u64>,
}

#[derive(Default)]
struct State {
    attempts: u64,
    subtasks: Vec<Subtask>,
    in_flight: Vec<InFlight>,
    completed_epoch: Option<u64>,
    completed: u64,
    failed: u64,
    duration_us: Option<Micros>,
    bytes: Option<u64>,
}

/// The metrics of one job, over its attempts. The lock is taken by the coordinating thread a few
/// times a checkpoint, and by scrapes; never by a slot.
pub(crate) struct JobMetrics {
    job: Labels,
    started_at: Micros,
    state: Mutex<State>,
}

impl JobMetrics {
    /// A job that starts now.
    pub(crate) fn new(job: &str, now: Micros) -> Self {
        let job = Labels::default().with("job", &printable(job));
        JobMetrics { job, started_at: now, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole at each of its steps: what a panic leaves can be told.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt starts, from this checkpoint, with these subtasks.
    pub(crate) fn attempt(&self, now: Micros, restored: Option<u64>, watched: &[Watched]) {
        let tasks = task_names(watched);
        let mut state = self.state();
        state.attempts += 1;
        state.failed += state.in_flight.len() as u64;
        state.in_flight.clear();
        state.completed_epoch = restored.or(state.completed_epoch);
        let subtask = |w: &Watched| Subtask {
            labels: self.job.with("task", &tasks[&w.task]).with("subtask", &w.subtask.to_string()),
            watched: w.clone(),
            sampler: Sampler::new(now),
        };
        state.subtasks = watched.iter().map(subtask).collect();
    }

    /// The attempt's slots have stopped: while the job waits to start again, no subtask is busy.
    pub(crate) fn ended(&self, now: Micros) {
        for s in &self.state().subtasks {
            s.watched.metrics.enter(Activity::Finished, now);
        }
    }

    /// What the coordinator decided.
    pub(crate) fn on(&self, action: &Action, now: Micros) {
        let take = |state: &mut State, epoch: u64| {
            let at = state.in_flight.iter().position(|f| f.epoch == epoch)?;
            Some(state.in_flight.remove(at))
        };
        match *action {
            Action::Trigger { epoch, .. } => {
                self.state().in_flight.push(InFlight { epoch, triggered_at: now, bytes: None });
            }
            Action::Commit { epoch } => {
                let mut state = self.state();
                if let Some(f) = take(&mut state, epoch) {
                    state.completed += 1;
                    state.completed_epoch = Some(epoch);
                    state.duration_us = Some(now.saturating_sub(f.triggered_at));
                    state.bytes = f.bytes.or(state.bytes);
                }
            }
            Action::Abort { epoch, .. } => {
                let mut state = self.state();
                if take(&mut state, epoch).is_some() {
                    state.failed += 1;
                }
            }
            _ => {}
        }
    }

    /// The data of a checkpoint is written: this many bytes are needed to restore it.
    pub(crate) fn written(&self, epoch: u64, bytes: u64) {
        if let Some(f) = self.state().in_flight.iter_mut().find(|f| f.epoch == epoch) {
            f.bytes = Some(bytes);
        }
    }

    /// Samples the activities of all subtasks; once a second.
    pub(crate) fn sample(&self, now: Micros) {
        for s in &mut self.state().subtasks {
            s.sampler.sample(now, s.watched.metrics.times(now));
        }
    }

    /// Everything, as text.
    pub(crate) fn render(&self, now: Micros) -> String {
        let state = self.state();
        let mut out = Exposition::default();
        self.render_job(&state, now, &mut out);
        render_subtasks(&state, now, &mut out);
        out.finish()
    }

    /// What subtasks tell, as text: for a worker that has a part of the job.
    pub(crate) fn render_tasks(&self, now: Micros) -> String {
        let mut out = Exposition::default();
        render_subtasks(&self.state(), now, &mut out);
        out.finish()
    }

    /// For each subtask the shares of the last sampled second in which it was busy and without free
    /// output buffers, 0 to 1.
    pub(crate) fn rates(&self) -> Vec<(f64, f64)> {
        let share = |s: &Subtask| {
            let rates = s.sampler.rates().unwrap_or_default();
            (rates.busy / 1e3, rates.backpressured / 1e3)
        };
        self.state().subtasks.iter().map(share).collect()
    }

    fn render_job(&self, state: &State, now: Micros, out: &mut Exposition) {
        let version = Labels::default().with("version", env!("CARGO_PKG_VERSION"));
        let help = "Always 1; the version of the engine is a label.";
        out.family("tidemill_build_info", Kind::Gauge, help).sample(&version, Value::Count(1));
        let mut one = |name, kind, help, value: Option<Value>| {
            if let Some(value) = value {
                out.family(name, kind, help).sample(&self.job, value);
            }
        };
        one(
            "tidemill_job_uptime_seconds",
            Kind::Gauge,
            "Time since the job's start, restarts included.",
            Some(seconds(now.saturating_sub(self.started_at))),
        );
        one(
            "tidemill_job_attempts_total",
            Kind::Counter,
            "Attempts started, the first included.",
            Some(Value::Count(state.attempts)),
        );
        one(
            "tidemill_job_restarts_total",
            Kind::Counter,
            "Restarts after failures.",
            Some(Value::Count(state.attempts.saturating_sub(1))),
        );
        one(
            "tidemill_job_last_completed_epoch",
            Kind::Gauge,
            "The last complete checkpoint; missing before the first.",
            state.completed_epoch.map(Value::Count),
        );
        one(
            "tidemill_job_checkpoints_completed_total",
            Kind::Counter,
            "Checkpoints completed.",
            Some(Value::Count(state.completed)),
        );
        one(
            "tidemill_job_checkpoints_failed_total",
            Kind::Counter,
            "Checkpoints given up, or cut off by the end of their attempt.",
            Some(Value::Count(state.failed)),
        );
        one(
            "tidemill_job_checkpoint_duration_seconds",
            Kind::Gauge,
            "Last complete checkpoint: from the trigger until it was durable.",
            state.duration_us.map(seconds),
        );
        one(
            "tidemill_job_checkpoint_size_bytes",
            Kind::Gauge,
            "Last complete checkpoint: bytes needed to restore it.",
            state.bytes.map(Value::Count),
        );
    }
}

fn render_subtasks(state: &State, now: Micros, out: &mut Exposition) {
    for &(name, kind, help, value) in TASK_FAMILIES {
        let mut family = out.family(name, kind, help);
        for s in &state.subtasks {
            if let Some(value) = value(&s.watched.metrics) {
                family.sample(&s.labels, value);
            }
        }
    }
    render_times(state, now, out);
    render_latency(state, out);
}

fn seconds(micros: Micros) -> Value {
    Value::Number(micros as f64 / 1e6)
}

fn gauge_seconds(micros: i64) -> Option<Value> {
    Some(seconds(micros.max(0) as u64))
}

type TaskFamily = (&'static str, Kind, &'static str, fn(&TaskMetrics) -> Option<Value>);

/// What subtasks count, one number each.
const TASK_FAMILIES: &[TaskFamily] = &[
    ("records_processed_total", Kind::Counter, "Records that the subtask has taken in.", |m| {
        Some(Value::Count(m.records_in.get()))
    }),
    (
        "tidemill_records_in_total",
        Kind::Counter,
        "Records read from channels, or emitted by the source.",
        |m| Some(Value::Count(m.records_in.get())),
    ),
    (
        "tidemill_records_out_total",
        Kind::Counter,
        "Records written to channels, or by the sink.",
        |m| Some(Value::Count(m.records_out.get())),
    ),
    ("tidemill_bytes_in_total", Kind::Counter, "Bytes of batches read from channels.", |m| {
        Some(Value::Count(m.bytes_in.get()))
    }),
    (
        "tidemill_bytes_out_total",
        Kind::Counter,
        "Bytes of batches written to channels, or by a file sink or standard output.",
        |m| Some(Value::Count(m.bytes_out.get())),
    ),
    (
        "tidemill_late_records_dropped_total",
        Kind::Counter,
        "Records dropped because their window had closed.",
        |m| Some(Value::Count(m.late_dropped.get())),
    ),
    (
        "tidemill_malformed_records_skipped_total",
        Kind::Counter,
        "Records skipped by a source's or a format's error policy.",
        |m| Some(Value::Count(m.malformed_skipped.get())),
    ),
    (
        "tidemill_current_watermark_timestamp_seconds",
        Kind::Gauge,
        "Event time that the subtask has reached; missing before the first watermark, +Inf after the last record.",
        |m| match m.watermark() {
            WATERMARK_MIN => None,
            WATERMARK_MAX => Some(Value::Number(f64::INFINITY)),
            ms => Some(Value::Number(ms as f64 / 1e3)),
        },
    ),
    (
        "tidemill_checkpoints_acknowledged_total",
        Kind::Counter,
        "Checkpoints that the subtask has acknowledged.",
        |m| Some(Value::Count(m.checkpoints.get())),
    ),
    (
        "tidemill_checkpoint_duration_seconds",
        Kind::Gauge,
        "Last checkpoint: from the trigger to the subtask's acknowledgement.",
        |m| gauge_seconds(m.checkpoint_us.get()),
    ),
    (
        "tidemill_checkpoint_size_bytes",
        Kind::Gauge,
        "Last checkpoint: bytes of the subtask's snapshot.",
        |m| Some(Value::Count(m.checkpoint_bytes.get().max(0) as u64)),
    ),
    (
        "tidemill_checkpoint_alignment_seconds",
        Kind::Gauge,
        "Last checkpoint: from the subtask's first barrier to its last.",
        |m| gauge_seconds(m.alignment_us.get()),
    ),
];

type TimeFamily = (&'static str, &'static str, fn(&ActivityTimes) -> u64);

const TIME_FAMILIES: &[TimeFamily] = &[
    ("tidemill_busy_seconds_total", "Time in steps that worked.", |t| t.busy_us),
    ("tidemill_idle_seconds_total", "Time without input.", |t| t.idle_us),
    ("tidemill_backpressured_seconds_total", "Time without free output buffers.", |t| {
        t.backpressured_us
    }),
    ("tidemill_ready_seconds_total", "Time with work, while the slot stepped other tasks.", |t| {
        t.ready_us
    }),
];

type RateFamily = (&'static str, &'static str, fn(&Rates) -> f64);

const RATE_FAMILIES: &[RateFamily] = &[
    (
        "tidemill_busy_ms_per_second",
        "Milliseconds in steps that worked in each second, over the last sampled second.",
        |r| r.busy,
    ),
    (
        "tidemill_ready_ms_per_second",
        "Milliseconds with work while the slot stepped other tasks, over the last sampled second.",
        |r| r.ready,
    ),
    (
        "tidemill_idle_ms_per_second",
        "Milliseconds without input in each second, over the last sampled second.",
        |r| r.idle,
    ),
    (
        "tidemill_backpressured_ms_per_second",
        "Milliseconds without free output buffers in each second, over the last sampled second.",
        |r| r.backpressured,
    ),
    (
        "backpressure_ratio",
        "Share of the last sampled second without free output buffers, 0 to 1.",
        |r| r.backpressured / 1e3,
    ),
];

fn render_times(state: &State, now: Micros, out: &mut Exposition) {
    let times: Vec<_> = state.subtasks.iter().map(|s| s.watched.metrics.times(now)).collect();
    for &(name, help, value) in TIME_FAMILIES {
        let mut family = out.family(name, Kind::Counter, help);
        for (s, times) in state.subtasks.iter().zip(&times) {
            family.sample(&s.labels, seconds(value(times)));
        }
    }
    for &(name, help, value) in RATE_FAMILIES {
        let mut family = out.family(name, Kind::Gauge, help);
        for s in &state.subtasks {
            if let Some(rates) = s.sampler.rates() {
                family.sample(&s.labels, Value::Number(value(&rates)));
            }
        }
    }
}

/// Sources have no latency: nothing was written for them to read.
fn render_latency(state: &State, out: &mut Exposition) {
    let help = "From the writing of a batch's first record upstream to its processing here.";
    let mut family = out.family("processing_latency_seconds", Kind::Histogram, help);
    for s in state.subtasks.iter().filter(|s| !s.watched.is_source) {
        let latency = &s.watched.metrics.latency;
        let bounds = LATENCY_BOUNDS_US.iter().map(|&us| us as f64 / 1e6);
        family.histogram(&s.labels, bounds, latency.buckets(), latency.sum_us() as f64 / 1e6);
    }
}

/// A name for each task, by number (R1).
fn task_names(watched: &[Watched]) -> BTreeMap<usize, String> {
    let mut names: BTreeMap<usize, String> =
        watched.iter().map(|w| (w.task, printable(&w.name))).collect();
    loop {
        let mut uses: BTreeMap<String, u32> = BTreeMap::new();
        for name in names.values() {
            *uses.entry(name.clone()).or_default() += 1;
        }
        if uses.len() == names.len() {
            return names;
        }
        // Ends: names that have got the number of their task differ from each other.
        for (number, name) in &mut names {
            if uses[name.as_str()] > 1 {
                name.push_str(&format!(" #{number}"));
            }
        }
    }
}
