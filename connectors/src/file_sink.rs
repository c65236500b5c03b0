//! Files that appear exactly once.
//!
//! ```text
//!   .part-0-0-0-1.inprogress --prepare: fdatasync--> durable, hidden --commit: rename--> part-000-00000007-0
//!                                 (beside the core)
//! ```
//! A hidden name is `.part-<subtask>-<restored epoch>-<attempt>-<n>.inprogress`; a visible one
//! `part-<subtask>-<epoch>-<n><suffix>`, so that no two checkpoints of a job share a name, at
//! whatever parallelism.
//!
//! Invariants
//!   X1  A visible file is whole, durable, and holds records of a complete checkpoint only.
//!   X2  `commit` is idempotent: a file that is visible already is left alone, one that is neither
//!       hidden nor visible fails the job.
//!   X3  A subtask removes hidden files only of the subtasks that it inherits, which do not run.
//!   X5  Nor of a later attempt: one that was fenced may not know it yet, and open late.
//!   X4  The files that are visible after a restore are those of the restored checkpoint: a fresh
//!       start into old output, or a restore of an older checkpoint than the last one committed,
//!       is refused.
//!   X6  What makes files and names durable runs beside the core, and is only begun by `prepare` and
//!       `commit`. Until all of it has come to its end, no checkpoint is acknowledged: so a complete
//!       one's files are durable, and names of the one before it, which no later one holds.

mod disk;
mod name;
#[cfg(test)]
mod tests;
mod writer;

pub use writer::FileWriter;

use crate::text::{TextFn, Written, json_line};
use disk::Disk;
use serde::Serialize;
use std::fmt::{Display, Write as _};
use std::marker::PhantomData;
use std::path::PathBuf;
use tidemill_base::{Record, Result};
use tidemill_runtime::sink::{Sink, SinkContext};

/// Writes records as lines of text into files of a directory, exactly once.
///
/// Each subtask writes files of its own. They are hidden until the checkpoint that holds their
/// records is complete. The directory is made if it is missing; a fresh start wants it empty of
/// this sink's files.
pub struct FileSink<T, F> {
    options: Options,
    format: F,
    record: PhantomData<fn(T)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) suffix: String,
    pub(crate) max_bytes: u64,
    pub(crate) overwrite: bool,
    pub(crate) disk: Disk,
}

impl<T, F: Clone> Clone for FileSink<T, F> {
    fn clone(&self) -> Self {
        let (options, format) = (self.options.clone(), self.format.clone());
        FileSink { options, format, record: PhantomData }
    }
}

impl<T, F, R> FileSink<T, F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, &mut String) -> R + Clone + Send + 'static,
    R: Written,
{
    /// `format` appends a record's text; the line break is added.
    pub fn new(dir: impl Into<PathBuf>, format: F) -> Self {
        let options = Options {
            dir: dir.into(),
            suffix: String::new(),
            max_bytes: u64::MAX,
            overwrite: false,
            disk: Disk::default(),
        };
        FileSink { options, format, record: PhantomData }
    }
}

impl<T: Record> FileSink<T, ()> {
    /// Records as `{:?}` shows them.
    pub fn debug(dir: impl Into<PathBuf>) -> FileSink<T, impl TextFn<T>> {
        FileSink::new(dir, |view: T::View<'_>, out: &mut String| write!(out, "{view:?}"))
    }

    /// Records as `{}` shows them.
    pub fn display(dir: impl Into<PathBuf>) -> FileSink<T, impl TextFn<T>>
    where
        for<'a> T::View<'a>: Display,
    {
        FileSink::new(dir, |view: T::View<'_>, out: &mut String| write!(out, "{view}"))
    }

    /// Records as JSON lines; makes an owned record of each.
    pub fn json(dir: impl Into<PathBuf>) -> FileSink<T, impl TextFn<T>>
    where
        T: Serialize,
    {
        FileSink::new(dir, json_line::<T>)
    }
}

impl<T, F> FileSink<T, F> {
    /// What the visible names end with, e.g. `.csv`. Panics if it contains a slash.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.options.suffix = suffix.into();
        assert!(!self.options.suffix.contains('/'), "the suffix {:?}", self.options.suffix);
        self
    }

    /// Begins another file from this size on; without it, there is one file a checkpoint and
    /// subtask. Panics if it is 0.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        assert!(bytes > 0, "files of at most 0 bytes");
        self.options.max_bytes = bytes;
        self
    }

    /// Whether a fresh start removes the files that this sink left in the directory before.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.options.overwrite = overwrite;
        self
    }
}

impl<T, F, R> Sink<T> for FileSink<T, F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, &mut String) -> R + Clone + Send + 'static,
    R: Written,
{
    type Writer = FileWriter<F>;

    fn open(&self, cx: &SinkContext) -> Result<FileWriter<F>> {
        FileWriter::open(self.options.clone(), self.format.clone(), cx)
    }
    fn name(&self) -> String {
        format!("files({})", self.options.dir.display())
    }
}
