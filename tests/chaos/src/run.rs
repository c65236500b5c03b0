//! One run: a cluster, the job, faults for a while, and then what must be true.

use crate::cluster::{Cluster, Plan};
use crate::faults::{Dangers, Faults, KINDS, Outage};
use crate::job::{Job, Load};
use crate::part::{files, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tidemill_snapshot::{DirStore, SnapshotStore, verify};

/// What a cluster is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One JobManager, a file for its metadata, and directories; the one of checkpoints on a small disk, as root.
    Files,
    /// Two JobManagers on PostgreSQL, checkpoints and programs in S3; as root on hosts of their own, each. Wants the
    /// features `s3` and `postgres`.
    Servers,
}

/// How a run is made.
pub struct Options {
    /// Chance of the faults.
    pub seed: u64,
    /// How long something goes wrong.
    pub faults: Duration,
    /// After the last fault the job goes on within this time.
    pub progress: Duration,
    /// What the cluster is made of.
    pub kind: Kind,
    /// The command `tidemill`.
    pub tidemill: PathBuf,
    /// The program `chaos_job`.
    pub job: PathBuf,
}

/// Where a cluster keeps its things.
pub trait Keeper {
    /// Something is away from now on.
    fn begin(&self, outage: Outage, cluster: &Cluster);
    /// It is back.
    fn end(&self, outage: Outage, cluster: &Cluster);
    /// The checkpoints of a job.
    ///
    /// # Errors
    /// When there are none.
    fn checkpoints_of(&self, job: &str) -> Result<Box<dyn SnapshotStore>, String>;
    /// What is left of a job.
    fn left_of(&self, job: &str) -> Vec<String>;
}

/// Directories of this machine: no outage befalls them.
struct Directories {
    checkpoints: PathBuf,
    programs: PathBuf,
}

impl Keeper for Directories {
    fn begin(&self, _: Outage, _: &Cluster) {}

    fn end(&self, _: Outage, _: &Cluster) {}

    fn checkpoints_of(&self, job: &str) -> Result<Box<dyn SnapshotStore>, String> {
        let store = DirStore::existing(self.checkpoints.join(job));
        store.map(|store| Box::new(store) as _).map_err(|e| e.to_string())
    }

    fn left_of(&self, job: &str) -> Vec<String> {
        [files(&self.checkpoints.join(job)), files(&self.programs)].concat()
    }
}

/// A small disk for a directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it, where this machine lets us; that needs root.
    fn mount(dir: &Path, megabytes: u32) -> Option<Self> {
        let options = format!("size={megabytes}m,mode=0755");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir).output();
        mount.is_ok_and(|o| o.status.success()).then(|| SmallDisk(dir.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[cfg(all(feature = "s3", feature = "postgres"))]
fn servers(plan: &mut Plan) -> Result<Box<dyn Keeper>, String> {
    let root = rustix::process::geteuid().is_root();
    let servers = crate::servers::Servers::start(plan, root).map_err(|e| e.to_string())?;
    Ok(Box::new(servers))
}

#[cfg(not(all(feature = "s3", feature = "postgres")))]
fn servers(_: &mut Plan) -> Result<Box<dyn Keeper>, String> {
    Err("clusters on servers want the features s3 and postgres of tidemill-chaos".into())
}

/// Runs it; a report.
///
/// # Errors
/// What was not true, with the timeline of faults and what processes wrote last.
pub fn run(options: &Options) -> Result<String, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let checkpoints = dir.path().join("checkpoints");
    std::fs::create_dir(&checkpoints).map_err(|e| e.to_string())?;
    let mut plan = Plan::new(options.tidemill.clone(), dir.path());
    plan.task_managers = 3;
    plan.settings = ["checkpoints.tolerated_failures=any", "checkpoints.timeout=10s"]
        .map(str::to_owned)
        .to_vec();
    let mut disk = None;
    let keeper: Box<dyn Keeper> = match options.kind {
        Kind::Servers => servers(&mut plan)?,
        Kind::Files => {
            disk = SmallDisk::mount(&checkpoints, 48);
            Box::new(Directories {
                checkpoints,
                programs: dir.path().join("jobmanager-0/artifacts"),
            })
        }
    };
    let dangers = Dangers {
        small_disk: disk.is_some(),
        hosts: plan.hosts.is_some(),
        servers: options.kind == Kind::Servers,
    };
    let mut cluster =
        Cluster::start(plan).map_err(|e| format!("the cluster does not start: {e}"))?;
    let mut faults = Faults::new(options.seed, dangers);
    faults.note(&format!("{dangers:?}"));
    let result = live(options, &mut cluster, &mut faults, &*keeper);
    let words = cluster.last_words();
    let killed = cluster.end();
    drop(cluster);
    drop(disk);
    let counts = KINDS.iter().zip(faults.counts).filter(|(_, n)| *n > 0);
    let counts: Vec<String> = counts.map(|(kind, n)| format!("{kind} {n}")).collect();
    let result = result.and_then(|report| match killed.as_slice() {
        [] => Ok(report),
        parts => Err(format!("did not end when told to: {parts:?}")),
    });
    match result {
        Ok(report) => Ok(format!("{:?}: {report}\n  faults: {}", options.kind, counts.join(", "))),
        Err(e) => Err(format!(
            "{:?}, seed {}: {e}\nfaults:\n  {}\n{words}",
            options.kind,
            options.seed,
            faults.timeline.join("\n  ")
        )),
    }
}

fn live(
    options: &Options,
    cluster: &mut Cluster,
    faults: &mut Faults,
    keeper: &dyn Keeper,
) -> Result<String, String> {
    cluster.wait_for_slots()?;
    // More than can be read before the end.
    let rate = 3_000;
    let load = Load { records: rate * (options.faults.as_secs() + 30), rate, interval_ms: 400 };
    let out = cluster.plan.dir.join("out");
    let program = crate::part::slim(&options.job, &cluster.plan.dir).map_err(|e| e.to_string())?;
    let job = Job::submit(cluster, &program, &out, load, &[("parallelism", "4".to_owned())])?;
    job.goes_on(cluster, None)?;
    faults.note("the job runs");
    let end = Instant::now() + options.faults;
    let mut rescale = Instant::now() + Duration::from_secs(7);
    while Instant::now() < end {
        faults.step(cluster, keeper);
        if Instant::now() >= rescale {
            rescale = Instant::now() + Duration::from_secs(13);
            let to = 2 + faults.counts.iter().sum::<u64>() % 4;
            // It may be refused: there may be no slots, or nobody to ask.
            if let Ok(said) = job.tell(cluster, "rescale", &json!({ "parallelism": to })) {
                faults.note(&format!("rescale to {to}: {said}"));
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    faults.end(cluster, keeper);
    let took = check_progress(options.progress, cluster, &job)?;
    faults.note("the job goes on");
    let checked = check_checkpoints(cluster, &job, keeper)?;
    let last = job.finish(cluster)?;
    check_rest(cluster, &job, keeper)?;
    Ok(format!(
        "{} records, {} attempts, progress {:.1} s after the last fault, {checked} checkpoints whole",
        load.records,
        last["attempt"].as_u64().unwrap_or(0) + 1,
        took.as_secs_f64()
    ))
}

fn number(job: &Value, field: &str) -> u64 {
    job[field].as_u64().unwrap_or(0)
}

/// Within a time after the last fault, the job reads and completes checkpoints.
fn check_progress(within: Duration, cluster: &Cluster, job: &Job) -> Result<Duration, String> {
    let began = Instant::now();
    let mut first: Option<(u64, u64)> = None;
    until(within, "the job goes on after the last fault", || {
        let job = job.status(cluster)?;
        let seen = (number(&job, "records_read"), number(&job, "latest_checkpoint"));
        if job["status"] != "RUNNING" {
            first = None;
            return None;
        }
        let (read, epoch) = *first.get_or_insert(seen);
        (seen.0 > read && seen.1 > epoch).then_some(())
    })
    .map_err(|e| format!("{e}; it is {}", job.status(cluster).unwrap_or_default()))?;
    Ok(began.elapsed())
}

/// What is said to be complete is whole, unless it was let go meanwhile.
fn check_checkpoints(cluster: &Cluster, job: &Job, keeper: &dyn Keeper) -> Result<usize, String> {
    let complete = || -> Option<Vec<u64>> {
        let rows = job.checkpoints(cluster)?;
        let whole = rows.iter().filter(|c| c["status"] == "COMPLETED");
        Some(whole.filter_map(|c| c["epoch"].as_u64()).collect())
    };
    let store = keeper.checkpoints_of(&job.id)?;
    let epochs = until(Duration::from_secs(30), "checkpoints are listed", complete)?;
    let mut checked = 0;
    for epoch in epochs {
        let whole = store.load_manifest(epoch).and_then(|manifest| verify(&*store, &manifest));
        match whole {
            Ok(()) => checked += 1,
            // Retention deletes before it says so.
            Err(why) => {
                until(Duration::from_secs(30), "what is gone is not said to be complete", || {
                    complete().filter(|now| !now.contains(&epoch)).map(drop)
                })
                .map_err(|e| format!("checkpoint {epoch} is listed and not whole: {why}: {e}"))?
            }
        }
    }
    if checked == 0 { Err("no checkpoint is complete".to_owned()) } else { Ok(checked) }
}

/// Slots are free, workers gone, checkpoints and programs deleted.
fn check_rest(cluster: &Cluster, job: &Job, keeper: &dyn Keeper) -> Result<(), String> {
    let patience = Duration::from_secs(60);
    let slots = cluster.plan.all_slots();
    until(patience, "all slots are free", || {
        let metrics = cluster.get("/cluster/metrics").ok()?;
        (metrics["available_slots"] == slots).then_some(())
    })?;
    until(patience, "no worker is left", || cluster.workers().is_empty().then_some(()))?;
    until(patience, "what the finished job had is deleted", || {
        keeper.left_of(&job.id).is_empty().then_some(())
    })
    .map_err(|e| format!("{e}: {:?}", keeper.left_of(&job.id)))
}
