//! The cluster's slots: who has how many, and which jobs hold them. Pure.
//!
//! Invariants
//!   L1  An agent's slots in use never exceed its total.
//!   L2  A request is granted whole or not at all.
//!   L3  What was taken by a worker is free again after exactly one of: its release, its agent's loss.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_protocol::{AgentId, WorkerId};

/// A part of a request: so many slots of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Whose.
    pub agent: AgentId,
    /// How many.
    pub slots: u32,
}

/// Not enough free slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} slots are wanted, {free} are free; start TaskManagers, or ask for less parallelism"
)]
pub struct NoSlots {
    /// Asked for.
    pub wanted: u32,
    /// There.
    pub free: u32,
}

#[derive(Clone, Debug, Default)]
struct Agent {
    total: u32,
    workers: BTreeMap<WorkerId, u32>,
}

impl Agent {
    fn used(&self) -> u32 {
        self.workers.values().sum()
    }

    fn free(&self) -> u32 {
        self.total.saturating_sub(self.used())
    }
}

/// All agents that are alive.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    agents: BTreeMap<AgentId, Agent>,
}

impl Pool {
    /// An agent registered, with the workers that it has already. Again: replaces what was known.
    pub fn register(
        &mut self,
        agent: AgentId,
        slots: u32,
        workers: impl IntoIterator<Item = (WorkerId, u32)>,
    ) {
        self.agents.insert(agent, Agent { total: slots, workers: workers.into_iter().collect() });
    }

    /// An agent is lost, and its workers with it: they are returned.
    pub fn lose(&mut self, agent: &AgentId) -> Vec<WorkerId> {
        self.agents.remove(agent).map(|a| a.workers.into_keys().collect()).unwrap_or_default()
    }

    /// Where `slots` could be had: few workers, on the agents with the most room.
    ///
    /// # Errors
    /// When there are not enough; nothing is granted then (L2).
    pub fn find(&self, slots: u32) -> Result<Vec<Grant>, NoSlots> {
        let free = self.free();
        if free < slots {
            return Err(NoSlots { wanted: slots, free });
        }
        let mut agents: Vec<(&AgentId, u32)> = self
            .agents
            .iter()
            .map(|(id, a)| (id, a.free()))
            .filter(|(_, free)| *free > 0)
            .collect();
        let mut left = slots;
        let mut grants = Vec::new();
        while left > 0 {
            // The tightest agent that takes all of the rest, otherwise the roomiest.
            let fits =
                (0..agents.len()).filter(|&i| agents[i].1 >= left).min_by_key(|&i| agents[i].1);
            let best = fits.or_else(|| (0..agents.len()).max_by_key(|&i| agents[i].1));
            let Some(best) = best else { break };
            let (agent, room) = agents.swap_remove(best);
            let take = room.min(left);
            grants.push(Grant { agent: agent.clone(), slots: take });
            left -= take;
        }
        Ok(grants)
    }

    /// A worker takes slots of an agent. False where it does not have them (L1).
    pub fn take(&mut self, agent: &AgentId, worker: WorkerId, slots: u32) -> bool {
        match self.agents.get_mut(agent) {
            Some(a) if a.free() >= slots && !a.workers.contains_key(&worker) => {
                a.workers.insert(worker, slots);
                true
            }
            _ => false,
        }
    }

    /// A worker is gone; its slots are free.
    pub fn release(&mut self, worker: &WorkerId) {
        for agent in self.agents.values_mut() {
            agent.workers.remove(worker);
        }
    }

    /// All slots.
    pub fn total(&self) -> u32 {
        self.agents.values().map(|a| a.total).sum()
    }

    /// Slots that nobody has.
    pub fn free(&self) -> u32 {
        self.agents.values().map(Agent::free).sum()
    }

    /// Each agent with its slots, total and free.
    pub fn agents(&self) -> impl Iterator<Item = (&AgentId, u32, u32)> {
        self.agents.iter().map(|(id, a)| (id, a.total, a.free()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemill_protocol::JobId;

    fn agent(n: u8) -> AgentId {
        AgentId::from_bytes([n; 16])
    }

    fn worker(n: u32) -> WorkerId {
        WorkerId { job: JobId::from_bytes([1; 16]), number: n }
    }

    #[test]
    fn few_workers_and_all_or_nothing() {
        let mut pool = Pool::default();
        pool.register(agent(1), 4, []);
        pool.register(agent(2), 2, []);
        let one = |n, slots| Grant { agent: agent(n), slots };
        assert_eq!(pool.find(2), Ok(vec![one(2, 2)]), "the tightest that fits");
        assert_eq!(pool.find(3), Ok(vec![one(1, 3)]));
        assert_eq!(pool.find(5), Ok(vec![one(1, 4), one(2, 1)]));
        assert_eq!(pool.find(7), Err(NoSlots { wanted: 7, free: 6 }));
    }

    proptest! {
        /// L1 to L3 against counting by hand.
        #[test]
        fn slots_are_conserved(steps in prop::collection::vec((0u8..4, 0u8..4, 0u32..6), 1..200)) {
            let mut pool = Pool::default();
            let mut held: BTreeMap<u32, (u8, u32)> = BTreeMap::new();
            let mut alive: BTreeMap<u8, u32> = BTreeMap::new();
            let mut next = 0;
            for (what, who, n) in steps {
                match what {
                    0 if !alive.contains_key(&who) => {
                        pool.register(agent(who), n, []);
                        alive.insert(who, n);
                    }
                    1 => {
                        pool.lose(&agent(who));
                        alive.remove(&who);
                        held.retain(|_, (a, _)| *a != who);
                    }
                    2 => if let Ok(grants) = pool.find(n) {
                        prop_assert_eq!(grants.iter().map(|g| g.slots).sum::<u32>(), n);
                        for grant in grants {
                            prop_assert!(pool.take(&grant.agent, worker(next), grant.slots));
                            let a = (0..4).find(|&a| agent(a) == grant.agent).expect("known");
                            held.insert(next, (a, grant.slots));
                            next += 1;
                        }
                    },
                    _ => if let Some((&w, _)) = held.iter().nth(who as usize) {
                        pool.release(&worker(w));
                        held.remove(&w);
                    },
                }
                let total: u32 = alive.values().sum();
                let used: u32 = held.values().map(|h| h.1).sum();
                prop_assert_eq!((pool.total(), pool.free()), (total, total - used));
            }
        }
    }
}
