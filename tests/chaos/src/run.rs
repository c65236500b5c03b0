//! One run: a cluster, the job, faults for a while, and then what must be true.

use crate::cluster::{Cluster, Plan};
use crate::faults::{Faults, KINDS};
use crate::job::check_output;
use crate::part::until;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tidemill_snapshot::{DirStore, SnapshotStore, verify};

/// After the last fault the job goes on within this time.
const PROGRESS: Duration = Duration::from_secs(10);

/// How a run is made.
pub struct Options {
    /// Chance of the faults.
    pub seed: u64,
    /// How long something goes wrong.
    pub faults: Duration,
    /// The command `tidemill`.
    pub tidemill: PathBuf,
    /// The program `chaos_job`.
    pub job: PathBuf,
}

/// A small disk for a directory, where this machine lets us have one.
pub struct SmallDisk(Option<PathBuf>);

impl SmallDisk {
    /// Mounts it; needs root.
    pub fn mount(dir: &Path, megabytes: u32) -> Self {
        let options = format!("size={megabytes}m,mode=0755");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir).output();
        SmallDisk(mount.is_ok_and(|o| o.status.success()).then(|| dir.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = Command::new("umount").arg("-l").arg(dir).output();
        }
    }
}

/// Runs it; a report.
///
/// # Errors
/// What was not true, with the timeline of faults and what processes wrote last.
pub fn run(options: &Options) -> Result<String, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let checkpoints = dir.path().join("checkpoints");
    std::fs::create_dir(&checkpoints).map_err(|e| e.to_string())?;
    let disk = SmallDisk::mount(&checkpoints, 48);
    let small_disk = disk.0.is_some();
    let mut plan = Plan::new(options.tidemill.clone(), dir.path());
    plan.task_managers = 3;
    plan.settings = ["checkpoints.tolerated_failures=any", "checkpoints.timeout=10s"]
        .map(str::to_owned)
        .to_vec();
    let mut cluster =
        Cluster::start(plan).map_err(|e| format!("the cluster does not start: {e}"))?;
    let mut faults = Faults::new(options.seed, small_disk);
    if !small_disk {
        faults.note("not root: the disk of the checkpoints is never full in this run");
    }
    let result = live(options, &mut cluster, &mut faults);
    let words = cluster.last_words();
    let killed = cluster.end();
    drop(cluster);
    drop(disk);
    let counts: Vec<String> =
        KINDS.iter().zip(faults.counts).map(|(kind, n)| format!("{kind} {n}")).collect();
    let result = result.and_then(|report| match killed.as_slice() {
        [] => Ok(report),
        parts => Err(format!("did not end when told to: {parts:?}")),
    });
    match result {
        Ok(report) => Ok(format!("{report}\n  faults: {}", counts.join(", "))),
        Err(e) => Err(format!(
            "seed {}: {e}\nfaults:\n  {}\n{words}",
            options.seed,
            faults.timeline.join("\n  ")
        )),
    }
}

fn live(options: &Options, cluster: &mut Cluster, faults: &mut Faults) -> Result<String, String> {
    let out = cluster.plan.dir.join("out");
    std::fs::create_dir(&out).map_err(|e| e.to_string())?;
    let slots = cluster.plan.all_slots();
    cluster.wait_for_slots()?;
    let rate = 3_000;
    // More than can be read before the end.
    let records = rate * (options.faults.as_secs() + 30);
    let args: Vec<String> =
        ["--out", &out.display().to_string(), "--records", &records.to_string()]
            .into_iter()
            .chain(["--rate", &rate.to_string()])
            .map(str::to_owned)
            .collect();
    let id = cluster
        .submit(&options.job, &args, &[("parallelism", "4".to_owned())])
        .map_err(|e| e.to_string())?;
    let path = format!("/jobs/{id}");
    until(Duration::from_secs(20), "the job runs", || {
        let job = cluster.get(&path).ok()?;
        (job["status"] == "RUNNING" && job["checkpoints_completed"].as_u64()? > 0).then_some(())
    })?;
    faults.note("the job runs");
    let end = Instant::now() + options.faults;
    let mut rescale = Instant::now() + Duration::from_secs(7);
    while Instant::now() < end {
        faults.step(cluster);
        if Instant::now() >= rescale {
            rescale = Instant::now() + Duration::from_secs(13);
            let to = 2 + faults.counts.iter().sum::<u64>() % 4;
            let body = format!("{{\"parallelism\": {to}}}");
            // It may be refused: there may be no slots, or nobody to ask.
            if let Ok((status, _)) =
                cluster.post(&format!("{path}/rescale"), "application/json", body.as_bytes())
            {
                faults.note(&format!("rescale to {to}: {status}"));
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    faults.end(cluster);
    let took = check_progress(cluster, &path)?;
    faults.note("the job goes on");
    let checked = check_checkpoints(cluster, &path)?;
    std::fs::write(out.join("fast"), "").map_err(|e| e.to_string())?;
    let last = until(Duration::from_secs(90), "the job finishes", || {
        let job = cluster.get(&path).ok()?;
        let status = job["status"].as_str()?.to_owned();
        ["FINISHED", "FAILED", "CANCELLED", "STOPPED"].contains(&status.as_str()).then_some(job)
    })?;
    if last["status"] != "FINISHED" {
        return Err(format!("the job is {}: {}", last["status"], last["cause"]));
    }
    check_output(&out, records)?;
    check_rest(cluster, &id, slots)?;
    Ok(format!(
        "{records} records, {} attempts, progress {:.1} s after the last fault, {checked} checkpoints whole",
        last["attempt"].as_u64().unwrap_or(0) + 1,
        took.as_secs_f64()
    ))
}

fn number(job: &Value, field: &str) -> u64 {
    job[field].as_u64().unwrap_or(0)
}

/// Within a time after the last fault, the job reads and completes checkpoints.
fn check_progress(cluster: &Cluster, path: &str) -> Result<Duration, String> {
    let began = Instant::now();
    let mut first: Option<(u64, u64)> = None;
    until(PROGRESS, "the job goes on after the last fault", || {
        let job = cluster.get(path).ok()?;
        let seen = (number(&job, "records_read"), number(&job, "latest_checkpoint"));
        if job["status"] != "RUNNING" {
            first = None;
            return None;
        }
        let (read, epoch) = *first.get_or_insert(seen);
        (seen.0 > read && seen.1 > epoch).then_some(())
    })
    .map_err(|e| format!("{e}; it is {}", cluster.get(path).unwrap_or_default()))?;
    Ok(began.elapsed())
}

/// What is said to be complete is whole, unless it was let go meanwhile.
fn check_checkpoints(cluster: &Cluster, path: &str) -> Result<usize, String> {
    let id = path.trim_start_matches("/jobs/");
    let complete = || -> Option<Vec<u64>> {
        let list = cluster.get(&format!("{path}/checkpoints")).ok()?;
        let rows = list["history"].as_array()?;
        let whole = rows.iter().filter(|c| c["status"] == "COMPLETED");
        Some(whole.filter_map(|c| c["epoch"].as_u64()).collect())
    };
    let store = DirStore::existing(Path::new(&cluster.plan.checkpoints).join(id))
        .map_err(|e| e.to_string())?;
    let epochs = until(Duration::from_secs(5), "checkpoints are listed", complete)?;
    let mut checked = 0;
    for epoch in epochs {
        let whole = store.load_manifest(epoch).and_then(|manifest| verify(&store, &manifest));
        match whole {
            Ok(()) => checked += 1,
            // Retention deletes before it says so.
            Err(_) => {
                until(Duration::from_secs(5), "what is gone is not said to be complete", || {
                    complete().filter(|now| !now.contains(&epoch)).map(drop)
                })
                .map_err(|e| format!("checkpoint {epoch} is listed and not whole: {e}"))?
            }
        }
    }
    if checked == 0 { Err("no checkpoint is complete".to_owned()) } else { Ok(checked) }
}

/// Slots are free, workers gone, checkpoints deleted.
fn check_rest(cluster: &Cluster, id: &str, slots: u32) -> Result<(), String> {
    let patience = Duration::from_secs(15);
    until(patience, "all slots are free", || {
        let metrics = cluster.get("/cluster/metrics").ok()?;
        (metrics["available_slots"] == slots).then_some(())
    })?;
    until(patience, "no worker is left", || {
        let all = (0..cluster.task_managers.len()).flat_map(|n| cluster.workers_of(n));
        (all.count() == 0).then_some(())
    })?;
    let dir = Path::new(&cluster.plan.checkpoints).join(id);
    let left = || -> Vec<String> {
        let mut files = Vec::new();
        list(&dir, &mut files);
        files
    };
    until(patience, "the checkpoints of the finished job are deleted", || {
        left().is_empty().then_some(())
    })
    .map_err(|e| format!("{e}: {:?}", left()))
}

fn list(dir: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { list(&path, files) } else { files.push(path.display().to_string()) }
    }
}
