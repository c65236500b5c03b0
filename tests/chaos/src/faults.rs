//! What goes wrong, by a seed: the same seed draws the same faults, though processes meet them as they
//! happen to stand.

use crate::cluster::Cluster;
use crate::part::{Part, signal};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Chance from a seed: SplitMix64.
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6368_616f_7321)
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// What is to be mended, and when.
enum Repair {
    /// Starts a TaskManager.
    TaskManager(usize),
    JobManager,
    Continue(u32),
    Link(usize),
    /// Frees the disk of the checkpoints.
    Disk,
}

/// Goes on making and mending faults.
pub struct Faults {
    rng: Rng,
    began: Instant,
    next: Instant,
    repairs: Vec<(Instant, Repair)>,
    /// What happened, for people.
    pub timeline: Vec<String>,
    /// The directory of the checkpoints has a small disk of its own.
    small_disk: bool,
    /// Faults of each kind.
    pub counts: [u64; KINDS.len()],
}

/// Names of the kinds, as in the report.
pub const KINDS: [&str; 10] = [
    "worker killed",
    "worker stopped",
    "TaskManager killed",
    "TaskManager stopped",
    "JobManager killed",
    "JobManager stopped",
    "link cut",
    "link hung",
    "checkpoint disk full",
    "nothing",
];

/// How likely each kind is.
const WEIGHTS: [u64; KINDS.len()] = [6, 4, 3, 2, 4, 2, 4, 3, 3, 1];

impl Faults {
    /// The first comes soon.
    pub fn new(seed: u64, small_disk: bool) -> Self {
        let now = Instant::now();
        Faults {
            rng: Rng::new(seed),
            began: now,
            next: now + Duration::from_millis(1_500),
            repairs: Vec::new(),
            timeline: Vec::new(),
            small_disk,
            counts: [0; KINDS.len()],
        }
    }

    /// Notes something in the timeline.
    pub fn note(&mut self, what: &str) {
        self.timeline.push(format!("{:8.3} s  {what}", self.began.elapsed().as_secs_f64()));
    }

    /// Does what is due.
    pub fn step(&mut self, cluster: &mut Cluster) {
        let now = Instant::now();
        self.mend(cluster, now);
        if now >= self.next {
            // In bursts, with time between them to get going.
            let pause =
                if self.rng.below(3) == 0 { self.rng.ms(20, 400) } else { self.rng.ms(800, 4_500) };
            self.next = now + pause;
            self.fault(cluster, now);
        }
    }

    /// Mends everything at once.
    pub fn end(&mut self, cluster: &mut Cluster) {
        let far = Instant::now() + Duration::from_secs(3_600);
        self.mend(cluster, far);
        self.note("faults end");
    }

    fn mend(&mut self, cluster: &mut Cluster, now: Instant) {
        let repairs = std::mem::take(&mut self.repairs).into_iter();
        let (due, rest): (Vec<_>, Vec<_>) = repairs.partition(|(at, _)| *at <= now);
        self.repairs = rest;
        for (_, repair) in due {
            match repair {
                Repair::TaskManager(n) => {
                    self.note(&format!("TaskManager {n} is started again"));
                    if let Err(e) = cluster.task_managers[n].start() {
                        self.note(&format!("it does not start: {e}"));
                    }
                }
                Repair::JobManager => {
                    self.note("the JobManager is started again");
                    if let Err(e) = cluster.job_managers[0].start() {
                        self.note(&format!("it does not start: {e}"));
                    }
                }
                Repair::Continue(id) => signal(id, Signal::CONT),
                Repair::Link(n) => cluster.links[n].hang(false),
                Repair::Disk => {
                    let _ = fs::remove_file(filler(cluster));
                    self.note("the disk of the checkpoints has room again");
                }
            }
        }
    }

    fn fault(&mut self, cluster: &mut Cluster, now: Instant) {
        let mut ticket = self.rng.below(WEIGHTS.iter().sum());
        let kind = WEIGHTS.iter().position(|&w| match ticket.checked_sub(w) {
            Some(rest) => {
                ticket = rest;
                false
            }
            None => true,
        });
        let kind = kind.unwrap_or(KINDS.len() - 1);
        let n = self.rng.below(cluster.task_managers.len() as u64) as usize;
        let pause =
            if self.rng.below(4) == 0 { self.rng.ms(4_000, 9_000) } else { self.rng.ms(50, 2_000) };
        let again = now + pause;
        let short = now + self.rng.ms(100, 2_500);
        let pick = self.rng.below(64) as usize;
        let workers = cluster.workers_of(n);
        let worker = workers.get(pick % workers.len().max(1)).copied();
        let up = |part: &mut Part| part.is_up();
        let did = match (kind, worker) {
            (0, Some(id)) => {
                signal(id, Signal::KILL);
                Some(format!("worker {id} of TaskManager {n} is killed"))
            }
            (1, Some(id)) => {
                signal(id, Signal::STOP);
                self.repairs.push((again, Repair::Continue(id)));
                Some(format!("worker {id} of TaskManager {n} stands still for {pause:?}"))
            }
            (2, _) if up(&mut cluster.task_managers[n]) => {
                cluster.task_managers[n].kill();
                self.repairs.push((short, Repair::TaskManager(n)));
                Some(format!("TaskManager {n} is killed, with workers {workers:?}"))
            }
            (3, _) if up(&mut cluster.task_managers[n]) => {
                cluster.task_managers[n].id().map(|id| {
                    signal(id, Signal::STOP);
                    self.repairs.push((again, Repair::Continue(id)));
                    format!("TaskManager {n} stands still for {pause:?}")
                })
            }
            (4, _) if up(&mut cluster.job_managers[0]) => {
                cluster.job_managers[0].kill();
                self.repairs.push((short, Repair::JobManager));
                Some("the JobManager is killed".to_owned())
            }
            (5, _) if up(&mut cluster.job_managers[0]) => cluster.job_managers[0].id().map(|id| {
                signal(id, Signal::STOP);
                self.repairs.push((again, Repair::Continue(id)));
                format!("the JobManager stands still for {pause:?}")
            }),
            (6, _) => {
                cluster.links[n].cut();
                Some(format!("the link of TaskManager {n} is cut"))
            }
            (7, _) => {
                cluster.links[n].hang(true);
                self.repairs.push((again, Repair::Link(n)));
                Some(format!("the link of TaskManager {n} hangs for {pause:?}"))
            }
            (8, _) if self.small_disk => {
                fill(&filler(cluster));
                self.repairs.push((again, Repair::Disk));
                Some(format!("the disk of the checkpoints is full for {pause:?}"))
            }
            _ => None,
        };
        if let Some(did) = did {
            self.counts[kind] += 1;
            self.note(&did);
        }
    }
}

fn filler(cluster: &Cluster) -> PathBuf {
    PathBuf::from(&cluster.plan.checkpoints).join("filler.of.the.test")
}

/// Writes until there is no room left.
fn fill(path: &PathBuf) {
    let Ok(mut file) = File::create(path) else { return };
    for size in [1 << 20, 4_096, 1] {
        let piece = vec![0; size];
        while file.write_all(&piece).is_ok() {}
    }
}
