//! Running a job: [`main`] for programs, [`Env::execute`] for tests and tools.

mod args;
mod attempt;
mod carrier;
#[doc(hidden)]
pub mod checkpoint;
mod console;
mod embedded;
mod lock;
mod log;
mod options;
mod progress;
mod requests;
#[doc(hidden)]
pub mod restore;
mod signal;
mod state;
mod submission;
mod worker;

pub use args::Args;
pub use embedded::Summary;
pub(crate) use options::parallelism_override;
pub(crate) use progress::Watched;
pub(crate) use requests::Asker;

use crate::env::Env;
use args::{Invocation, Mode};
use console::tell;
use options::Options;
use std::process::ExitCode;
use tidemill_base::Result;

/// The `main` of a job: composes it and does what the command line says.
///
/// Without a command the job runs embedded, on this machine; `plan` prints its graph
/// (`--format json|mermaid|dot`). The engine's flags are listed by `--help`; all other flags belong
/// to the program, which asks `Args` for them. Ctrl-C ends the job cleanly; SIGUSR1 makes it take a
/// savepoint, SIGUSR2 end with one. The exit code is 0 when the job finished or was ended so, 1 when
/// it failed, 2 when the command line is wrong.
///
/// ```no_run
/// use tidemill::prelude::*;
///
/// fn main() -> std::process::ExitCode {
///     job::main(|args| {
///         let input = args.required("input", "text to read")?;
///         let env = Env::new("Shout");
///         let lines = env.add_source(FileSource::lines(input));
///         lines.map(|line| line.to_uppercase()).add_sink(StdoutSink::debug());
///         Ok(env)
///     })
/// }
/// ```
pub fn main(compose: impl FnOnce(&mut Args) -> Result<Env>) -> ExitCode {
    let words = std::env::args_os().map(|word| {
        word.into_string().map_err(|word| format!("{}: is not valid UTF-8", word.display()))
    });
    let invocation = match words.collect::<Result<_, _>>().and_then(Invocation::parse) {
        Ok(invocation) => invocation,
        Err(text) => {
            tell(format_args!("{text}"));
            return ExitCode::from(2);
        }
    };
    let Invocation { mode, options, mut args } = invocation;
    log::install();
    options::set_overrides(&options);
    let composed = compose(&mut args);
    if mode == Mode::Help {
        return exit_code(console::print(&args.help()));
    }
    let env = match composed.and_then(|env| args.check().map(|()| env)) {
        Ok(env) => env,
        Err(error) => {
            tell(format_args!("error: {error}\n\n{}", args.help()));
            return ExitCode::from(2);
        }
    };
    let result = match mode {
        Mode::Plan(format) => plan(&env, &format, &options),
        Mode::Worker => worker::run(&env),
        _ => embedded::run(&env, &options).map(|summary| {
            if options.progress {
                tell(format_args!("{summary}"));
            }
        }),
    };
    exit_code(result)
}

fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn plan(env: &Env, format: &str, options: &Options) -> Result<()> {
    let (physical, _) = env.graph.finish()?;
    console::print(&match format {
        "submission" => submission::json(env, physical, options)?,
        "mermaid" => physical.to_mermaid(),
        "dot" => physical.to_dot(),
        _ => physical.to_json(),
    })
}

impl Env {
    /// The job's plan for people and for deployment. For tools that run jobs themselves, as the
    /// simulation does; takes the tasks out of the environment.
    ///
    /// # Errors
    /// A mistake in the program.
    #[doc(hidden)]
    pub fn plans(
        &self,
    ) -> Result<(tidemill_plan::PhysicalPlan, tidemill_runtime::deploy::JobPlan)> {
        self.graph.finish()
    }

    /// Runs the job here and now until its sources end, without flags, progress or signals.
    ///
    /// # Errors
    /// A mistake in the program, or the failure that the restart strategy gave up on.
    pub fn execute(&self) -> Result<Summary> {
        embedded::run(self, &Options::quiet())
    }

    /// Like [`Env::execute`], with checkpoints in a directory and the engine's flags as in
    /// [`main`], e.g. `&["--checkpoint-dir", "/tmp/chk", "--restore", "latest"]`.
    ///
    /// # Errors
    /// As [`Env::execute`]; also for flags that do not exist.
    pub fn execute_with(&self, flags: &[&str]) -> Result<Summary> {
        let mut words = vec![String::from("job")];
        words.extend(flags.iter().map(|f| (*f).to_string()));
        let invocation = Invocation::parse(words).map_err(tidemill_base::Error::job)?;
        let mut options = invocation.options;
        options.progress = false;
        options.signals = false;
        embedded::run(self, &options)
    }
}
