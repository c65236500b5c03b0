//! Calls that block, made beside the core: a sink's `fdatasync` takes as long as the disk likes, and
//! everything else on the slot would wait for it.
//!
//! ```text
//!   task: call(work) --> queue --> a thread of the shell: work() --> the call's outcome, doorbell
//!         poll() <-----------------------------------------------------+
//! ```
//! Without threads (tests, simulation, a shell that could not start any) the caller does the work
//! itself, at once.
//!
//! Invariants
//!   K1  Every call ends in one outcome, also where its work panics or is never done.
//!   K2  A slot sleeps through no outcome: its doorbell rings after it.
//!
//! Not here: the threads (worker.rs); how many calls there may be (who makes them bounds them).

use crossbeam_channel::{Receiver, Sender, unbounded};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use tidemill_base::{Error, Result};
use tidemill_ring::Doorbell;

/// Work for a thread that may block.
pub struct Work(Box<dyn FnOnce() + Send>);

impl Work {
    /// Does it. Never panics (K1).
    pub fn run(self) {
        // What a panic leaves behind is dropped here, and its call hears of it.
        let _ = catch_unwind(AssertUnwindSafe(self.0));
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

/// What is to be done, for the threads that do it.
pub type Queue = Receiver<Work>;

/// Where a subtask has blocking calls made.
#[derive(Clone, Default)]
pub struct Blocking {
    queue: Option<Sender<Work>>,
    doorbell: Option<Arc<Doorbell>>,
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.queue.is_some() { "Blocking(threads)" } else { "Blocking(caller)" })
    }
}

impl Blocking {
    /// Calls go to the queue, for threads that [run](Work::run) what they receive. They end when all
    /// clones are gone.
    pub fn queue() -> (Self, Queue) {
        let (sender, receiver) = unbounded();
        (Blocking { queue: Some(sender), doorbell: None }, receiver)
    }

    /// The same for a slot, which is woken by outcomes (K2).
    #[must_use]
    pub fn of_slot(&self, doorbell: Arc<Doorbell>) -> Self {
        Blocking { queue: self.queue.clone(), doorbell: Some(doorbell) }
    }

    /// Has `work` done. Bound the number of calls under way.
    pub fn call(&self, work: impl FnOnce() -> Result<()> + Send + 'static) -> Call {
        let call = Call(Arc::new(OnceLock::new()));
        let reply = Reply { outcome: call.0.clone(), doorbell: self.doorbell.clone() };
        let work = Work(Box::new(move || reply.give(work())));
        match &self.queue {
            None => work.run(),
            Some(queue) => {
                // Nobody takes them any more.
                if let Err(refused) = queue.send(work) {
                    refused.0.run();
                }
            }
        }
        call
    }
}

/// A call that was made.
#[derive(Debug)]
pub struct Call(Arc<OnceLock<Result<()>>>);

impl Call {
    /// Its outcome; `None` while it is under way.
    pub fn poll(&self) -> Option<Result<()>> {
        self.0.get().cloned()
    }
}

/// Gives a call its outcome (K1).
struct Reply {
    outcome: Arc<OnceLock<Result<()>>>,
    doorbell: Option<Arc<Doorbell>>,
}

impl Reply {
    fn give(self, outcome: Result<()>) {
        let _ = self.outcome.set(outcome);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.outcome.get_or_init(|| {
            Err(Error::attempt("a blocking call was given up: it panicked, or its thread is gone"))
        });
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_waits_for_whoever_does_it() {
        let (blocking, queue) = Blocking::queue();
        let good = blocking.call(|| Ok(()));
        let bad = blocking.of_slot(Doorbell::new()).call(|| Err(Error::attempt("no space")));
        assert!(good.poll().is_none() && bad.poll().is_none());
        queue.try_iter().for_each(Work::run);
        assert!(matches!(good.poll(), Some(Ok(()))));
        assert!(bad.poll().unwrap().unwrap_err().to_string().contains("no space"));
    }

    #[test]
    fn every_call_has_an_outcome() {
        let (blocking, queue) = Blocking::queue();
        let (panics, lost) = (blocking.call(|| panic!("on purpose")), blocking.call(|| Ok(())));
        queue.recv().unwrap().run();
        drop(queue);
        for call in [panics, lost] {
            let error = call.poll().unwrap().unwrap_err().to_string();
            assert!(error.contains("given up"), "{error}");
        }
        for nobody_else in [blocking, Blocking::default()] {
            assert!(matches!(nobody_else.call(|| Ok(())).poll(), Some(Ok(()))), "at once");
        }
    }
}
