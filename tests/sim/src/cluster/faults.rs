//! What goes wrong, and what users ask for.

use super::manager::{Manager, master_settings};
use super::wire::{ConnectionId, ManagerKey, WorkerKey};
use super::{Happening, World};
use tidemill_base::{Clock, Micros};
use tidemill_coordination::{JobSettings, MasterEvent, RestartStrategy, Submission};

use crate::jobs::{Parts, compose};

/// How long somebody stands still or is cut off, mostly shorter than what makes others suspicious.
const PAUSES_US: [Micros; 6] = [50_000, 50_000, 400_000, 2_500_000, 7_000_000, 20_000_000];

impl World<'_> {
    pub(super) fn fault(&mut self) {
        let now = self.clock.now();
        if self.is_quiet() {
            return;
        }
        // In bursts, with time between them to get going.
        let longest = self.scenario.fault_us * self.rng.pick(&[1, 1, 10]);
        let next = self.rng.below(longest) + 1;
        self.later(next, Happening::Fault);
        let f = self.scenario.faults;
        let kinds = [
            f.cut_worker,
            f.cut_agent,
            f.kill_worker,
            f.kill_agent,
            f.stop_worker,
            f.stop_agent,
            f.stop_manager,
            f.kill_manager,
            f.part,
            f.part_metadata,
        ];
        let sum: u64 = kinds.iter().sum();
        if sum == 0 {
            return;
        }
        let mut ticket = self.rng.below(sum);
        let kind = kinds.iter().position(|&weight| match ticket.checked_sub(weight) {
            Some(rest) => {
                ticket = rest;
                false
            }
            None => true,
        });
        // What lasts ends when all is to be quiet.
        let pause = self.rng.pick(&PAUSES_US).min(self.scenario.quiet_at - now);
        let until = now + self.rng.below(pause + 1);
        if self.go_wrong(kind.unwrap_or(0), until).is_some() {
            self.report.faults += 1;
        }
    }

    fn go_wrong(&mut self, kind: usize, until: Micros) -> Option<()> {
        match kind {
            0 | 1 => {
                let agent = |c: &super::Connection| matches!(c.far, super::Far::Agent(..));
                let of = self.connections.iter().filter(|(_, c)| agent(c) == (kind == 1));
                let ids: Vec<ConnectionId> = of.map(|(&id, _)| id).collect();
                let id = self.one_of(&ids)?;
                self.log(|| format!("fault: connection {id} is cut"));
                self.cut(id);
            }
            2 | 4 => {
                let keys: Vec<WorkerKey> = self.processes.keys().copied().collect();
                let key = self.one_of(&keys)?;
                if kind == 2 {
                    self.log(|| format!("fault: worker {key:?} is killed"));
                    self.end_process(key);
                } else {
                    self.log(|| format!("fault: worker {key:?} stands still until {until}"));
                    self.processes.get_mut(&key)?.stopped_until = until;
                }
            }
            3 | 5 => {
                let host = self.rng.index(self.hosts.len());
                if kind == 3 {
                    self.log(|| format!("fault: agent {host} is killed"));
                    self.kill_agent(host);
                } else if self.hosts[host].alive {
                    self.log(|| format!("fault: agent {host} stands still until {until}"));
                    self.hosts[host].stopped_until = until;
                }
            }
            6 => {
                let at = self.rng.index(self.managers.len());
                self.log(|| format!("fault: JobManager {at} stands still until {until}"));
                self.managers[at].stopped_until = until;
            }
            7 => self.kill_manager(),
            8 => {
                let pair = (self.rng.index(self.hosts.len()), self.rng.index(self.managers.len()));
                self.log(|| format!("fault: host and JobManager {pair:?} parted until {until}"));
                self.parted.insert(pair, until);
            }
            _ => {
                let at = self.rng.index(self.managers.len());
                self.log(|| format!("fault: no metadata for JobManager {at} until {until}"));
                self.managers[at].metadata_away_until = until;
            }
        }
        Some(())
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| self.rng.pick(of))
    }

    fn kill_manager(&mut self) {
        let at = self.rng.index(self.managers.len());
        let Some(manager) = self.managers[at].up.take() else { return };
        self.log(|| format!("fault: JobManager {at} is killed"));
        self.managers[at].stopped_until = 0;
        let key = manager.key;
        self.close_all(|c| (c.manager == key).then_some(super::End::Manager));
        let pause = self.rng.below(2_000_000);
        self.later(pause, Happening::ManagerBack { at });
    }

    pub(super) fn manager_back(&mut self, at: usize) {
        if self.managers[at].up.is_some() {
            return;
        }
        let seat = &mut self.managers[at];
        seat.life += 1;
        let key: ManagerKey = (at, seat.life);
        let s = self.scenario;
        let settings = master_settings(s.keep, s.checkpoint_timeout_ms, s.tolerated);
        seat.up = Some(Manager::new(key, settings));
        self.later(1_000, Happening::Campaign { manager: key });
        self.later(50_000, Happening::Look { manager: key });
    }

    /// A user asks for something.
    pub(super) fn ask(&mut self) {
        let Some(us) = self.scenario.ask_us else { return };
        // Not for ever: jobs are to finish.
        if self.is_quiet() {
            return;
        }
        let next = self.rng.below(us) + 1;
        self.later(next, Happening::Ask);
        let live: Vec<usize> = self.families.iter().filter_map(|f| f.last).collect();
        let Some(job) = self.one_of(&live) else { return };
        let asks = |seat: &super::Seat| seat.up.as_ref().is_some_and(|m| m.runs(job));
        let managers: Vec<usize> =
            (0..self.managers.len()).filter(|&at| asks(&self.managers[at])).collect();
        let Some(at) = self.one_of(&managers) else { return };
        if self.managers[at].stopped_until > self.clock.now() {
            return;
        }
        let id = self.next_savepoint;
        self.next_savepoint += 1;
        let event = match self.rng.below(40) {
            0..16 => MasterEvent::Savepoint { id },
            16..23 => MasterEvent::StopWithSavepoint { id },
            23 => MasterEvent::Cancel,
            _ => match self.other_parallelism(job) {
                Some(submission) => MasterEvent::Rescale(Box::new(submission)),
                None => return,
            },
        };
        let savepoint =
            matches!(event, MasterEvent::Savepoint { .. } | MasterEvent::StopWithSavepoint { .. });
        self.log(|| format!("user asks JobManager {at} about job {job}: {}", short(&event)));
        let rescale = matches!(event, MasterEvent::Rescale(_));
        let Some((key, term)) = self.managers[at].up.as_ref().and_then(|m| Some((m.key, m.term?)))
        else {
            return;
        };
        if savepoint {
            self.asked.insert(id, (key, term, 0));
        }
        let mut taken = false;
        self.tell(key, |m, now, out| taken = m.ask(now, job, event, out));
        if !taken {
            self.asked.remove(&id);
        }
        self.report.rescaled += u64::from(rescale && taken);
    }

    fn other_parallelism(&mut self, job: usize) -> Option<Submission> {
        let family = &self.families[self.submitted[job].family];
        let slots: u32 = self.hosts.iter().map(|h| h.slots).sum();
        if !family.scenario.kind.rescales() {
            return None;
        }
        let parallelism = self.rng.between(1, slots.min(4).into()) as u32;
        Some(self.submission(job, parallelism))
    }

    /// What the job's program says at a parallelism.
    pub(super) fn submission(&mut self, job: usize, parallelism: u32) -> Submission {
        let family = &self.families[self.submitted[job].family];
        let scenario = family.scenario;
        let parts = Parts { scenario, ledger: family.ledger.clone(), parallelism, life: 0 };
        let life = &scenario.lives[0];
        let settings = JobSettings {
            checkpoint_interval_ms: Some((scenario.interval_us.unwrap_or(0) / 1_000).max(1)),
            aligned_timeout_ms: life.alignment.timeout_ms(),
            restart: RestartStrategy::default(),
            state: None,
        };
        let (plan, _) = match compose(&parts).plans() {
            Ok(plans) => plans,
            Err(e) => unreachable!("the jobs of the simulation compose: {e}"),
        };
        let stores = vec!["dir".into()];
        Submission { stores, protocol: 1, version: "0".into(), settings, plan }
    }
}

fn short(event: &MasterEvent) -> String {
    match event {
        MasterEvent::Rescale(submission) => {
            format!("rescale to {}", submission.plan.parallelism())
        }
        event => format!("{event:?}"),
    }
}
