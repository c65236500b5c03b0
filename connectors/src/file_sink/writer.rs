//! Writes, prepares and commits the files of one subtask.

use super::Options;
use super::name::{self, Name};
use crate::codec::{Decode, Encode};
use crate::io_error::io_error;
use crate::text::Written;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemill_base::metrics::TaskMetrics;
use tidemill_base::{Error, Record, Result, Timestamp};
use tidemill_runtime::blocking::{Blocking, Call};
use tidemill_runtime::output::heir;
use tidemill_runtime::sink::{SinkContext, SinkWriter};

/// Text is written to the file from this size on.
const BUFFER_BYTES: usize = 64 << 10;

/// Syncs under way at most; what comes on top is waited for.
const SYNCS_MAX: usize = 16;

const KIND: u8 = 1;

/// A file that is durable and waits for its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Committable {
    epoch: u64,
    hidden: String,
    visible: String,
    bytes: u64,
}

/// A hidden file.
struct Hidden {
    name: String,
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// Writer of a [`FileSink`](crate::FileSink).
pub struct FileWriter<F> {
    options: Options,
    format: F,
    subtask: u32,
    attempt: u32,
    restored_epoch: u64,
    /// Number of hidden files created.
    created: u64,
    text: String,
    current: Option<Hidden>,
    metrics: Arc<TaskMetrics>,
    blocking: Blocking,
    /// Under way (X6).
    syncs: Vec<Call>,
    /// Closed since the last barrier, to be durable with its epoch: name and length.
    closed: Vec<(String, u64)>,
    /// By epoch.
    prepared: Vec<Committable>,
}

impl<F> FileWriter<F> {
    pub(super) fn open(options: Options, format: F, cx: &SinkContext) -> Result<Self> {
        let info = &cx.context.info;
        let mut writer = FileWriter {
            options,
            format,
            subtask: cx.subtask,
            attempt: info.attempt,
            restored_epoch: cx.context.restored.as_ref().map_or(0, |r| r.epoch),
            created: 0,
            metrics: cx.context.metrics.clone(),
            blocking: cx.context.blocking.clone(),
            syncs: Vec::new(),
            text: String::new(),
            current: None,
            closed: Vec::new(),
            prepared: Vec::new(),
        };
        writer.options.disk.create_dir(&writer.options.dir)?;
        for entry in cx.restored.iter().flatten() {
            writer.prepared.push(Committable::decode(entry)?);
        }
        if writer.publish(u64::MAX)? {
            writer.options.disk.sync_dir(&writer.options.dir)?;
        }
        writer.tidy(cx)?;
        Ok(writer)
    }

    /// Refuses what contradicts X4, removes what is left of earlier attempts.
    fn tidy(&self, cx: &SinkContext) -> Result<()> {
        let (dir, disk) = (&self.options.dir, &self.options.disk);
        let mut stale = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| io_error("list", dir, &e))? {
            let entry = entry.map_err(|e| io_error("list", dir, &e))?;
            let file_name = entry.file_name();
            let parsed = file_name.to_str().and_then(|n| name::parse(n, &self.options.suffix));
            let mine = |subtask| heir(subtask, cx.parallelism) == cx.subtask;
            // X5.
            let later =
                |epoch: u64, attempt| epoch >= self.restored_epoch && attempt > self.attempt;
            match parsed {
                None => {}
                Some(Name::Hidden { subtask, restored_epoch, attempt })
                    if mine(subtask) && !later(restored_epoch, attempt) =>
                {
                    stale.push(entry.path());
                }
                Some(Name::Hidden { .. }) => {}
                Some(Name::Visible { subtask, epoch }) => match &cx.restored {
                    None if self.options.overwrite && mine(subtask) => stale.push(entry.path()),
                    None if self.options.overwrite => {}
                    None => return Err(occupied(&entry.path())),
                    Some(_) if epoch > self.restored_epoch => {
                        return Err(self.too_new(&entry.path(), epoch));
                    }
                    Some(_) => {}
                },
            }
        }
        for path in &stale {
            disk.remove(path)?;
        }
        if stale.is_empty() { Ok(()) } else { disk.sync_dir(dir) }
    }

    #[cold]
    fn too_new(&self, path: &Path, epoch: u64) -> Error {
        Error::job(format!(
            "'{}' is of checkpoint {epoch}, but the job is restored from {}: its records would \
             come twice; restore from {epoch}, or remove the files of later checkpoints than {}",
            path.display(),
            self.restored_epoch,
            self.restored_epoch
        ))
    }

    /// Writes the text to the hidden file, and closes that if it is large enough.
    fn spill(&mut self) -> Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let disk = &self.options.disk;
        let mut hidden = match self.current.take() {
            Some(hidden) => hidden,
            None => {
                let (epoch, n) = (self.restored_epoch, self.created);
                let name = name::hidden(self.subtask, epoch, self.attempt, n);
                self.created += 1;
                let path = self.options.dir.join(&name);
                let file = disk.create(&path)?;
                Hidden { name, path, file, bytes: 0 }
            }
        };
        disk.write(&hidden.file, &hidden.path, self.text.as_bytes())?;
        hidden.bytes += self.text.len() as u64;
        self.metrics.bytes_out.add(self.text.len() as u64);
        self.text.clear();
        self.current = Some(hidden);
        Ok(())
    }

    /// Closes the hidden file, and begins to make it durable.
    fn close(&mut self) -> Result<()> {
        self.spill()?;
        if let Some(Hidden { name, path, file, bytes }) = self.current.take() {
            let disk = self.options.disk.clone();
            self.begin_sync(move || disk.sync(&file, &path))?;
            self.closed.push((name, bytes));
        }
        Ok(())
    }

    /// Begins to make names durable.
    fn begin_sync_dir(&mut self) -> Result<()> {
        let (disk, dir) = (self.options.disk.clone(), self.options.dir.clone());
        self.begin_sync(move || disk.sync_dir(&dir))
    }

    /// Has a sync done beside the core, unless too many are under way.
    fn begin_sync(&mut self, sync: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        if self.syncs.len() >= SYNCS_MAX && !self.synced()? && self.syncs.len() >= SYNCS_MAX {
            return sync();
        }
        let call = self.blocking.call(sync);
        match call.poll() {
            Some(outcome) => outcome,
            None => {
                self.syncs.push(call);
                Ok(())
            }
        }
    }

    /// Whether no sync is under way (X6).
    fn synced(&mut self) -> Result<bool> {
        let mut failed = Ok(());
        self.syncs.retain(|call| match call.poll() {
            None => true,
            Some(outcome) => {
                failed = std::mem::replace(&mut failed, Ok(())).and(outcome);
                false
            }
        });
        failed.map(|()| self.syncs.is_empty())
    }

    fn written(&mut self) -> Result<()> {
        let in_file = self.current.as_ref().map_or(0, |h| h.bytes);
        if in_file + self.text.len() as u64 >= self.options.max_bytes {
            return self.close();
        }
        if self.text.len() >= BUFFER_BYTES { self.spill() } else { Ok(()) }
    }

    /// Makes what was prepared up to `epoch` visible; whether there was any: its names are still to be
    /// made durable.
    fn publish(&mut self, epoch: u64) -> Result<bool> {
        let (dir, disk) = (&self.options.dir, &self.options.disk);
        let mut published = false;
        for committable in self.prepared.iter().filter(|c| c.epoch <= epoch) {
            let (hidden, visible) = (dir.join(&committable.hidden), dir.join(&committable.visible));
            match length(&visible)? {
                Some(bytes) if bytes == committable.bytes => {}
                Some(bytes) => return Err(committable.damaged(&visible, bytes)),
                None => match length(&hidden)? {
                    Some(bytes) if bytes == committable.bytes => disk.rename(&hidden, &visible)?,
                    Some(bytes) => return Err(committable.damaged(&hidden, bytes)),
                    None => return Err(committable.lost(&hidden, &visible)),
                },
            }
            published = true;
        }
        self.prepared.retain(|c| c.epoch > epoch);
        // Also where an earlier attempt renamed: its names may not be durable yet.
        Ok(published)
    }
}

fn length(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("look at", path, &e)),
    }
}

#[cold]
fn occupied(path: &Path) -> Error {
    Error::job(format!(
        "'{}' is there from an earlier run: choose an empty directory, restore that run from its \
         checkpoint, or let it go by .overwrite(true)",
        path.display()
    ))
}

impl Committable {
    fn encode(&self) -> Vec<u8> {
        Encode::new(KIND)
            .u64(self.epoch)
            .bytes(self.hidden.as_bytes())
            .bytes(self.visible.as_bytes())
            .u64(self.bytes)
            .finish()
    }

    fn decode(entry: &[u8]) -> Result<Self> {
        let (kind, mut d) = Decode::new("file sink", entry)?;
        let (epoch, hidden, visible, bytes) = (d.u64()?, d.bytes()?, d.bytes()?, d.u64()?);
        let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let names = name(hidden).zip(name(visible)).filter(|(hidden, visible)| {
            let plain = |n: &str| !n.contains('/') && n != "." && n != "..";
            plain(hidden) && plain(visible)
        });
        let Some((hidden, visible)) = names.filter(|_| kind == KIND) else {
            return Err(d.damaged("its names are none"));
        };
        d.finish()?;
        Ok(Committable { epoch, hidden, visible, bytes })
    }

    #[cold]
    fn damaged(&self, path: &Path, bytes: u64) -> Error {
        Error::job(format!(
            "'{}' has {bytes} bytes, checkpoint {} left {} in it: it was changed by somebody else; \
             restore an earlier checkpoint",
            path.display(),
            self.epoch,
            self.bytes
        ))
    }

    #[cold]
    fn lost(&self, hidden: &Path, visible: &Path) -> Error {
        Error::job(format!(
            "the output of checkpoint {} is lost: neither '{}' nor '{}' is there; put it back (was \
             it moved by its reader?), or restore an earlier checkpoint",
            self.epoch,
            visible.display(),
            hidden.display()
        ))
    }
}

impl<T, F, R> SinkWriter<T> for FileWriter<F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, &mut String) -> R + 'static,
    R: Written,
{
    fn write(&mut self, view: T::View<'_>, _: Timestamp) -> Result<()> {
        let formatted = (self.format)(view, &mut self.text).check();
        if formatted.is_err() {
            return Err(Error::job(format!(
                "the format of files({}) failed on {view:?}: check its function",
                self.options.dir.display()
            )));
        }
        self.text.push('\n');
        self.written()
    }

    fn prepare(&mut self, epoch: u64) -> Result<Vec<Vec<u8>>> {
        self.close()?;
        let closed = std::mem::take(&mut self.closed);
        if !closed.is_empty() {
            self.begin_sync_dir()?;
        }
        for (n, (hidden, bytes)) in closed.into_iter().enumerate() {
            let visible = name::visible(self.subtask, epoch, n, &self.options.suffix);
            self.prepared.push(Committable { epoch, hidden, visible, bytes });
        }
        Ok(self.prepared.iter().map(Committable::encode).collect())
    }

    fn commit(&mut self, epoch: u64) -> Result<()> {
        if self.publish(epoch)? { self.begin_sync_dir() } else { Ok(()) }
    }

    fn settled(&mut self) -> Result<bool> {
        self.synced()
    }
}
