//! Reads the lanes of one subtask in turn, a block of lines at a time.
//!
//! Invariants
//!   R1  A part's position is behind the last line emitted of it whenever `poll` returns: what the
//!       block still holds is read again after a restore.
//!   R2  A lane that has lines waiting is never idle: its watermark does not depend on the rate.
//!   R3  A lane that is too far ahead in event time is passed over; what is left of its block is kept,
//!       for [`PARKED_MAX`] lanes, and read again for others.

use super::OnError;
use super::block::{Block, Data, Found, line_number, line_start};
use super::follow::{Follow, Followed, Tracked};
use super::format::{Format, Malformed};
use super::lane::{Lane, Part};
use super::listing::{Listing, identity};
use super::parsed::BadLine;
use super::position::{Entry, Identity};
use crate::io_error::io_error;
use crate::rate::Limiter;
use memchr::{memchr, memchr_iter, memrchr};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemill_base::{Error, Micros, Result, Timestamp};
use tidemill_runtime::context::Context;
use tidemill_runtime::source::{Emit, Polled, SourceContext, SourceReader};

/// Above this many files, those that are not in turn are closed.
const OPEN_FILES_MAX: usize = 128;

/// How many lanes a poll keeps from going idle (R2); the others are next.
const KEPT_ACTIVE: usize = 64;

/// Blocks that are kept while their lanes are ahead (R3).
const PARKED_MAX: usize = 16;

/// What a subtask is to read.
pub(crate) struct Assignment {
    /// In the order of file and position.
    pub(crate) parts: Vec<(PathBuf, Part)>,
    /// Files to follow.
    pub(crate) followed: Vec<Followed>,
    /// Files that other subtasks follow.
    pub(crate) foreign: Vec<Identity>,
    /// Kept, so that the other subtasks open with the same one.
    pub(crate) listing: Option<Arc<Listing>>,
}

impl Assignment {
    /// Files to read once.
    pub(crate) fn of(parts: Vec<(PathBuf, Part)>, listing: Option<Arc<Listing>>) -> Self {
        Assignment { parts, followed: Vec::new(), foreign: Vec::new(), listing }
    }
}

/// A file, open or not.
pub(crate) struct SourceFile<H> {
    pub(crate) path: PathBuf,
    handle: Option<File>,
    /// Header, and where the first line starts.
    header: Option<(H, u64)>,
    /// A position and the number of the line that starts there.
    known_line: (u64, u64),
    /// While it is followed.
    pub(crate) tracked: Option<Tracked>,
}

/// Reads a [`FileSource`](crate::FileSource).
pub struct FileReader<F: Format> {
    format: F,
    errors: Errors,
    files: Vec<SourceFile<F::Header>>,
    lanes: Vec<Lane>,
    /// The lane that `block` is of.
    turn: usize,
    block: Block,
    /// Begun blocks of lanes that are ahead (R3), the oldest first.
    parked: VecDeque<(usize, Block)>,
    limiter: Option<Limiter>,
    follow: Option<Follow>,
    listing: Option<Arc<Listing>>,
    /// Lanes that the engine has been told of.
    registered: usize,
    kept_active: usize,
}

/// What happens to bad lines.
struct Errors {
    policy: OnError,
    context: Context,
}

/// What a lane has.
enum Filled {
    Lines,
    Nothing,
    Ended,
}

impl<F: Format> FileReader<F> {
    pub(crate) fn new(
        format: F,
        policy: OnError,
        limiter: Option<Limiter>,
        cx: &SourceContext,
    ) -> Self {
        FileReader {
            format,
            errors: Errors { policy, context: cx.context.clone() },
            files: Vec::new(),
            lanes: Vec::new(),
            turn: 0,
            block: Block::new(),
            parked: VecDeque::new(),
            limiter,
            follow: None,
            listing: None,
            registered: 0,
            kept_active: 0,
        }
    }

    pub(crate) fn follow(&mut self, follow: Follow) {
        self.follow = Some(follow);
    }

    /// Takes over what it is to read; `one_lane` for files that follow one another in time.
    pub(crate) fn assign(&mut self, assignment: Assignment, one_lane: bool) -> Result<()> {
        self.listing = assignment.listing;
        for (path, part) in assignment.parts {
            let same = self.files.last().is_some_and(|f| f.path == path);
            if !same {
                self.files.push(SourceFile::closed(path));
            }
            if self.lanes.is_empty() || !(same || one_lane) {
                self.lanes.push(Lane::default());
            }
            let file = self.files.len() - 1;
            self.lanes.last_mut().into_iter().for_each(|l| l.parts.push_back((file, part)));
        }
        for followed in assignment.followed {
            self.add_followed(followed);
        }
        // A file that cannot be read is better known before the first record.
        for file in 0..self.files.len().min(OPEN_FILES_MAX) {
            self.files[file].open()?;
        }
        Ok(())
    }

    fn add_followed(&mut self, followed: Followed) {
        let mut file = SourceFile::closed(followed.path);
        file.handle = Some(followed.handle);
        file.tracked = Some(Tracked::new(followed.identity));
        let part = Part { start: 0, end: u64::MAX, position: followed.position };
        self.files.push(file);
        let parts = [(self.files.len() - 1, part)].into();
        self.lanes.push(Lane { parts, ..Lane::default() });
    }

    /// Looks for files that are new, renamed or gone.
    fn discover(&mut self, now: Micros) -> Result<()> {
        let Some(follow) = self.follow.as_mut().filter(|f| f.is_due(now)) else { return Ok(()) };
        for followed in follow.look(now, &mut self.files)? {
            self.add_followed(followed);
        }
        Ok(())
    }

    /// Tells the engine of lanes that it does not know, so that they hold the watermark back.
    fn register<O: Emit<F::Item>>(&mut self, out: &mut O) {
        for lane in self.registered..self.lanes.len() {
            out.split(lane);
        }
        self.registered = self.lanes.len();
        for _ in 0..self.lanes.len().min(KEPT_ACTIVE) {
            self.kept_active = (self.kept_active + 1) % self.lanes.len();
            let lane = &self.lanes[self.kept_active];
            if !lane.ended && !lane.waiting {
                out.active(self.kept_active);
            }
        }
    }

    /// Fills the block from the next lane that has lines.
    fn next_block<O: Emit<F::Item>>(&mut self, out: &mut O) -> Result<Filled> {
        let before = self.turn;
        let mut all = Filled::Ended;
        for step in 1..=self.lanes.len() {
            let lane = (before + step) % self.lanes.len();
            if self.lanes[lane].ended {
                continue;
            }
            if out.is_ahead(lane) {
                all = Filled::Nothing;
                continue;
            }
            match self.fill(lane, out.now())? {
                Filled::Lines => {
                    self.lanes[lane].waiting = false;
                    self.turn = lane;
                    if lane != before && self.follow.is_none() && self.files.len() > OPEN_FILES_MAX
                    {
                        self.close(before);
                    }
                    return Ok(Filled::Lines);
                }
                Filled::Nothing => {
                    self.lanes[lane].waiting = true;
                    all = Filled::Nothing;
                }
                Filled::Ended => {
                    self.lanes[lane].ended = true;
                    out.split_ended(lane);
                }
            }
        }
        Ok(if self.follow.is_some() { Filled::Nothing } else { all })
    }

    /// Puts the rest of the block aside, if its lane is ahead (R3).
    fn park<O: Emit<F::Item>>(&mut self, out: &mut O) {
        if self.block.is_empty() || !out.is_ahead(self.turn) {
            return;
        }
        if self.parked.len() == PARKED_MAX {
            self.parked.pop_front();
        }
        let block = std::mem::replace(&mut self.block, Block::new());
        self.parked.push_back((self.turn, block));
    }

    /// Takes the rest of the lane's block again, if it was kept.
    fn unpark(&mut self, lane: usize) -> Result<bool> {
        let Some(at) = self.parked.iter().position(|(of, _)| *of == lane) else { return Ok(false) };
        if let Some(((_, block), &(file, _))) =
            self.parked.remove(at).zip(self.lanes[lane].parts.front())
        {
            self.files[file].open()?;
            self.block = block;
        }
        Ok(!self.block.is_empty())
    }

    fn close(&mut self, lane: usize) {
        if let Some(&(file, _)) = self.lanes[lane].parts.front() {
            self.files[file].handle = None;
        }
    }

    /// Fills the block with lines of the lane's first part that has any.
    fn fill(&mut self, lane: usize, now: Micros) -> Result<Filled> {
        if self.unpark(lane)? {
            return Ok(Filled::Lines);
        }
        loop {
            let Some(&(file, part)) = self.lanes[lane].parts.front() else {
                return Ok(Filled::Ended);
            };
            let source = &mut self.files[file];
            if part.is_done() {
                self.lanes[lane].parts.pop_front();
                if self.lanes[lane].parts.front().is_none_or(|p| p.0 != file) {
                    source.forget();
                }
                continue;
            }
            if let Some(position) = source.first_line(&part, &mut self.format, &mut self.block)? {
                set_position(&mut self.lanes[lane], position);
                if position >= part.end {
                    continue;
                }
                let (handle, path) = (source.handle()?, &source.path);
                let bounded = part.end != u64::MAX;
                let (format, end) = (&self.format, part.end);
                let found = self.block.read(format, handle, path, position, end, bounded)?;
                match found {
                    Found::Lines => return Ok(Filled::Lines),
                    Found::Nothing if bounded => return Err(source.shrunk(position, part.end)),
                    Found::Nothing => {}
                }
            }
            // Followed, and nothing there: has the file gone, then read what is left and end.
            let part = self.lanes[lane].parts.front().map_or(part, |p| p.1);
            let Some(end) = source.end_of_gone(part.position, now)? else {
                return Ok(Filled::Nothing);
            };
            self.lanes[lane].parts.iter_mut().for_each(|p| p.1.end = end);
        }
    }

    /// Emits lines of the block, as many as `out` takes and at most `allowance`; returns how many
    /// lines they were.
    fn emit<O: Emit<F::Item>>(&mut self, out: &mut O, allowance: usize) -> Result<usize> {
        let mut lines = 0;
        let Some(&(file, _)) = self.lanes[self.turn].parts.front() else { return Ok(lines) };
        out.split(self.turn);
        let (block, format) = (&mut self.block, &mut self.format);
        let source = &mut self.files[file];
        while !block.is_empty() && lines < allowance && out.remaining() > 0 {
            let Some((header, _)) = &source.header else { break };
            let bytes = match &block.data {
                Data::Text(text) => text.as_bytes(),
                Data::Bytes(bytes) => bytes,
            };
            let (end, next) = record_end(format, bytes, block.at);
            let place = place(block);
            let parsed = match &block.data {
                Data::Text(text) => {
                    format.parse(header, &text[block.at..end], |view| out.emit(view, place))
                }
                Data::Bytes(bytes) => utf8(&bytes[block.at..end])
                    .and_then(|line| format.parse(header, line, |view| out.emit(view, place))),
            };
            if let Err(malformed) = parsed {
                let (position, line) = (block.base + block.at as u64, &bytes[block.at..end]);
                self.errors.bad_line(source, position, line, malformed, format, out)?;
            }
            block.at = next;
            lines += 1;
        }
        set_position(&mut self.lanes[self.turn], block.base + block.at as u64);
        Ok(lines)
    }
}

/// The source's own timestamp of the line that is next (F4).
#[inline(always)]
fn place(block: &Block) -> Timestamp {
    (block.base + block.at as u64) as Timestamp
}

fn set_position(lane: &mut Lane, position: u64) {
    if let Some((_, part)) = lane.parts.front_mut() {
        part.position = position;
    }
}

/// Where the line (or record) at `at` ends, and where the next one starts.
#[inline(always)]
fn record_end(format: &impl Format, bytes: &[u8], at: usize) -> (usize, usize) {
    let line_break = match format.spans_lines() {
        true => format.record_end(&bytes[at..]),
        false => memchr(b'\n', &bytes[at..]),
    };
    match line_break {
        Some(len) if len > 0 && bytes[at + len - 1] == b'\r' => (at + len - 1, at + len + 1),
        Some(len) => (at + len, at + len + 1),
        None => (bytes.len(), bytes.len()),
    }
}

/// Line and column of an error in the record that starts in line `line`.
fn error_place(line: u64, record: &[u8], column: usize) -> (u64, usize) {
    let before = &record[..column.saturating_sub(1).min(record.len())];
    let breaks = memchr_iter(b'\n', before).count() as u64;
    (line + breaks, column - memrchr(b'\n', before).map_or(0, |at| at + 1))
}

fn utf8(line: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to();
        let message = format!("invalid UTF-8: byte 0x{:02x}", line[at]);
        Malformed { column: at + 1, message }
    })
}

impl<H> SourceFile<H> {
    pub(crate) fn closed(path: PathBuf) -> Self {
        SourceFile { path, handle: None, header: None, known_line: (0, 1), tracked: None }
    }

    fn open(&mut self) -> Result<()> {
        if self.handle.is_none() {
            self.handle = Some(open_sequential(&self.path)?);
        }
        Ok(())
    }

    pub(crate) fn handle(&self) -> Result<&File> {
        self.handle.as_ref().ok_or_else(|| {
            Error::attempt(format!("'{}' is closed: this is a defect", self.path.display()))
        })
    }

    /// All of it has been read.
    fn forget(&mut self) {
        self.handle = None;
        self.tracked = None;
    }

    /// Opens the file, reads its header, finds the first line of the part; `None` if the header
    /// is not whole yet.
    fn first_line<F: Format<Header = H>>(
        &mut self,
        part: &Part,
        format: &mut F,
        block: &mut Block,
    ) -> Result<Option<u64>> {
        self.open()?;
        if self.header.is_none() && !self.read_header(part, format, block)? {
            return Ok(None);
        }
        let start = self.header.as_ref().map_or(0, |h| h.1);
        if part.is_untouched() {
            return Ok(Some(line_start(self.handle()?, &self.path, part.start)?));
        }
        Ok(Some(part.position.max(start)))
    }

    fn read_header<F: Format<Header = H>>(
        &mut self,
        part: &Part,
        format: &mut F,
        block: &mut Block,
    ) -> Result<bool> {
        let handle = self.handle()?;
        let bytes = handle.metadata().map_err(|e| io_error("read", &self.path, &e))?.len();
        if part.end != u64::MAX && bytes < part.end.max(part.position) {
            return Err(self.shrunk(bytes, part.end));
        }
        if !format.has_header() {
            let header = format.header("").map_err(|m| self.bad_header::<F>(&m))?;
            self.header = Some((header, 0));
            return Ok(true);
        }
        let bounded = part.end != u64::MAX;
        let limit = if bounded { bytes } else { u64::MAX };
        if block.read(format, handle, &self.path, 0, limit, bounded)? == Found::Nothing {
            return Ok(false);
        }
        let bytes = match &block.data {
            Data::Text(text) => text.as_bytes(),
            Data::Bytes(bytes) => bytes,
        };
        let (end, next) = record_end(format, bytes, block.at);
        let header = utf8(&bytes[block.at..end]).and_then(|line| format.header(line));
        block.end = 0;
        self.header = Some((header.map_err(|m| self.bad_header::<F>(&m))?, next as u64));
        Ok(true)
    }

    #[cold]
    fn bad_header<F: Format>(&self, malformed: &Malformed) -> Error {
        let (path, Malformed { column, message }) = (self.path.display(), malformed);
        Error::job(format!(
            "{path}:1:{column}: malformed {} header: {message}; correct the file's first line",
            F::NAME
        ))
    }

    #[cold]
    pub(crate) fn shrunk(&self, bytes: u64, expected: u64) -> Error {
        Error::job(format!(
            "'{}' has become shorter: {bytes} bytes of {expected} are there; files must not be \
             truncated or rewritten while a job reads them: rotate logs by renaming, and start \
             afresh",
            self.path.display()
        ))
    }
}

/// Opens a file that will be read from start to end.
pub(crate) fn open_sequential(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| io_error("open", path, &e))?;
    // A hint: without it reading is slower, not wrong.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    Ok(file)
}

impl Errors {
    #[cold]
    fn bad_line<F: Format, O: Emit<F::Item>>(
        &self,
        source: &mut SourceFile<F::Header>,
        position: u64,
        line: &[u8],
        malformed: Malformed,
        format: &mut F,
        out: &mut O,
    ) -> Result<()> {
        if !format.keeps_bad() && self.policy == OnError::Skip {
            self.context.metrics.malformed_skipped.add(1);
            return Ok(());
        }
        let mut known = source.known_line;
        let number = line_number(source.handle()?, &source.path, &mut known, position)?;
        source.known_line = known;
        let (number, column) = error_place(number, line, malformed.column);
        let text = String::from_utf8_lossy(line);
        let (path, message) = (source.path.display(), malformed.message);
        if format.keeps_bad() {
            let (file, text) = (path.to_string(), text.into_owned());
            let column = column as u64;
            let bad = BadLine { file, line: number, column, text, error: message };
            format.bad(&bad, |view| out.emit(view, position as Timestamp));
            return Ok(());
        }
        let start: String = text.chars().take(60).collect();
        Err(Error::job(format!(
            "{path}:{number}:{column}: malformed {}: {message}; the line begins with {start:?}; \
             correct it, or choose .on_error(OnError::Skip) or .or_bad()",
            F::NAME
        )))
    }
}

impl<F: Format> SourceReader for FileReader<F> {
    type Item = F::Item;

    fn poll<O: Emit<F::Item>>(&mut self, out: &mut O) -> Result<Polled> {
        self.discover(out.now())?;
        self.register(out);
        let allowance = self.limiter.as_mut().map_or(usize::MAX, |l| l.allowance(out.now()));
        if let Some(limiter) = self.limiter.as_ref().filter(|_| allowance == 0) {
            return Ok(Polled::Idle { until: Some(limiter.due(0)) });
        }
        self.park(out);
        // At most one block a poll, however many of its lines are skipped.
        if self.block.is_empty() {
            match self.next_block(out)? {
                Filled::Lines => {}
                Filled::Nothing => return Ok(Polled::Idle { until: None }),
                Filled::Ended => return Ok(Polled::End),
            }
        }
        let lines = self.emit(out, allowance)?;
        if let Some(limiter) = &mut self.limiter {
            limiter.took(lines);
        }
        Ok(Polled::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut entries = Vec::new();
        for (file, part) in self.lanes.iter().flat_map(|l| &l.parts) {
            let source = &mut self.files[*file];
            if source.tracked.is_some() {
                entries.push(Entry::tailed(&source.tailed(part.position)?));
            } else if !part.is_done() {
                entries.push(Entry::range(&source.path, *part));
            }
        }
        if entries.is_empty() {
            entries.push(Entry::marker());
        }
        Ok(entries)
    }
}

pub(crate) fn identity_of(file: &File, path: &Path) -> Result<Identity> {
    file.metadata().map(|m| identity(&m)).map_err(|e| io_error("read", path, &e))
}
