//! What goes wrong, by a seed: the same seed draws the same faults, though processes meet them as they
//! happen to stand.

use crate::cluster::Cluster;
use crate::part::{Part, signal};
use crate::run::Keeper;
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

/// What may happen to what a cluster keeps its things in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// PostgreSQL is killed, and started again.
    DatabaseKilled,
    /// All its processes stand still.
    DatabaseStill,
    /// The bucket answers 503.
    BucketBusy,
    /// It takes requests and does nothing.
    BucketHangs,
    /// It does what it is told, and does not say so.
    BucketSilent,
    /// Nobody listens there.
    BucketGone,
}

/// What is to be mended, and when.
enum Repair {
    /// Starts a TaskManager.
    TaskManager(usize),
    /// Starts a JobManager.
    JobManager(usize),
    Continue(u32),
    Link(usize),
    /// Joins two hosts.
    Hosts(usize, usize),
    /// Frees the disk of the checkpoints.
    Disk,
    Outage(Outage),
}

/// Goes on making and mending faults.
pub struct Faults {
    rng: Rng,
    began: Instant,
    next: Instant,
    repairs: Vec<(Instant, Repair)>,
    /// What happened, for people.
    pub timeline: Vec<String>,
    /// How likely each kind is.
    weights: [u64; KINDS.len()],
    /// Faults of each kind.
    pub counts: [u64; KINDS.len()],
}

/// Names of the kinds, as in the report.
pub const KINDS: [&str; 18] = [
    "worker killed",
    "worker stopped",
    "TaskManager killed",
    "TaskManager stopped",
    "JobManager killed",
    "JobManager stopped",
    "link to JobManager cut",
    "link to JobManager hung",
    "link of workers cut",
    "link of workers hung",
    "checkpoint disk full",
    "PostgreSQL killed",
    "PostgreSQL stopped",
    "S3 503",
    "S3 hung",
    "S3 silent",
    "S3 gone",
    "nothing",
];

/// What can happen to a cluster, beyond what can happen to every one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dangers {
    /// The directory of the checkpoints has a small disk of its own.
    pub small_disk: bool,
    /// There are hosts that can be parted.
    pub hosts: bool,
    /// Metadata are in PostgreSQL, checkpoints in a bucket.
    pub servers: bool,
}

impl Dangers {
    /// How likely each kind is.
    fn weights(self) -> [u64; KINDS.len()] {
        let only = |there: bool, weight: u64| if there { weight } else { 0 };
        let (disk, hosts, servers) = (self.small_disk, self.hosts, self.servers);
        [
            6,
            4,
            3,
            2,
            4,
            2,
            4,
            3,
            only(hosts, 4),
            only(hosts, 3),
            only(disk, 3),
            only(servers, 3),
            only(servers, 2),
            only(servers, 2),
            only(servers, 2),
            only(servers, 1),
            only(servers, 2),
            1,
        ]
    }
}

impl Faults {
    /// The first comes soon.
    pub fn new(seed: u64, dangers: Dangers) -> Self {
        let now = Instant::now();
        Faults {
            rng: Rng::new(seed),
            began: now,
            next: now + Duration::from_millis(1_500),
            repairs: Vec::new(),
            timeline: Vec::new(),
            weights: dangers.weights(),
            counts: [0; KINDS.len()],
        }
    }

    /// Notes something in the timeline.
    pub fn note(&mut self, what: &str) {
        self.timeline.push(format!("{:8.3} s  {what}", self.began.elapsed().as_secs_f64()));
    }

    /// Does what is due.
    pub fn step(&mut self, cluster: &mut Cluster, keeper: &dyn Keeper) {
        let now = Instant::now();
        self.mend(cluster, keeper, now);
        if now >= self.next {
            // In bursts, with time between them to get going.
            let pause =
                if self.rng.below(3) == 0 { self.rng.ms(20, 400) } else { self.rng.ms(800, 4_500) };
            self.next = now + pause;
            self.fault(cluster, keeper, now);
        }
    }

    /// Mends everything at once.
    pub fn end(&mut self, cluster: &mut Cluster, keeper: &dyn Keeper) {
        let far = Instant::now() + Duration::from_secs(3_600);
        self.mend(cluster, keeper, far);
        self.note("faults end");
    }

    fn mend(&mut self, cluster: &mut Cluster, keeper: &dyn Keeper, now: Instant) {
        let repairs = std::mem::take(&mut self.repairs).into_iter();
        let (due, rest): (Vec<_>, Vec<_>) = repairs.partition(|(at, _)| *at <= now);
        self.repairs = rest;
        for (_, repair) in due {
            match repair {
                Repair::TaskManager(n) => self.start(&mut cluster.task_managers[n]),
                Repair::JobManager(n) => self.start(&mut cluster.job_managers[n]),
                Repair::Continue(id) => signal(id, Signal::CONT),
                Repair::Link(n) => cluster.links[n].hang(false),
                Repair::Hosts(a, b) => self.part(cluster, a, b, false),
                Repair::Disk => {
                    let _ = fs::remove_file(filler(cluster));
                    self.note("the disk of the checkpoints has room again");
                }
                Repair::Outage(outage) => {
                    keeper.end(outage, cluster);
                    self.note(&format!("{outage:?} is over"));
                }
            }
        }
    }

    fn start(&mut self, part: &mut Part) {
        self.note(&format!("{} is started again", part.name));
        if let Err(e) = part.start() {
            self.note(&format!("it does not start: {e}"));
        }
    }

    fn part(&mut self, cluster: &Cluster, a: usize, b: usize, parted: bool) {
        let done = cluster.plan.hosts.as_ref().map(|hosts| hosts.part(a, b, parted));
        if let Some(Err(e)) = done {
            self.note(&format!("hosts {a} and {b} are as they were: {e}"));
        }
    }

    fn draw(&mut self) -> usize {
        let mut ticket = self.rng.below(self.weights.iter().sum());
        let drawn = self.weights.iter().position(|&w| match ticket.checked_sub(w) {
            Some(rest) => {
                ticket = rest;
                false
            }
            None => true,
        });
        drawn.unwrap_or(KINDS.len() - 1)
    }

    fn fault(&mut self, cluster: &mut Cluster, keeper: &dyn Keeper, now: Instant) {
        let kind = self.draw();
        let n = self.rng.below(cluster.task_managers.len() as u64) as usize;
        let m = self.rng.below(cluster.job_managers.len() as u64) as usize;
        let pause =
            if self.rng.below(4) == 0 { self.rng.ms(4_000, 9_000) } else { self.rng.ms(50, 2_000) };
        let short = self.rng.ms(100, 2_500);
        let pick = self.rng.below(64) as usize;
        let did = match kind {
            0 | 1 => self.worker(kind == 0, cluster, (n, pick), now + pause),
            2 if cluster.task_managers[n].is_up() => {
                let workers = cluster.workers_of(n);
                cluster.task_managers[n].kill();
                self.repairs.push((now + short, Repair::TaskManager(n)));
                Some(format!("TaskManager {n} is killed, with workers {workers:?}"))
            }
            4 if cluster.job_managers[m].is_up() => {
                cluster.job_managers[m].kill();
                self.repairs.push((now + short, Repair::JobManager(m)));
                Some(format!("JobManager {m} is killed"))
            }
            3 => self.still(&mut cluster.task_managers[n], now + pause),
            5 => self.still(&mut cluster.job_managers[m], now + pause),
            6 | 7 => self.link(kind == 6, cluster, (n, m), now + pause),
            8 | 9 => {
                let other = (n + 1 + pick % (cluster.task_managers.len() - 1))
                    % cluster.task_managers.len();
                let (a, b) = (cluster.plan.host_of(n), cluster.plan.host_of(other));
                self.hosts(kind == 8, cluster, (a, b), now + pause)
            }
            10 => {
                fill(&filler(cluster));
                self.repairs.push((now + pause, Repair::Disk));
                Some("the disk of the checkpoints is full".to_owned())
            }
            11..=16 => {
                let outage = OUTAGES[kind - 11];
                keeper.begin(outage, cluster);
                self.repairs.push((now + pause, Repair::Outage(outage)));
                Some(format!("{outage:?}"))
            }
            _ => None,
        };
        if let Some(did) = did {
            self.counts[kind] += 1;
            self.note(&format!("{did} (for {pause:?} or {short:?})"));
        }
    }

    /// A worker is killed, or stands still.
    fn worker(
        &mut self,
        killed: bool,
        cluster: &Cluster,
        (n, pick): (usize, usize),
        until: Instant,
    ) -> Option<String> {
        let workers = cluster.workers_of(n);
        let id = *workers.get(pick % workers.len().max(1))?;
        signal(id, if killed { Signal::KILL } else { Signal::STOP });
        if !killed {
            self.repairs.push((until, Repair::Continue(id)));
        }
        let what = if killed { "is killed" } else { "stands still" };
        Some(format!("worker {id} of TaskManager {n} {what}"))
    }

    /// A part stands still.
    fn still(&mut self, part: &mut Part, until: Instant) -> Option<String> {
        let id = if part.is_up() { part.id()? } else { return None };
        signal(id, Signal::STOP);
        self.repairs.push((until, Repair::Continue(id)));
        Some(format!("{} stands still", part.name))
    }

    /// The link of TaskManager `n` to JobManager `m` is cut, or hangs.
    fn link(
        &mut self,
        cut: bool,
        cluster: &Cluster,
        (n, m): (usize, usize),
        until: Instant,
    ) -> Option<String> {
        if cluster.plan.hosts.is_some() {
            return self.hosts(cut, cluster, (cluster.plan.host_of(n), m), until);
        }
        let at = if cluster.job_managers.len() == 1 { n } else { m };
        let link = cluster.links.get(at)?;
        if cut {
            link.cut();
            return Some(format!("link {at} is cut"));
        }
        link.hang(true);
        self.repairs.push((until, Repair::Link(at)));
        Some(format!("link {at} hangs"))
    }

    /// The connections between two hosts are cut, or hang.
    fn hosts(
        &mut self,
        cut: bool,
        cluster: &Cluster,
        (a, b): (usize, usize),
        until: Instant,
    ) -> Option<String> {
        let hosts = cluster.plan.hosts.as_ref()?;
        if cut {
            let done = hosts.cut(a, b);
            return Some(format!("connections of hosts {a} and {b} are cut: {done:?}"));
        }
        self.part(cluster, a, b, true);
        self.repairs.push((until, Repair::Hosts(a, b)));
        Some(format!("hosts {a} and {b} do not hear of each other"))
    }
}

/// By their kinds.
const OUTAGES: [Outage; 6] = [
    Outage::DatabaseKilled,
    Outage::DatabaseStill,
    Outage::BucketBusy,
    Outage::BucketHangs,
    Outage::BucketSilent,
    Outage::BucketGone,
];

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
