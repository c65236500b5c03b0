//! A failure in the middle of a job, however slow the machine is.

use crate::common::{Dir, checkpoints};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tidemill::{Emit, Polled, Record, Result, Source, SourceContext, SourceReader, Timestamp};

/// Panics once, some records on; never again.
#[derive(Clone)]
pub(crate) struct Bomb {
    left: Arc<AtomicU64>,
    armed: Arc<AtomicBool>,
    gone: Arc<AtomicBool>,
    /// Where two checkpoints must be completed between the records and the panic.
    dir: Option<PathBuf>,
    newest: Arc<OnceLock<u64>>,
}

impl Bomb {
    /// After so many records of the operator that it is in.
    pub(crate) fn after(records: u64) -> Self {
        Bomb {
            left: Arc::new(AtomicU64::new(records)),
            armed: Arc::default(),
            gone: Arc::default(),
            dir: None,
            newest: Arc::default(),
        }
    }
    /// After so many records of the source that it paces, and two more checkpoints.
    pub(crate) fn amid(records: u64, dir: &Dir) -> Self {
        Bomb { dir: Some(dir.path().to_owned()), ..Bomb::after(records) }
    }
    /// Never.
    pub(crate) fn dud() -> Self {
        Bomb::after(u64::MAX)
    }
    /// Counts one record.
    pub(crate) fn tick(&self) {
        let armed = match &self.dir {
            Some(_) => self.armed.load(Ordering::Relaxed),
            None => !self.count(),
        };
        assert!(!armed || self.gone.swap(true, Ordering::Relaxed), "the bomb, on purpose");
    }
    /// The source, which trickles while the bomb waits for checkpoints.
    pub(crate) fn pace<S: Source>(&self, source: S) -> Paced<S> {
        Paced { inner: source, bomb: self.clone() }
    }
    fn count(&self) -> bool {
        let down = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, down).is_ok()
    }
    fn waits(&self) -> bool {
        let Some(dir) = &self.dir else { return false };
        if self.left.load(Ordering::Relaxed) > 0 || self.armed.load(Ordering::Relaxed) {
            return false;
        }
        let newest = checkpoints(dir).last().map_or(0, |c| c.0);
        let armed = newest >= self.newest.get_or_init(|| newest) + 2;
        self.armed.store(armed, Ordering::Relaxed);
        !armed
    }
}

/// A source with a bomb's pace.
#[derive(Clone)]
pub(crate) struct Paced<S> {
    inner: S,
    bomb: Bomb,
}

impl<S: Source> Source for Paced<S> {
    type Item = S::Item;
    type Reader = Paced<S::Reader>;
    fn open(&self, cx: &SourceContext) -> Result<Self::Reader> {
        Ok(Paced { inner: self.inner.open(cx)?, bomb: self.bomb.clone() })
    }
    fn name(&self) -> String {
        self.inner.name()
    }
}

impl<R: SourceReader> SourceReader for Paced<R> {
    type Item = R::Item;
    fn poll<O: Emit<R::Item>>(&mut self, out: &mut O) -> Result<Polled> {
        let waits = self.bomb.waits();
        let budget = if waits || self.bomb.dir.is_some() { 1 } else { usize::MAX };
        let now = out.now();
        let mut emit = Budgeted { out, bomb: &self.bomb, budget };
        Ok(match self.inner.poll(&mut emit)? {
            Polled::More if waits => Polled::Idle { until: Some(now + 5_000) },
            polled => polled,
        })
    }
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>> {
        self.inner.snapshot()
    }
    fn committed(&mut self, epoch: u64) -> Result<()> {
        self.inner.committed(epoch)
    }
}

/// Lets only some records through.
struct Budgeted<'a, O> {
    out: &'a mut O,
    bomb: &'a Bomb,
    budget: usize,
}

impl<T: Record, O: Emit<T>> Emit<T> for Budgeted<'_, O> {
    fn emit(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        self.budget = self.budget.saturating_sub(1);
        if self.bomb.dir.is_some() {
            self.bomb.count();
        }
        self.out.emit(view, timestamp);
    }
    fn split(&mut self, split: usize) {
        self.out.split(split);
    }
    fn watermark(&mut self, split: usize, watermark: Timestamp) {
        self.out.watermark(split, watermark);
    }
    fn active(&mut self, split: usize) {
        self.out.active(split);
    }
    fn is_ahead(&mut self, split: usize) -> bool {
        self.out.is_ahead(split)
    }
    fn split_ended(&mut self, split: usize) {
        self.out.split_ended(split);
    }
    fn remaining(&self) -> usize {
        self.out.remaining().min(self.budget)
    }
    fn now(&self) -> u64 {
        self.out.now()
    }
}
