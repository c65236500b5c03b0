//! A whole cluster with checkpoints and programs on a real S3 server and metadata in a real PostgreSQL: a job is
//! submitted, loses a worker, is rescaled, stopped with a savepoint and started again from it, while the bucket
//! answers 503, hangs, or is gone for a while. A checkpoint fails then, the job goes on, and its output is exact.

#![expect(clippy::disallowed_methods, reason = "a test in real time")]

use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tidemill_chaos::bucket::{checkpoints_of, keep_all_in, objects_of, programs};
use tidemill_chaos::cluster::{Cluster, Plan, build_command};
use tidemill_chaos::database::keep_metadata_in;
use tidemill_chaos::job::{Job, Load, PATIENCE};
use tidemill_chaos::part::{signal, slim, until};
use tidemill_s3_testing::{Fault, Server};
use tidemill_snapshot::{SnapshotStore, verify};

type Outcome = Result<(), String>;

fn check(test: impl FnOnce(&mut Cluster, &Server, &Path) -> Outcome) {
    let (database, bucket) = (tidemill_postgres_testing::Server::start(), Server::start());
    let dir = TempDir::new().expect("a directory");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_chaos_job"));
    let mut plan = Plan::new(build_command(&program), dir.path());
    let program = slim(&program, dir.path()).expect("a smaller program");
    plan.settings = ["checkpoints.timeout=5s", "checkpoints.tolerated_failures=any"]
        .map(str::to_owned)
        .to_vec();
    keep_metadata_in(&database, &mut plan).expect("a file for the password");
    keep_all_in(&bucket, &mut plan, 15);
    let mut cluster = Cluster::start(plan).expect("a cluster");
    let done = cluster.wait_for_slots().and_then(|()| test(&mut cluster, &bucket, &program));
    bucket.be_away(false);
    bucket.heal();
    let words = cluster.last_words();
    let killed = cluster.end();
    if let Err(e) = done {
        panic!("{e}\n{words}");
    }
    assert!(killed.is_empty(), "did not end when told to: {killed:?}");
}

/// What is said to be complete is whole in the bucket.
fn newest_is_whole(cluster: &Cluster, bucket: &Server, job: &Job) -> Outcome {
    let store = checkpoints_of(bucket, &job.id)?;
    // Retention may take it away while it is read: then a newer one is there.
    until(PATIENCE, "the newest checkpoint is whole in the bucket", || {
        let newest = job.status(cluster)?["latest_checkpoint"].as_u64()?;
        store.load_manifest(newest).and_then(|manifest| verify(&store, &manifest)).ok()
    })
}

/// Of the finished job nothing is left. Not of its program: that one is deleted once, and if that fails, by the next leader.
fn nothing_is_left(bucket: &Server, job: &Job) -> Outcome {
    let left = || objects_of(bucket, &job.id);
    until(PATIENCE, "checkpoints are deleted", || left().is_empty().then_some(()))
        .map_err(|e| format!("{e}: {:?}", left()))
}

#[test]
fn a_job_lives_its_life_on_s3_and_postgresql() {
    check(|cluster, bucket, program| {
        let out = cluster.plan.dir.join("out");
        let at = |n: u64| [("parallelism", n.to_string())];
        let job = Job::submit(cluster, program, &out, Load::default(), &at(2))?;
        job.goes_on(cluster, Some(2))?;
        newest_is_whole(cluster, bucket, &job)?;
        if programs(bucket).len() != 1 {
            return Err(format!("one program is wanted in the bucket: {:?}", programs(bucket)));
        }
        let worker = *cluster.workers().first().ok_or("no worker")?;
        signal(worker, Signal::KILL);
        until(PATIENCE, "the attempt is another one", || {
            (job.status(cluster)?["attempt"].as_u64()? > 0).then_some(())
        })?;
        job.goes_on(cluster, Some(2))?;
        let place = job.savepoint(cluster)?;
        if !place.starts_with("s3://") {
            return Err(format!("the savepoint lies at {place}"));
        }
        job.rescale(cluster, 4)?;
        job.rescale(cluster, 3)?;
        newest_is_whole(cluster, bucket, &job)?;
        // Stopped, and started again by another job from where it was.
        let place = job.stop(cluster)?;
        let from = [("parallelism", "4".to_owned()), ("savepoint", place)];
        let heir = Job::submit(cluster, program, &out, Load::default(), &from)?;
        heir.goes_on(cluster, Some(4))?;
        heir.finish(cluster)?;
        nothing_is_left(bucket, &heir)
    });
}

#[test]
fn a_bucket_that_is_away_fails_checkpoints_and_nothing_else() {
    check(|cluster, bucket, program| {
        let out = cluster.plan.dir.join("out");
        let four = [("parallelism", "4".to_owned())];
        let job = Job::submit(cluster, program, &out, Load::default(), &four)?;
        let attempt = job.goes_on(cluster, None)?;
        let outages: [(&str, &dyn Fn()); 4] = [
            ("answers 503", &|| bucket.fail(|_| Fault::SLOW_DOWN)),
            ("hangs", &|| bucket.fail(|_| Fault::Hang)),
            ("does what it is told and does not say so", &|| bucket.fail(|_| Fault::HangAfter)),
            ("refuses connections", &|| bucket.be_away(true)),
        ];
        for (what, away) in outages {
            let failed = job.failed_checkpoints(cluster)?;
            away();
            until(PATIENCE, &format!("a checkpoint fails while the bucket {what}"), || {
                (job.failed_checkpoints(cluster).ok()? > failed).then_some(())
            })?;
            job.reads_on(cluster)?;
            std::thread::sleep(Duration::from_secs(1));
            bucket.be_away(false);
            bucket.heal();
            let now = job.goes_on(cluster, None)?;
            if now != attempt {
                let said = job.exceptions(cluster)?;
                return Err(format!("attempt {now} after the bucket {what}: {said}"));
            }
            newest_is_whole(cluster, bucket, &job)?;
        }
        job.finish(cluster)?;
        nothing_is_left(bucket, &job)
    });
}
