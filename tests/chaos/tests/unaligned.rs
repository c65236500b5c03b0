//! A consumer at less than 1% of what its producer could do: an unaligned checkpoint completes in less than
//! 2 s; an aligned one, behind the same queues, does not in 30 s (`LONG=1`; 8 s otherwise). The same where two
//! such consumers share a stream.

#![expect(clippy::disallowed_methods, reason = "a test in real time")]

use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidemill_chaos::cluster::{Cluster, Plan, build_command};
use tidemill_chaos::part::until;

/// Runs the slow job with that alignment and so many readers of its stream, and asks about its checkpoints.
fn checkpoints<T>(
    aligned: &str,
    readers: &str,
    patience: u64,
    mut ask: impl FnMut(&serde_json::Value) -> Option<T>,
) -> Result<T, String> {
    let job = PathBuf::from(env!("CARGO_BIN_EXE_slow_job"));
    let dir = tempfile::tempdir().expect("a directory");
    let plan = Plan::new(build_command(&job), dir.path());
    let mut cluster = Cluster::start(plan).map_err(|e| e.to_string())?;
    // A record takes 5 ms behind the exchange; one of these needs less than 1 us before it.
    let args = ["--slow-us", "5000", "--aligned-ms", aligned, "--readers", readers];
    let args: Vec<String> =
        args.into_iter().chain(["--interval-ms", "5000"]).map(str::to_owned).collect();
    cluster.wait_for_slots()?;
    let id = cluster
        .submit(&job, &args, &[("parallelism", "4".to_owned())])
        .map_err(|e| e.to_string())?;
    let found = until(Duration::from_secs(patience), "checkpoints as expected", || {
        let list = cluster.get(&format!("/jobs/{id}/checkpoints")).ok()?;
        ask(&list)
    })
    .map_err(|e| {
        let list = cluster.get(&format!("/jobs/{id}/checkpoints")).unwrap_or_default();
        format!("{e}: {list}\n{}", cluster.last_words())
    });
    let _ = cluster.post(&format!("/jobs/{id}/cancel"), "application/json", b"");
    cluster.end();
    found
}

/// Waits for two checkpoints that took less than 2 s. Others may have taken longer: the machine may be busy with
/// something else, but no checkpoint of an aligned job is ever among those.
fn two_within_2_s(readers: &str) {
    let took = checkpoints("0", readers, 120, |list| {
        let rows = list["history"].as_array()?.iter();
        let whole: Vec<u64> = rows
            .filter(|c| c["status"] == "COMPLETED")
            .filter_map(|c| c["duration_ms"].as_u64())
            .collect();
        (whole.iter().filter(|&&ms| ms < 2_000).count() >= 2).then_some(whole)
    })
    .unwrap_or_else(|e| panic!("{e}"));
    println!("unaligned, {readers} readers: {took:?} ms");
}

#[test]
fn an_unaligned_checkpoint_overtakes_what_an_aligned_one_waits_behind() {
    two_within_2_s("1");
    // The readers of a shared stream are fused with what makes it.
    two_within_2_s("2");
    let long = std::env::var_os("LONG").is_some();
    let wanted_ms = if long { 30_000 } else { 8_000 };
    let mut began = None;
    let state = checkpoints("never", "2", 80, |list| {
        let rows = list["history"].as_array()?;
        let newest = rows.first()?;
        let waited = began.get_or_insert_with(Instant::now).elapsed().as_millis();
        let over = newest["status"] != "IN_PROGRESS";
        (over || waited >= wanted_ms).then(|| (newest["status"].to_string(), waited))
    })
    .unwrap_or_else(|e| panic!("{e}"));
    println!("aligned: {} after {} ms", state.0, state.1);
    assert_eq!(state.0, "\"IN_PROGRESS\"", "it ended after {} ms", state.1);
}
