//! `tidemill savepoint` and `tidemill stop`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Asker, LOOK_EVERY};
use crate::exit::{self, Failure};
use crate::show::field;

/// A JobManager that is away for longer is not waited for.
const AWAY_MAX: Duration = Duration::from_secs(60);

pub(super) async fn savepoint(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let id = asker.job().await?;
    if let Some(trigger) = asker.matches.get_one::<String>("trigger") {
        return wait(asker, &id, trigger).await;
    }
    take(asker, &id, "savepoint").await
}

pub(super) async fn stop(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let id = asker.job().await?;
    take(asker, &id, "stop").await
}

async fn take(asker: &Asker<'_>, id: &str, how: &str) -> Result<ExitCode, Failure> {
    let answer = asker.client.post(&format!("/jobs/{id}/{how}"), None).await?;
    let trigger = field(&answer["trigger_id"]);
    if asker.detaches() {
        return asker.show(&answer, |_| trigger.clone());
    }
    let code = wait(asker, id, &trigger).await?;
    if how == "stop" {
        until_over(asker, id).await?;
    }
    Ok(code)
}

/// A look that may fail while the JobManager is away.
async fn look(asker: &Asker<'_>, path: &str, heard: &mut Instant) -> Result<Value, Failure> {
    loop {
        match asker.client.get(path).await {
            Ok(answer) => {
                *heard = Instant::now();
                return Ok(answer);
            }
            Err(e) if e.may_pass() && heard.elapsed() < AWAY_MAX => sleep(LOOK_EVERY).await,
            Err(e) => return Err(e),
        }
    }
}

async fn wait(asker: &Asker<'_>, id: &str, trigger: &str) -> Result<ExitCode, Failure> {
    let path = format!("/jobs/{id}/savepoints/{trigger}");
    let mut heard = Instant::now();
    loop {
        let savepoint = look(asker, &path, &mut heard).await?;
        match savepoint["status"].as_str() {
            Some("COMPLETED") => return asker.show(&savepoint, |s| field(&s["location"])),
            Some("FAILED") => {
                let why = field(&savepoint["reason"]);
                return Err(Failure::new(exit::FAILED, format!("the savepoint failed: {why}")));
            }
            _ => sleep(LOOK_EVERY).await,
        }
    }
}

/// The savepoint is there before the job has ended.
async fn until_over(asker: &Asker<'_>, id: &str) -> Result<(), Failure> {
    let path = format!("/jobs/{id}");
    let mut heard = Instant::now();
    while look(asker, &path, &mut heard).await?["ended_at_ms"].is_null() {
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}
