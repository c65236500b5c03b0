//! What the user asks of a running job: savepoints, and its end with one. By signal, or by the
//! server that `--metrics-addr` starts; answered by whichever attempt runs.
//!
//! Invariant
//!   Q1  Every request is answered once: by its attempt (the coordinator answers each, C12), or, when
//!       nobody is left to answer, by the end of its reply channel.

use super::console::tell;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tidemill_coordination::{Event, SavepointId};
use tokio::sync::oneshot;

/// Requests that may wait while no attempt runs.
const WAITING_MAX: usize = 16;

/// The savepoint's directory, or why there is none.
pub(crate) type Answer = Result<PathBuf, String>;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Request {
    /// Whether the job ends with the savepoint.
    pub(crate) stop: bool,
    /// `None`: the answer is only printed.
    pub(crate) reply: Option<oneshot::Sender<Answer>>,
}

/// Where requests are left.
#[derive(Clone, Debug)]
pub(crate) struct Asker(Sender<Request>);

impl Asker {
    /// For a job that has ended.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Requests::new(false).0
    }

    /// Leaves a request; the answer comes by the receiver.
    ///
    /// # Errors
    /// A text, when the job has ended or too many wait.
    pub(crate) fn ask(&self, stop: bool) -> Result<oneshot::Receiver<Answer>, String> {
        let (reply, answer) = oneshot::channel();
        let request = Request { stop, reply: Some(reply) };
        match self.0.try_send(request) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => Err(format!("{WAITING_MAX} savepoints wait already")),
            Err(TrySendError::Disconnected(_)) => Err(String::from("the job has ended")),
        }
    }
}

/// The requests of one job, over all its attempts.
#[derive(Debug)]
pub(crate) struct Requests {
    asked: Receiver<Request>,
    signals: bool,
}

impl Requests {
    /// None yet; signals count if `signals`.
    pub(crate) fn new(signals: bool) -> (Asker, Requests) {
        let (tx, asked) = bounded(WAITING_MAX);
        (Asker(tx), Requests { asked, signals })
    }

    fn next(&self) -> Option<Request> {
        let (savepoint, stop) =
            if self.signals { super::signal::savepoints_asked() } else { (false, false) };
        // A stop is a savepoint too.
        if savepoint || stop {
            return Some(Request { stop, reply: None });
        }
        self.asked.try_recv().ok()
    }
}

/// The requests that an attempt has passed to the coordinator.
pub(crate) struct Pending<'a> {
    requests: &'a Requests,
    replies: BTreeMap<SavepointId, Option<oneshot::Sender<Answer>>>,
    next_id: SavepointId,
}

impl<'a> Pending<'a> {
    pub(crate) fn new(requests: &'a Requests) -> Self {
        Pending { requests, replies: BTreeMap::new(), next_id: 1 }
    }

    /// The next request, as the coordinator takes it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let request = self.requests.next()?;
        let id = self.next_id;
        self.next_id += 1;
        self.replies.insert(id, request.reply);
        Some(if request.stop {
            Event::StopWithSavepoint { id }
        } else {
            Event::SavepointRequested { id }
        })
    }

    /// Savepoint `id` is in `path`.
    pub(crate) fn done(&mut self, id: SavepointId, path: &Path) {
        tell(format_args!("savepoint: {}", path.display()));
        self.answer(id, Ok(path.to_owned()));
    }

    /// There is no savepoint `id`.
    pub(crate) fn failed(&mut self, id: SavepointId, why: &str) {
        tell(format_args!("no savepoint: {why}"));
        self.answer(id, Err(why.to_owned()));
    }

    fn answer(&mut self, id: SavepointId, answer: Answer) {
        if let Some(Some(reply)) = self.replies.remove(&id) {
            // Who asked may have gone.
            let _ = reply.send(answer);
        }
    }
}
