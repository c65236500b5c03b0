//! A thread for what would block a core: flushes, links, checksums.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use tidemill_base::{Error, Result};

type Work = Box<dyn FnOnce() + Send>;

/// Does pieces of work one after the other. Dropping it waits for the last one.
pub(super) enum Background {
    Thread {
        work: Option<Sender<Work>>,
        thread: Option<JoinHandle<()>>,
    },
    /// At once, in the caller's thread: the same every time.
    Inline,
}

/// The result of a piece of work, when it is there.
pub struct Outcome<T>(Receiver<T>);

impl<T> Outcome<T> {
    /// The result, once.
    ///
    /// # Errors
    /// If the work panicked.
    pub fn poll(&self) -> Result<Option<T>> {
        match self.0.try_recv() {
            Ok(result) => Ok(Some(result)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                Err(Error::attempt("RocksDB's background work panicked: see the message above"))
            }
        }
    }
}

impl Background {
    pub(super) fn start() -> Result<Self> {
        let (work, received) = channel::<Work>();
        let thread = std::thread::Builder::new()
            .name("rocksdb-state".into())
            .spawn(move || received.iter().for_each(|work| work()))
            .map_err(|e| Error::job(format!("cannot start a thread for RocksDB: {e}")))?;
        Ok(Background::Thread { work: Some(work), thread: Some(thread) })
    }

    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        let (result, outcome) = channel();
        // Whoever gave the job up does not wait for its result.
        let work = move || drop(result.send(work()));
        match self {
            Background::Inline => work(),
            Background::Thread { work: sender, .. } => {
                if let Some(sender) = sender {
                    // Only a thread that has panicked does not take it; the outcome says so.
                    let _ = sender.send(Box::new(work));
                }
            }
        }
        Outcome(outcome)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Background::Thread { work, thread } = self {
            drop(work.take());
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}
