//! The agent's slots and their CPUs. Pure.
//!
//! Invariants
//!   S1  A slot belongs to at most one worker.
//!   S2  Slot `i` stands on CPU `(first + i) mod n` of the `n` allowed ones, for ever.

use std::collections::BTreeSet;

/// Which slots are free.
#[derive(Debug)]
pub(crate) struct Slots {
    total: u32,
    free: BTreeSet<u32>,
    /// Allowed CPUs; empty: not known.
    cpus: Vec<usize>,
    first: usize,
}

impl Slots {
    pub(crate) fn new(total: u32, cpus: Vec<usize>, first: usize) -> Self {
        Slots { total, free: (0..total).collect(), cpus, first }
    }

    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    pub(crate) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// The lowest free slots, `count` of them or none.
    pub(crate) fn take(&mut self, count: u32) -> Option<Vec<u32>> {
        if count > self.free() {
            return None;
        }
        Some((0..count).filter_map(|_| self.free.pop_first()).collect())
    }

    pub(crate) fn give_back(&mut self, slots: &[u32]) {
        for &slot in slots {
            let was_taken = self.free.insert(slot);
            debug_assert!(was_taken && slot < self.total, "S1: slot {slot} was not taken");
        }
    }

    /// The CPU of each slot; empty where CPUs are not known.
    pub(crate) fn cpus_of(&self, slots: &[u32]) -> Vec<usize> {
        let cpu = |&slot: &u32| {
            let at = (self.first + slot as usize).checked_rem(self.cpus.len())?;
            self.cpus.get(at).copied()
        };
        slots.iter().filter_map(cpu).collect()
    }
}

/// The CPUs that this process may run on; none where the kernel does not say.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_wrap_around_the_allowed_cpus() {
        let mut slots = Slots::new(4, vec![2, 5, 7], 1);
        let taken = slots.take(4).expect("all free");
        assert_eq!(slots.cpus_of(&taken), [5, 7, 2, 5]);
        assert_eq!(slots.take(1), None);
        slots.give_back(&[2]);
        assert_eq!(slots.take(1), Some(vec![2]), "the same slot, so the same CPU");
        assert!(Slots::new(4, vec![], 0).cpus_of(&[0, 1]).is_empty());
    }

    #[test]
    fn this_process_runs_somewhere() {
        assert!(!allowed_cpus().is_empty());
    }

    proptest! {
        #[test]
        fn no_slot_is_given_twice(wanted in prop::collection::vec((0u32..5, any::<bool>()), 0..50)) {
            let mut slots = Slots::new(8, vec![0], 0);
            let mut held: Vec<Vec<u32>> = Vec::new();
            for (count, give) in wanted {
                if give && !held.is_empty() {
                    slots.give_back(&held.remove(0));
                } else if let Some(taken) = slots.take(count) {
                    prop_assert_eq!(taken.len(), count as usize);
                    held.push(taken);
                }
                let mut all: Vec<u32> = held.iter().flatten().copied().collect();
                let count = all.len();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), count, "S1");
                prop_assert_eq!(slots.free() as usize, 8 - count);
            }
        }
    }
}
