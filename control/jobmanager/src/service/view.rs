//! What REST shows: plain values, made from what the service has in memory. Pure.
//!
//! The fields' names and order are part of the interface; docs/rest.md and openapi.rs describe them.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemill_coordination::{JobStatus, Micros};
use tidemill_protocol::{AgentId, ArtifactHash, Attempt, JobId, RestoreFrom, TaskCounters};

use super::Service;
use super::checkpoints::locate;
use super::jobs::Job;
use crate::metadata::{CheckpointRow, CheckpointState, SavepointRow, SavepointState};

/// What a worker said last of its subtasks.
pub(crate) struct WorkerMetrics {
    at: Micros,
    attempt: Attempt,
    tasks: Vec<TaskCounters>,
    /// Records in and out a second, by the place in `tasks`.
    rates: Vec<(f64, f64)>,
    pub(crate) text: String,
}

impl WorkerMetrics {
    pub(super) fn new(
        at: Micros,
        attempt: Attempt,
        tasks: Vec<TaskCounters>,
        text: String,
        before: Option<WorkerMetrics>,
    ) -> Self {
        let before = before.filter(|b| b.attempt == attempt && b.at < at);
        let rate = |t: &TaskCounters| {
            let Some(b) = &before else { return (0.0, 0.0) };
            let Some(old) = b.tasks.iter().find(|o| o.subtask == t.subtask) else {
                return (0.0, 0.0);
            };
            let seconds = (at - b.at) as f64 / 1e6;
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
            (rate(t.records_in, old.records_in), rate(t.records_out, old.records_out))
        };
        let rates = tasks.iter().map(rate).collect();
        WorkerMetrics { at, attempt, tasks, rates, text }
    }

    /// The worker is gone: its counts stay to be shown; nothing moves any more, and there is nothing to scrape.
    pub(super) fn end(&mut self) {
        self.text = String::new();
        self.rates.fill((0.0, 0.0));
        for task in &mut self.tasks {
            (task.busy, task.backpressured) = (0.0, 0.0);
        }
    }
}

/// `GET /cluster/metrics`
#[derive(Debug, Serialize)]
pub(crate) struct ClusterView {
    pub(crate) total_task_managers: usize,
    pub(crate) active_task_managers: usize,
    pub(crate) total_slots: u32,
    pub(crate) available_slots: u32,
    pub(crate) utilization: f64,
    pub(crate) total_jobs: usize,
    pub(crate) running_jobs: usize,
}

/// An entry of `GET /taskmanagers`
#[derive(Debug, Serialize)]
pub(crate) struct TaskManagerView {
    pub(crate) id: AgentId,
    pub(crate) host: String,
    pub(crate) address: String,
    pub(crate) status: &'static str,
    pub(crate) slots_total: u32,
    pub(crate) slots_free: u32,
    pub(crate) release: String,
    pub(crate) memory_limit_bytes: u64,
    pub(crate) memory_used_bytes: u64,
    pub(crate) registered_at_ms: i64,
    pub(crate) heard_ms_ago: u64,
    pub(crate) jobs: Vec<JobId>,
}

/// A job in short.
#[derive(Debug, Serialize)]
pub(crate) struct JobView {
    pub(crate) job_id: JobId,
    pub(crate) name: String,
    pub(crate) status: JobStatus,
    pub(crate) submitted_at_ms: i64,
    pub(crate) ended_at_ms: Option<i64>,
    pub(crate) parallelism: u32,
    pub(crate) slots: u32,
    pub(crate) attempt: Attempt,
    pub(crate) cause: Option<String>,
}

/// A worker process of a job.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerView {
    pub(crate) worker: u32,
    pub(crate) task_manager: AgentId,
    pub(crate) host: Option<String>,
    pub(crate) slots: u32,
    pub(crate) connected: bool,
}

/// An entry of a job's status history.
#[derive(Debug, Serialize)]
pub(crate) struct StatusView {
    pub(crate) status: JobStatus,
    pub(crate) at_ms: i64,
}

/// `GET /jobs/{id}`
#[derive(Debug, Serialize)]
pub(crate) struct JobDetailView {
    #[serde(flatten)]
    pub(crate) job: JobView,
    pub(crate) artifact: ArtifactHash,
    pub(crate) args: Vec<String>,
    pub(crate) restored_from: Option<String>,
    pub(crate) history: Vec<StatusView>,
    pub(crate) workers: Vec<WorkerView>,
    pub(crate) records_read: u64,
    pub(crate) watermark_ms: Option<i64>,
    pub(crate) checkpoints_completed: usize,
    pub(crate) latest_checkpoint: Option<u64>,
}

/// A checkpoint.
#[derive(Debug, Serialize)]
pub(crate) struct CheckpointView {
    pub(crate) epoch: u64,
    pub(crate) status: CheckpointState,
    pub(crate) savepoint: bool,
    pub(crate) triggered_at_ms: i64,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) size_bytes: u64,
    pub(crate) shared_bytes: u64,
    pub(crate) records: u64,
    pub(crate) location: Option<String>,
    pub(crate) reason: Option<String>,
}

impl From<&CheckpointRow> for CheckpointView {
    fn from(row: &CheckpointRow) -> Self {
        CheckpointView {
            epoch: row.epoch,
            status: row.state,
            savepoint: row.savepoint,
            triggered_at_ms: row.triggered_ms,
            duration_ms: row.duration_ms,
            size_bytes: row.object_bytes,
            shared_bytes: row.shared_bytes,
            records: row.records,
            location: row.location.clone(),
            reason: row.reason.clone(),
        }
    }
}

/// How many checkpoints of a job's history are in which state.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CountsView {
    pub(crate) in_progress: usize,
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    pub(crate) damaged: usize,
    pub(crate) expired: usize,
}

/// The newest checkpoints of each kind.
#[derive(Debug, Serialize)]
pub(crate) struct LatestView {
    pub(crate) completed: Option<CheckpointView>,
    pub(crate) savepoint: Option<CheckpointView>,
    pub(crate) failed: Option<CheckpointView>,
}

/// `GET /jobs/{id}/checkpoints`
#[derive(Debug, Serialize)]
pub(crate) struct CheckpointsView {
    pub(crate) counts: CountsView,
    pub(crate) latest: LatestView,
    pub(crate) history: Vec<CheckpointView>,
}

/// `GET /jobs/{id}/savepoints/{trigger}`
#[derive(Debug, Serialize)]
pub(crate) struct SavepointView {
    pub(crate) trigger_id: String,
    pub(crate) status: SavepointState,
    pub(crate) stop: bool,
    pub(crate) requested_at_ms: i64,
    pub(crate) epoch: Option<u64>,
    pub(crate) location: Option<String>,
    pub(crate) reason: Option<String>,
}

impl From<&SavepointRow> for SavepointView {
    fn from(row: &SavepointRow) -> Self {
        SavepointView {
            trigger_id: trigger_text(row.trigger),
            status: row.state,
            stop: row.stop,
            requested_at_ms: row.requested_ms,
            epoch: row.epoch,
            location: row.location.clone(),
            reason: row.reason.clone(),
        }
    }
}

/// A trigger as users see it.
pub(crate) fn trigger_text(trigger: u64) -> String {
    format!("{trigger:016x}")
}

/// A trigger from what a user wrote; `None` for what is none.
pub(crate) fn trigger_of(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if text.len() == 16 && digits { u64::from_str_radix(text, 16).ok() } else { None }
}

/// An entry of `GET /jobs/{id}/exceptions`
#[derive(Debug, Serialize)]
pub(crate) struct ExceptionView {
    pub(crate) at_ms: i64,
    pub(crate) attempt: Attempt,
    pub(crate) task: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) message: String,
}

/// A subtask's numbers.
#[derive(Debug, Serialize)]
pub(crate) struct SubtaskView {
    pub(crate) subtask: u32,
    pub(crate) worker: u32,
    pub(crate) records_in: u64,
    pub(crate) records_out: u64,
    pub(crate) bytes_out: u64,
    pub(crate) records_in_per_second: f64,
    pub(crate) records_out_per_second: f64,
    pub(crate) watermark_ms: Option<i64>,
    pub(crate) busy: f64,
    pub(crate) backpressured: f64,
}

/// A task's numbers: sums, and the least watermark.
#[derive(Debug, Serialize)]
pub(crate) struct TaskView {
    pub(crate) task: u32,
    pub(crate) name: String,
    pub(crate) source: bool,
    pub(crate) records_in: u64,
    pub(crate) records_out: u64,
    pub(crate) bytes_out: u64,
    pub(crate) records_in_per_second: f64,
    pub(crate) records_out_per_second: f64,
    pub(crate) watermark_ms: Option<i64>,
    pub(crate) busy: f64,
    pub(crate) backpressured: f64,
    pub(crate) subtasks: Vec<SubtaskView>,
}

/// `GET /jobs/{id}/metrics`
#[derive(Debug, Serialize)]
pub(crate) struct JobMetricsView {
    pub(crate) job_id: JobId,
    pub(crate) status: JobStatus,
    pub(crate) attempt: Attempt,
    pub(crate) tasks: Vec<TaskView>,
    pub(crate) checkpoints: CountsView,
    pub(crate) latest_checkpoint: Option<CheckpointView>,
}

impl Job {
    pub(crate) fn view(&self) -> JobView {
        let row = self.row();
        JobView {
            job_id: row.id.clone(),
            name: row.name.clone(),
            status: row.status,
            submitted_at_ms: row.submitted_ms,
            ended_at_ms: row.ended_ms,
            parallelism: row.submission.plan.parallelism(),
            slots: row.submission.plan.slots(),
            attempt: row.attempt,
            cause: row.cause.clone(),
        }
    }

    fn newest(&self, of: impl Fn(&CheckpointRow) -> bool) -> Option<CheckpointView> {
        self.history.record().checkpoints.iter().rev().find(|c| of(c)).map(CheckpointView::from)
    }

    fn counts(&self) -> CountsView {
        let mut counts = CountsView::default();
        for row in &self.history.record().checkpoints {
            *match row.state {
                CheckpointState::InProgress => &mut counts.in_progress,
                CheckpointState::Completed => &mut counts.completed,
                CheckpointState::Failed => &mut counts.failed,
                CheckpointState::Damaged => &mut counts.damaged,
                CheckpointState::Expired => &mut counts.expired,
            } += 1;
        }
        counts
    }

    pub(crate) fn checkpoints_view(&self) -> CheckpointsView {
        let complete = |c: &CheckpointRow| c.state == CheckpointState::Completed;
        CheckpointsView {
            counts: self.counts(),
            latest: LatestView {
                completed: self.newest(complete),
                savepoint: self.newest(|c| c.savepoint && complete(c)),
                failed: self.newest(|c| c.state == CheckpointState::Failed),
            },
            history: self
                .history
                .record()
                .checkpoints
                .iter()
                .rev()
                .map(CheckpointView::from)
                .collect(),
        }
    }

    pub(crate) fn exceptions_view(&self) -> Vec<ExceptionView> {
        let view = |e: &crate::metadata::ExceptionRow| ExceptionView {
            at_ms: e.at_ms,
            attempt: e.attempt,
            task: e.task.clone(),
            host: e.host.clone(),
            message: e.message.clone(),
        };
        self.history.record().exceptions.iter().rev().map(view).collect()
    }

    pub(crate) fn metrics_view(&self) -> JobMetricsView {
        let complete = |c: &CheckpointRow| {
            matches!(c.state, CheckpointState::Completed | CheckpointState::Expired)
        };
        JobMetricsView {
            job_id: self.row().id.clone(),
            status: self.row().status,
            attempt: self.row().attempt,
            tasks: self.task_views(),
            checkpoints: self.counts(),
            latest_checkpoint: self.newest(complete),
        }
    }

    fn task_views(&self) -> Vec<TaskView> {
        let mut tasks: BTreeMap<u32, TaskView> = BTreeMap::new();
        for (&worker, metrics) in &self.metrics {
            for (t, &(rate_in, rate_out)) in metrics.tasks.iter().zip(&metrics.rates) {
                let task = tasks.entry(t.subtask.task.0).or_insert_with(|| empty_task(t));
                let view = SubtaskView {
                    subtask: t.subtask.subtask,
                    worker,
                    records_in: t.records_in,
                    records_out: t.records_out,
                    bytes_out: t.bytes_out,
                    records_in_per_second: rate_in,
                    records_out_per_second: rate_out,
                    watermark_ms: t.watermark_ms,
                    busy: finite(t.busy),
                    backpressured: finite(t.backpressured),
                };
                task.add(view);
            }
        }
        tasks.into_values().collect()
    }

    pub(crate) fn detail(&self, service: &Service) -> JobDetailView {
        let record = self.history.record();
        let tasks = self.task_views();
        let sources = tasks.iter().filter(|t| t.source);
        let restored = |r: &RestoreFrom| locate(&r.store, r.epoch);
        JobDetailView {
            job: self.view(),
            artifact: record.job.artifact.clone(),
            args: record.job.args.clone(),
            restored_from: record.job.initial.as_ref().map(restored),
            history: record
                .statuses
                .iter()
                .map(|s| StatusView { status: s.status, at_ms: s.at_ms })
                .collect(),
            workers: self
                .placed
                .iter()
                .map(|(&worker, placed)| WorkerView {
                    worker,
                    task_manager: placed.agent.clone(),
                    host: service.agents.get(&placed.agent).map(|a| a.host.clone()),
                    slots: placed.slots,
                    connected: self.outboxes.contains_key(&worker),
                })
                .collect(),
            records_read: sources.map(|t| t.records_in).sum(),
            watermark_ms: tasks.iter().filter_map(|t| t.watermark_ms).min(),
            checkpoints_completed: {
                let counts = self.counts();
                counts.completed + counts.expired
            },
            latest_checkpoint: record
                .checkpoints
                .iter()
                .rev()
                .find(|c| c.state == CheckpointState::Completed)
                .map(|c| c.epoch),
        }
    }
}

fn finite(x: f64) -> f64 {
    if x.is_finite() { x } else { 0.0 }
}

fn empty_task(t: &TaskCounters) -> TaskView {
    TaskView {
        task: t.subtask.task.0,
        name: t.task.clone(),
        source: t.source,
        records_in: 0,
        records_out: 0,
        bytes_out: 0,
        records_in_per_second: 0.0,
        records_out_per_second: 0.0,
        watermark_ms: None,
        busy: 0.0,
        backpressured: 0.0,
        subtasks: Vec::new(),
    }
}

impl TaskView {
    /// Sums; of shares the highest, of watermarks the lowest.
    fn add(&mut self, s: SubtaskView) {
        self.records_in += s.records_in;
        self.records_out += s.records_out;
        self.bytes_out += s.bytes_out;
        self.records_in_per_second += s.records_in_per_second;
        self.records_out_per_second += s.records_out_per_second;
        self.watermark_ms = match (self.watermark_ms, s.watermark_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.busy = self.busy.max(s.busy);
        self.backpressured = self.backpressured.max(s.backpressured);
        let at = self.subtasks.partition_point(|known| known.subtask < s.subtask);
        self.subtasks.insert(at, s);
    }
}

impl Service {
    pub(crate) fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id).filter(|job| job.accepted)
    }

    /// All jobs, the newest first.
    pub(crate) fn jobs_view(&self) -> Vec<JobView> {
        let accepted = self.jobs.values().filter(|job| job.accepted);
        let mut jobs: Vec<JobView> = accepted.map(Job::view).collect();
        jobs.sort_by(|a, b| (b.submitted_at_ms, &b.job_id).cmp(&(a.submitted_at_ms, &a.job_id)));
        jobs
    }

    pub(crate) fn cluster_view(&self) -> ClusterView {
        let (total, free) = (self.pool.total(), self.pool.free());
        let accepted = || self.jobs.values().filter(|job| job.accepted);
        ClusterView {
            total_task_managers: self.agents.len(),
            active_task_managers: self.agents.values().filter(|a| a.outbox.is_some()).count(),
            total_slots: total,
            available_slots: free,
            utilization: if total == 0 { 0.0 } else { f64::from(total - free) / f64::from(total) },
            total_jobs: accepted().count(),
            running_jobs: accepted().filter(|job| job.row().status == JobStatus::Running).count(),
        }
    }

    pub(crate) fn task_managers_view(&self) -> Vec<TaskManagerView> {
        let now = self.now();
        let slots: BTreeMap<&AgentId, u32> =
            self.pool.agents().map(|(id, _, free)| (id, free)).collect();
        let view = |(id, a): (&AgentId, &super::agents::Agent)| TaskManagerView {
            id: id.clone(),
            host: a.host.clone(),
            address: a.address.clone(),
            status: if a.outbox.is_some() { "ACTIVE" } else { "DISCONNECTED" },
            slots_total: a.slots,
            slots_free: slots.get(id).copied().unwrap_or(0),
            release: a.release.clone(),
            memory_limit_bytes: a.memory_limit,
            memory_used_bytes: a.memory_used,
            registered_at_ms: a.registered_ms,
            heard_ms_ago: now.saturating_sub(a.heard) / 1_000,
            jobs: self
                .jobs
                .iter()
                .filter(|(_, job)| job.is_live() && job.placed.values().any(|p| p.agent == *id))
                .map(|(id, _)| id.clone())
                .collect(),
        };
        self.agents.iter().map(view).collect()
    }

    /// Jobs by status, of all statuses; for metrics.
    pub(crate) fn accepted_jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| job.accepted)
    }

    pub(crate) fn waiting_writes(&self) -> usize {
        self.recorder.waiting()
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.leads()
    }
}
