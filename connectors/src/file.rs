//! Lines, JSON lines and CSV, from a file or from the files of a directory.
//!
//! A split is a range of bytes; it owns the lines that **start** in its range, so that a large
//! file is read by all subtasks. Its position is a byte offset.
//!
//! Invariants
//!   F1  Every line of a file is read exactly once, whatever the ranges, the parallelism, and the
//!       restores in between; where records span lines, every record is, and a file is one split.
//!   F2  The splits of one file that a subtask owns are read in order, as one lane with one
//!       watermark; files that no order is known of are lanes of their own, read in turn, so that
//!       none makes the others' records late.
//!   F3  Which subtask reads what is decided once: at the fresh start from one listing, later by
//!       the checkpoint; a file that appears while tailing belongs to the hash of its inode.
//!   F4  A record's own timestamp is the position of its line in its file, so it is the same
//!       whatever the ranges, the parallelism, and the restores in between.

mod block;
mod csv;
mod follow;
mod format;
mod lane;
mod listing;
mod parsed;
mod position;
mod reader;
#[cfg(test)]
mod tests;

pub use csv::Csv;
pub use format::{Format, Json, Lines, Malformed};
pub use parsed::{BadLine, BadLineView, OrBad, Parsed, ParsedView};
pub use reader::FileReader;

use crate::rate::Limiter;
use follow::Follow;
use listing::{Selection, SharedListing};
use reader::Assignment;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use tidemill_base::{Error, Record, Result};
use tidemill_runtime::source::{Source, SourceContext};

/// Bytes of a split, unless that would leave a subtask of a large file without one.
const SPLIT_BYTES: u64 = 16 << 20;

/// What to do with a line that cannot be read: invalid UTF-8, malformed JSON or CSV.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Fail the job, naming file, line and column.
    #[default]
    Fail,
    /// Skip the line and count it (`malformed_skipped`).
    Skip,
}

/// Reads text from a file, or from the regular files of a directory that are not hidden (with
/// [`recursive`](FileSource::recursive), of the directories in it too).
///
/// Bounded unless [`tail`](FileSource::tail) is on: it reads the bytes that are there when the job
/// starts. Lines end with `\n` or `\r\n` and have at most 16 MiB.
///
/// A record's own timestamp is the place of its line in the file: the byte it starts at, taken as
/// milliseconds. With `source_time()` that is an event time in which no line is ever late and every
/// run sees the same windows, for text that has no times of its own.
#[derive(Clone, Debug)]
pub struct FileSource<F> {
    selection: Selection,
    split_bytes: u64,
    tail: bool,
    ordered: bool,
    skip_missing: bool,
    rate: Option<f64>,
    on_error: OnError,
    format: F,
    listing: SharedListing,
}

impl FileSource<Lines> {
    /// Each line is a `String`.
    pub fn lines(path: impl Into<PathBuf>) -> FileSource<Lines> {
        FileSource::with_format(path, Lines)
    }

    /// Each line is a JSON text of a `T`.
    pub fn json<T: Record + DeserializeOwned>(path: impl Into<PathBuf>) -> FileSource<Json<T>> {
        FileSource::with_format(path, Json::new())
    }

    /// Each line is a record of comma-separated values, read into a `T` by the names in the first
    /// line of its file. Quoted fields may hold anything but line breaks, unless
    /// [`multiline`](FileSource::multiline) is on.
    pub fn csv<T: Record + DeserializeOwned>(path: impl Into<PathBuf>) -> FileSource<Csv<T>> {
        FileSource::with_format(path, Csv::new())
    }
}

impl<F: Format> FileSource<F> {
    /// Lines read by a format of your own.
    pub fn with_format(path: impl Into<PathBuf>, format: F) -> Self {
        FileSource {
            selection: Selection { path: path.into(), suffix: None, recursive: false },
            split_bytes: SPLIT_BYTES,
            tail: false,
            ordered: false,
            skip_missing: false,
            rate: None,
            on_error: OnError::Fail,
            format,
            listing: SharedListing::default(),
        }
    }

    /// Of a directory, only the files whose names end so, e.g. `.log`.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.selection.suffix = Some(suffix.into());
        self
    }

    /// Of a directory, the files of the directories in it too, however deep, but not of hidden ones;
    /// links to directories are not followed. [`ordered`](FileSource::ordered) goes by whole paths.
    #[must_use]
    pub fn recursive(mut self, recursive: bool) -> Self {
        self.selection.recursive = recursive;
        self
    }

    /// Bytes of a split; 16 MiB if not set, and less where that would leave a subtask without a
    /// split of a file above 64 KiB. Panics if it is 0.
    #[must_use]
    pub fn split_bytes(mut self, bytes: u64) -> Self {
        assert!(bytes > 0, "splits of 0 bytes");
        self.split_bytes = bytes;
        self
    }

    /// Follows the files as they grow, and new files of the directory; the source never ends.
    ///
    /// A line is read when its line break is there. One subtask reads a file from its start to its
    /// end. A rotated file (renamed, a new one in its place) is read to its end, the new one from
    /// its start; a file that is deleted, or renamed to a name that the source does not list and
    /// silent for a minute, is forgotten (should it come back, it is a new one). A file that becomes shorter than what has been read of
    /// it fails the job: let logs be rotated by renaming, not by truncation.
    ///
    /// After a restart a file is recognised by its inode, or else its path, and its first KiB.
    #[must_use]
    pub fn tail(mut self, tail: bool) -> Self {
        self.tail = tail;
        self
    }

    /// The files of the directory follow one another in event time, in the order of their names:
    /// they are read one after the other. Without it they are read in turn, so that the watermark
    /// holds for all of them, and open windows span all of them too. Not for tailing.
    #[must_use]
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// When tailing goes on from a checkpoint, go on without the files that have gone since; what
    /// had been appended to them is lost. Without it, a missing file fails the job.
    #[must_use]
    pub fn skip_missing(mut self, skip: bool) -> Self {
        self.skip_missing = skip;
        self
    }

    /// At most so many lines per second, all subtasks together; the job fails unless it is positive.
    #[must_use]
    pub fn rate(mut self, records_per_s: f64) -> Self {
        self.rate = Some(records_per_s);
        self
    }

    /// What to do with a line that cannot be read.
    #[must_use]
    pub fn on_error(mut self, policy: OnError) -> Self {
        self.on_error = policy;
        self
    }

    /// Emits [`Parsed`]: good records and bad lines, to be parted by a side output or a filter.
    pub fn or_bad(self) -> FileSource<OrBad<F>> {
        FileSource {
            selection: self.selection,
            split_bytes: self.split_bytes,
            tail: self.tail,
            ordered: self.ordered,
            skip_missing: self.skip_missing,
            rate: self.rate,
            on_error: self.on_error,
            format: OrBad::new(self.format),
            listing: self.listing,
        }
    }

    #[cfg(test)]
    pub(crate) fn into_format(self) -> F {
        self.format
    }

    fn fresh(&self, cx: &SourceContext) -> Result<Assignment> {
        let selection = &self.selection;
        let listing = self.listing.get(cx.context.info.attempt, || selection.list())?;
        if listing.files.is_empty() && !self.tail {
            return Err(Error::job(format!(
                "the directory '{}' has no file{}: check the path, {}or follow it with .tail(true)",
                selection.path.display(),
                selection
                    .suffix
                    .as_ref()
                    .map_or(String::new(), |s| format!(" with the suffix '{s}'")),
                if selection.recursive {
                    ""
                } else {
                    "read what is below it with .recursive(true), "
                },
            )));
        }
        if self.tail {
            return follow::fresh(&listing, cx);
        }
        let split_bytes = (!self.format.spans_lines()).then_some(self.split_bytes);
        let parts = lane::share(&listing, split_bytes, cx.subtask, cx.parallelism);
        Ok(Assignment::of(parts, Some(listing)))
    }

    fn restored(&self, cx: &SourceContext, entries: &[Vec<u8>]) -> Result<Assignment> {
        if self.tail {
            return follow::restore(&self.selection, self.skip_missing, cx);
        }
        let mut parts = Vec::new();
        for entry in entries {
            match position::Entry::decode(entry)? {
                position::Entry::Marker => {}
                position::Entry::Range { path, part }
                    if self.format.spans_lines() && part.start > 0 =>
                {
                    return Err(Error::job(format!(
                        "the checkpoint is of a source that read '{}' in several splits, and now its \
                         records may span lines: restore it without .multiline(true)",
                        path.display()
                    )));
                }
                position::Entry::Range { path, part } => parts.push((path, part)),
                position::Entry::Tailed(t) => {
                    return Err(Error::job(format!(
                        "the checkpoint is of a source that tails '{}': restore it with .tail(true)",
                        t.path.display()
                    )));
                }
            }
        }
        parts.sort_by(|a, b| (&a.0, a.1.start).cmp(&(&b.0, b.1.start)));
        Ok(Assignment::of(parts, None))
    }
}

impl<F: Format> Source for FileSource<F> {
    type Item = F::Item;
    type Reader = FileReader<F>;

    fn open(&self, cx: &SourceContext) -> Result<FileReader<F>> {
        if self.tail && self.ordered {
            return Err(Error::job(format!(
                "{}: .tail(true) and .ordered(true) exclude each other: drop one of them",
                self.name()
            )));
        }
        let assignment = match &cx.restored {
            None => self.fresh(cx)?,
            Some(entries) => self.restored(cx, entries)?,
        };
        let limiter = self.rate.map(|r| Limiter::new(r, cx.parallelism)).transpose()?;
        let mut reader = FileReader::new(self.format.clone(), self.on_error, limiter, cx);
        if self.tail {
            reader.follow(Follow::new(&self.selection, &assignment, cx));
        }
        reader.assign(assignment, self.ordered)?;
        Ok(reader)
    }

    fn name(&self) -> String {
        let tail = if self.tail { ", tail" } else { "" };
        format!("file({}{tail})", self.selection.path.display())
    }
}
