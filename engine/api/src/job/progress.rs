//! The line that a running job prints, and the table at its end.

use std::fmt;
use std::sync::Arc;
use tidemill_base::metrics::TaskMetrics;
use tidemill_base::{WATERMARK_MAX, WATERMARK_MIN};

/// A subtask's counters with its names.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) task: usize,
    pub(crate) name: Arc<str>,
    pub(crate) subtask: u32,
    pub(crate) is_source: bool,
    pub(crate) metrics: Arc<TaskMetrics>,
}

/// What the progress line is made from.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) watched: Vec<Watched>,
    last_records: u64,
    last_at: u64,
}

impl Progress {
    pub(crate) fn new(watched: Vec<Watched>) -> Self {
        Progress { watched, ..Progress::default() }
    }

    /// Records that sources have emitted in this attempt.
    pub(crate) fn records(&self) -> u64 {
        self.watched.iter().filter(|w| w.is_source).map(|w| w.metrics.records_in.get()).sum()
    }

    /// The line, `now` in microseconds.
    pub(crate) fn line(&mut self, job: &str, now: u64, checkpoint: Option<u64>) -> String {
        let records = self.records();
        let elapsed = now.saturating_sub(self.last_at).max(1);
        let rate = records.saturating_sub(self.last_records).saturating_mul(1_000_000) / elapsed;
        (self.last_records, self.last_at) = (records, now);
        let watermark = self.watched.iter().map(|w| w.metrics.watermark()).min();
        let watermark = match watermark {
            None | Some(WATERMARK_MIN) => String::from("-"),
            Some(WATERMARK_MAX) => String::from("end"),
            Some(w) => w.to_string(),
        };
        let checkpoint = checkpoint.map_or(String::from("-"), |c| c.to_string());
        format!(
            "{job}: {records} records, {rate}/s, watermark {watermark}, last checkpoint {checkpoint}"
        )
    }
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Name of the job.
    pub job: String,
    /// `finished`, `stopped` or `cancelled`.
    pub outcome: &'static str,
    /// Wall time, in microseconds, restarts included.
    pub elapsed_us: u64,
    /// Wall time of the last attempt from the start of its slots' threads, in microseconds.
    pub running_us: u64,
    /// The longest step of any task in the last attempt, in microseconds.
    pub longest_step_us: u64,
    /// Restarts after failures.
    pub restarts: u32,
    /// The checkpoint that the job started from.
    pub restored: Option<u64>,
    /// The last complete checkpoint.
    pub last_checkpoint: Option<u64>,
    /// Checkpoints completed in this run.
    pub checkpoints: u64,
    /// One row a task of the last attempt: name, subtasks, records in, records out, busy %,
    /// late records dropped.
    pub tasks: Vec<TaskRow>,
}

/// A task in the table at the end of a job.
#[derive(Clone, Debug)]
pub struct TaskRow {
    /// The operators of its chain.
    pub name: String,
    /// Number of subtasks.
    pub subtasks: u32,
    /// Records read or, for sources, emitted.
    pub records_in: u64,
    /// Records written to channels.
    pub records_out: u64,
    /// Microseconds in steps that worked, over all subtasks.
    pub busy_us: u64,
    /// Microseconds without free output buffers, over all subtasks.
    pub backpressured_us: u64,
    /// Late records dropped.
    pub late_dropped: u64,
}

impl Summary {
    pub(crate) fn rows(watched: &[Watched]) -> Vec<TaskRow> {
        let mut rows: Vec<TaskRow> = Vec::new();
        for w in watched {
            if rows.len() <= w.task {
                rows.resize_with(w.task + 1, || TaskRow {
                    name: String::new(),
                    subtasks: 0,
                    records_in: 0,
                    records_out: 0,
                    busy_us: 0,
                    backpressured_us: 0,
                    late_dropped: 0,
                });
            }
            let (row, m) = (&mut rows[w.task], &w.metrics);
            row.name = w.name.to_string();
            row.subtasks = row.subtasks.max(w.subtask + 1);
            row.records_in += m.records_in.get();
            row.records_out += m.records_out.get();
            row.busy_us += m.busy_us.get();
            row.backpressured_us += m.backpressured_us.get();
            row.late_dropped += m.late_dropped.get();
        }
        rows
    }

    /// Records that the sources emitted in the last attempt.
    pub fn source_records(&self) -> u64 {
        self.tasks.first().map_or(0, |t| t.records_in)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed_us as f64 / 1e6;
        write!(f, "{}: {} after {seconds:.2} s", self.job, self.outcome)?;
        if let Some(epoch) = self.restored {
            write!(f, ", started from checkpoint {epoch}")?;
        }
        // Without a store the last epoch only commits the sinks: nothing is kept of it.
        match self.last_checkpoint.filter(|_| self.checkpoints > 0) {
            Some(last) => write!(f, ", {} checkpoints (last: {last})", self.checkpoints)?,
            None => write!(f, ", no checkpoints")?,
        }
        writeln!(f, ", {} restarts", self.restarts)?;
        writeln!(
            f,
            "{:<52} {:>8} {:>12} {:>12} {:>6} {:>8}",
            "task", "subtasks", "records in", "out", "busy", "late"
        )?;
        for t in &self.tasks {
            let share = 100 * t.busy_us / (self.elapsed_us * u64::from(t.subtasks)).max(1);
            let name: String = t.name.chars().take(52).collect();
            writeln!(
                f,
                "{name:<52} {:>8} {:>12} {:>12} {share:>5}% {:>8}",
                t.subtasks, t.records_in, t.records_out, t.late_dropped
            )?;
        }
        Ok(())
    }
}
