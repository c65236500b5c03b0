//! Everything that a seed decides before the first step.

use crate::jobs::Kind;
use crate::rng::Rng;
use crate::scenario::Scenario;
use tidemill_base::Micros;

/// How likely each kind of fault is, in parts of the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A worker's connection breaks; what was under way may be lost.
    pub cut_worker: u64,
    /// An agent's does.
    pub cut_agent: u64,
    /// A worker's process is killed.
    pub kill_worker: u64,
    /// An agent's is, and its workers with it.
    pub kill_agent: u64,
    /// A worker stands still for a while, and goes on as if nothing had happened.
    pub stop_worker: u64,
    /// An agent does.
    pub stop_agent: u64,
    /// A JobManager does: it may be a stale leader when it goes on.
    pub stop_manager: u64,
    /// A JobManager's process is killed.
    pub kill_manager: u64,
    /// For a while nothing gets through between a host and a JobManager.
    pub part: u64,
    /// For a while a JobManager does not reach the metadata store.
    pub part_metadata: u64,
}

impl Faults {
    fn of(rng: &mut Rng) -> Self {
        let some = [0, 0, 1, 2, 4];
        let mut draw = || rng.pick(&some);
        Faults {
            cut_worker: draw(),
            cut_agent: draw(),
            kill_worker: draw(),
            kill_agent: draw(),
            stop_worker: draw(),
            stop_agent: draw(),
            stop_manager: draw(),
            kill_manager: draw(),
            part: draw(),
            part_metadata: draw(),
        }
    }
}

/// What every job finds room in.
const SLOTS_MIN: u32 = 4;

/// A whole run.
#[derive(Clone, Debug)]
pub struct ClusterScenario {
    /// The seed.
    pub seed: u64,
    /// The jobs that compete for the slots.
    pub jobs: Vec<Scenario>,
    /// Slots of each TaskManager.
    pub agents: Vec<u32>,
    /// How many JobManagers there are.
    pub managers: usize,
    /// What goes wrong.
    pub faults: Faults,
    /// The longest time between two faults, mostly.
    pub fault_us: Micros,
    /// Time until which something goes wrong.
    pub quiet_at: Micros,
    /// The longest time between two things that users ask for; `None`: nothing.
    pub ask_us: Option<Micros>,
    /// Messages in a hundred that are told twice.
    pub twice: u64,
    /// Messages in a hundred that take long.
    pub slow: u64,
    /// Checkpoints that are kept.
    pub keep: usize,
    /// From a checkpoint's trigger to its completion.
    pub checkpoint_timeout_ms: u64,
    /// How many checkpoints may fail in a row.
    pub tolerated: Option<u32>,
}

impl ClusterScenario {
    /// What `seed` stands for.
    pub fn new(seed: u64) -> Self {
        let rng = &mut Rng::new(seed ^ 0x636c_7573_7465_7273);
        let jobs = (0..rng.pick(&[1, 1, 1, 2]))
            .map(|_| {
                let own = rng.draw();
                let mut job = Scenario::with_kind(own, Kind::draw(rng, own));
                // Slow enough for something to happen meanwhile.
                job.pace.records = rng.pick(&[1, 4]);
                job.pace.pauses = rng.pick(&[20, 50, 90]);
                job.pace.pause_us = rng.pick(&[100_000, 300_000, 1_000_000]);
                job
            })
            .collect();
        let mut agents: Vec<u32> =
            (0..rng.between(1, 4)).map(|_| rng.between(1, 4) as u32).collect();
        if agents.iter().sum::<u32>() < SLOTS_MIN {
            agents.push(SLOTS_MIN);
        }
        ClusterScenario {
            seed,
            jobs,
            agents,
            managers: rng.pick(&[1, 2, 2]),
            faults: Faults::of(rng),
            fault_us: rng.pick(&[100_000, 500_000, 3_000_000]),
            quiet_at: rng.pick(&[5_000_000, 20_000_000, 60_000_000]),
            ask_us: rng.pick(&[None, Some(50_000), Some(500_000), Some(5_000_000)]),
            twice: rng.pick(&[0, 0, 5, 30]),
            slow: rng.pick(&[0, 2, 20]),
            keep: rng.pick(&[1, 2, 4]),
            checkpoint_timeout_ms: rng.pick(&[1_000, 10_000, 600_000]),
            tolerated: rng.pick(&[None, Some(3)]),
        }
    }
}
