//! The command `tidemill`: starts the parts of a cluster, and asks a cluster by its REST interface.
//!
//! ```text
//!   args.rs: the command line --> settings.rs: file, environment, flags --> serve/: jobmanager, taskmanager, local
//!                                                                     '---> ask/:   submit, jobs, cancel, ...
//! ```
//! Exit codes are listed by `exit.rs`.
#![forbid(unsafe_code)]

mod args;
mod ask;
mod client;
mod exit;
mod identifiers;
mod secrets;
mod serve;
mod settings;
mod show;

use std::process::ExitCode;

use exit::Failure;
use settings::{Given, Settings};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(failure) => {
            show::note(format_args!("error: {failure}"));
            failure.code()
        }
    }
}

fn run() -> Result<ExitCode, Failure> {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        // Help and version are no errors, and go to standard output.
        Err(e) => {
            let code = if e.use_stderr() { exit::USAGE } else { 0 };
            let _ = e.print();
            return Ok(ExitCode::from(code));
        }
    };
    let Some((name, own)) = matches.subcommand() else {
        return Err(Failure::usage("no command is given; tidemill --help lists all"));
    };
    let given =
        Given { config: args::config(own), flags: args::flags(name, own)?, ..Given::of_process()? };
    if name == "config" && own.get_flag("docs") {
        return show::out(&settings::page());
    }
    let settings = Settings::load(&given)?;
    match name {
        "jobmanager" | "taskmanager" | "local" => serve::run(name, &settings),
        "config" => ask::config::show(&settings),
        _ => ask::run(name, own, &settings),
    }
}
