//! What JobManagers set going: rows, checkpoint stores, elections, and who wants jobs to run.

use super::manager::{Fact, Manager, Out, Written, store_of};
use super::metadata::Row;
use super::network::End;
use super::wire::ManagerKey;
use super::{Happening, Seat, Submitted, World};
use std::collections::BTreeSet;
use tidemill_base::{Clock, Micros};
use tidemill_coordination::{JobStatus, Outcome};
use tidemill_protocol::{RestoreFrom, StoreSettings};
use tidemill_snapshot::{Manifest, MemoryStore, Policy, SnapshotStore, retain};

/// How often JobManagers stand for election and look at the clock.
const CAMPAIGN_EVERY_US: Micros = 500_000;
const LOOK_EVERY_US: Micros = 50_000;

/// Something with a job's checkpoint store.
#[derive(Clone, Debug)]
pub(super) enum Work {
    PutManifest { job: usize, manifest: Box<Manifest> },
    Discard { job: usize, epoch: u64 },
    Retain { job: usize, whole: BTreeSet<u64>, in_flight: BTreeSet<u64> },
    Clear { job: usize, kept: BTreeSet<u64> },
}

impl World<'_> {
    /// The JobManager that leads, as the store and it itself say.
    pub(super) fn leader(&self) -> Option<&Manager> {
        let mine = |m: &&Manager| m.leading && m.term == Some(self.metadata.term);
        self.managers.iter().filter_map(|seat| seat.up.as_ref()).find(mine)
    }

    pub(super) fn store(&self, settings: &StoreSettings) -> Option<&MemoryStore> {
        let StoreSettings::Dir { path } = settings else { return None };
        let job: usize = path.strip_prefix('/')?.parse().ok()?;
        self.submitted.get(job).map(|s| &s.store)
    }

    fn stopped_until(&self, manager: ManagerKey) -> Option<Micros> {
        let until = self.managers[manager.0].stopped_until;
        (until > self.clock.now()).then_some(until)
    }

    /// Something for a JobManager; it waits while that stands still.
    pub(super) fn tell_manager(&mut self, what: Happening) {
        let manager = match &what {
            Happening::Campaign { manager }
            | Happening::Elected { manager, .. }
            | Happening::Loaded { manager, .. }
            | Happening::Look { manager }
            | Happening::Wrote { manager, .. }
            | Happening::Manifest { manager, .. }
            | Happening::Retained { manager, .. } => *manager,
            _ => return,
        };
        if let Some(until) = self.stopped_until(manager) {
            return self.at(until, what);
        }
        match what {
            Happening::Campaign { manager } => self.campaign(manager),
            Happening::Elected { manager, term } => self.elected(manager, term),
            Happening::Loaded { manager, term, records } => self.tell(manager, |m, now, out| {
                if m.term == Some(term) && !m.leading {
                    m.loaded(now, records, out);
                }
            }),
            Happening::Look { manager } => self.look(manager),
            Happening::Wrote { manager, term, how } => {
                self.tell(manager, |m, now, out| m.wrote(now, term, how, out));
            }
            Happening::Manifest { manager, of, result } => {
                self.tell(manager, |m, now, out| m.on_manifest(now, of, result, out));
            }
            Happening::Retained { manager, term, job, deleted } => {
                self.tell(manager, |m, _, out| m.on_retained(term, job, deleted, out));
            }
            _ => {}
        }
    }

    fn is_up(&self, key: ManagerKey) -> bool {
        self.managers[key.0].up.as_ref().is_some_and(|m| m.key == key)
    }

    fn campaign(&mut self, manager: ManagerKey) {
        if !self.is_up(manager) {
            return;
        }
        self.later(CAMPAIGN_EVERY_US, Happening::Campaign { manager });
        let now = self.clock.now();
        if self.managers[manager.0].metadata_away_until > now {
            return;
        }
        let before = self.metadata.term;
        let term = self.metadata.campaign(now, manager);
        if self.metadata.term > before {
            self.log(|| format!("JobManager {manager:?} leads, term {}", before + 1));
        }
        let back = 100 + self.rng.below(5_000);
        self.later(back, Happening::Elected { manager, term });
    }

    fn elected(&mut self, manager: ManagerKey, term: Option<u64>) {
        let mut new = false;
        self.tell(manager, |m, _, out| new = m.elected(term, out));
        let Some(term) = term.filter(|_| new) else { return };
        // Read under its term: whatever was written before is in it, and nothing of another term comes.
        let records = if self.metadata.term == term { self.metadata.jobs.clone() } else { return };
        let back = 100 + self.rng.below(20_000);
        self.later(back, Happening::Loaded { manager, term, records });
    }

    fn look(&mut self, manager: ManagerKey) {
        if !self.is_up(manager) {
            return;
        }
        self.tell(manager, |m, now, out| m.look(now, out));
        let now = self.clock.now();
        let due = self.managers[manager.0].up.as_ref().and_then(Manager::wake_at);
        let next = due.map_or(LOOK_EVERY_US, |at| at.saturating_sub(now));
        self.later(next.clamp(100, LOOK_EVERY_US), Happening::Look { manager });
    }

    pub(super) fn carry_out(&mut self, key: ManagerKey, term: Option<u64>, out: Out) {
        let term_now = term.unwrap_or(0);
        let soon = 50 + self.rng.below(3_000);
        let work = |work| Happening::Store { manager: key, term: term_now, work: Box::new(work) };
        match out {
            Out::Send { connection, message } => {
                if self.is_open(connection, End::Manager) {
                    self.say(connection, End::Far, message);
                }
            }
            Out::Close { connection } => self.close(connection, End::Manager),
            Out::Write => self.later(soon, Happening::Write { manager: key, term: term_now }),
            Out::PutManifest { job, manifest, within } => {
                // Slow stores answer late, or too late.
                let slow = self.rng.percent(3);
                let delay = if slow { self.rng.below(2 * within + 1) } else { soon };
                if delay > within.min(30_000_000) {
                    let of = (term_now, job, manifest.epoch);
                    let result = Err("the store did not take the manifest in time".to_owned());
                    let within = within.min(30_000_000);
                    self.later(within, Happening::Manifest { manager: key, of, result });
                }
                self.later(delay, work(Work::PutManifest { job, manifest }));
            }
            Out::Discard { job, epoch } => self.later(soon, work(Work::Discard { job, epoch })),
            Out::Retain { job, whole, in_flight } => {
                self.later(soon, work(Work::Retain { job, whole, in_flight }));
            }
            Out::Clear { job, kept } => self.later(soon, work(Work::Clear { job, kept })),
            Out::Fact(fact) => self.fact(key, term_now, fact),
        }
    }

    /// The first write of a JobManager arrives at the store.
    pub(super) fn do_write(&mut self, manager: ManagerKey, term: u64) {
        if let Some(until) = self.stopped_until(manager) {
            return self.at(until, Happening::Write { manager, term });
        }
        let now = self.clock.now();
        let away = self.managers[manager.0].metadata_away_until > now;
        let Some(m) = self.managers[manager.0].up.as_ref().filter(|m| m.key == manager) else {
            return;
        };
        let Some(changes) = m.writes.front().map(|w| w.changes.clone()) else {
            return self.tell(manager, |m, _, _| m.writing = false);
        };
        let term = m.term.unwrap_or(term);
        let mut pause = 50 + self.rng.below(3_000);
        let how = if away {
            pause += 200_000;
            Written::Unavailable
        } else {
            match self.metadata.write(term, std::slice::from_ref(&changes)) {
                Ok(()) => {
                    self.check_rows(&changes);
                    // Done, but the answer is lost: it is written again.
                    if self.rng.percent(3) { Written::InDoubt } else { Written::Done }
                }
                Err(_) => {
                    self.report.fenced += 1;
                    Written::Fenced
                }
            }
        };
        self.later(pause, Happening::Wrote { manager, term, how });
    }

    /// A checkpoint store does something; also for a JobManager that is gone by now.
    pub(super) fn do_store(&mut self, manager: ManagerKey, term: u64, work: Work) {
        let quiet = self.is_quiet();
        let fails = !quiet && self.rng.percent(4);
        match work {
            Work::PutManifest { job, manifest } => {
                let epoch = manifest.epoch;
                let store = &self.submitted[job].store;
                let result = match fails {
                    true => Err("the disk is full".to_owned()),
                    false => store.put_manifest(&manifest).map_err(|e| e.to_string()),
                };
                let of = (term, job, epoch);
                self.later(50, Happening::Manifest { manager, of, result });
            }
            Work::Discard { job, epoch } => {
                if !fails {
                    // Errors: retention finds it.
                    let _ = self.submitted[job].store.delete(epoch);
                }
            }
            Work::Retain { job, whole, in_flight } => {
                let store = &self.submitted[job].store;
                let listed = store.list().unwrap_or_default();
                let suspect =
                    listed.iter().map(|c| c.epoch).filter(|e| !whole.contains(e)).collect();
                let policy = Policy { keep: self.scenario.keep };
                let deleted = retain(store, policy, &in_flight, &suspect)
                    .map(|r| r.checkpoints)
                    .unwrap_or_default();
                self.later(50, Happening::Retained { manager, term, job, deleted });
            }
            Work::Clear { job, kept } => {
                let store = &self.submitted[job].store;
                for checkpoint in store.list().unwrap_or_default() {
                    if !kept.contains(&checkpoint.epoch) {
                        let _ = store.delete(checkpoint.epoch);
                    }
                }
            }
        }
    }

    fn fact(&mut self, key: ManagerKey, term: u64, fact: Fact) {
        self.log(|| format!("JobManager {key:?}: {fact:?}"));
        match fact {
            Fact::Attempt { job, attempt, workers, restored } => {
                self.check_attempt(term, job, attempt, &workers, restored);
            }
            Fact::Adopted => self.report.adopted += 1,
            Fact::SavepointDone { job, id, epoch } => self.check_savepoint(job, id, Some(epoch)),
            Fact::SavepointFailed { job, id } => self.check_savepoint(job, id, None),
            Fact::Over { job, outcome } => {
                if term == self.metadata.term {
                    self.over(job, outcome);
                }
            }
            Fact::Damaged { job, epoch } => {
                self.violation(format!("checkpoint {epoch} of job {job} is said to be damaged"));
            }
            Fact::AttemptFailed { .. } | Fact::RescaleFailed => {}
        }
    }

    fn over(&mut self, job: usize, outcome: Result<Outcome, String>) {
        if let Err(cause) = &outcome {
            // Restarts never give up, and nothing here is beyond repair.
            self.violation(format!("job {job} failed for good: {cause}"));
        }
        self.submitted[job].outcome = Some(outcome);
    }

    /// Submits a family's next job, where it needs one.
    pub(super) fn want(&mut self, family: usize) {
        if self.families[family].done {
            return;
        }
        self.later(300_000, Happening::Want { family });
        let Some(leader) = self.leader().map(|m| (m.key, m.term.unwrap_or(0))) else { return };
        if self.stopped_until(leader.0).is_some() {
            return;
        }
        let Some(last) = self.families[family].last else {
            return self.submit(family, leader, None);
        };
        match self.metadata.jobs.get(&last) {
            Some(record) if record.status == JobStatus::Stopped => {
                let savepoint = |row: &&Row| **row == Row::Completed { savepoint: true };
                let mut rows = record.checkpoints.iter().rev();
                let epoch = rows.find(|(_, row)| savepoint(row)).map(|(&epoch, _)| epoch);
                let initial = epoch.map(|epoch| RestoreFrom { store: store_of(last), epoch });
                self.report.restarted += 1;
                self.submit(family, leader, initial);
            }
            Some(record) if record.status.is_over() => {
                let whole = record.status == JobStatus::Finished;
                (self.families[family].done, self.families[family].whole) = (true, whole);
            }
            Some(_) => {}
            None => {
                // Its row may still come, unless who took it in does not lead any more.
                let (by, term) = self.submitted[last].by;
                let lost = !self.is_up(by) || term != self.metadata.term;
                if lost {
                    let initial = self.submitted[last].initial.clone();
                    self.submit(family, leader, initial);
                }
            }
        }
    }

    fn submit(&mut self, family: usize, by: (ManagerKey, u64), initial: Option<RestoreFrom>) {
        let store = MemoryStore::new();
        let job = self.submitted.len();
        self.submitted.push(Submitted {
            family,
            store,
            by,
            initial: initial.clone(),
            outcome: None,
        });
        self.families[family].last = Some(job);
        let slots: u32 = self.hosts.iter().map(|h| h.slots).sum();
        let f = &mut self.families[family];
        // What cannot be rescaled keeps its parallelism, and needs the slots for it.
        f.parallelism = f.parallelism.min(slots);
        let parallelism = f.parallelism;
        let submission = self.submission(job, parallelism);
        self.log(|| format!("job {job} is submitted, from {initial:?}"));
        self.tell(by.0, |m, _, out| m.submit(job, submission, initial, out));
    }

    /// Where everybody stands.
    pub(super) fn picture(&self) -> String {
        let manager = |seat: &Seat| match &seat.up {
            Some(m) => format!("term {:?}, leading {}: {}", m.term, m.leading, m.picture()),
            None => "down".to_owned(),
        };
        let managers: Vec<String> = self.managers.iter().map(manager).collect();
        let jobs: Vec<String> = self
            .metadata
            .jobs
            .iter()
            .map(|(id, r)| format!("job {id}: {} attempt {}", r.status, r.attempt))
            .collect();
        format!(
            "at {}: managers {managers:?}, {jobs:?}, workers {:?}, slots {:?}",
            self.clock.now(),
            self.processes.keys().collect::<Vec<_>>(),
            self.leader().map(|m| (m.pool.free(), m.pool.total()))
        )
    }
}
