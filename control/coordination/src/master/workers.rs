//! The worker processes of a job, from their start to their end.
//!
//! ```text
//!   Starting --attached--> Idle --deployed--> Running --told to stop--> Stopping --stopped--> Idle
//! ```
//! From each state a worker can be lost; what is overdue in Starting, Away or Stopping is lost too.

use std::collections::BTreeMap;

use tidemill_protocol::{AgentId, Attempt, Deployment, Peer, RestoreFrom, SlotRange, ToWorker};

use super::event::{Assigned, Effect, MasterSettings};
use crate::Micros;
use crate::pool::Grant;
use crate::submission::Submission;

/// How long a job waits before it asks for slots again, in microseconds.
const ACQUIRE_AGAIN_US: Micros = 200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting { deadline: Micros },
    Idle,
    Running(Attempt),
    Stopping { attempt: Attempt, deadline: Micros },
}

#[derive(Clone, Debug)]
struct Worker {
    agent: AgentId,
    slots: u32,
    address: String,
    state: State,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Workers {
    workers: BTreeMap<u32, Worker>,
    next: u32,
    /// Slots have been asked for; the answer is to come.
    asked: bool,
    ask_again: Option<Micros>,
}

impl Workers {
    /// Nobody yet; numbers begin at `first`.
    pub(super) fn from(first: u32) -> Self {
        Workers { next: first, ..Workers::default() }
    }

    /// Workers that an earlier JobManager started; they are to attach before `deadline`.
    pub(super) fn known(&mut self, assigned: &[Assigned], deadline: Micros) {
        for a in assigned {
            let state = State::Starting { deadline };
            let (agent, address) = (a.agent.clone(), String::new());
            self.workers.insert(a.worker, Worker { agent, slots: a.slots, address, state });
            self.next = self.next.max(a.worker + 1);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.workers.keys().copied()
    }

    /// The place of a worker among the attempt's, which is the number of its writer and decides its
    /// slots.
    pub(super) fn place(&self, worker: u32) -> Option<u32> {
        self.workers.keys().position(|&w| w == worker).map(|p| p as u32)
    }

    pub(super) fn assigned(&self) -> Vec<Assigned> {
        let one = |(&worker, w): (&u32, &Worker)| Assigned {
            worker,
            agent: w.agent.clone(),
            slots: w.slots,
        };
        self.workers.iter().map(one).collect()
    }

    pub(super) fn grant(
        &mut self,
        grants: Vec<Grant>,
        attach_by: Micros,
        parallelism: u32,
        out: &mut Vec<Effect>,
    ) {
        self.asked = false;
        for Grant { agent, slots } in grants {
            let number = self.next;
            self.next += 1;
            let state = State::Starting { deadline: attach_by };
            out.push(Effect::StartWorker {
                worker: number,
                agent: agent.clone(),
                slots,
                parallelism,
            });
            self.workers.insert(number, Worker { agent, slots, address: String::new(), state });
        }
    }

    pub(super) fn denied(&mut self, now: Micros) {
        self.asked = false;
        self.ask_again = Some(now + ACQUIRE_AGAIN_US);
    }

    /// Asks for slots that are missing, gives up workers that are too many.
    pub(super) fn fit(&mut self, now: Micros, wanted: u32, out: &mut Vec<Effect>) {
        let have: u32 = self.workers.values().map(|w| w.slots).sum();
        if have < wanted && !self.asked && self.ask_again.is_none_or(|at| now >= at) {
            self.asked = true;
            self.ask_again = None;
            out.push(Effect::Acquire { slots: wanted - have });
        }
        let mut over = have.saturating_sub(wanted);
        while over > 0 {
            // The largest that fits into what is too much, otherwise any: what is missing then is
            // asked for again.
            let fits = |w: &Worker| w.slots <= over;
            let best = self.workers.iter().filter(|(_, w)| fits(w)).max_by_key(|(_, w)| w.slots);
            let Some(number) = best.or_else(|| self.workers.iter().next_back()).map(|(&n, _)| n)
            else {
                return;
            };
            let slots = self.workers.remove(&number).map_or(0, |w| w.slots);
            out.push(Effect::StopWorker { worker: number });
            over = over.saturating_sub(slots);
        }
    }

    pub(super) fn are_idle_with(&self, slots: u32) -> bool {
        let have: u32 = self.workers.values().map(|w| w.slots).sum();
        have == slots && self.workers.values().all(|w| w.state == State::Idle)
    }

    /// False for a worker that is not the job's.
    pub(super) fn attach(
        &mut self,
        worker: u32,
        address: String,
        runs: bool,
        go_on: bool,
        stop_by: Micros,
    ) -> bool {
        let Some(w) = self.workers.get_mut(&worker) else { return false };
        w.address = address;
        w.state = match (w.state, runs) {
            (_, false) => State::Idle,
            (State::Running(attempt), true) if go_on => State::Running(attempt),
            // Known from an earlier JobManager.
            (State::Starting { .. }, true) if go_on => State::Running(Attempt::MAX),
            (State::Stopping { attempt, deadline }, true) => State::Stopping { attempt, deadline },
            // What it runs is stopped because `Attached` does not let it go on; it says so.
            (_, true) => State::Stopping { attempt: Attempt::MAX, deadline: stop_by },
        };
        true
    }

    /// False where it was not the job's (any more).
    pub(super) fn lose(&mut self, worker: u32) -> bool {
        self.workers.remove(&worker).is_some()
    }

    /// Workers that did not do in time what they had to.
    pub(super) fn overdue(&self, now: Micros) -> Vec<(u32, String)> {
        let late = |(&n, w): (&u32, &Worker)| match w.state {
            State::Starting { deadline } if now >= deadline => {
                Some((n, "its process did not attach in time".to_owned()))
            }
            State::Stopping { deadline, .. } if now >= deadline => {
                Some((n, "it did not stop its tasks in time".to_owned()))
            }
            _ => None,
        };
        self.workers.iter().filter_map(late).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Micros> {
        let deadline = |w: &Worker| match w.state {
            State::Starting { deadline } | State::Stopping { deadline, .. } => Some(deadline),
            _ => None,
        };
        self.workers.values().filter_map(deadline).chain(self.ask_again).min()
    }

    /// Moves what is to happen in time.
    pub(super) fn slept(&mut self, gap: Micros) {
        for w in self.workers.values_mut() {
            match &mut w.state {
                State::Starting { deadline } | State::Stopping { deadline, .. } => *deadline += gap,
                State::Idle | State::Running(_) => {}
            }
        }
    }

    /// Orders everything that runs to stop.
    pub(super) fn halt(&mut self, attempt: Attempt, stop_by: Micros, out: &mut Vec<Effect>) {
        for (&worker, w) in &mut self.workers {
            if matches!(w.state, State::Running(_)) {
                w.state = State::Stopping { attempt, deadline: stop_by };
                out.push(Effect::Send { worker, message: ToWorker::Stop { attempt } });
            }
        }
    }

    pub(super) fn stopped(&mut self, worker: u32, said: Attempt) {
        if let Some(w) = self.workers.get_mut(&worker)
            && let State::Stopping { attempt, .. } = w.state
            && (attempt == said || attempt == Attempt::MAX)
        {
            w.state = State::Idle;
        }
    }

    /// Ends all processes.
    pub(super) fn stop_all(&mut self, out: &mut Vec<Effect>) {
        for (worker, _) in std::mem::take(&mut self.workers) {
            out.push(Effect::Send { worker, message: ToWorker::Shutdown });
            out.push(Effect::StopWorker { worker });
        }
        self.asked = false;
        self.ask_again = None;
    }

    pub(super) fn deploy(
        &mut self,
        attempt: Attempt,
        submission: &Submission,
        settings: &MasterSettings,
        restore: Option<&RestoreFrom>,
        out: &mut Vec<Effect>,
    ) {
        let mut first = 0;
        let mut peers = Vec::new();
        for (&worker, w) in &self.workers {
            let slots = SlotRange { first, count: w.slots };
            peers.push(Peer { worker, slots, address: w.address.clone() });
            first += w.slots;
        }
        for (writer, ((&worker, w), peer)) in self.workers.iter_mut().zip(&peers).enumerate() {
            w.state = State::Running(attempt);
            let deployment = Deployment {
                attempt,
                slots: first,
                own: peer.slots,
                peers: peers.clone(),
                writer: writer as u32,
                plan_hash: submission.plan.fingerprint(),
                store: Some(settings.store.clone()),
                restore: restore.cloned(),
                allow_dropped_state: settings.allow_dropped_state,
                state: submission.settings.state.unwrap_or(settings.state),
                properties: BTreeMap::new(),
            };
            out.push(Effect::Send { worker, message: ToWorker::Deploy(Box::new(deployment)) });
        }
    }
}
