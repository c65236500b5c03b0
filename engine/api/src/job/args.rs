//! The command line: the engine's flags, and the program's own.

use super::options::{Options, RestoreFrom, State};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tidemill_base::{Error, Result};

/// What the program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Run,
    Plan(String),
    /// In a cluster, started by a TaskManager; settings come on standard input.
    Worker,
    Help,
}

/// A parsed command line.
pub(crate) struct Invocation {
    pub(crate) mode: Mode,
    pub(crate) options: Options,
    pub(crate) args: Args,
}

/// The program's own flags, `--name value` or `--name=value`. What the program asks for is listed
/// by `--help`; what it does not ask for is an error.
///
/// ```no_run
/// use tidemill::prelude::*;
///
/// fn main() -> std::process::ExitCode {
///     job::main(|args| {
///         let input = args.required("input", "text to read")?;
///         let output = args.optional("output", "directory of the result", "out");
///         let rate: Option<f64> = args.parsed("rate", "lines in a second")?;
///         let mut lines = FileSource::lines(input);
///         if let Some(rate) = rate {
///             lines = lines.rate(rate);
///         }
///         let env = Env::new("Copy");
///         env.add_source(lines).add_sink(FileSink::display(output));
///         Ok(env)
///     })
/// }
/// ```
#[derive(Debug, Default)]
pub struct Args {
    given: BTreeMap<String, String>,
    /// Flags without the value that they need.
    valueless: Vec<String>,
    declared: Vec<(String, String, Option<String>)>,
    help: bool,
}

/// The engine's flags: name, value (empty for switches), meaning.
const FLAGS: &[(&str, &str, &str)] = &[
    ("parallelism", "N", "subtasks of each operator; goes before what the program says"),
    ("checkpoint-dir", "PLACE", "where checkpoints are stored: a directory, or s3://bucket/prefix"),
    ("checkpoint-interval", "TIME", "how often, e.g. 500ms, 1s, 2m"),
    ("aligned-timeout", "TIME", "alignment after which a checkpoint turns unaligned, or 'never'"),
    (
        "restore",
        "PLACE|latest",
        "start from a checkpoint: its place, or 'latest' of --checkpoint-dir, if any",
    ),
    ("allow-dropped-state", "", "restore although operators with state are gone"),
    ("keep-checkpoints", "N", "whole checkpoints to keep (default 2)"),
    ("state", "heap|rocksdb", "where keyed state lives (default heap; in a cluster, what it says)"),
    ("state-dir", "DIR", "where rocksdb keeps its files while the job runs (default: temporary)"),
    ("state-memory-mib", "N", "memory of rocksdb for each slot, in MiB (default 256)"),
    ("metrics-addr", "HOST:PORT", "serve /metrics, and on this machine POST /savepoint and /stop"),
    ("insecure", "", "allow a --metrics-addr that other machines can reach (metrics only)"),
    ("quiet", "", "no progress"),
    ("format", "json|mermaid|dot|submission", "of the command 'plan' (submission: for a cluster)"),
    ("help", "", "this text"),
];

/// What a running job does at a signal.
const SIGNALS: &[(&str, &str)] = &[
    ("INT, TERM", "end without a checkpoint; a second one ends at once"),
    ("USR1", "take a savepoint: a checkpoint that is kept until deleted; its directory is printed"),
    ("USR2", "take a savepoint and end; --restore with its directory goes on from there"),
];

impl Invocation {
    /// Parses the words of a command line, the program's name first.
    ///
    /// # Errors
    /// A text for the user.
    pub(crate) fn parse(words: Vec<String>) -> Result<Self, String> {
        let (mut mode, mut format) = (Mode::Run, String::from("json"));
        let mut options = Options::quiet();
        (options.progress, options.signals) = (true, true);
        let mut args = Args::default();
        let mut words = words.into_iter().skip(1).peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                match word.as_str() {
                    "plan" => mode = Mode::Plan(String::new()),
                    "run" => mode = Mode::Run,
                    "worker" => mode = Mode::Worker,
                    _ => return Err(format!("unknown command '{word}': use run, plan or --help")),
                }
                continue;
            };
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (flag.to_owned(), None),
            };
            let known = FLAGS.iter().find(|f| f.0 == name);
            if known.is_some_and(|f| f.1.is_empty()) {
                if let Some(value) = given {
                    return Err(format!("--{name} {value}: the flag takes no value"));
                }
                match name.as_str() {
                    "allow-dropped-state" => options.allow_dropped_state = true,
                    "quiet" => options.progress = false,
                    "insecure" => options.insecure = true,
                    _ => mode = Mode::Help,
                }
                continue;
            }
            // A flag in the place of a value is a value forgotten.
            let value = given.or_else(|| words.next_if(|w| !w.starts_with("--")));
            match (known, value) {
                (Some(_), Some(value)) if name == "format" => format = value,
                (Some(_), Some(value)) => set(&mut options, &name, &value)?,
                (Some(f), None) => return Err(format!("--{name} needs a value: {}", f.1)),
                (None, Some(value)) => {
                    args.given.insert(name, value);
                }
                // Whether the program knows it is not known yet.
                (None, None) => {
                    args.valueless.push(name);
                }
            }
        }
        if !["json", "mermaid", "dot", "submission"].contains(&format.as_str()) {
            return Err(format!("--format {format}: use json, mermaid, dot or submission"));
        }
        if let Mode::Plan(wanted) = &mut mode {
            *wanted = format;
        }
        args.help = mode == Mode::Help;
        Ok(Invocation { mode, options, args })
    }
}

fn set(options: &mut Options, name: &str, value: &str) -> Result<(), String> {
    let wrong = |what: &str| format!("--{name} {value}: {what}");
    if value.is_empty() {
        return Err(wrong("the value is empty"));
    }
    match name {
        "parallelism" => match value.parse() {
            Ok(n) if n > 0 => options.parallelism = Some(n),
            _ => return Err(wrong("give a number of subtasks from 1")),
        },
        "checkpoint-dir" => options.checkpoint_dir = Some(PathBuf::from(value)),
        "checkpoint-interval" => {
            options.checkpoint_interval = Some(duration(value).map_err(|e| wrong(&e))?);
        }
        "aligned-timeout" if value == "never" => options.aligned_timeout = Some(None),
        "aligned-timeout" => {
            options.aligned_timeout = Some(Some(duration(value).map_err(|e| wrong(&e))?));
        }
        "restore" if value == "latest" => options.restore = Some(RestoreFrom::Latest),
        "restore" => options.restore = Some(RestoreFrom::Path(PathBuf::from(value))),
        "keep-checkpoints" => match value.parse() {
            Ok(n) if n > 0 => options.keep_checkpoints = n,
            _ => return Err(wrong("give a number from 1")),
        },
        "state" => {
            options.state = Some(match value {
                "heap" => State::Heap,
                "rocksdb" => State::RocksDb,
                _ => return Err(wrong("use heap or rocksdb")),
            });
        }
        "state-dir" => options.state_dir = Some(PathBuf::from(value)),
        "state-memory-mib" => match value.parse() {
            Ok(n) if (4..=1 << 24).contains(&n) => options.state_memory_mib = n,
            _ => return Err(wrong("give a number of MiB from 4")),
        },
        "metrics-addr" => {
            let found = std::net::ToSocketAddrs::to_socket_addrs(value).ok();
            let addr = found.and_then(|mut addrs| addrs.next());
            let help = || wrong("give HOST:PORT, e.g. 127.0.0.1:9249");
            options.metrics_addr = Some(addr.ok_or_else(help)?);
        }
        _ => return Err(format!("--{name} is not handled")),
    }
    Ok(())
}

/// A length of time as people write it: `500ms`, `1s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let help = || String::from("give a time with its unit, e.g. 500ms, 1s, 2m");
    let number: u64 = text[..digits].parse().map_err(|_| help())?;
    let ms = match &text[digits..] {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    ms.map(Duration::from_millis).ok_or_else(help)
}

fn needs_value(name: &str, meaning: &str) -> Error {
    Error::job(format!("--{name} needs a value: {meaning}"))
}

impl Args {
    /// The value of a flag that must be given.
    ///
    /// # Errors
    /// If it is not.
    pub fn required(&mut self, name: &str, meaning: &str) -> Result<String> {
        self.declared.push((name.to_owned(), meaning.to_owned(), None));
        match self.given.get(name) {
            Some(value) => Ok(value.clone()),
            None if self.help => Ok(String::new()),
            None if self.valueless.iter().any(|v| v == name) => Err(needs_value(name, meaning)),
            None => Err(Error::job(format!("--{name} is missing: {meaning}"))),
        }
    }

    /// The value of a flag, or its default.
    pub fn optional(&mut self, name: &str, meaning: &str, default: &str) -> String {
        self.declared.push((name.to_owned(), meaning.to_owned(), Some(default.to_owned())));
        self.given.get(name).map_or_else(|| default.to_owned(), Clone::clone)
    }

    /// The value of a flag as a number or whatever else can be parsed; `None` if not given.
    ///
    /// # Errors
    /// If it is given and cannot be parsed.
    pub fn parsed<T: FromStr>(&mut self, name: &str, meaning: &str) -> Result<Option<T>> {
        self.declared.push((name.to_owned(), meaning.to_owned(), Some(String::from("none"))));
        let Some(text) = self.given.get(name) else { return Ok(None) };
        let wrong = |_| Error::job(format!("--{name} {text}: cannot be read as {meaning}"));
        text.parse().map(Some).map_err(wrong)
    }

    /// Whether every flag given is one that the program asked for.
    pub(crate) fn check(&self) -> Result<()> {
        let declared = |name: &str| self.declared.iter().find(|d| d.0 == name);
        let mut given = self.given.keys().chain(&self.valueless);
        let Some(unknown) = given.find(|k| declared(k).is_none()) else {
            let valueless = self.valueless.iter().find_map(|v| declared(v));
            return valueless.map_or(Ok(()), |(name, meaning, _)| Err(needs_value(name, meaning)));
        };
        let names = FLAGS.iter().map(|f| f.0).chain(self.declared.iter().map(|d| d.0.as_str()));
        let near = names.min_by_key(|n| distance(n, unknown)).unwrap_or("help");
        Err(Error::job(format!(
            "--{unknown} is not a flag of this program; did you mean --{near}?"
        )))
    }

    pub(crate) fn help(&self) -> String {
        let mut text = String::from("usage: PROGRAM [run | plan] [flags]\n");
        if !self.declared.is_empty() {
            text.push_str("\nflags of this program:\n");
        }
        for (name, meaning, default) in &self.declared {
            let default = default.as_ref().map_or("required".into(), |d| format!("default {d}"));
            let _ = writeln!(text, "  {:<32} {meaning} ({default})", format!("--{name} VALUE"));
        }
        text.push_str("\nflags of the engine:\n");
        for (name, value, meaning) in FLAGS {
            let _ = writeln!(text, "  {:<32} {meaning}", format!("--{name} {value}"));
        }
        text.push_str("\nsignals:\n");
        for (name, meaning) in SIGNALS {
            let _ = writeln!(text, "  {name:<32} {meaning}");
        }
        text
    }
}

/// Edit distance, to name the nearest flag.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
