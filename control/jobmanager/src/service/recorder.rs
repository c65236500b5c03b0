//! Writes to the metadata store, in order, for as long as it takes.
//!
//! Invariants
//!   W1  Changes are written in the order in which they were handed over.
//!   W2  Each write has one outcome: written, expired (and then it never will be), or dropped with the
//!       leadership.
//!   W3  A write whose outcome is in doubt never expires: it is repeated until it is known.
//!   W4  What waits is bounded: history is dropped beyond [`WAITING_MAX`]; what a job's life depends on
//!       is not, and is bounded by the number of jobs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidemill_base::Clock;
use tidemill_base::clock::SystemClock;
use tidemill_coordination::Micros;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::event::{Done, Then};
use crate::metadata::{Change, MetadataError, MetadataStore, Term};

/// W4.
const WAITING_MAX: usize = 10_000;
/// Between tries.
const PAUSE: Duration = Duration::from_millis(200);
/// A store that does not answer by then is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

struct Write {
    term: Term,
    changes: Vec<Change>,
    then: Option<Then>,
    expires: Option<Micros>,
    doubtful: bool,
}

/// Hands changes over to the writing task.
pub(super) struct Recorder {
    writes: mpsc::UnboundedSender<Write>,
    waiting: Arc<AtomicUsize>,
}

impl Recorder {
    /// Starts the task; outcomes come by `done`.
    pub(super) fn start(
        store: Arc<dyn MetadataStore>,
        clock: SystemClock,
        done: mpsc::UnboundedSender<Done>,
    ) -> Self {
        let (writes, heard) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let task = Task {
            store,
            clock,
            done,
            heard,
            queue: VecDeque::new(),
            waiting: waiting.clone(),
            away: false,
        };
        tokio::spawn(task.run());
        Recorder { writes, waiting }
    }

    /// Writes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Changes of which nobody waits for the outcome.
    pub(super) fn note(&self, term: Term, changes: Vec<Change>) {
        let history = |c: &Change| !matches!(c, Change::Job(_) | Change::ForgetJob(_));
        if changes.is_empty() {
            return;
        }
        if self.waiting() > WAITING_MAX && changes.iter().all(history) {
            return warn!("{} writes wait for the metadata store: history is lost", self.waiting());
        }
        self.push(Write { term, changes, then: None, expires: None, doubtful: false });
    }

    /// Changes whose outcome is told; given up at `expires` where that is certain (W3).
    pub(super) fn write(
        &self,
        term: Term,
        changes: Vec<Change>,
        then: Then,
        expires: Option<Micros>,
    ) {
        self.push(Write { term, changes, then: Some(then), expires, doubtful: false });
    }

    fn push(&self, write: Write) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The task ends with the process.
        let _ = self.writes.send(write);
    }
}

struct Task {
    store: Arc<dyn MetadataStore>,
    clock: SystemClock,
    done: mpsc::UnboundedSender<Done>,
    heard: mpsc::UnboundedReceiver<Write>,
    queue: VecDeque<Write>,
    waiting: Arc<AtomicUsize>,
    /// The store was last seen away.
    away: bool,
}

impl Task {
    async fn run(mut self) {
        loop {
            while let Ok(write) = self.heard.try_recv() {
                self.queue.push_back(write);
            }
            if self.queue.is_empty() {
                match self.heard.recv().await {
                    Some(write) => self.queue.push_back(write),
                    None => return,
                }
            }
            self.step().await;
        }
    }

    /// Tries the first one.
    async fn step(&mut self) {
        let Some(first) = self.queue.front() else { return };
        let term = first.term;
        let answer = timeout(ANSWER_TIMEOUT, self.store.write(term, &first.changes)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(MetadataError::InDoubt("it does not answer".into())));
        match answer {
            Ok(()) => {
                if std::mem::take(&mut self.away) {
                    info!("the metadata store is back; {} writes wait", self.queue.len());
                }
                self.take_first(|then| Done::Written { term, then });
            }
            Err(MetadataError::Refused(reason)) => {
                error!("a change is not recorded: {reason}");
                self.take_first(|then| Done::Unwritten { term, then, reason });
            }
            Err(MetadataError::Fenced) => {
                let before = self.queue.len();
                self.queue.retain(|w| w.term != term);
                self.waiting.fetch_sub(before - self.queue.len(), Ordering::Relaxed);
                let _ = self.done.send(Done::Fenced { term });
            }
            Err(e @ (MetadataError::Unavailable(_) | MetadataError::InDoubt(_))) => {
                if !std::mem::replace(&mut self.away, true) {
                    warn!("{e}; jobs go on, changes wait");
                }
                if let (MetadataError::InDoubt(_), Some(first)) = (&e, self.queue.front_mut()) {
                    first.doubtful = true;
                }
                self.expire(&e.to_string());
                sleep(PAUSE).await;
            }
        }
    }

    fn take_first(&mut self, outcome: impl FnOnce(Then) -> Done) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Some(then) = self.queue.pop_front().and_then(|w| w.then) {
            let _ = self.done.send(outcome(then));
        }
    }

    /// W3: gives up what is late and certain not to have been written.
    fn expire(&mut self, reason: &str) {
        let now = self.clock.now();
        let late = |w: &Write| !w.doubtful && w.expires.is_some_and(|at| now >= at);
        while let Some(at) = self.queue.iter().position(late) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let Some(Write { term, then: Some(then), .. }) = self.queue.remove(at) else {
                continue;
            };
            let _ = self.done.send(Done::Unwritten { term, then, reason: reason.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests;
