//! A JobManager with TaskManagers that only pretend, for trying and fuzzing the REST interface: jobs run,
//! take checkpoints and can be rescaled, but there is no process and no record.
//!
//! Prints its address, the ids of a job that runs and of one that is over, and a savepoint of the first.
#![expect(clippy::unwrap_used, reason = "a tool of tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Behaviour, Cluster, submission, task_managers};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let cluster = Cluster::with(|c| c.limits.parallelism = 64).await;
    let behaviour = Behaviour::planning(|request| {
        Some(Ok(submission(request.parallelism.unwrap_or(2), Some(1_000))))
    });
    // 4 slots each: room for the highest parallelism beside the other jobs.
    let managers = task_managers(&cluster, 40, behaviour);
    cluster
        .until("all registered", |c| async move {
            c.get("/cluster/metrics").await.json()["active_task_managers"] == 40
        })
        .await;
    let runs = cluster.run(&[]).await;
    cluster.until_status(&runs, "RUNNING").await;
    let over = cluster.run(&[]).await;
    cluster.until_status(&over, "RUNNING").await;
    cluster.post(&format!("/jobs/{over}/cancel")).await;
    cluster.until_status(&over, "CANCELLED").await;
    let savepoint = cluster.post(&format!("/jobs/{runs}/savepoint")).await.json();
    println!("http://{}", cluster.manager.rest_address());
    println!("{runs}");
    println!("{over}");
    println!("{}", savepoint["trigger_id"].as_str().unwrap());
    // Until its standard input ends.
    let end =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = end.await;
    drop(managers);
}
