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
//! Law of callers: what work does changes nothing that a later attempt may own. Work in the kernel cannot
//! be taken back, and on a disk that hangs it outlives its attempt: it may make durable what the caller
//! wrote, and must not make it visible.
//!
//! Invariants
//!   K1  Every call ends in one outcome, also where its work panics or is never done.
//!   K2  A slot sleeps through no outcome: its doorbell rings after it.
//!   K3  After [`Blocking::stop`] no work begins.
//!
//! Not here: the threads (worker.rs); how many calls there may be (who makes them bounds them).

use crossbeam_channel::{Receiver, Sender, unbounded};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
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

/// Where a subtask has blocking calls made. See the law of callers above.
#[derive(Clone, Default)]
pub struct Blocking {
    queue: Option<Sender<Work>>,
    gate: Arc<Gate>,
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
        (Blocking { queue: Some(sender), gate: Arc::default(), doorbell: None }, receiver)
    }

    /// The same for a slot, which is woken by outcomes (K2).
    #[must_use]
    pub fn of_slot(&self, doorbell: Arc<Doorbell>) -> Self {
        let (queue, gate) = (self.queue.clone(), self.gate.clone());
        Blocking { queue, gate, doorbell: Some(doorbell) }
    }

    /// Ends them all, of every slot: work that has not begun never does (K3), its call fails. Waits for
    /// work that has, for `limit` at most; returns how much of it is left.
    pub fn stop(&self, limit: Duration) -> usize {
        self.gate.close(limit)
    }

    /// Has `work` done, under the law of callers. Bound the number of calls under way.
    pub fn call(&self, work: impl FnOnce() -> Result<()> + Send + 'static) -> Call {
        let call = Call(Arc::new(OnceLock::new()));
        let reply = Reply { outcome: call.0.clone(), doorbell: self.doorbell.clone() };
        let gate = self.gate.clone();
        let work = Work(Box::new(move || {
            let outcome = match gate.enter() {
                Some(_inside) => work(),
                None => Err(Error::attempt("a blocking call was given up: its attempt has ended")),
            };
            reply.give(outcome);
        }));
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

/// What work goes through (K3).
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    left: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    inside: usize,
}

/// Work has begun; dropped when it has ended.
struct Inside<'a>(&'a Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.inside += 1;
        Some(Inside(self))
    }

    fn close(&self, limit: Duration) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let waited = self.left.wait_timeout_while(state, limit, |state| state.inside > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.inside
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.lock().inside -= 1;
        self.0.left.notify_all();
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
    #[test]
    fn what_has_not_begun_never_does() {
        let (blocking, queue) = Blocking::queue();
        let of_slot = blocking.of_slot(Doorbell::new());
        let (begun, has_begun) = crossbeam_channel::bounded(0);
        let (go_on, may_end) = crossbeam_channel::bounded(0);
        let first = of_slot.call(move || {
            let _ = begun.send(());
            may_end.recv().map_err(|e| Error::attempt(e.to_string()))
        });
        let second = of_slot.call(|| panic!("it must not begin"));
        let thread = std::thread::Builder::new().spawn(move || queue.iter().for_each(Work::run));
        has_begun.recv().unwrap();
        assert_eq!(blocking.stop(Duration::ZERO), 1, "one is in the kernel: it is not waited for");
        go_on.send(()).unwrap();
        assert_eq!(blocking.stop(Duration::from_secs(120)), 0, "it is waited for");
        let third = of_slot.call(|| panic!("nor this one"));
        drop((blocking, of_slot));
        thread.unwrap().join().unwrap();
        assert!(matches!(first.poll(), Some(Ok(()))));
        for call in [second, third] {
            let error = call.poll().unwrap().unwrap_err().to_string();
            assert!(error.contains("its attempt has ended"), "{error}");
        }
    }

    #[test]
    fn work_that_panics_is_not_waited_for() {
        let (blocking, queue) = Blocking::queue();
        blocking.call(|| panic!("on purpose"));
        queue.recv().unwrap().run();
        assert_eq!(blocking.stop(Duration::from_secs(120)), 0);
    }
}
