//! The job `chaos_job` in a cluster: submitted, looked at, changed, and brought to its end.

use crate::cluster::Cluster;
use crate::oracle;
use crate::part::until;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long things may take on a machine that is busy; nothing is said by it about how long they should.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A job that was submitted.
pub struct Job {
    /// Its id.
    pub id: String,
    /// Where it writes.
    pub out: PathBuf,
    records: u64,
    path: String,
}

/// What it is to read, and how.
#[derive(Clone, Copy)]
pub struct Load {
    /// Records in all.
    pub records: u64,
    /// Records a second, until it is told to be fast.
    pub rate: u64,
    /// Milliseconds between checkpoints.
    pub interval_ms: u64,
}

impl Default for Load {
    /// More than is read before it is told to be fast.
    fn default() -> Self {
        Load { records: 360_000, rate: 2_000, interval_ms: 400 }
    }
}

impl Job {
    /// Submits it, to write below `out`; `more` are fields of the form.
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit(
        cluster: &Cluster,
        program: &Path,
        out: &Path,
        load: Load,
        more: &[(&str, String)],
    ) -> Result<Self, String> {
        fs::create_dir_all(out).map_err(|e| e.to_string())?;
        let args = [
            ("--out", out.display().to_string()),
            ("--records", load.records.to_string()),
            ("--rate", load.rate.to_string()),
            ("--interval-ms", load.interval_ms.to_string()),
        ];
        let args: Vec<String> =
            args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        let id = cluster.submit(program, &args, more).map_err(|e| e.to_string())?;
        let path = format!("/jobs/{id}");
        Ok(Job { id, out: out.to_owned(), records: load.records, path })
    }

    /// What the JobManager says of it, where one answers.
    pub fn status(&self, cluster: &Cluster) -> Option<Value> {
        cluster.get(&self.path).ok()
    }

    /// One of its numbers, such as `attempt`.
    ///
    /// # Errors
    /// When nobody tells it.
    pub fn number(&self, cluster: &Cluster, field: &str) -> Result<u64, String> {
        until(PATIENCE, &format!("{field} of the job is known"), || {
            self.status(cluster)?[field].as_u64()
        })
    }

    /// Its checkpoints, newest first.
    pub fn checkpoints(&self, cluster: &Cluster) -> Option<Vec<Value>> {
        cluster.get(&format!("{}/checkpoints", self.path)).ok()?["history"].as_array().cloned()
    }

    /// Why attempts failed.
    ///
    /// # Errors
    /// When nobody tells it.
    pub fn exceptions(&self, cluster: &Cluster) -> Result<String, String> {
        cluster
            .get(&format!("{}/exceptions", self.path))
            .map(|v| v.to_string())
            .map_err(|e| e.to_string())
    }

    /// Waits until it runs, reads, and completes checkpoints, all from now on; its attempt.
    ///
    /// # Errors
    /// When it does not.
    pub fn goes_on(&self, cluster: &Cluster, parallelism: Option<u64>) -> Result<u64, String> {
        let mut first = None;
        until(PATIENCE, "the job goes on", || {
            let job = self.status(cluster)?;
            let other = parallelism.is_some_and(|wanted| job["parallelism"] != wanted);
            if job["status"] != "RUNNING" || other {
                first = None;
                return None;
            }
            let seen = (job["records_read"].as_u64()?, job["latest_checkpoint"].as_u64()?);
            let (read, epoch) = *first.get_or_insert(seen);
            (seen.0 > read && seen.1 > epoch).then(|| job["attempt"].as_u64())?
        })
        .map_err(|e| format!("{e}: {}", self.status(cluster).unwrap_or_default()))
    }

    /// Waits until it has read more than it had.
    ///
    /// # Errors
    /// When it does not.
    pub fn reads_on(&self, cluster: &Cluster) -> Result<(), String> {
        let before = self.number(cluster, "records_read")?;
        until(PATIENCE, "the job reads on", || {
            let job = self.status(cluster)?;
            (job["status"] == "RUNNING" && job["records_read"].as_u64()? > before).then_some(())
        })
    }

    /// Asks for something, such as `rescale`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn tell(&self, cluster: &Cluster, what: &str, body: &Value) -> Result<Value, String> {
        let path = format!("{}/{what}", self.path);
        match cluster.post(&path, "application/json", body.to_string().as_bytes()) {
            Ok((200..300, said)) => Ok(said),
            other => Err(format!("{what}: {other:?}")),
        }
    }

    /// Runs it at another parallelism; its attempt.
    ///
    /// # Errors
    /// When it does not go on.
    pub fn rescale(&self, cluster: &Cluster, to: u64) -> Result<u64, String> {
        self.tell(cluster, "rescale", &serde_json::json!({ "parallelism": to }))?;
        self.goes_on(cluster, Some(to))
    }

    /// Takes a savepoint; where it lies.
    ///
    /// # Errors
    /// When it fails.
    pub fn savepoint(&self, cluster: &Cluster) -> Result<String, String> {
        self.savepoint_by(cluster, "savepoint")
    }

    /// Stops it with a savepoint; where that lies.
    ///
    /// # Errors
    /// When it fails.
    pub fn stop(&self, cluster: &Cluster) -> Result<String, String> {
        let place = self.savepoint_by(cluster, "stop")?;
        until(PATIENCE, "the job is stopped", || {
            (self.status(cluster)?["status"] == "STOPPED").then_some(place.clone())
        })
    }

    /// Checkpoints that failed so far.
    ///
    /// # Errors
    /// When nobody tells it.
    pub fn failed_checkpoints(&self, cluster: &Cluster) -> Result<u64, String> {
        let said = cluster.get(&format!("{}/checkpoints", self.path)).map_err(|e| e.to_string())?;
        said["counts"]["failed"].as_u64().ok_or_else(|| format!("no counts: {said}"))
    }

    fn savepoint_by(&self, cluster: &Cluster, how: &str) -> Result<String, String> {
        let said = self.tell(cluster, how, &Value::Null)?;
        let trigger = said["trigger_id"].as_str().ok_or("no trigger")?.to_owned();
        let path = format!("{}/savepoints/{trigger}", self.path);
        let done = until(PATIENCE, "the savepoint is done", || {
            let said = cluster.get(&path).ok()?;
            (said["status"] != "IN_PROGRESS").then_some(said)
        })?;
        let place = done["location"].as_str();
        place.map(str::to_owned).ok_or_else(|| format!("the savepoint failed: {done}"))
    }

    /// Lets it read as fast as it can, waits for its end, and compares what it wrote with what it must have.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn finish(&self, cluster: &Cluster) -> Result<Value, String> {
        fs::write(self.out.join("fast"), "").map_err(|e| e.to_string())?;
        let last = until(PATIENCE * 2, "the job finishes", || {
            let job = self.status(cluster)?;
            ["FINISHED", "FAILED", "CANCELLED", "STOPPED"]
                .contains(&job["status"].as_str()?)
                .then_some(job)
        })
        .map_err(|e| format!("{e}: {}", self.status(cluster).unwrap_or_default()))?;
        if last["status"] != "FINISHED" {
            return Err(format!("the job is {}: {}", last["status"], last["cause"]));
        }
        check_output(&self.out, self.records)?;
        Ok(last)
    }
}

/// What the sinks have written is what they must have.
///
/// # Errors
/// What is missing, too much, or left hidden.
pub fn check_output(out: &Path, records: u64) -> Result<(), String> {
    for (sink, wanted) in ["rows", "windows"].into_iter().zip(oracle::rows(records)) {
        let (got, hidden) = oracle::written(&out.join(sink)).map_err(|e| e.to_string())?;
        oracle::compare(&got, &wanted).map_err(|e| format!("{sink}: {e}"))?;
        if !hidden.is_empty() {
            return Err(format!("{sink}: hidden files are left: {hidden:?}"));
        }
    }
    Ok(())
}
