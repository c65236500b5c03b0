//! Commands that ask a JobManager. Each is a request or a few, and a way to show the answer.

pub(crate) mod config;
mod follow;
mod lists;
mod savepoints;
mod submit;

use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::Value;

use crate::client::Client;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::{identifiers, show};

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a command has.
pub(crate) struct Asker<'a> {
    pub(crate) client: Client,
    pub(crate) matches: &'a ArgMatches,
}

impl Asker<'_> {
    fn wants_json(&self) -> bool {
        self.matches.get_flag("json")
    }

    fn detaches(&self) -> bool {
        self.matches.get_flag("detach")
    }

    /// The path of the job that the command line names.
    async fn job(&self) -> Result<String, Failure> {
        let text = self.matches.get_one::<String>("JOB").map_or("", String::as_str);
        identifiers::job(&self.client, text).await
    }

    /// Shows an answer: as JSON where that is wanted, otherwise as the text made of it.
    fn show(
        &self,
        answer: &Value,
        text: impl FnOnce(&Value) -> String,
    ) -> Result<ExitCode, Failure> {
        if self.wants_json() { show::json(answer) } else { show::out(&text(answer)) }
    }
}

/// Runs one of the commands.
///
/// # Errors
/// What the JobManager refuses, or that it is not there.
pub(crate) fn run(
    command: &str,
    matches: &ArgMatches,
    settings: &Settings,
) -> Result<ExitCode, Failure> {
    settings.warnings.iter().for_each(|text| show::note(format_args!("warning: {text}")));
    let asker = Asker { client: Client::new(settings)?, matches };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::here(format!("no runtime: {e}")))?;
    let result = runtime.block_on(async {
        match command {
            "submit" => submit::run(&asker).await,
            "jobs" => lists::jobs(&asker).await,
            "status" => lists::status(&asker).await,
            "checkpoints" => lists::checkpoints(&asker).await,
            "exceptions" => lists::exceptions(&asker).await,
            "logs" => lists::logs(&asker).await,
            "metrics" => lists::metrics(&asker).await,
            "plan" => lists::plan(&asker).await,
            "taskmanagers" => lists::task_managers(&asker).await,
            "cluster" => lists::cluster(&asker).await,
            "cancel" => follow::cancel(&asker).await,
            "rescale" => follow::rescale(&asker).await,
            "savepoint" => savepoints::savepoint(&asker).await,
            "stop" => savepoints::stop(&asker).await,
            other => Err(Failure::usage(format!("there is no command {other}"))),
        }
    });
    // A file that is being read, for one, is not waited for.
    runtime.shutdown_background();
    result
}
