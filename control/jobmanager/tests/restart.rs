//! JobManagers that end, come back, lose their leadership, or cannot reach their metadata, while
//! workers go on.

mod common;

use common::{
    Behaviour, Cluster, Gate, Kept, TaskManager, eventually, program, submission, task_managers,
};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

async fn cluster_with(
    kept: Kept,
    count: u8,
    set: impl FnOnce(&mut tidemill_jobmanager::JobManagerConfig),
) -> (Cluster, Vec<TaskManager>) {
    let dir = Arc::new(tempfile::TempDir::new().expect("a directory"));
    let cluster = Cluster::over(dir, kept, set).await;
    let behaviour = Behaviour::planning(|request| {
        Some(Ok(submission(request.parallelism.unwrap_or(2), Some(50))))
    });
    let managers = task_managers(&cluster, count, behaviour);
    cluster
        .until("all registered", |c| async move {
            c.get("/cluster/metrics").await.json()["active_task_managers"] == usize::from(count)
        })
        .await;
    (cluster, managers)
}

async fn checkpoints(cluster: &Cluster, id: &str) -> Value {
    cluster.get(&format!("/jobs/{id}/checkpoints")).await.json()
}

/// Ends a JobManager as if killed, and starts another over what it left.
async fn killed_and_replaced(cluster: Cluster, managers: &[TaskManager]) -> Cluster {
    let (dir, kept) = (cluster.dir.clone(), cluster.kept.clone());
    drop(cluster);
    kept.all_killed().await;
    let next = Cluster::over(dir, kept, |c| {
        c.limits.adopt_timeout = Duration::from_secs(2);
    })
    .await;
    managers.iter().for_each(|m| m.move_to(next.manager.control_address()));
    next
}

async fn a_new_jobmanager_finds_what_runs(kept: Kept) {
    let (cluster, managers) = cluster_with(kept, 2, |_| {}).await;
    let id = cluster.run(&[("parallelism", b"6")]).await;
    cluster.until_status(&id, "RUNNING").await;
    cluster
        .until("a checkpoint is complete", |_| async { !managers[0].commits().is_empty() })
        .await;
    let over = cluster.run(&[]).await;
    cluster.post(&format!("/jobs/{over}/cancel")).await;
    cluster.until_status(&over, "CANCELLED").await;
    let workers = managers[0].workers();
    let deployments = managers[0].deployments().len();
    let before = checkpoints(&cluster, &id).await["latest"]["completed"]["epoch"].as_u64();
    let cluster = killed_and_replaced(cluster, &managers).await;
    cluster
        .until("checkpoints go on", |c| {
            let id = id.clone();
            async move {
                let newest = checkpoints(c, &id).await["latest"]["completed"]["epoch"].as_u64();
                // A new leader leaves a gap.
                newest > before.map(|epoch| epoch + 10)
            }
        })
        .await;
    let job = cluster.job(&id).await;
    assert_eq!((&job["attempt"], &job["status"]), (&0.into(), &"RUNNING".into()));
    assert_eq!(managers[0].workers(), workers);
    assert_eq!(managers[0].deployments().len(), deployments, "nobody was disturbed");
    assert_eq!(
        cluster.get(&format!("/jobs/{id}/exceptions")).await.json()["exceptions"],
        serde_json::json!([])
    );
    assert_eq!(cluster.job(&over).await["status"], "CANCELLED");
    assert_eq!(cluster.get("/cluster/metrics").await.json()["available_slots"], 2);
    // It is its master in full.
    cluster.post(&format!("/jobs/{id}/cancel")).await;
    cluster.until_status(&id, "CANCELLED").await;
    eventually("its workers have ended", || async {
        managers.iter().all(|m| m.workers().is_empty())
    })
    .await;
}

async fn what_does_not_come_back_is_started_again(kept: Kept) {
    let (cluster, mut managers) = cluster_with(kept, 2, |_| {}).await;
    let id = cluster.run(&[("parallelism", b"3")]).await;
    cluster.until_status(&id, "RUNNING").await;
    let hosts = |m: &TaskManager| !m.workers().is_empty();
    cluster
        .until("a checkpoint is complete", |_| async {
            managers.iter().any(|m| !m.commits().is_empty())
        })
        .await;
    let at = managers.iter().position(hosts).expect("a host of the job");
    drop(managers.remove(at));
    let cluster = killed_and_replaced(cluster, &managers).await;
    cluster
        .until("it runs on the other", |c| {
            let id = id.clone();
            async move {
                let job = c.job(&id).await;
                job["status"] == "RUNNING" && job["attempt"].as_u64() > Some(0)
            }
        })
        .await;
    let last = managers[0].deployments().last().cloned().expect("a deployment");
    assert!(last.restore.is_some(), "from a checkpoint");
    let newest_before = last.restore.map(|r| r.epoch);
    cluster
        .until("it goes on from there", |_| async {
            managers[0].commits().last().copied() > newest_before
        })
        .await;
}

async fn a_second_jobmanager_takes_over_when_the_first_is_deposed(kept: Kept) {
    let (first, managers) = cluster_with(kept, 1, |_| {}).await;
    let id = first.run(&[]).await;
    first.until_status(&id, "RUNNING").await;
    let dir = tempfile::TempDir::new().expect("a directory");
    let mut config =
        tidemill_jobmanager::JobManagerConfig::new(dir.path().to_owned(), common::secret());
    (config.rest_port, config.control_port) = (0, 0);
    config.checkpoints = tidemill_protocol::StoreSettings::Dir {
        path: first.dir.path().join("checkpoints").display().to_string(),
    };
    let stores = first.kept.stores().await;
    let second = tidemill_jobmanager::JobManager::start(config, stores).await.expect("it starts");
    let heir = second.control_address();
    first.kept.depose(&heir.to_string());
    // Its agent hears who leads, and goes there.
    first
        .until("the first one follows", |c| async move { c.get("/jobs").await.status == 503 })
        .await;
    managers.iter().for_each(|m| m.move_to(heir));
    eventually("the second has the job", || async {
        let answer =
            common::request(second.rest_address(), "GET", &format!("/jobs/{id}"), &[], b"").await;
        answer.status == 200
            && answer.json()["status"] == "RUNNING"
            && answer.json()["workers"][0]["connected"] == true
    })
    .await;
    assert_eq!(managers[0].deployments().len(), 1, "nobody was disturbed");
    first.post(&format!("/jobs/{id}/cancel")).await.refused(503);
}

async fn a_deposed_jobmanager_deletes_no_checkpoint(mut kept: Kept) {
    let gate = Arc::new(Gate::default());
    kept.gate = Some(gate.clone());
    let (first, managers) = cluster_with(kept, 1, |c| c.jobs.keep = 2).await;
    let id = first.run(&[]).await;
    let chk = first.dir.path().join("checkpoints").join(&id);
    let stored = |epoch: u64| chk.join(format!("chk-{epoch}/manifest.json")).exists();
    // Its retention is about to delete this one, and waits for the gate.
    let doomed = || async {
        first.until("three are complete", |_| async { managers[0].commits().len() > 3 }).await;
        gate.close();
        first.until("retention has begun", |_| async { gate.waiting() > 0 }).await;
        let oldest = (0..u64::from(u16::MAX)).find(|epoch| stored(*epoch));
        oldest.expect("a checkpoint")
    };
    let old = doomed().await;
    gate.open();
    first.until("it is deleted by who leads", |_| async { !stored(old) }).await;

    let old = doomed().await;
    let ended = gate.ended();
    let dir = tempfile::TempDir::new().expect("a directory");
    let mut config =
        tidemill_jobmanager::JobManagerConfig::new(dir.path().to_owned(), common::secret());
    (config.rest_port, config.control_port) = (0, 0);
    config.jobs.keep = 1_000;
    let mut next = first.kept.clone();
    next.gate = None;
    let second = tidemill_jobmanager::JobManager::start(config, next.stores().await);
    let second = second.await.expect("it starts");
    first.kept.depose(&second.control_address().to_string());
    eventually("the second one leads", || async {
        common::request(second.rest_address(), "GET", "/jobs", &[], b"").await.status == 200
    })
    .await;
    assert!(stored(old), "nobody has deleted it yet");
    gate.open();
    first.until("what the first one had begun is over", |_| async { gate.ended() > ended }).await;
    assert!(stored(old), "J6");
}

async fn what_a_finished_job_left_is_deleted_once_metadata_is_back(mut kept: Kept) {
    let gate = Arc::new(Gate::default());
    kept.gate = Some(gate.clone());
    let (cluster, managers) = cluster_with(kept, 1, |c| c.jobs.keep = 1_000).await;
    let id = cluster.run(&[]).await;
    let chk = cluster.dir.path().join("checkpoints").join(&id);
    let stored = || {
        let entries = std::fs::read_dir(&chk).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with("chk-")).count()
    };
    cluster.until("some are complete", |_| async { managers[0].commits().len() > 2 }).await;
    // Nothing is deleted before metadata is away.
    gate.close();
    cluster.post(&format!("/jobs/{id}/cancel")).await;
    let job = id.parse().expect("an id");
    let over = || cluster.kept.job(&job).is_some_and(|record| record.job.status.is_over());
    cluster.until("its end is recorded", |_| async { over() }).await;
    cluster.kept.set_away(Some("a test"));
    let listed = gate.listed();
    gate.open();
    // Retention may be one of them.
    cluster.until("it is tried again", |_| async { gate.listed() > listed + 2 }).await;
    assert!(stored() > 2, "J6: {} are left", stored());
    cluster.kept.set_away(None);
    cluster.until("its checkpoints are gone", |_| async { stored() == 0 }).await;
}

async fn nothing_is_deployed_while_metadata_is_away(kept: Kept) {
    let (cluster, managers) = cluster_with(kept, 1, |_| {}).await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    let before = managers[0].workers()[0].clone();
    cluster.kept.set_away(Some("a test"));
    managers[0].kill(&before);
    cluster
        .until("another worker is there", |_| async {
            managers[0].workers().iter().any(|w| *w != before)
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(managers[0].deployments().len(), 1, "J2");
    cluster.kept.set_away(None);
    cluster
        .until("it runs", |c| {
            let id = id.clone();
            async move { c.job(&id).await["status"] == "RUNNING" }
        })
        .await;
    let record = cluster.kept.job(&id.parse().expect("an id")).expect("a record");
    assert_eq!(record.job.attempt, managers[0].deployments()[1].attempt);
    assert!(record.job.attempt > 0);
}

/// One worker of two is killed while the store does not answer, for longer than a worker may take to stop: the other
/// one has stopped, and is kept.
async fn healthy_workers_outlive_an_outage(kept: Kept, begins: fn(&Kept), ends: fn(&Kept)) {
    let (cluster, managers) = cluster_with(kept, 2, |_| {}).await;
    let id = cluster.run(&[("parallelism", b"6")]).await;
    cluster.until_status(&id, "RUNNING").await;
    let all = || managers.iter().flat_map(TaskManager::workers).collect::<Vec<_>>();
    let before = all();
    assert_eq!(before.len(), 2, "{before:?}");
    let newest = || managers.iter().flat_map(TaskManager::commits).max();
    cluster.until("checkpoints are taken", |_| async { newest() > Some(2) }).await;
    begins(&cluster.kept);
    // Until everything that had begun is over.
    let (mut seen, mut same) = (newest(), 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = newest();
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
    }
    let (killed, healthy) = (before[0].clone(), before[1].clone());
    managers.iter().for_each(|m| m.kill(&killed));
    cluster.until("it is gone", |_| async { !all().contains(&killed) }).await;
    // `stop_timeout_ms` is 500.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ends(&cluster.kept);
    cluster
        .until("it runs again", |c| {
            let id = id.clone();
            async move {
                let job = c.job(&id).await;
                job["status"] == "RUNNING" && job["attempt"] == 1
            }
        })
        .await;
    cluster.until("checkpoints go on", |_| async { newest() > seen }).await;
    assert!(all().contains(&healthy), "{healthy} was replaced: {:?}", all());
}

async fn healthy_workers_outlive_metadata_that_is_away(kept: Kept) {
    let away = |kept: &Kept| kept.set_away(Some("a test"));
    healthy_workers_outlive_an_outage(kept, away, |kept| kept.set_away(None)).await;
}

async fn healthy_workers_outlive_a_commit_in_doubt(kept: Kept) {
    let doubtful = |kept: &Kept| kept.set_doubtful(true);
    healthy_workers_outlive_an_outage(kept, doubtful, |kept| kept.set_doubtful(false)).await;
}

async fn a_checkpoint_whose_row_cannot_be_written_fails_and_the_job_goes_on(kept: Kept) {
    let (cluster, managers) = cluster_with(kept, 1, |c| {
        c.jobs.checkpoint_timeout_ms = 1_500;
        c.jobs.tolerated_failures = None;
    })
    .await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    cluster.until("checkpoints are taken", |_| async { managers[0].commits().len() > 2 }).await;
    cluster.kept.set_away(Some("a test"));
    cluster
        .until("one fails", |c| {
            let id = id.clone();
            async move { checkpoints(c, &id).await["counts"]["failed"].as_u64() > Some(0) }
        })
        .await;
    let failed = checkpoints(&cluster, &id).await["latest"]["failed"].clone();
    // One that was being taken misses its row; one that began since waited for its own (J2).
    let why = |r: &str| r.contains("a test") || r.contains("took longer");
    assert!(failed["reason"].as_str().is_some_and(why), "{failed}");
    let committed = managers[0].commits();
    assert!(!committed.contains(&failed["epoch"].as_u64().expect("an epoch")));
    cluster.kept.set_away(None);
    cluster
        .until("others are complete", |_| async {
            managers[0].commits().len() > committed.len() + 2
        })
        .await;
    let job = cluster.job(&id).await;
    assert_eq!((&job["attempt"], &job["status"]), (&0.into(), &"RUNNING".into()));
    let record = cluster.kept.job(&id.parse().expect("an id")).expect("a record");
    let row = record.checkpoints.iter().find(|c| Some(c.epoch) == failed["epoch"].as_u64());
    assert_eq!(row.map(|r| r.state), Some(tidemill_jobmanager::metadata::CheckpointState::Failed));
}

async fn a_submission_that_cannot_be_recorded_is_no_job(kept: Kept) {
    let (cluster, _managers) =
        cluster_with(kept, 1, |c| c.limits.record_timeout = Duration::from_millis(300)).await;
    cluster.kept.set_away(Some("a test"));
    let detail = cluster.submit(&[("job_file", &program("x"))]).await.refused(503);
    assert!(detail.contains("metadata store"), "{detail}");
    cluster.kept.set_away(None);
    cluster.until("nothing is left", |c| async move { c.artifacts().await == 0 }).await;
    assert_eq!(cluster.get("/jobs").await.json()["jobs"], serde_json::json!([]));
    let id = cluster.run(&[("parallelism", b"4")]).await;
    cluster.until_status(&id, "RUNNING").await;
}

async fn a_jobmanager_waits_for_its_metadata(kept: Kept) {
    kept.set_away(Some("a test"));
    let dir = tempfile::TempDir::new().expect("a directory");
    let mut config =
        tidemill_jobmanager::JobManagerConfig::new(dir.path().to_owned(), common::secret());
    (config.rest_port, config.control_port) = (0, 0);
    let stores = kept.stores().await;
    let manager = tidemill_jobmanager::JobManager::start(config, stores).await.expect("it starts");
    let get = |path: &'static str| common::request(manager.rest_address(), "GET", path, &[], b"");
    assert_eq!(get("/").await.json()["role"], "follower");
    get("/jobs").await.refused(503);
    kept.set_away(None);
    eventually("it leads", || async { get("/jobs").await.status == 200 }).await;
}

/// A real server goes away for longer than the leader's lease and comes back.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn jobs_go_on_while_postgresql_is_away() {
    let (cluster, managers) = cluster_with(Kept::postgres().await, 1, |c| {
        c.jobs.checkpoint_timeout_ms = 10_000;
        c.jobs.tolerated_failures = None;
    })
    .await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    cluster.until("checkpoints are taken", |_| async { managers[0].commits().len() > 2 }).await;
    let workers = managers[0].workers();
    let server = cluster.kept.server();
    server.end(tidemill_postgres_testing::End::Fast);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let committed = managers[0].commits().len();
    assert_eq!(cluster.job(&id).await["status"], "RUNNING");
    server.resume().await;
    cluster
        .until("checkpoints go on", |_| async { managers[0].commits().len() > committed + 2 })
        .await;
    let job = cluster.job(&id).await;
    assert_eq!((&job["attempt"], &job["status"]), (&0.into(), &"RUNNING".into()));
    assert_eq!(managers[0].workers(), workers, "nobody was disturbed");
    let leader = server.ask("SELECT term FROM tidemill.leadership").await;
    assert_eq!(leader, ["(1)"], "nobody else was elected, nor it anew");
    // What was committed has its row.
    let completed =
        "SELECT epoch FROM tidemill.checkpoints WHERE state = 'COMPLETED' ORDER BY epoch";
    let newest = server.ask(completed).await.last().cloned();
    let newest = newest.and_then(|row| row.trim_matches(['(', ')']).parse::<u64>().ok());
    assert!(newest >= managers[0].commits()[..committed].last().copied(), "{newest:?}");
}

/// Each case over each kind of store.
macro_rules! cases {
    ($store:ident, $kept:expr, $($case:ident)*) => {
        mod $store {
            use super::Kept;

            $(#[tokio::test]
            async fn $case() {
                super::$case($kept).await;
            })*
        }
    };
}

macro_rules! over_every_store {
    ($($case:ident)*) => {
        cases!(memory, Kept::memory(), $($case)*);
        cases!(file, Kept::file(), $($case)*);
        #[cfg(feature = "postgres")]
        cases!(postgres, Kept::postgres().await, $($case)*);
    };
}

over_every_store! {
    a_new_jobmanager_finds_what_runs
    what_does_not_come_back_is_started_again
    a_second_jobmanager_takes_over_when_the_first_is_deposed
    a_deposed_jobmanager_deletes_no_checkpoint
    what_a_finished_job_left_is_deleted_once_metadata_is_back
    nothing_is_deployed_while_metadata_is_away
    a_checkpoint_whose_row_cannot_be_written_fails_and_the_job_goes_on
    healthy_workers_outlive_metadata_that_is_away
    healthy_workers_outlive_a_commit_in_doubt
    a_submission_that_cannot_be_recorded_is_no_job
    a_jobmanager_waits_for_its_metadata
}
