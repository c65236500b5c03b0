//! A real S3 server for the checkpoints and programs of a cluster, and what lies in it.

use crate::cluster::Plan;
use crate::part::files;
use std::path::Path;
use tidemill_s3_testing::{BUCKET, Server};
use tidemill_snapshot::DirStore;

/// Below it lie checkpoints, in a directory for each job, and programs.
const CHECKPOINTS: &str = "checkpoints";
const PROGRAMS: &str = "programs";

/// Lets a cluster that is not started yet keep its checkpoints and programs in the server's bucket. A request is given
/// up after so many seconds.
pub fn keep_all_in(server: &Server, plan: &mut Plan, seconds: u32) {
    plan.checkpoints = format!("s3://{BUCKET}/{CHECKPOINTS}");
    plan.settings.extend([
        format!("artifacts.location=s3://{BUCKET}/{PROGRAMS}"),
        format!("s3.endpoint={}", server.endpoint()),
    ]);
    plan.environment.extend(server.environment());
    plan.environment.push(("TIDEMILL_S3_TIMEOUT", seconds.to_string()));
}

/// The checkpoints of a job, as the server keeps its objects: in files, named as a directory of checkpoints names them.
///
/// # Errors
/// When there are none.
pub fn checkpoints_of(server: &Server, job: &str) -> Result<DirStore, String> {
    DirStore::existing(server.bucket_dir().join(CHECKPOINTS).join(job)).map_err(|e| e.to_string())
}

/// The names of a job's objects.
pub fn objects_of(server: &Server, job: &str) -> Vec<String> {
    below(server, &Path::new(CHECKPOINTS).join(job))
}

/// The names of programs.
pub fn programs(server: &Server) -> Vec<String> {
    below(server, Path::new(PROGRAMS))
}

fn below(server: &Server, prefix: &Path) -> Vec<String> {
    let root = server.bucket_dir();
    files(&root.join(prefix)).iter().map(|f| f.replace(&*root.to_string_lossy(), "")).collect()
}
