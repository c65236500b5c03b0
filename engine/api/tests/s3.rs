//! A job with its checkpoints in a bucket: killed and restored, and with a server that hangs for a while. This
//! program is both the job and its tests: with `TIDEMILL_TEST_JOB` set it is the job, a process of its own.
#![expect(clippy::unwrap_used, reason = "these are tests, although without the harness")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tidemill::connectors::{FileSink, GeneratorSource};
use tidemill::{Env, job};
use tidemill_s3_testing::{BUCKET, Fault, Server};

const JOB: &str = "TIDEMILL_TEST_JOB";
const KEYS: u64 = 11;
/// Whatever is waited for comes within this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts `--total` numbers by key into files in `--out`.
fn program() -> ExitCode {
    job::main(|args| {
        let out = args.required("out", "directory of the result")?;
        let total = args.parsed("total", "number of records")?;
        let rate: f64 = args.parsed("rate", "records per second")?.unwrap_or(1e6);
        let env =
            Env::new("in-a-bucket").parallelism(2).checkpoint_every(Duration::from_millis(100));
        env.add_source(GeneratorSource::new(total, |i| i).rate(rate))
            .key_by::<u64, _>(|n| n % KEYS)
            .count()
            .uid("counts")
            .map(|(key, n)| format!("{key} {n}"))
            .add_sink(FileSink::<String, _>::display(out));
        Ok(env)
    })
}

/// A server, a place in its bucket, and a directory for the result.
struct Place {
    server: Server,
    dir: tempfile::TempDir,
}

/// A job's process; killed when it is dropped.
struct Job {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Place {
    fn new() -> Self {
        Place { server: Server::start(), dir: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn start(&self, words: &[&str]) -> Job {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(JOB, "1").env("TIDEMILL_S3_TIMEOUT", "3").envs(self.server.environment());
        command.args(words).arg("--out").arg(self.out());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        #[expect(clippy::disallowed_methods, reason = "reads what the job says")]
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Job { child, lines, said: Vec::new() }
    }

    /// Complete checkpoints below a prefix.
    fn epochs(&self, prefix: &str) -> BTreeSet<u64> {
        let dir = self.server.bucket_dir().join(prefix);
        let Ok(entries) = std::fs::read_dir(dir) else { return BTreeSet::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.join("manifest.json").exists())
            .map(|path| path.file_name().unwrap().to_str().unwrap()[4..].parse().unwrap())
            .collect()
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

    /// The newest checkpoint below a prefix, once it is beyond that one.
    fn beyond(&self, job: &mut Job, prefix: &str, epoch: u64) -> u64 {
        for _ in 0..PATIENCE.as_millis() / 20 {
            if let Some(newest) = self.epochs(prefix).last().filter(|newest| **newest > epoch) {
                return *newest;
            }
            job.listen(Duration::from_millis(20));
        }
        panic!("no checkpoint beyond {epoch}; the job said:\n{}", job.said.join("\n"));
    }
}

impl Job {
    fn listen(&mut self, time: Duration) -> bool {
        match self.lines.recv_timeout(time) {
            Ok(line) => self.said.push(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn count(&self, part: &str) -> usize {
        self.said.iter().filter(|line| line.contains(part)).count()
    }

    fn hears(&mut self, part: &str, times: usize) {
        for _ in 0..PATIENCE.as_millis() / 20 {
            if self.count(part) >= times {
                return;
            }
            if !self.listen(Duration::from_millis(20)) {
                let code = self.child.wait().unwrap();
                panic!("it ended by {code}:\n{}", self.said.join("\n"));
            }
        }
        panic!("'{part}' was not said {times} times:\n{}", self.said.join("\n"));
    }

    /// Its exit code, and all that it said.
    fn end(mut self) -> (Option<i32>, String) {
        while self.listen(PATIENCE) {}
        (self.child.wait().unwrap().code(), self.said.join("\n"))
    }
}

fn wanted(total: u64) -> Vec<String> {
    let mut lines: Vec<String> =
        (0..total).map(|i| format!("{} {}", i % KEYS, i / KEYS + 1)).collect();
    lines.sort();
    lines
}

fn killed_it_goes_on_from_the_bucket() {
    let place = Place::new();
    let at = format!("s3://{BUCKET}/kill/it");
    let words = ["--total", "20000", "--rate", "6000", "--checkpoint-dir", &at];
    let mut job = place.start(&words);
    place.beyond(&mut job, "kill/it", 3);
    job.child.kill().unwrap();
    let (code, _) = job.end();
    assert_eq!(code, None, "it was killed");

    // A fresh start among the checkpoints is refused.
    let (code, said) = place.start(&words).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&at) && said.contains("--restore latest"), "{said}");

    let mut again = words.to_vec();
    again.extend(["--restore", "latest"]);
    let (code, said) = place.start(&again).end();
    assert_eq!(code, Some(0), "{said}");
    assert!(place.lines() == wanted(20_000), "{said}");

    // One checkpoint by its place, into another store.
    let newest = place.epochs("kill/it").last().copied().unwrap();
    let from = format!("{at}/chk-{newest}");
    let dir = place.dir.path().join("chk").display().to_string();
    let restored = ["--total", "20000", "--checkpoint-dir", &dir, "--restore", &from];
    let (code, said) = place.start(&restored).end();
    assert_eq!(code, Some(0), "{said}");
    let absent = format!("{at}/chk-999999");
    let restored = ["--total", "20000", "--restore", &absent];
    let (code, said) = place.start(&restored).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&absent), "{said}");
}

fn while_the_server_hangs_checkpoints_fail_and_the_job_goes_on() {
    let place = Place::new();
    let at = format!("s3://{BUCKET}/hangs");
    let words = ["--total", "200000", "--rate", "4000", "--checkpoint-dir", &at];
    let mut job = place.start(&words);
    let before = place.beyond(&mut job, "hangs", 2);
    // Data objects only: a manifest that hangs is in doubt, and that is another matter.
    place.server.fail(|seen| match seen.method == "PUT" && seen.path.ends_with(".data") {
        true => Fault::Hang,
        false => Fault::None,
    });
    // A second one fails: its barriers went through the job meanwhile.
    job.hears("did not answer in time", 2);
    let failed = job.said.iter().filter(|l| l.contains("did not answer in time"));
    for line in failed {
        assert!(line.contains("s3://tidemill/hangs/chk-"), "{line}");
    }
    place.server.heal();
    place.beyond(&mut job, "hangs", before + 2);
    let (code, said) = job.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("restart in"), "{said}");
    assert!(place.lines() == wanted(200_000), "{said}");
    assert_eq!(place.server.open_uploads(), Vec::<String>::new());
}

fn an_answer_of_503_is_waited_out() {
    let place = Place::new();
    let at = format!("s3://{BUCKET}/busy");
    let mut n = 0;
    // Each third request is refused, whichever it is.
    place.server.fail(move |_| {
        n += 1;
        if n % 3 == 0 { Fault::SLOW_DOWN } else { Fault::None }
    });
    let job = place.start(&["--total", "12000", "--rate", "6000", "--checkpoint-dir", &at]);
    let (code, said) = job.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("restart in") && !said.contains("failed"), "{said}");
    assert!(place.lines() == wanted(12_000), "{said}");
}

fn a_bucket_that_cannot_be_used_is_named_before_the_job_starts() {
    let place = Place::new();
    let refused = |words: &[&str], parts: &[&str]| {
        let (code, said) = place.start(words).end();
        assert_eq!(code, Some(1), "{said}");
        for part in parts {
            assert!(said.contains(part), "no '{part}' in: {said}");
        }
        assert!(!place.out().exists(), "it did not start");
    };
    let absent = ["--total", "1", "--checkpoint-dir", "s3://absent/x"];
    refused(&absent, &["s3://absent/x", "NoSuchBucket", "create the bucket"]);
    place.server.fail(|seen| match seen.method == "POST" {
        true => Fault::Answer(403, "AccessDenied"),
        false => Fault::None,
    });
    let mine = ["--total", "1", "--checkpoint-dir", "s3://tidemill/x"];
    refused(&mine, &["s3://tidemill/x", "allow s3:PutObject"]);
}

fn main() -> ExitCode {
    if std::env::var_os(JOB).is_some() {
        return program();
    }
    let tests: [(&str, fn()); 4] = [
        ("killed_it_goes_on_from_the_bucket", killed_it_goes_on_from_the_bucket),
        (
            "while_the_server_hangs_checkpoints_fail_and_the_job_goes_on",
            while_the_server_hangs_checkpoints_fail_and_the_job_goes_on,
        ),
        ("an_answer_of_503_is_waited_out", an_answer_of_503_is_waited_out),
        (
            "a_bucket_that_cannot_be_used_is_named_before_the_job_starts",
            a_bucket_that_cannot_be_used_is_named_before_the_job_starts,
        ),
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
