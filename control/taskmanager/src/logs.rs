//! What workers write: bounded files, their ends on request, their removal.
//!
//! Invariants
//!   L1  The files of one worker, `worker-<n>.log` and `worker-<n>.log.1`, never hold more than the
//!       limit together.
//!   L2  A file that cannot be written never stops a worker: its words are dropped, and the agent says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tidemill_protocol::WorkerId;
use tracing::warn;

/// Bytes of [`WorkerLog::last_words`].
const LAST_WORDS: usize = 4 << 10;

/// The log of one worker.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    half: u64,
    end: Tail,
}

impl WorkerLog {
    /// A new log below `logs`, of at most `limit` bytes.
    pub(crate) fn create(logs: &Path, id: &WorkerId, limit: u64) -> Self {
        let folder = logs.join(id.job.as_str());
        let path = folder.join(format!("worker-{}.log", id.number));
        let file = fs::create_dir_all(&folder).and_then(|()| open(&path));
        let file = file.inspect_err(|e| warn!("no log of {id} in {}: {e}", path.display())).ok();
        WorkerLog { path, file, written: 0, half: (limit / 2).max(1), end: Tail::new(LAST_WORDS) }
    }

    /// Appends, beginning a new file where this one is full.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        self.end.push(bytes);
        while !bytes.is_empty() && self.file.is_some() {
            if self.written >= self.half {
                self.rotate();
                continue;
            }
            let room = (self.half - self.written).min(bytes.len() as u64) as usize;
            // A line is not torn while it fits into a file.
            let line = bytes[..room].iter().rposition(|&b| b == b'\n').map_or(room, |at| at + 1);
            let (now, rest) = bytes.split_at(if room < bytes.len() { line } else { room });
            let Some(file) = &mut self.file else { return };
            if let Err(e) = file.write_all(now) {
                warn!("{}: {e}; what the worker writes from now on is lost", self.path.display());
                self.file = None;
            }
            self.written += now.len() as u64;
            bytes = rest;
        }
    }

    fn rotate(&mut self) {
        let renamed = fs::rename(&self.path, older(&self.path));
        self.file = renamed.and_then(|()| open(&self.path)).ok();
        self.written = 0;
    }

    /// Its end, for a report.
    pub(crate) fn last_words(&self) -> String {
        self.end.text()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).open(path)
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// The last bytes of what was pushed.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Tail { bytes: Vec::new(), limit, cut: false }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * self.limit {
            self.bytes.drain(..self.bytes.len() - self.limit);
            self.cut = true;
        }
    }

    /// Whole lines, as far as there are any.
    pub(crate) fn text(&self) -> String {
        let start = self.bytes.len().saturating_sub(self.limit);
        end_of(&self.bytes[start..], self.cut || start > 0)
    }
}

/// The text of these bytes; of a text that was cut, from its first whole line on.
fn end_of(bytes: &[u8], cut: bool) -> String {
    let newline = bytes.iter().position(|&b| b == b'\n').filter(|&at| at + 1 < bytes.len());
    let start = if cut { newline.map_or(0, |at| at + 1) } else { 0 };
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

/// The ends of all logs of a job, at most about `limit` bytes together, each under its name.
///
/// # Errors
/// No worker of the job has run here, or its logs are gone; those of the file system.
pub(crate) fn read_end(logs: &Path, job: &str, limit: u64) -> Result<String, String> {
    let folder = logs.join(job);
    let mut workers: Vec<(u32, PathBuf)> = fs::read_dir(&folder)
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => format!("no log of job {job} is kept here"),
            _ => format!("the log of job {job} cannot be read: {e}"),
        })?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_prefix("worker-")?.strip_suffix(".log")?;
            Some((number.parse().ok()?, entry.path()))
        })
        .collect();
    workers.sort();
    let each = limit / workers.len().max(1) as u64;
    let mut all = String::new();
    for (number, path) in workers {
        let text = file_end(&path, each).map_err(|e| format!("{}: {e}", path.display()))?;
        all.push_str(&format!("==> worker {number}\n{text}"));
        if !all.ends_with('\n') {
            all.push('\n');
        }
    }
    Ok(all)
}

/// The last bytes of a log and of the file before it.
fn file_end(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut cut = false;
    for file in [path.to_owned(), older(path)] {
        let want = limit.saturating_sub(bytes.len() as u64);
        let mut file = match File::open(file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let length = file.metadata()?.len();
        cut = length > want;
        file.seek(SeekFrom::Start(length.saturating_sub(want)))?;
        let mut part = Vec::new();
        file.take(want).read_to_end(&mut part)?;
        part.append(&mut bytes);
        bytes = part;
        if cut {
            break;
        }
    }
    Ok(end_of(&bytes, cut))
}

/// A job is over: from now on its logs count as kept.
pub(crate) fn forget(logs: &Path, job: &str) {
    let folder = logs.join(job);
    if folder.exists()
        && let Err(e) = fs::write(folder.join("over"), "")
    {
        warn!("{}: {e}", folder.display());
    }
}

/// Removes the logs that nothing was written to for `retention`, but those of jobs that still run here.
pub(crate) fn sweep(
    logs: &Path,
    now: SystemTime,
    retention: Duration,
    runs: impl Fn(&str) -> bool,
) -> io::Result<()> {
    for entry in fs::read_dir(logs)?.flatten() {
        let folder = entry.path();
        let files = fs::read_dir(&folder)?.flatten();
        let times = files.filter_map(|f| f.metadata().ok()?.modified().ok());
        let last = times.chain(entry.metadata().and_then(|m| m.modified())).max();
        let old = last.and_then(|t| now.duration_since(t).ok()).is_some_and(|age| age > retention);
        if old && !entry.file_name().to_str().is_some_and(&runs) {
            fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_protocol::JobId;

    fn id(number: u32) -> WorkerId {
        WorkerId { job: JobId::from_bytes([7; 16]), number }
    }

    fn size(folder: &Path) -> u64 {
        let files = fs::read_dir(folder).expect("folder").flatten();
        files.map(|f| f.metadata().expect("file").len()).sum()
    }

    #[test]
    fn files_stay_within_the_limit_and_keep_the_end() {
        let root = tempfile::tempdir().expect("tempdir");
        let job = id(0).job;
        let mut log = WorkerLog::create(root.path(), &id(0), 1000);
        for n in 0..1000 {
            log.write(format!("line {n}\n").as_bytes());
            assert!(size(&root.path().join(job.as_str())) <= 1000, "L1");
        }
        log.write(&[b'x'; 3000]);
        assert!(size(&root.path().join(job.as_str())) <= 1000, "L1");
        log.write(b"\nlast\n");
        assert!(log.last_words().ends_with("\nlast\n"));
        let mut other = WorkerLog::create(root.path(), &id(11), 1000);
        other.write(b"hello\nworld");
        let text = read_end(root.path(), job.as_str(), 100).expect("there");
        assert!(text.starts_with("==> worker 0\n"), "{text}");
        assert!(text.contains("last\n==> worker 11\nhello\nworld\n"), "{text}");
        let unknown = read_end(root.path(), id(0).job.as_str().trim_end_matches('7'), 10);
        assert!(unknown.expect_err("none").contains("no log"), "another job");
    }

    #[test]
    fn an_end_spans_two_files_and_begins_with_a_whole_line() {
        let root = tempfile::tempdir().expect("tempdir");
        let mut log = WorkerLog::create(root.path(), &id(0), 80);
        (0..10).for_each(|n| log.write(format!("line {n}\n").as_bytes()));
        let text = read_end(root.path(), id(0).job.as_str(), 45).expect("there");
        assert_eq!(text, "==> worker 0\nline 4\nline 5\nline 6\nline 7\nline 8\nline 9\n");
    }

    #[test]
    fn logs_that_cannot_be_written_are_dropped() {
        let root = tempfile::tempdir().expect("tempdir");
        fs::write(root.path().join(id(0).job.as_str()), "in the way").expect("file");
        let mut log = WorkerLog::create(root.path(), &id(0), 80);
        log.write(b"still heard\n");
        assert_eq!(log.last_words(), "still heard\n");
    }

    #[test]
    fn old_logs_go_unless_the_job_runs() {
        let root = tempfile::tempdir().expect("tempdir");
        let (job, kept) = (id(0).job, JobId::from_bytes([8; 16]));
        let running = WorkerId { job: kept.clone(), number: 0 };
        for id in [id(0), running] {
            WorkerLog::create(root.path(), &id, 80).write(b"x");
        }
        forget(root.path(), job.as_str());
        #[expect(clippy::disallowed_methods, reason = "files carry the time of the system")]
        let now = SystemTime::now();
        let day = Duration::from_secs(86400);
        let sweep = |now| sweep(root.path(), now, day, |j| j == kept.as_str()).expect("swept");
        sweep(now);
        assert!(root.path().join(job.as_str()).exists());
        sweep(now + 2 * day);
        assert!(!root.path().join(job.as_str()).exists());
        assert!(root.path().join(kept.as_str()).exists());
    }
}
