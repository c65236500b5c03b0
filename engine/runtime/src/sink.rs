//! Sinks: connectors implement [`Sink`] and [`SinkWriter`]; the engine wraps a writer into the
//! last stage of a chain and drives its two phases.

use crate::blame::Blame;
use crate::context::{Context, SectionId, SectionKind};
use crate::stage::{Control, Stage};
use std::marker::PhantomData;
use tidemill_base::{Record, Result, Timestamp};

/// A connector that writes. Cloned for every subtask; opened on the subtask's core.
pub trait Sink<T: Record>: Clone + Send + 'static {
    /// Its writer.
    type Writer: SinkWriter<T>;

    /// Opens the writer of one subtask.
    fn open(&self, cx: &SinkContext) -> Result<Self::Writer>;

    /// For job graphs and messages, e.g. `files(/data/out)`.
    fn name(&self) -> String;
}

/// What a writer knows when it is opened.
#[derive(Clone, Debug)]
pub struct SinkContext {
    /// Index of the subtask.
    pub subtask: u32,
    /// Number of subtasks.
    pub parallelism: u32,
    /// What the checkpoint that the job starts from had prepared for this subtask (of the old
    /// subtasks that it inherits): commit it again, idempotently, and drop everything that was
    /// prepared later. `None` on a fresh start.
    pub restored: Option<Vec<Vec<u8>>>,
    /// The subtask's context (time, metrics).
    pub context: Context,
}

/// Writes the records of one subtask.
///
/// Two phases: `prepare` at the barrier makes everything written so far durable but invisible and
/// returns what is needed to commit it; `commit` makes it visible once the checkpoint is complete.
/// Both may only begin what takes long (see [`Blocking`](crate::blocking::Blocking)), and say by
/// `settled` when it has come to its end.
///
/// Laws: `commit` after a restore gives the same outcome as before the crash, any number of times. Work
/// given to `Blocking` changes nothing that a later attempt may own: it may make durable what this writer
/// wrote, and never publish (rename, upload under the final name), for it may come to its end behind
/// the attempt's.
pub trait SinkWriter<T: Record>: 'static {
    /// Takes one record. A writer that knows how many bytes it writes adds them to the counter
    /// `context.metrics.bytes_out`; records are counted by the engine.
    fn write(&mut self, view: T::View<'_>, timestamp: Timestamp) -> Result<()>;

    /// Event time has passed this watermark.
    fn watermark(&mut self, _: Timestamp) -> Result<()> {
        Ok(())
    }

    /// Nothing arrives at the moment.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// First phase; the entries go into the snapshot of `epoch`.
    fn prepare(&mut self, _epoch: u64) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    /// Second phase for everything prepared up to `epoch`.
    fn commit(&mut self, _epoch: u64) -> Result<()> {
        Ok(())
    }

    /// Whether everything that `prepare` and `commit` began has come to its end: the checkpoint is
    /// acknowledged, and the commit confirmed, only then. Asked again and again meanwhile, between
    /// further records.
    fn settled(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// The epoch is given up: what it prepared belongs to the next one.
    fn abort(&mut self, _epoch: u64) -> Result<()> {
        Ok(())
    }

    /// No record follows; `prepare` and `commit` still come.
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The last stage of a chain.
pub struct SinkStage<T, W> {
    operator: u32,
    section: SectionId,
    writer: W,
    context: Context,
    /// Records written since the counter was told.
    written: u64,
    record: PhantomData<fn(T)>,
}

impl<T: Record, W: SinkWriter<T>> SinkStage<T, W> {
    /// Opens `sink` for the subtask. `operator` is the sink's index in the chain.
    pub fn open<K: Sink<T, Writer = W>>(
        sink: &K,
        context: &Context,
        operator_id: u64,
        operator: u32,
    ) -> Result<Self> {
        let section = SectionId { operator: operator_id, kind: SectionKind::Sink, state: 0 };
        let entries = context.declare(section, &sink.name(), String::from("committables"));
        let info = &context.info;
        let restored = context.restored.as_ref().map(|_| {
            let mine =
                |e: &&(u32, Vec<u8>)| crate::output::heir(e.0, info.parallelism) == info.subtask;
            entries.iter().filter(mine).map(|e| e.1.clone()).collect()
        });
        let cx = SinkContext {
            subtask: info.subtask,
            parallelism: info.parallelism,
            restored,
            context: context.clone(),
        };
        let writer = sink.open(&cx)?;
        let (context, record) = (context.clone(), PhantomData);
        Ok(SinkStage { operator, section, writer, context, written: 0, record })
    }
}

impl<T: Record, W: SinkWriter<T>> Stage<T> for SinkStage<T, W> {
    #[inline(always)]
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        let blame = Blame::new(self.operator, view);
        let written = self.writer.write(view, timestamp);
        blame.clear();
        self.written += 1;
        if let Err(error) = written {
            self.context.failure.set(error);
        }
    }

    fn end_run(&mut self) {
        self.context.metrics.records_out.add(std::mem::take(&mut self.written));
    }

    fn control(&mut self, control: Control) -> Result<()> {
        // A stage before it may have held records until now.
        self.end_run();
        match control {
            Control::Watermark(w) => self.writer.watermark(w),
            Control::Flush => self.writer.flush(),
            Control::Barrier(barrier) => {
                for entry in self.writer.prepare(barrier.epoch)? {
                    self.context.entry(barrier.epoch, self.section, entry, 1);
                }
                Ok(())
            }
            Control::Commit(epoch) => self.writer.commit(epoch),
            Control::Abort(epoch) => self.writer.abort(epoch),
            Control::End => self.writer.end(),
            Control::Status(_) => Ok(()),
        }
    }

    fn settled(&mut self) -> Result<bool> {
        self.writer.settled()
    }

    fn writable(&mut self) -> bool {
        true
    }

    #[inline(always)]
    fn room(&self) -> bool {
        true
    }
}
