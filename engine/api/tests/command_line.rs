//! The command line of a job's program, in processes of their own. This program is both the job and
//! its tests: with `TIDEMILL_TEST_JOB` set it is the job.
#![expect(clippy::unwrap_used, reason = "these are tests, although without the harness")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::Duration;
use tidemill::connectors::{FileSink, GeneratorSource};
use tidemill::{Env, RestartStrategy, job};
use tidemill_plan::PhysicalPlan;

const JOB: &str = "TIDEMILL_TEST_JOB";
const KEYS: u64 = 11;

/// Counts `--total` numbers by key into files in `--out`; `--poison` is one that panics.
fn program() -> ExitCode {
    job::main(|args| {
        let out = args.required("out", "directory of the result")?;
        let total = args.parsed("total", "number of records")?;
        let rate: f64 = args.parsed("rate", "records per second")?.unwrap_or(1e6);
        let poison: Option<u64> = args.parsed("poison", "the record that panics")?;
        let name = args.optional("job-name", "name of the job", "counting");
        let delay: u64 = args.parsed("restart-delay-us", "before the restart")?.unwrap_or(1_000);
        let env = Env::new(&name).parallelism(2).checkpoint_every(Duration::from_millis(50));
        let env = env.restart(RestartStrategy::FixedDelay { attempts: 1, delay_us: delay });
        env.add_source(GeneratorSource::new(total, |i| i).rate(rate))
            .filter(move |n| Some(n) != poison || panic!("poisoned"))
            .name("check")
            .key_by::<u64, _>(|n| n - n / KEYS * KEYS)
            .count()
            .uid("counts")
            .map(|(key, n)| format!("{key} {n}"))
            .add_sink(FileSink::<String, _>::display(out));
        Ok(env)
    })
}

/// The arguments, and where they point to.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap() }
    }
    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }
    fn chk(&self) -> PathBuf {
        self.dir.path().join("chk")
    }
    fn start(&self, words: &[&str]) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(JOB, "1").args(words).arg("--out").arg(self.out());
        if !words.contains(&"plan") {
            command.arg("--checkpoint-dir").arg(self.chk());
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
    fn run(&self, words: &[&str]) -> Output {
        self.start(words).wait_with_output().unwrap()
    }
    /// The lines of all visible files, sorted.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in std::fs::read_dir(self.out()).unwrap() {
            let path = entry.unwrap().path();
            if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
                let text = std::fs::read_to_string(path).unwrap();
                lines.extend(text.lines().map(str::to_owned));
            }
        }
        lines.sort();
        lines
    }
    fn checkpoints(&self) -> Vec<(u64, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(self.chk()) else { return Vec::new() };
        let mut found: Vec<_> = entries
            .map(|e| e.unwrap().path())
            .filter(|p| p.join("manifest.json").exists())
            .map(|p| (number(&p), p))
            .collect();
        found.sort();
        found
    }
}

fn number(path: &Path) -> u64 {
    path.file_name().unwrap().to_str().unwrap().strip_prefix("chk-").unwrap().parse().unwrap()
}

fn wanted(total: u64) -> Vec<String> {
    let mut lines: Vec<String> =
        (0..total).map(|i| format!("{} {}", i % KEYS, i / KEYS + 1)).collect();
    lines.sort();
    lines
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs without `--out` or `--checkpoint-dir` being added.
fn bare(words: &[&str]) -> Output {
    let exe = std::env::current_exe().unwrap();
    Command::new(exe).env(JOB, "1").args(words).output().unwrap()
}

fn the_plan_is_what_deployment_reads() {
    let place = Place::new();
    for words in [&["plan"][..], &["plan", "--format", "json"]] {
        let output = place.run(words);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let plan = PhysicalPlan::from_json(std::str::from_utf8(&output.stdout).unwrap()).unwrap();
        assert_eq!((plan.job(), plan.parallelism()), ("counting", 2));
        assert_eq!(plan.tasks().len(), 2);
        assert!(plan.operators().any(|o| o.uid == "counts"));
    }
    let output = place.run(&["plan", "--parallelism", "3", "--job-name=other"]);
    let plan = PhysicalPlan::from_json(std::str::from_utf8(&output.stdout).unwrap()).unwrap();
    assert_eq!((plan.job(), plan.parallelism()), ("other", 3));
    for (format, start) in [("mermaid", "flowchart"), ("dot", "digraph")] {
        let output = place.run(&["plan", "--format", format]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.trim_start().starts_with(start), "{text}");
        assert!(text.contains("check") && text.contains("count"), "{text}");
    }
    assert!(!place.out().exists(), "a plan starts nothing");
}

fn a_bucket_needs_the_feature_and_the_submission_says_whether_it_is_there() {
    let output = bare(&["plan", "--format", "submission", "--out=/nonexistent", "--total=1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    if cfg!(feature = "s3") {
        // tests/s3.rs opens buckets.
        assert_eq!(said["stores"], serde_json::json!(["dir", "s3"]));
        return;
    }
    assert_eq!(said["stores"], serde_json::json!(["dir"]));
    for flag in ["--checkpoint-dir", "--restore"] {
        let output = bare(&[flag, "s3://bucket/prefix", "--out=/nonexistent", "--total=1"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in ["bucket", "feature 's3'", "tidemill/s3"] {
            assert!(text.contains(part), "{flag}: {text}");
        }
    }
    assert!(!Path::new("s3:").exists() && !Path::new("/nonexistent").exists());
}

fn a_submission_says_where_state_lives_only_if_it_was_told() {
    let state = |flags: &[&str]| {
        let words = ["plan", "--format", "submission", "--out=/nonexistent", "--total=1"];
        let output = bare(&[&words[..], flags].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        said["settings"]["state"].clone()
    };
    assert_eq!(state(&[]), serde_json::Value::Null, "the cluster's to decide");
    assert_eq!(state(&["--state", "heap"]), "heap", "whatever the cluster does by default");
    if cfg!(feature = "rocksdb") {
        let told = state(&["--state=rocksdb", "--state-memory-mib=64"]);
        assert_eq!(told, serde_json::json!({"rocksdb": {"memory_mib": 64}}));
    }
}

fn mistakes_are_named_and_end_with_2() {
    for (words, parts) in [
        (&["--paralelism", "2"][..], &["--paralelism", "--parallelism"][..]),
        (&["--quite"], &["--quite", "--quiet"]),
        (&["--totl=5"], &["--totl", "--total"]),
        (&["--parallelism"], &["--parallelism", "value"]),
        (&["--total"], &["--total", "value"]),
        (&["--parallelism", "0"], &["--parallelism", "0", "from 1"]),
        (&["--parallelism", "many"], &["many"]),
        (&["--checkpoint-interval", "5"], &["--checkpoint-interval", "500ms"]),
        (&["--checkpoint-interval", "5 parsecs"], &["5 parsecs", "500ms"]),
        (&["--aligned-timeout", "soon"], &["--aligned-timeout", "soon"]),
        (&["--keep-checkpoints", "0"], &["--keep-checkpoints", "from 1"]),
        (&["--state", "paper"], &["paper", "heap or rocksdb"]),
        (&["--format", "png", "plan"], &["png", "mermaid"]),
        (&["--format", "png"], &["png", "mermaid"]),
        (&["--checkpoint-dir", ""], &["--checkpoint-dir", "empty"]),
        (&["--metrics-addr", "9249"], &["9249", "HOST:PORT"]),
        (&["--total", "lots"], &["lots", "number of records"]),
        (&["--quiet=yes"], &["--quiet", "no value"]),
        (&["--checkpoint-dir", "--restore", "latest"], &["--checkpoint-dir", "value"]),
        (&["start"], &["start", "run", "plan"]),
        (&["--out"], &["--out", "value"]),
    ] {
        let mut all = vec!["--out=/nonexistent/never"];
        if words == ["--out"] {
            all.clear();
        }
        all.extend(words);
        let output = bare(&all);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        // The help that follows mentions all flags.
        let line = text.lines().next().unwrap();
        for part in parts {
            assert!(line.contains(part), "{words:?}: {part} in: {line}");
        }
        assert!(!Path::new("/nonexistent").exists());
    }
    let output = bare(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--out is missing: directory of the result"));
    let output = bare(&["--help"]);
    let help = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for flag in ["--out", "--total", "--checkpoint-dir", "--restore", "--metrics-addr", "--quiet"] {
        assert!(help.contains(flag), "{flag} in {help}");
    }
}

fn a_job_that_finishes_ends_with_0() {
    let place = Place::new();
    let output = place.run(&["--total", "5000", "--rate=20000"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(place.lines(), wanted(5_000));
    for part in ["counting: ", "records/s", "last checkpoint", "finished"] {
        let part = part.trim_start_matches("records");
        assert!(text.contains(part), "{part} in {text}");
    }
    let quiet = Place::new();
    let output = quiet.run(&["--total", "50", "--quiet"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert_eq!(output.stdout, b"");
}

fn a_job_that_fails_ends_with_1_and_says_where() {
    let place = Place::new();
    let output = place.run(&["--total", "5000", "--poison", "2000", "--rate=20000"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let error = text.lines().find(|l| l.starts_with("error: ")).expect(&text);
    assert!(error.contains("'check' panicked on record 2000: poisoned"), "{text}");
    assert!(text.contains("warning: restart in"), "{text}");
}

/// Ctrl-C in the middle; a later run goes on as if nothing had been.
fn ctrl_c_ends_cleanly_and_a_restore_goes_on() {
    for signal in ["-INT", "-TERM"] {
        let place = Place::new();
        let mut child = place.start(&["--total", "12000", "--rate", "3000"]);
        for _ in 0..400 {
            if place.checkpoints().len() >= 2 {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(25));
        }
        assert!(place.checkpoints().len() >= 2, "no checkpoint within 10 s");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let mut ended = None;
        for _ in 0..80 {
            ended = child.try_wait().unwrap();
            if ended.is_some() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(25));
        }
        if ended.is_none() {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let status = ended.unwrap_or_else(|| panic!("it runs on: {}", stderr(&output)));
        assert_eq!(status.code(), Some(0), "{}", stderr(&output));
        assert!(stderr(&output).contains("cancelled"), "{}", stderr(&output));
        let before = place.lines().len();
        assert!(before < 12_000, "it was ended in the middle");

        let output = place.run(&["--total", "12000", "--restore", "latest"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("started from checkpoint"), "{text}");
        assert_eq!(place.lines(), wanted(12_000));
    }
}

/// Waits until `done` gives something, at most 10 s.
fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = done() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(25));
    }
    panic!("{what}: not within 10 s");
}

/// Whether a checkpoint is a savepoint, by its manifest.
fn is_savepoint(path: &Path) -> bool {
    let text = std::fs::read_to_string(path.join("manifest.json")).unwrap();
    text.replace([' ', '\n'], "").contains("\"savepoint\":true")
}

fn savepoint_line(text: &str) -> PathBuf {
    text.lines().find_map(|l| l.strip_prefix("savepoint: ")).expect(text).into()
}

/// A savepoint by signal is kept while checkpoints come and go; the end with one leaves nothing
/// to be done twice.
fn savepoints_by_signal() {
    let place = Place::new();
    let child = place.start(&["--total", "12000", "--rate", "4000"]);
    let pid = child.id().to_string();
    let send = |signal: &str| {
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    wait_for("a checkpoint", || place.checkpoints().first().cloned());
    send("-USR1");
    let kept = wait_for("a savepoint", || {
        place.checkpoints().into_iter().find(|(_, path)| is_savepoint(path))
    });
    wait_for("newer checkpoints", || (place.checkpoints().last()?.0 > kept.0 + 4).then_some(()));
    send("-USR2");
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("stopped"), "{text}");
    assert_eq!(savepoint_line(&text), kept.1, "the first one's");
    let printed: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("savepoint: ")).collect();
    let last = place.checkpoints().pop().unwrap();
    assert_eq!(printed.last().map(Path::new), Some(last.1.as_path()), "{text}");
    assert!(is_savepoint(&last.1) && kept.1.join("manifest.json").exists());
    assert!(place.lines().len() < 12_000, "it was stopped in the middle");

    let output = place.run(&["--total", "12000", "--restore", last.1.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(place.lines(), wanted(12_000));
    assert!(is_savepoint(&kept.1) && is_savepoint(&last.1), "savepoints are kept");
}

/// The same by requests, without any periodic checkpoint; refused where there is no directory.
#[expect(clippy::disallowed_methods, reason = "the job's output is read while it runs")]
fn savepoints_by_request() {
    let place = Place::new();
    let flags = ["--total", "20000", "--rate", "4000", "--metrics-addr", "127.0.0.1:0"];
    let mut child = place.start(&[&flags[..], &["--checkpoint-interval", "1h"]].concat());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let addr = lines.by_ref().find_map(|l| {
        let line = l.unwrap();
        Some(line.split_once("http://")?.1.trim_end_matches("/metrics").to_owned())
    });
    let addr = addr.unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    let post = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&addr).unwrap();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1.trim();
        let path = body.strip_prefix("{\"savepoint\":\"").and_then(|b| b.strip_suffix("\"}"));
        PathBuf::from(path.expect(&answer))
    };
    let first = post("/savepoint");
    assert!(is_savepoint(&first) && child.try_wait().unwrap().is_none(), "it runs on");
    let last = post("/stop");
    assert!(is_savepoint(&last) && last != first);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let before = place.lines().len();
    assert!(before < 20_000, "it was stopped in the middle");
    let output = place.run(&["--total", "20000", "--restore", last.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(place.lines(), wanted(20_000));
}

/// Without a checkpoint directory there is none, and the job runs on.
fn a_savepoint_needs_a_directory() {
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(JOB, "1").args(["--total", "6000", "--rate", "3000", "--out"]).arg(out.path());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::park_timeout(Duration::from_millis(700));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-USR2", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("no savepoint: ") && text.contains("finished"), "{text}");
}

/// A pipe whose reader has gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// What a job tells, and whether anybody listens, has no influence on what it does.
fn nobody_listens() {
    let place = Place::new();
    let command = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(JOB, "1").arg("--out").arg(place.out());
        command
    };
    for words in [&["plan"][..], &["plan", "--format=dot"], &["--help"]] {
        let output = command().args(words).stdout(closed_pipe()).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()), "{words:?}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command().arg("plan").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: cannot write to standard output"));
    // Progress lines, a warning (no savepoint without a directory) and the summary.
    let flags = ["--total", "6000", "--rate", "4000"];
    let mut child =
        command().args(flags).stdout(closed_pipe()).stderr(closed_pipe()).spawn().unwrap();
    std::thread::park_timeout(Duration::from_millis(700));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-USR1", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(place.lines(), wanted(6_000));
    // Mistakes, too.
    for (words, code) in [(&["--nope"][..], 2), (&["--poison", "3", "--total", "5"], 1)] {
        let status = command().args(words).stderr(closed_pipe()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{words:?}");
    }
}

fn words_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let word = std::ffi::OsStr::from_bytes(b"--total=\xff");
    let exe = std::env::current_exe().unwrap();
    let output = Command::new(exe).env(JOB, "1").arg(word).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(stderr(&output), "--total=\u{fffd}: is not valid UTF-8\n");
}

/// A rate that nobody can keep is an error of the job, not a panic.
fn rates_that_make_no_sense_are_refused() {
    for rate in ["0", "-1", "nan"] {
        let output = Place::new().run(&["--total", "5", "--rate", rate]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("records/s: it must be positive"), "{text}");
    }
    let place = Place::new();
    let output = place.run(&["--total", "500", "--rate", "inf"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(place.lines(), wanted(500));
}

/// Two jobs in one checkpoint directory would commit each other's output.
fn a_second_job_in_the_directory_is_refused() {
    let place = Place::new();
    let flags = ["--total", "12000", "--rate", "3000", "--restore", "latest"];
    let mut first = place.start(&flags);
    wait_for("a checkpoint", || place.checkpoints().first().cloned());
    let output = place.run(&flags);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("in use by a job that runs"), "{text}");
    // However the first one ends, its lock goes with it.
    first.kill().unwrap();
    first.wait().unwrap();
    let output = place.run(&["--total", "12000", "--restore", "latest"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(place.lines(), wanted(12_000));
}

/// A job that waits for its restart has nothing to be ended cleanly: once is enough.
fn ctrl_c_ends_the_wait_for_a_restart() {
    let place = Place::new();
    let flags = ["--total", "500", "--poison", "200", "--restart-delay-us", "60000000"];
    let mut child = place.start(&flags);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines
        .by_ref()
        .find(|l| l.as_ref().unwrap().starts_with("warning: restart in"))
        .unwrap()
        .unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let error = lines.map(|l| l.unwrap()).find(|l| l.starts_with("error: ")).unwrap();
    assert!(error.contains("ended while it waited") && error.contains("poisoned"), "{error}");
}

fn a_fresh_start_among_checkpoints_fails_with_1() {
    let place = Place::new();
    assert_eq!(place.run(&["--total", "100"]).status.code(), Some(0));
    let output = place.run(&["--total", "100"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--restore latest"), "{}", stderr(&output));
    assert_eq!(place.lines(), wanted(100));
}

/// The user sees which checkpoint is damaged and which one is used: on the terminal.
fn a_damaged_checkpoint_is_warned_about() {
    let place = Place::new();
    assert_eq!(place.run(&["--total", "3000", "--rate=6000"]).status.code(), Some(0));
    let found = place.checkpoints();
    let [.., older, newest] = &found[..] else { panic!("two checkpoints: {found:?}") };
    let data = newest.1.join("worker-0.data");
    std::fs::write(&data, b"garbage").unwrap();
    // The sink refuses it, because its files are of the newer one; the warning comes first.
    let output = place.run(&["--total", "3000", "--restore", "latest"]);
    let text = stderr(&output);
    let warning = text.lines().find(|l| l.starts_with("warning: ")).unwrap_or("none");
    for path in [&older.1, &newest.1] {
        assert!(warning.contains(path.to_str().unwrap()), "{} in: {text}", path.display());
    }
}

/// Checkpoints of a page or two in a file system of four pages.
fn a_full_checkpoint_disk_is_warned_about() {
    let place = Place::new();
    std::fs::create_dir(place.chk()).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(place.chk());
    if !mount.output().is_ok_and(|o| o.status.success()) {
        return eprintln!("skipped: a full disk needs a mounted tmpfs (run as root)");
    }
    let output = place.run(&["--total", "6000", "--rate=6000"]);
    let unmounted = Command::new("umount").arg("-l").arg(place.chk()).status();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let warning = text.lines().find(|l| l.starts_with("warning: checkpoint ")).unwrap_or("none");
    for part in ["failed", "No space left", place.chk().to_str().unwrap(), "free space"] {
        assert!(warning.contains(part), "{part} in: {text}");
    }
    let error = text.lines().find(|l| l.starts_with("error: ")).unwrap_or("none");
    assert!(error.contains("No space left"), "{text}");
    let (lines, all) = (place.lines(), wanted(6_000));
    assert!(lines.windows(2).all(|w| w[0] != w[1]), "a line came twice");
    assert!(lines.iter().all(|l| all.binary_search(l).is_ok()), "half a line");
    assert!(unmounted.unwrap().success());
}

fn main() -> ExitCode {
    if std::env::var_os(JOB).is_some() {
        return program();
    }
    let tests: [(&str, fn()); 18] = [
        (
            "a_bucket_needs_the_feature_and_the_submission_says_whether_it_is_there",
            a_bucket_needs_the_feature_and_the_submission_says_whether_it_is_there,
        ),
        ("nobody_listens", nobody_listens),
        ("words_that_are_no_text_are_refused", words_that_are_no_text_are_refused),
        ("rates_that_make_no_sense_are_refused", rates_that_make_no_sense_are_refused),
        ("a_second_job_in_the_directory_is_refused", a_second_job_in_the_directory_is_refused),
        ("ctrl_c_ends_the_wait_for_a_restart", ctrl_c_ends_the_wait_for_a_restart),
        ("savepoints_by_signal", savepoints_by_signal),
        ("savepoints_by_request", savepoints_by_request),
        ("a_savepoint_needs_a_directory", a_savepoint_needs_a_directory),
        ("the_plan_is_what_deployment_reads", the_plan_is_what_deployment_reads),
        (
            "a_submission_says_where_state_lives_only_if_it_was_told",
            a_submission_says_where_state_lives_only_if_it_was_told,
        ),
        ("mistakes_are_named_and_end_with_2", mistakes_are_named_and_end_with_2),
        ("a_job_that_finishes_ends_with_0", a_job_that_finishes_ends_with_0),
        (
            "a_job_that_fails_ends_with_1_and_says_where",
            a_job_that_fails_ends_with_1_and_says_where,
        ),
        ("ctrl_c_ends_cleanly_and_a_restore_goes_on", ctrl_c_ends_cleanly_and_a_restore_goes_on),
        (
            "a_fresh_start_among_checkpoints_fails_with_1",
            a_fresh_start_among_checkpoints_fails_with_1,
        ),
        ("a_full_checkpoint_disk_is_warned_about", a_full_checkpoint_disk_is_warned_about),
        ("a_damaged_checkpoint_is_warned_about", a_damaged_checkpoint_is_warned_about),
    ];
    let wanted = std::env::args().nth(1).filter(|a| !a.starts_with('-')).unwrap_or_default();
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|t| t.0.contains(&wanted)) {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += u8::from(!passed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
