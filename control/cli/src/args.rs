//! The command line. Flags of settings come from the table; what they mean is written there alone.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::exit::{self, Failure};
use crate::settings::table::{Command as User, Setting, TABLE};

const JOB: &str = "The job: its id, the beginning of it, or its name, where only one job has that";

fn version() -> &'static str {
    match option_env!("TIDEMILL_COMMIT") {
        Some(commit) => {
            static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
            TEXT.get_or_init(|| format!("{} ({commit})", env!("CARGO_PKG_VERSION")))
        }
        None => env!("CARGO_PKG_VERSION"),
    }
}

/// The whole command line.
pub(crate) fn command() -> Command {
    Command::new("tidemill")
        .version(version())
        .about("A stream processor: starts the parts of a cluster, submits jobs to it, and looks after them")
        .after_help(format!(
            "Settings come from a file, the environment and flags: tidemill config shows them, \
             docs/configuration.md describes them.\n\n{}",
            exit::HELP
        ))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(servers())
        .subcommands(jobs())
        .subcommands(cluster())
        .subcommand(config_command())
}

fn servers() -> [Command; 3] {
    let stop = "SIGTERM or Ctrl-C ends it cleanly, a second one at once.";
    [
        server("local", User::Local)
            .about("Runs a whole cluster on this machine: a JobManager and TaskManagers, in one process")
            .after_help(format!(
                "Everything is kept in the data directory: started again with the same one, it finds its jobs \
                 and goes on with them from their checkpoints, however it ended. {stop}"
            )),
        server("jobmanager", User::JobManager)
            .about("Runs a JobManager: takes jobs by REST, and watches over them")
            .after_help(format!("Jobs go on while it is away, and are found again. {stop}")),
        server("taskmanager", User::TaskManager)
            .about("Runs a TaskManager: offers slots of this host, and runs jobs in them")
            .after_help(format!("Its workers end with it; jobs go on elsewhere. {stop}")),
    ]
}

fn jobs() -> Vec<Command> {
    vec![
        client("submit")
            .about("Submits a job and follows it to its end")
            .after_help(
                "Ctrl-C while it follows ends the following, not the job: the job goes on, and `tidemill cancel` ends it.",
            )
            .arg(path("PROGRAM", "The program, compiled for the cluster's machines"))
            .arg(
                Arg::new("ARGS")
                    .num_args(0..)
                    .last(true)
                    .help("The program's own arguments, after --"),
            )
            .arg(number("parallelism", "Subtasks of each operator, instead of what the program says"))
            .arg(
                Arg::new("savepoint").long("savepoint").value_name("PLACE").help(
                    "Start from it: a savepoint's trigger id, the place of a checkpoint, or a directory of checkpoints",
                ),
            )
            .arg(switch("allow-dropped-state", "Start although operators that have state in the savepoint are gone"))
            .arg(switch("detach", "Print the job's id and return as soon as it is accepted")),
        client("jobs").about("Lists the jobs, the newest first"),
        of_job("status").about("Shows a job"),
        of_job("cancel")
            .about("Ends a job without a checkpoint")
            .arg(switch("detach", "Return at once; do not wait until it has ended")),
        of_job("stop")
            .about("Takes a savepoint of a job and ends it with that; prints where the savepoint is")
            .arg(switch("savepoint", "With a savepoint: stop always takes one, so this may be left out"))
            .arg(switch("detach", "Print the savepoint's trigger id and return at once")),
        of_job("savepoint")
            .about("Takes a savepoint of a job, which goes on; prints where the savepoint is")
            .arg(switch("detach", "Print the savepoint's trigger id and return at once"))
            .arg(
                Arg::new("trigger")
                    .long("trigger")
                    .value_name("ID")
                    .conflicts_with("detach")
                    .help("Take none, but wait for the one with this trigger id"),
            ),
        of_job("rescale")
            .about("Moves a job to another parallelism, from its newest checkpoint")
            .arg(number("PARALLELISM", "Subtasks of each operator").required(true))
            .arg(switch("detach", "Return at once; do not wait until it runs again")),
        of_job("checkpoints").about("Lists a job's checkpoints, the newest first"),
        of_job("exceptions").about("Lists why a job's attempts failed, the newest first"),
        of_job("logs")
            .about("Prints what a job's workers wrote, from each TaskManager that has any")
            .arg(
                Arg::new("bytes")
                    .long("bytes")
                    .value_name("N")
                    .value_parser(value_parser!(u64).range(1..=1 << 20))
                    .default_value("65536")
                    .help("At most so much of each TaskManager, from the end"),
            ),
        of_job("metrics").about("Shows what a job's tasks do: records, rates, watermarks, backpressure"),
        of_job("plan").about("Shows a job's tasks and what connects them").arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(["text", "mermaid", "dot", "json"])
                .default_value("text")
                .help("How"),
        ),
    ]
}

fn cluster() -> [Command; 2] {
    [
        client("taskmanagers").about("Lists the TaskManagers"),
        client("cluster").about("Shows how many TaskManagers, slots and jobs there are"),
    ]
}

fn config_command() -> Command {
    common(Command::new("config"))
        .about("Prints the settings that hold, and where each comes from")
        .arg(switch("docs", "Print docs/configuration.md instead"))
        .args(flags_of(&[User::JobManager, User::TaskManager, User::Client]))
}

/// What every command takes.
fn common(command: Command) -> Command {
    command
        .arg(
            path("config", "The configuration file")
                .long("config")
                .value_name("FILE")
                .required(false),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help("Set any setting; may come several times"),
        )
}

fn server(name: &'static str, user: User) -> Command {
    common(Command::new(name)).args(flags_of(&[user]))
}

fn client(name: &'static str) -> Command {
    common(Command::new(name))
        .args(flags_of(&[User::Client]))
        .arg(switch("json", "Print what the JobManager answers, as JSON"))
}

fn of_job(name: &'static str) -> Command {
    client(name).arg(Arg::new("JOB").required(true).help(JOB))
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn path(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_parser(value_parser!(PathBuf)).required(true).help(help)
}

fn number(name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).value_parser(value_parser!(u32).range(1..)).help(help);
    if name.starts_with(char::is_uppercase) { arg } else { arg.long(name).value_name("N") }
}

/// Settings with a flag of their own; each flag once.
fn settings_of(users: &[User]) -> impl Iterator<Item = &'static Setting> {
    let mut seen = Vec::new();
    TABLE.iter().filter(move |s| {
        let new = !s.flag.is_empty()
            && s.used.iter().any(|user| users.contains(user))
            && !seen.contains(&s.flag);
        if new {
            seen.push(s.flag);
        }
        new
    })
}

fn flags_of(users: &[User]) -> Vec<Arg> {
    let flag = |s: &'static Setting| {
        let default = match (s.default, s.note) {
            ("", note) => note.to_owned(),
            (default, "") => default.to_owned(),
            (default, note) => format!("{default}; {note}"),
        };
        let help = format!("{} [{}; default: {default}]", s.meaning, s.key).replace('`', "");
        let arg = Arg::new(s.key).long(s.flag).help(help);
        match s.kind.is_switch() {
            true => arg.action(ArgAction::SetTrue),
            false if s.kind.is_list() => {
                arg.action(ArgAction::Append).value_name(s.kind.placeholder())
            }
            false => arg.value_name(s.kind.placeholder()),
        }
    };
    settings_of(users).map(flag).collect()
}

/// `--config`.
pub(crate) fn config(matches: &ArgMatches) -> Option<PathBuf> {
    matches.get_one::<PathBuf>("config").cloned()
}

/// What flags say of settings: key, value, flag.
///
/// # Errors
/// `--set` without `=`.
pub(crate) fn flags(
    command: &str,
    matches: &ArgMatches,
) -> Result<Vec<(String, String, String)>, Failure> {
    let mut flags = Vec::new();
    for text in matches.get_many::<String>("set").into_iter().flatten() {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--set {text}: write KEY=VALUE, e.g. taskmanager.slots=8"))
        })?;
        flags.push((key.trim().to_owned(), value.trim().to_owned(), "--set".to_owned()));
    }
    // A flag of its own says more than `--set`.
    for s in settings_of(users(command)) {
        let value = match s.kind.is_switch() {
            true => matches.get_flag(s.key).then(|| "true".to_owned()),
            false => matches
                .get_many::<String>(s.key)
                .map(|all| all.map(String::as_str).collect::<Vec<_>>().join(",")),
        };
        flags.extend(value.map(|value| (s.key.to_owned(), value, format!("--{}", s.flag))));
    }
    Ok(flags)
}

fn users(command: &str) -> &'static [User] {
    match command {
        "local" => &[User::Local],
        "jobmanager" => &[User::JobManager],
        "taskmanager" => &[User::TaskManager],
        "config" => &[User::JobManager, User::TaskManager, User::Client],
        _ => &[User::Client],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn flags_become_settings() {
        let words =
            ["tidemill", "local", "--port", "9", "--set", "checkpoints.keep=5", "--insecure"];
        let matches = command().try_get_matches_from(words).expect("good");
        let (name, own) = matches.subcommand().expect("one");
        let all = flags(name, own).expect("good");
        let has = |key: &str, value: &str| all.iter().any(|(k, v, _)| k == key && v == value);
        assert!(has("jobmanager.rest_port", "9") && has("checkpoints.keep", "5"), "{all:?}");
        assert!(has("security.insecure", "true"), "{all:?}");
        assert_eq!(all.len(), 3, "{all:?}");
        let twice = ["tidemill", "taskmanager", "--jobmanager", "a:1", "--jobmanager", "b:2"];
        let matches = command().try_get_matches_from(twice).expect("good");
        let (name, own) = matches.subcommand().expect("one");
        let all = flags(name, own).expect("good");
        assert_eq!(all[0].1, "a:1,b:2");
    }
}
