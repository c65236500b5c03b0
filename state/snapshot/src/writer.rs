//! The background writer of one process: a thread that takes jobs from the cores over a bounded
//! channel and does the blocking I/O for them. The shell around [`WriterCore`].
//!
//! Invariants
//!   W1  A core never waits for the disk: [`JobSender::try_send`] hands a job back when the
//!       channel is full.
//!   W2  Jobs sent by one thread are done in order; jobs that are sent after another thread's
//!       send was seen to return are done after it.
//!   W3  The thread ends by [`SnapshotWriter::shutdown`] (or its drop) alone, never by a failure.
//!
//! Not here: what a job does (writer/core.rs).

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, Result};
use crate::store::SnapshotStore;

mod core;
#[cfg(test)]
mod tests;

pub use self::core::{Event, Job, ShareSource, WriterCore};

/// Settings of a [`SnapshotWriter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterOptions {
    /// Number of this worker; its object is `worker-<n>.data`.
    pub worker: u32,
    /// Jobs that may wait; with the longest payload this bounds the memory that waits for the
    /// disk. 0 counts as 1.
    pub queue_jobs: usize,
}

impl WriterOptions {
    /// 64 jobs may wait: 2 MiB of 32 KiB batches.
    pub fn for_worker(worker: u32) -> Self {
        WriterOptions { worker, queue_jobs: 64 }
    }
}

enum Message {
    Job(Job),
    Shutdown,
}

/// The writer's thread. Dropping it shuts it down.
pub struct SnapshotWriter {
    jobs: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

/// Sends jobs to the writer; one for each core.
#[derive(Clone)]
pub struct JobSender {
    jobs: Sender<Message>,
}

/// Why a job was not taken; hands it back.
#[derive(Debug, PartialEq, Eq)]
pub enum TrySendError {
    /// The disk is slower than the snapshot. Keep the job and go on processing records: offer it
    /// again, before any later job of this subtask, at the next step (the writer wakes nobody, so
    /// an idle core looks again after a millisecond or so). Never drop it: the checkpoint would
    /// wait for it until its timeout. When the checkpoint is given up, drop what is held back for
    /// its epoch and have `Abort` sent.
    Full(Box<Job>),
    /// The writer was shut down: the job is ending.
    Closed(Box<Job>),
}

impl JobSender {
    /// Offers a job without waiting. For cores.
    ///
    /// # Errors
    /// The job itself, when the queue is full or the writer has been shut down.
    pub fn try_send(&self, job: Job) -> Result<(), TrySendError> {
        use crossbeam_channel::TrySendError as E;
        let back = |message, error: fn(Box<Job>) -> TrySendError| match message {
            Message::Job(job) => Err(error(Box::new(job))),
            Message::Shutdown => Ok(()),
        };
        match self.jobs.try_send(Message::Job(job)) {
            Ok(()) => Ok(()),
            Err(E::Full(message)) => back(message, TrySendError::Full),
            Err(E::Disconnected(message)) => back(message, TrySendError::Closed),
        }
    }

    /// Sends a job, waiting while the queue is full. For threads that may block.
    ///
    /// # Errors
    /// The job itself, when the writer has been shut down.
    pub fn send(&self, job: Job) -> Result<(), Box<Job>> {
        match self.jobs.send(Message::Job(job)) {
            Err(crossbeam_channel::SendError(Message::Job(job))) => Err(Box::new(job)),
            _ => Ok(()),
        }
    }

    /// Jobs that are waiting.
    pub fn waiting(&self) -> usize {
        self.jobs.len()
    }
}

impl SnapshotWriter {
    /// Starts the thread. Call it from an unpinned thread: the new one inherits the affinity.
    ///
    /// Events are few (one or two an epoch); give an unbounded channel, or drain a bounded one
    /// from a thread that does not itself wait for this writer. When the receiver is gone, events
    /// are dropped.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub fn start(
        options: WriterOptions,
        store: Arc<dyn SnapshotStore>,
        events: Sender<Event>,
    ) -> Result<Self> {
        let (jobs, queue) = crossbeam_channel::bounded(options.queue_jobs.max(1));
        let place = store.locate(None);
        let core = WriterCore::new(store, options.worker);
        let thread = std::thread::Builder::new()
            .name(format!("snapshot-{}", options.worker))
            .spawn(move || run(core, &queue, &events))
            .map_err(|e| {
                let seen = format!("cannot start the snapshot writer's thread: {e}");
                Error::refused(place, seen, "raise the limit on threads (ulimit -u, pids.max)")
            })?;
        Ok(SnapshotWriter { jobs, thread: Some(thread) })
    }

    /// A sender for one core.
    pub fn sender(&self) -> JobSender {
        JobSender { jobs: self.jobs.clone() }
    }

    /// Does the jobs that are waiting, gives up the epochs that are still open, and ends the
    /// thread. Blocks until then. Senders that remain get [`TrySendError::Closed`].
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Both fail only when the thread is gone already.
            let _ = self.jobs.send(Message::Shutdown);
            if thread.join().is_err() {
                tracing::error!("the snapshot writer's thread panicked; open checkpoints are lost");
            }
        }
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(mut core: WriterCore, queue: &Receiver<Message>, events: &Sender<Event>) {
    let mut out = Vec::new();
    while let Ok(Message::Job(job)) = queue.recv() {
        core.on(job, &mut out);
        for event in out.drain(..) {
            // Nobody listens any more: the job is ending, and nothing is lost by going on.
            let _ = events.send(event);
        }
    }
}
