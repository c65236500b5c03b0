//! The system that sinks write to: a store with transactions, which survives crashes of the job.
//!
//! Invariants, each checked at every call
//!   L1  A transaction is committed only for a checkpoint whose manifest is stored; in a cluster, whose
//!       row is written.
//!   L2  A transaction that no restored checkpoint knows is never committed.
//!   L3  Epochs that a writer prepares increase, and none is prepared after its outcome.
//!   L4  Nothing is written after the end, and watermarks never retreat.
//!   L5  What is prepared, and that it was committed, becomes durable only a while later, when the writer
//!       has been asked for it: a transaction that is not durable is never committed, and a commit that
//!       is not is lost by a crash, unless the restored checkpoint knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemill::{Error, Result, Timestamp};
use tidemill_runtime::output::heir;
use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};
use tidemill_snapshot::{MemoryStore, SnapshotStore};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Prepared,
    Committed,
    Dropped,
}

#[derive(Debug)]
struct Transaction {
    sink: usize,
    subtask: u32,
    /// What the attempt that wrote it was restored from, and its number.
    restored: u64,
    attempt: u32,
    rows: Vec<String>,
    state: State,
    /// Whether what `state` says would survive a crash (L5).
    durable: bool,
}

impl Transaction {
    /// Nobody claims it after a crash.
    fn unclaimed(&self) -> bool {
        self.state == State::Prepared || self.state == State::Committed && !self.durable
    }
}

#[derive(Debug, Default)]
struct Inner {
    transactions: BTreeMap<u64, Transaction>,
    violations: Vec<String>,
    /// The newest epoch that a sink has committed.
    settled: u64,
    /// In a cluster: the epochs whose rows are written, which alone are complete.
    rows: Option<BTreeSet<u64>>,
}

/// The store; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
    checkpoints: MemoryStore,
}

impl Ledger {
    /// An empty store, for a job whose checkpoints are in `checkpoints`.
    pub fn new(checkpoints: MemoryStore) -> Self {
        Ledger { inner: Arc::default(), checkpoints }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty store for jobs of a cluster, where rows say what is complete, nobody says when all sinks
    /// of an attempt are open, and an attempt that is over may still write: it behaves as a directory of
    /// files does (`connectors`, file_sink.rs).
    pub fn with_rows() -> Self {
        let ledger = Ledger::default();
        ledger.lock().rows = Some(BTreeSet::new());
        ledger
    }

    /// The row of an epoch is written.
    pub fn complete(&self, epoch: u64) {
        self.lock().rows.get_or_insert_default().insert(epoch);
    }

    fn is_complete(&self, epoch: u64) -> bool {
        match &self.lock().rows {
            Some(rows) => rows.contains(&epoch),
            None => matches!(self.checkpoints.read_manifest(epoch), Ok(Some(_))),
        }
    }

    /// A sink of a cluster opens: refuses what would come twice, and removes what earlier attempts of the
    /// subtasks that it inherits left behind.
    fn tidy(&self, cx: &SinkContext, sink: usize) -> Result<()> {
        let mut inner = self.lock();
        if inner.rows.is_none() {
            return Ok(());
        }
        let restored = cx.context.restored.as_ref().map_or(0, |r| r.epoch);
        if inner.settled > restored {
            let settled = inner.settled;
            return Err(Error::job(format!("epoch {settled} is visible, {restored} is restored")));
        }
        for t in inner.transactions.values_mut().filter(|t| t.sink == sink) {
            let mine = heir(t.subtask, cx.parallelism) == cx.subtask;
            // Not what a later attempt prepared: this one may be over, and not know it yet.
            let later = t.restored >= restored && t.attempt > cx.context.info.attempt;
            if t.unclaimed() && mine && !later {
                t.state = State::Dropped;
            }
        }
        Ok(())
    }

    /// Notes that something happened which must not.
    pub fn violation(&self, what: String) {
        self.lock().violations.push(what);
    }

    /// The first of what happened and must not.
    pub fn first_violation(&self) -> Option<String> {
        self.lock().violations.first().cloned()
    }

    /// The newest epoch that any sink has committed: what is in it is visible.
    pub fn settled(&self) -> u64 {
        self.lock().settled
    }

    /// All sinks of an attempt are open: what is still prepared belongs to nobody.
    pub fn drop_unclaimed(&self) {
        for t in self.lock().transactions.values_mut() {
            if t.unclaimed() {
                t.state = State::Dropped;
            }
        }
    }

    /// Number of rows prepared but not committed, by live transactions.
    pub fn prepared(&self) -> usize {
        let inner = self.lock();
        let prepared = inner.transactions.values().filter(|t| t.state == State::Prepared);
        prepared.map(|t| t.rows.len()).sum()
    }

    /// The committed rows of a sink, sorted.
    pub fn committed(&self, sink: usize) -> Vec<String> {
        let inner = self.lock();
        let visible = |t: &&Transaction| t.sink == sink && t.state == State::Committed && t.durable;
        let mut rows: Vec<String> =
            inner.transactions.values().filter(visible).flat_map(|t| t.rows.clone()).collect();
        rows.sort();
        rows
    }

    fn prepare(
        &self,
        sink: usize,
        (subtask, restored, attempt): (u32, u64, u32),
        rows: Vec<String>,
    ) -> u64 {
        let mut inner = self.lock();
        let id = inner.transactions.len() as u64;
        let state = State::Prepared;
        inner.transactions.insert(
            id,
            Transaction { sink, subtask, restored, attempt, rows, state, durable: false },
        );
        id
    }

    /// What was begun for the transaction has come to its end.
    fn keep(&self, id: u64) {
        if let Some(t) = self.lock().transactions.get_mut(&id) {
            t.durable = true;
        }
    }

    /// The commit is to be kept; a restore waits for that itself.
    fn commit(&self, id: u64, place: &str) {
        let mut inner = self.lock();
        let Inner { transactions, violations, .. } = &mut *inner;
        match transactions.get_mut(&id) {
            Some(t) if t.state == State::Dropped => {
                violations.push(format!("L2: {place} commits transaction {id}, which is dropped"));
            }
            Some(t) if t.state == State::Prepared => {
                if !t.durable {
                    violations.push(format!("L5: {place} commits {id}, which is not durable"));
                }
                (t.state, t.durable) = (State::Committed, false);
            }
            Some(_) => {}
            None => violations.push(format!("{place} commits transaction {id}, never prepared")),
        }
    }

    /// The sink number `sink`.
    pub fn sink(&self, sink: usize) -> LedgerSink {
        LedgerSink { ledger: self.clone(), sink }
    }
}

/// A sink of rows.
#[derive(Clone, Debug)]
pub struct LedgerSink {
    ledger: Ledger,
    sink: usize,
}

impl Sink<String> for LedgerSink {
    type Writer = LedgerWriter;

    fn open(&self, cx: &SinkContext) -> Result<LedgerWriter> {
        let place = format!("sink {} subtask {}", self.sink, cx.subtask);
        if let Some(restored) = &cx.context.restored {
            let mut inner = self.ledger.lock();
            inner.settled = inner.settled.max(restored.epoch);
        }
        for entry in cx.restored.iter().flatten() {
            match <[u8; 8]>::try_from(entry.as_slice()) {
                Ok(id) => {
                    self.ledger.commit(u64::from_le_bytes(id), &place);
                    self.ledger.keep(u64::from_le_bytes(id));
                }
                Err(_) => self.ledger.violation(format!("{place}: entry {entry:?} restored")),
            }
        }
        self.ledger.tidy(cx, self.sink)?;
        Ok(LedgerWriter {
            ledger: self.ledger.clone(),
            sink: self.sink,
            who: (
                cx.subtask,
                cx.context.restored.as_ref().map_or(0, |r| r.epoch),
                cx.context.info.attempt,
            ),
            place,
            rows: Vec::new(),
            pending: Vec::new(),
            begun: Vec::new(),
            prepared: 0,
            settled: 0,
            watermark: Timestamp::MIN,
            ended: false,
        })
    }

    fn name(&self) -> String {
        format!("ledger({})", self.sink)
    }
}

/// The writer of one subtask.
#[derive(Debug)]
pub struct LedgerWriter {
    ledger: Ledger,
    sink: usize,
    /// Subtask, the epoch that it was restored from, and its attempt.
    who: (u32, u64, u32),
    place: String,
    rows: Vec<String>,
    /// Epoch and transaction, prepared and not committed.
    pending: Vec<(u64, u64)>,
    /// Transactions that are not durable yet, and how often that is to be asked for.
    begun: Vec<(u64, u64)>,
    /// The last epoch that was prepared.
    prepared: u64,
    /// The last epoch whose outcome is known.
    settled: u64,
    watermark: Timestamp,
    ended: bool,
}

impl LedgerWriter {
    /// From no time at all to longer than the next record.
    fn begin(&mut self, id: u64) {
        self.begun.push((id, id % 4));
    }

    fn violation(&self, what: String) {
        self.ledger.violation(format!("{}: {what}", self.place));
    }
}

impl SinkWriter<String> for LedgerWriter {
    fn write(&mut self, row: &str, _: Timestamp) -> Result<()> {
        if self.ended {
            self.violation(format!("L4: row {row} after the end"));
        }
        self.rows.push(row.to_owned());
        Ok(())
    }

    fn watermark(&mut self, watermark: Timestamp) -> Result<()> {
        if watermark < self.watermark {
            self.violation(format!("L4: watermark {watermark} after {}", self.watermark));
        }
        self.watermark = watermark;
        Ok(())
    }

    fn prepare(&mut self, epoch: u64) -> Result<Vec<Vec<u8>>> {
        if epoch <= self.prepared || epoch <= self.settled {
            let (prepared, settled) = (self.prepared, self.settled);
            self.violation(format!(
                "L3: epoch {epoch} prepared after {prepared} was, and {settled} settled"
            ));
        }
        self.prepared = epoch;
        if !self.rows.is_empty() {
            let rows = std::mem::take(&mut self.rows);
            let id = self.ledger.prepare(self.sink, self.who, rows);
            self.pending.push((epoch, id));
            self.begin(id);
        }
        Ok(self.pending.iter().map(|(_, id)| id.to_le_bytes().to_vec()).collect())
    }

    fn commit(&mut self, epoch: u64) -> Result<()> {
        if !self.ledger.is_complete(epoch) {
            self.violation(format!("L1: epoch {epoch} is committed and not complete"));
        }
        // Of what it was restored from it may be told again.
        if self.prepared.max(self.who.1) < epoch {
            self.violation(format!("epoch {epoch} committed, prepared only {}", self.prepared));
        }
        self.settled = self.settled.max(epoch);
        {
            let mut inner = self.ledger.lock();
            inner.settled = inner.settled.max(epoch);
        }
        let due: Vec<_> = self.pending.extract_if(.., |(e, _)| *e <= epoch).collect();
        for (_, id) in due {
            self.ledger.commit(id, &self.place);
            self.begin(id);
        }
        Ok(())
    }

    fn settled(&mut self) -> Result<bool> {
        for (id, _) in self.begun.extract_if(.., |(_, left)| *left == 0) {
            self.ledger.keep(id);
        }
        self.begun.iter_mut().for_each(|(_, left)| *left -= 1);
        Ok(self.begun.is_empty())
    }

    fn abort(&mut self, epoch: u64) -> Result<()> {
        self.settled = self.settled.max(epoch);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.ended {
            self.violation("L4: ended twice".to_owned());
        }
        self.ended = true;
        Ok(())
    }
}
