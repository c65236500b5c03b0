//! Jobs' lives: checkpoints, savepoints, rescaling, failures. Workers and their agents are fakes that
//! speak the protocol; masters, service and checkpoint store are the real ones.

mod common;

use common::{Behaviour, Cluster, TaskManager, program, submission, task_managers};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::Ordering;
use tidemill_protocol::WorkerSays;

/// A cluster whose jobs take a checkpoint every so often.
async fn checkpointing(count: u8, interval_ms: u64) -> (Cluster, Vec<TaskManager>) {
    let cluster = Cluster::start().await;
    let behaviour = Behaviour::planning(move |request| {
        Some(Ok(submission(request.parallelism.unwrap_or(2), Some(interval_ms))))
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

/// Waits until a savepoint is no more in progress; what became of it.
async fn savepoint(cluster: &Cluster, id: &str, trigger: &str) -> Value {
    let path = format!("/jobs/{id}/savepoints/{trigger}");
    cluster
        .until("the savepoint is over", |c| {
            let path = path.clone();
            async move { c.get(&path).await.json()["status"] != "IN_PROGRESS" }
        })
        .await;
    cluster.get(&path).await.json()
}

async fn ask(cluster: &Cluster, id: &str, what: &str) -> String {
    let answer = cluster.post(&format!("/jobs/{id}/{what}")).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let trigger = answer.json()["trigger_id"].as_str().expect("a trigger").to_owned();
    assert_eq!(answer.header("location"), Some(&*format!("/jobs/{id}/savepoints/{trigger}")));
    trigger
}

fn epochs_in(dir: &Path) -> Vec<String> {
    let entries: Vec<_> = std::fs::read_dir(dir).map(|d| d.flatten().collect()).unwrap_or_default();
    let names = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with("chk-")).collect()
}

#[tokio::test]
async fn the_newest_checkpoints_are_kept() {
    let (cluster, managers) = checkpointing(1, 30).await;
    let id = cluster.run(&[]).await;
    cluster
        .until("retention has deleted some", |c| {
            let id = id.clone();
            async move { checkpoints(c, &id).await["counts"]["expired"].as_u64() > Some(3) }
        })
        .await;
    let all = checkpoints(&cluster, &id).await;
    assert!((3..=4).contains(&all["counts"]["completed"].as_u64().unwrap()), "{all}");
    let newest = &all["latest"]["completed"];
    assert!(newest["size_bytes"].as_u64() > Some(0) && newest["duration_ms"].is_u64(), "{newest}");
    let place = newest["location"].as_str().unwrap().to_owned();
    assert!(place.contains(&id), "{place}");
    let store = Path::new(&place).parent().unwrap().to_owned();
    assert!(epochs_in(&store).len() <= 6, "{:?}", epochs_in(&store));
    let commits = managers[0].commits();
    assert!(commits.windows(2).all(|w| w[0] < w[1]) && commits.len() > 5, "{commits:?}");
    // Ended well, it leaves nothing.
    cluster.post(&format!("/jobs/{id}/cancel")).await;
    cluster.until_status(&id, "CANCELLED").await;
    cluster.until("its checkpoints are gone", |_| async { epochs_in(&store).is_empty() }).await;
    cluster.until("its logs may go", |_| async { managers[0].forgotten() == 1 }).await;
}

#[tokio::test]
async fn a_savepoint_is_kept_and_started_from() {
    let (cluster, managers) = checkpointing(1, 3_600_000).await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    let trigger = ask(&cluster, &id, "savepoint").await;
    let taken = savepoint(&cluster, &id, &trigger).await;
    assert_eq!(taken["status"], "COMPLETED", "{taken}");
    let place = taken["location"].as_str().unwrap().to_owned();
    assert_eq!(checkpoints(&cluster, &id).await["latest"]["savepoint"]["epoch"], taken["epoch"]);
    cluster.get(&format!("/jobs/{id}/savepoints/0123456789abcdef")).await.refused(404);
    let last = ask(&cluster, &id, "stop").await;
    assert_eq!(savepoint(&cluster, &id, &last).await["status"], "COMPLETED");
    cluster.until_status(&id, "STOPPED").await;
    assert!(Path::new(&place).join("manifest.json").exists(), "savepoints stay");
    // By its place, by the place of all, by its id.
    let store = Path::new(&place).parent().unwrap().display().to_string();
    let wrong = format!("{store}/chk-7");
    let fields: [(&str, &[u8]); 2] = [("job_file", &program("x")), ("savepoint", wrong.as_bytes())];
    assert!(cluster.submit(&fields).await.refused(422).contains("checkpoint 7 of job"));
    for (from, epoch) in [(place.as_str(), 1), (store.as_str(), 2), (trigger.as_str(), 1)] {
        let next = cluster.run(&[("savepoint", from.as_bytes()), ("parallelism", b"3")]).await;
        let job = cluster.until_status(&next, "RUNNING").await;
        assert_eq!(job["restored_from"], format!("{store}/chk-{epoch}"));
        let deployments = managers[0].deployments();
        let restored = deployments.last().unwrap().restore.as_ref().unwrap().epoch;
        assert_eq!(restored, epoch);
        cluster.post(&format!("/jobs/{next}/cancel")).await;
        cluster.until_status(&next, "CANCELLED").await;
    }
}

#[tokio::test]
async fn what_cannot_be_started_from_is_said_at_once() {
    let (cluster, _managers) = checkpointing(1, 3_600_000).await;
    let empty = cluster.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.display().to_string();
    for (from, expected) in [
        ("0123456789abcdef", "no savepoint"),
        ("somewhere", "no absolute path"),
        ("/does/not/exist/chk-1", "no directory"),
        (&*format!("{empty}/chk-1"), "no manifest"),
        (&*empty, "no complete checkpoint"),
        // Of a program that says that it opens directories only.
        ("s3://bucket/prefix/chk-3", "feature 's3' of the crate tidemill"),
        ("s3://bucket/chk-3", "feature 's3' of the crate tidemill"),
    ] {
        let fields: [(&str, &[u8]); 2] =
            [("job_file", &program("x")), ("savepoint", from.as_bytes())];
        let detail = cluster.submit(&fields).await.refused(422);
        assert!(detail.contains(expected), "{from}: {detail}");
    }
    cluster.until("nothing is left", |c| async move { c.artifacts().await == 0 }).await;
}

#[tokio::test]
async fn a_job_is_moved_to_another_parallelism() {
    let (cluster, managers) = checkpointing(1, 3_600_000).await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    for parallelism in [4, 3] {
        let body = format!("{{\"parallelism\":{parallelism}}}");
        let answer = cluster.post_json(&format!("/jobs/{id}/rescale"), &body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        cluster
            .until("it runs anew", |c| {
                let id = id.clone();
                async move {
                    let job = c.job(&id).await;
                    job["parallelism"] == parallelism && job["status"] == "RUNNING"
                }
            })
            .await;
        let last = managers[0].deployments().last().unwrap().clone();
        assert_eq!(last.slots, parallelism);
        assert!(last.restore.is_some(), "from a checkpoint");
    }
    let record = cluster.kept.job(&id.parse().unwrap()).unwrap();
    assert_eq!(record.job.submission.plan.parallelism(), 3);
}

#[tokio::test]
async fn a_failed_task_is_restarted_and_remembered() {
    let (cluster, managers) = checkpointing(1, 30).await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    cluster.until("a checkpoint is complete", |_| async { managers[0].commits().len() > 1 }).await;
    let worker = managers[0].workers()[0].clone();
    managers[0].fail(&worker, "the user's closure panicked", None);
    cluster
        .until("the next attempt runs", |c| {
            let id = id.clone();
            async move {
                let job = c.job(&id).await;
                job["attempt"] == 1 && job["status"] == "RUNNING"
            }
        })
        .await;
    let exceptions = cluster.get(&format!("/jobs/{id}/exceptions")).await.json();
    let first = &exceptions["exceptions"][0];
    assert_eq!(first["message"], "the user's closure panicked");
    assert_eq!((&first["attempt"], &first["host"]), (&0.into(), &"host-01".into()));
    assert!(first["task"].as_str().unwrap().starts_with("in"));
    assert_eq!(managers[0].workers(), [worker], "its process is kept");
    assert!(managers[0].deployments().last().unwrap().restore.is_some());
}

#[tokio::test]
async fn a_dead_worker_is_replaced() {
    let (cluster, managers) = checkpointing(1, 3_600_000).await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    let worker = managers[0].workers()[0].clone();
    managers[0].kill(&worker);
    cluster
        .until("another one runs", |c| {
            let (id, managers, worker) = (id.clone(), &managers, &worker);
            async move {
                let others = managers[0].workers();
                c.job(&id).await["status"] == "RUNNING"
                    && !others.is_empty()
                    && !others.contains(worker)
            }
        })
        .await;
    let exceptions = cluster.get(&format!("/jobs/{id}/exceptions")).await.json();
    let message = exceptions["exceptions"][0]["message"].as_str().unwrap();
    assert_eq!(exceptions["exceptions"][0]["host"], "host-01");
    assert!(message.contains("signal 9") && message.contains("the last words"), "{message}");
}

#[tokio::test]
async fn a_lost_task_manager_is_replaced() {
    let (cluster, mut managers) = checkpointing(3, 30).await;
    let id = cluster.run(&[("parallelism", b"8")]).await;
    cluster.until_status(&id, "RUNNING").await;
    let lost = managers.iter().position(|m| !m.workers().is_empty()).unwrap();
    let gone = managers.remove(lost).id().clone();
    cluster
        .until("it runs on the others", |c| {
            let (id, gone) = (id.clone(), gone.to_string());
            async move {
                let job = c.job(&id).await;
                let workers = job["workers"].as_array().unwrap();
                job["status"] == "RUNNING"
                    && job["attempt"].as_u64() > Some(0)
                    && workers.iter().all(|w| w["task_manager"] != gone)
            }
        })
        .await;
    assert_eq!(cluster.get("/cluster/metrics").await.json()["total_task_managers"], 2);
}

#[tokio::test]
async fn a_damaged_checkpoint_is_passed_over() {
    let (cluster, managers) = checkpointing(1, 50).await;
    let id = cluster.run(&[]).await;
    cluster.until("three are complete", |_| async { managers[0].commits().len() > 3 }).await;
    let worker = managers[0].workers()[0].clone();
    // No more checkpoints, so that it is clear which is the newest.
    managers[0].behaviour().silent_checkpoints.store(true, Ordering::SeqCst);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let newest = checkpoints(&cluster, &id).await["latest"]["completed"]["epoch"].as_u64().unwrap();
    managers[0].fail(&worker, "the checkpoint is damaged", Some(newest));
    cluster
        .until("the one before is used", |c| {
            let (id, managers) = (id.clone(), &managers);
            async move {
                let used =
                    managers[0].deployments().last().unwrap().restore.as_ref().map(|r| r.epoch);
                c.job(&id).await["attempt"] == 1 && used == Some(newest - 1)
            }
        })
        .await;
    let all = checkpoints(&cluster, &id).await;
    assert_eq!(all["counts"]["damaged"], 1, "{all}");
}

#[tokio::test]
async fn a_job_that_comes_to_its_end_is_finished() {
    let (cluster, managers) = checkpointing(1, 3_600_000).await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    let worker = managers[0].workers()[0].clone();
    let plan = submission(2, None).plan;
    for subtask in plan.subtasks() {
        managers[0].say(&worker, move |attempt| WorkerSays::SubtaskFinished { attempt, subtask });
    }
    let job = cluster.until_status(&id, "FINISHED").await;
    assert_eq!(job["cause"], Value::Null);
    assert!(!managers[0].commits().is_empty(), "its sinks were committed");
    assert!(managers[0].workers().is_empty());
    let checkpoints = cluster.dir.path().join("checkpoints");
    let left = || std::fs::read_dir(&checkpoints).unwrap().count();
    cluster.until("nothing is left of its checkpoints", |_| async { left() == 0 }).await;
}

#[tokio::test]
async fn two_jobs_share_a_program_s_file() {
    let (cluster, _managers) = checkpointing(1, 3_600_000).await;
    let (first, second) = (cluster.run(&[]).await, cluster.run(&[]).await);
    assert_eq!(cluster.artifacts().await, 1);
    for (id, left) in [(first, 1), (second, 0)] {
        cluster.post(&format!("/jobs/{id}/cancel")).await;
        cluster.until_status(&id, "CANCELLED").await;
        cluster
            .until(
                "it is kept as long as it is needed",
                |c| async move { c.artifacts().await == left },
            )
            .await;
    }
}
