//! Commands that serve until they are told to end: `jobmanager`, `taskmanager`, `local`.
//!
//! ```text
//!   local: one process   JobManager + N agents; workers are their children, and end with the process,
//!                        however it ends
//! ```
//! Invariants
//!   B1  The first SIGTERM or SIGINT ends the process cleanly, the second at once.
//!   B2  Nothing is announced as ready before it is.

mod data_dir;
mod jobmanager;
mod local;
mod logging;
mod signals;
mod stores;
mod taskmanager;

use std::process::ExitCode;

use crate::exit::Failure;
use crate::settings::Settings;

/// Runs one of the commands to its end.
///
/// # Errors
/// Whatever keeps it from serving.
pub(crate) fn run(command: &str, settings: &Settings) -> Result<ExitCode, Failure> {
    logging::install(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::here(format!("no threads to run on: {e}")))?;
    let result = runtime.block_on(async {
        let shutdown = signals::install()?;
        match command {
            "jobmanager" => jobmanager::serve(settings, shutdown).await,
            "taskmanager" => taskmanager::serve(settings, shutdown).await,
            _ => local::serve(settings, shutdown).await,
        }
    });
    // What still blocks in a store is not waited for.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}
