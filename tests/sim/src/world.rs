//! The scheduler: one thread that plays slots, coordinator, snapshot writer and crashes.
//!
//! ```text
//!   compose, deploy, build --> iterate: step | command | carry | write | coordinate | time
//!            ^                    |
//!            +---- crash, failed attempt, stop with savepoint
//!                                 +--> job done: committed rows = oracle
//! ```
//!
//! Invariants
//!   W1  The same seed gives the same run: everything comes from the scenario and one `Rng`.
//!   W2  Where nothing can happen any more and the job is not done, that is a deadlock: it fails.
//!   W3  Commands of a slot, events of a subtask and jobs of the writer keep their order; nothing
//!       else does.
//!   W4  After a crash nothing is left but the checkpoint store and the ledger.
//!
//! Not here: what a job computes (jobs.rs).

mod attempt;
mod disk;
mod schedule;
pub(crate) mod seat;
pub(crate) mod wires;

use crate::jobs::{Parts, compose, oracle, settled};
use crate::ledger::Ledger;
use crate::rng::Rng;
use crate::scenario::{Life, Scenario};
use attempt::{Attempt, Ending, Start};
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemill::job::restore::load_latest;
use tidemill_base::Clock;
use tidemill_base::clock::ManualClock;
use tidemill_coordination::Outcome;
use tidemill_snapshot::{MemoryStore, SnapshotStore};

/// Iterations of one life after which it is taken for stuck.
const ITERATIONS_MAX: u64 = 3_000_000;

/// Iterations after which a life crashes although its checkpoints do not come.
const PATIENCE: u64 = 20_000;

/// What a run did, for statistics and to compare runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash over everything that happened, in order.
    pub trace: u64,
    /// Iterations of the scheduler.
    pub iterations: u64,
    /// Lives, the first included.
    pub lives: u64,
    /// Lives that began at a checkpoint.
    pub restores: u64,
    /// Checkpoints that were completed.
    pub checkpoints: u64,
    /// Checkpoints that were given up.
    pub aborted: u64,
    /// Steps that found no free output buffer.
    pub blocked: u64,
    /// Batches of channel state in the checkpoints that were restored.
    pub channel_state: u64,
    /// Lives that ended because a connection broke.
    pub cuts: u64,
    /// Lives in two processes.
    pub split: u64,
    /// Rows committed.
    pub rows: u64,
    /// Checkpoints that were damaged, so that an older one was restored.
    pub damaged: u64,
}

/// Plays a scenario to its end.
///
/// # Errors
/// What went wrong, with a picture of the state where that helps.
pub fn run(scenario: &Scenario) -> Result<Report, String> {
    let mut world = World {
        scenario,
        rng: Rng::new(scenario.seed ^ 0x77_6f72_6c64),
        clock: ManualClock::new(),
        store: MemoryStore::new(),
        report: Report::default(),
        spoilt: BTreeSet::new(),
    };
    world.clock.advance(1);
    let ledger = Ledger::new(world.store.clone());
    world.play(&ledger)?;
    let committed: Vec<_> = (0..scenario.kind.sinks()).map(|i| ledger.committed(i)).collect();
    world.report.rows += committed.iter().map(|rows| rows.len() as u64).sum::<u64>();
    for (sink, rows) in settled(scenario.kind, committed).iter().enumerate() {
        compare(sink, rows, &oracle(scenario, sink))?;
    }
    match ledger.prepared() {
        0 => Ok(world.report),
        n => Err(format!("the job is done, but {n} rows are prepared and not committed")),
    }
}

struct World<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    clock: ManualClock,
    store: MemoryStore,
    report: Report,
    /// Epochs that have been damaged.
    spoilt: BTreeSet<u64>,
}

impl World<'_> {
    fn play(&mut self, ledger: &Ledger) -> Result<(), String> {
        let mut lives = self.scenario.lives.iter();
        let mut last = *self.scenario.lives.last().ok_or("a scenario has at least one life")?;
        (last.faults, last.savepoint) = (Default::default(), None);
        let (mut known_epoch, mut failure) = (0, String::from("none"));
        for number in 0u64.. {
            let life = lives.next().copied().unwrap_or(last);
            self.report.lives += 1;
            if self.rng.percent(self.scenario.damage) {
                self.damage(ledger)?;
            }
            let (ending, last_epoch) = self.live(&life, number, known_epoch, ledger)?;
            self.note(number);
            if let Some(violation) = ledger.first_violation() {
                return Err(violation);
            }
            match ending {
                Ending::Done(Outcome::Finished) => return Ok(()),
                Ending::Done(Outcome::Stopped(_)) => known_epoch = last_epoch,
                Ending::Failed(why) => (known_epoch, failure) = (last_epoch, why),
                Ending::Done(Outcome::Cancelled) => return Err("nobody cancelled".to_owned()),
                Ending::Crashed => known_epoch = 0,
            }
            if number > 60 {
                return Err(format!(
                    "after {number} lives still not done; last failure: {failure}"
                ));
            }
        }
        Ok(())
    }

    /// Damages the newest checkpoint, where there is another and no sink has committed it.
    fn damage(&mut self, ledger: &Ledger) -> Result<(), String> {
        let listed = self.store.list().map_err(|e| format!("list: {e}"))?;
        let mut committed = listed.iter().filter(|id| id.committed).map(|id| id.epoch);
        let (Some(newest), Some(before)) = (committed.next(), committed.next()) else {
            return Ok(());
        };
        if newest <= ledger.settled() || self.spoilt.contains(&newest) {
            return Ok(());
        }
        if self.spoilt.contains(&before) {
            return Ok(());
        }
        let (file, at) = (self.rng.pick(&["manifest.json", "worker-0.data"]), self.rng.draw());
        let torn = self.rng.percent(30);
        let there = self.store.tamper(newest, file, |bytes| {
            let at = at as usize % bytes.len().max(1);
            match bytes.get_mut(at) {
                Some(byte) if !torn => *byte ^= 0x5a,
                _ => bytes.truncate(at),
            }
        });
        self.spoilt.insert(newest);
        self.report.damaged += u64::from(there);
        Ok(())
    }

    /// One life; how it ended, and the last epoch triggered.
    fn live(
        &mut self,
        life: &Life,
        number: u64,
        known_epoch: u64,
        ledger: &Ledger,
    ) -> Result<(Ending, u64), String> {
        let parts = Parts {
            scenario: self.scenario,
            ledger: ledger.clone(),
            parallelism: life.parallelism,
            life: number,
        };
        let (physical, plan) = compose(&parts).plans().map_err(|e| format!("compose: {e}"))?;
        let loaded = load_latest(Arc::new(self.store.clone()), &plan, false)
            .map_err(|e| format!("restore: {e}"))?;
        if let Some(restored) = &loaded.restored {
            self.report.restores += 1;
            self.report.channel_state += attempt::channel_state(restored);
        }
        let start = Start {
            scenario: self.scenario,
            life,
            number,
            physical: &physical,
            plan: &plan,
            restored: loaded.restored,
            next_epoch: loaded.next_epoch.max(known_epoch + 1),
            store: self.store.clone(),
            clock: self.clock.clone(),
        };
        let mut attempt = Attempt::start(start, self.rng.fork())?;
        ledger.drop_unclaimed();
        let mut iterations = 0;
        let mut crash_at = None;
        let ending = loop {
            iterations += 1;
            if let Some((checkpoints, later)) = life.crash
                && (attempt.completed >= checkpoints || iterations > PATIENCE)
                && iterations >= *crash_at.get_or_insert(iterations + later)
            {
                break Ending::Crashed;
            }
            if iterations > ITERATIONS_MAX {
                return Err(format!("stuck: {iterations} iterations\n{}", attempt.picture()));
            }
            if let Some(ending) = attempt.iterate(iterations)? {
                break ending;
            }
            if iterations % 64 == 0
                && let Some(violation) = ledger.first_violation()
            {
                return Err(format!("{violation}\n{}", attempt.picture()));
            }
        };
        self.report.iterations += iterations;
        self.report.checkpoints += attempt.completed;
        self.report.aborted += attempt.aborted;
        self.report.blocked += attempt.blocked();
        self.report.cuts += u64::from(attempt.was_cut);
        self.report.split += u64::from(attempt.is_split());
        self.note(attempt.trace);
        self.note(self.clock.now());
        Ok((ending, attempt.last_epoch()))
    }

    fn note(&mut self, what: u64) {
        self.report.trace = tidemill_base::hash::hash_u64(self.report.trace ^ what);
    }
}

/// The first differences of two sorted lists.
pub(crate) fn compare(sink: usize, got: &[String], wanted: &[String]) -> Result<(), String> {
    if got == wanted {
        return Ok(());
    }
    let mut counts = std::collections::BTreeMap::<&str, i64>::new();
    got.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    wanted.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
    let list = |sign: i64| -> String {
        let of = counts.iter().filter(|(_, n)| n.signum() == sign);
        let rows: Vec<String> =
            of.clone().take(5).map(|(row, n)| format!("{row} x{}", n.abs())).collect();
        format!("{} kinds of rows, e.g. {rows:?}", of.count())
    };
    Err(format!(
        "sink {sink}: {} rows committed, {} in the oracle\n  missing: {}\n  too many: {}",
        got.len(),
        wanted.len(),
        list(-1),
        list(1)
    ))
}
