//! How many records a task works on before it looks up again. Pure: the clock is its caller's.
//!
//! Where records are cheap that is a run of [`super::RUN_RECORDS`]. Where a user's code is slow it is as many as take
//! about [`STEP_US`], so that neither a barrier nor the other tasks of the slot wait for a whole batch.
//!
//! Invariants
//!   Q1  A run has at least one record and at most as many as it was made for.
//!   Q2  A run that took longer than [`STEP_US`] ends the step, and the next ones are as much shorter.

use tidemill_base::Micros;

/// How long a step works on records, unless a single one takes longer.
pub const STEP_US: Micros = 1_000;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    records: usize,
    most: usize,
}

impl Pace {
    pub(crate) fn new(most: usize) -> Self {
        Pace { records: most, most }
    }

    /// Records of the next run.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// So many records took so long. True if the step should end (Q2).
    pub(crate) fn took(&mut self, worked: usize, took: Micros) -> bool {
        if took > STEP_US {
            let fit = (worked as u64).saturating_mul(STEP_US) / took;
            self.records = (fit as usize).clamp(1, self.most);
            return true;
        }
        // What was cut short by something else says nothing about a longer run.
        if took < STEP_US / 4 && worked >= self.records {
            self.records = (2 * self.records).min(self.most);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of records that cost so much each, one after the other; whether the last one ended its step.
    fn run(pace: &mut Pace, cost: Micros, runs: usize) -> bool {
        (0..runs).fold(false, |_, _| {
            let records = pace.records();
            pace.took(records, records as Micros * cost)
        })
    }

    #[test]
    fn slow_records_make_short_steps_and_fast_ones_whole_runs() {
        let mut pace = Pace::new(256);
        assert!(!run(&mut pace, 0, 3));
        assert_eq!(pace.records(), 256);
        assert!(run(&mut pace, 1_200, 1), "the first run is too long");
        assert_eq!(pace.records(), 1, "Q1");
        assert!(run(&mut pace, 1_200, 5));
        assert_eq!(pace.records(), 1);
        run(&mut pace, 10, 20);
        let steady = pace.records();
        assert!((25..=128).contains(&steady), "{steady} records of 10 us");
        assert!(!run(&mut pace, 10, 1));
        run(&mut pace, 0, 20);
        assert_eq!(pace.records(), 256);
    }

    #[test]
    fn a_run_that_something_else_cut_short_is_no_reason_for_longer_ones() {
        let mut pace = Pace::new(256);
        pace.took(256, 64_000);
        let before = pace.records();
        for _ in 0..10 {
            pace.took(before - 1, 1);
        }
        assert_eq!(pace.records(), before);
    }
}
