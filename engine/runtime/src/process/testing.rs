//! Drives an operator's subtasks directly, and compares what they emit with a naive oracle:
//! undisturbed, with a snapshot beside processing, and restored at another parallelism.

use crate::backend::StatePlace;
#[cfg(feature = "rocksdb")]
use crate::backend::{RocksDb, StateBackend};
use crate::context::{Context, Restored, SharedFiles, TaskEvent, owner};
use crate::operator::{Flow, Operator};
use crate::stage::{Control, Stage};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tidemill_base::clock::ManualClock;
use tidemill_base::{
    Batch, BatchBuilder, Buffer, Key, Record, Result, Timestamp, WATERMARK_MAX, WATERMARK_MIN,
};
#[cfg(feature = "rocksdb")]
use tidemill_keyed::rocks::RocksOptions;
use tidemill_snapshot::ShareSource;

/// A stage that keeps what it gets as text; it has always room, or not on every third look.
pub(crate) struct Collect<T> {
    pub(crate) rows: Rc<RefCell<Vec<String>>>,
    looks: Option<Cell<u32>>,
    types: std::marker::PhantomData<T>,
}

impl<T> Collect<T> {
    pub(crate) fn new(rows: &Rc<RefCell<Vec<String>>>) -> Self {
        Collect { rows: rows.clone(), looks: None, types: std::marker::PhantomData }
    }
    pub(crate) fn narrow(rows: &Rc<RefCell<Vec<String>>>) -> Self {
        Collect { looks: Some(Cell::new(0)), ..Self::new(rows) }
    }
}

impl<T: Record> Stage<T> for Collect<T> {
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        self.rows.borrow_mut().push(row(view, timestamp));
    }
    fn control(&mut self, _: Control) -> Result<()> {
        Ok(())
    }
    fn writable(&mut self) -> bool {
        true
    }
    fn room(&self) -> bool {
        let Some(looks) = &self.looks else { return true };
        looks.set(looks.get() + 1);
        !looks.get().is_multiple_of(3)
    }
}

/// How a row is compared.
pub(crate) fn row(value: impl Debug, timestamp: Timestamp) -> String {
    format!("{value:?} at {timestamp}")
}

/// A record of the tests: key, value, timestamp.
pub(crate) type Row = (u64, u64, i64);

/// One thing that happens to an operator.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Records of an input arrive.
    Rows(usize, Vec<Row>),
    /// The watermark advances to this.
    Watermark(Timestamp),
    /// The wall clock advances to this.
    Tick(i64),
}

/// What happens to an operator with this many inputs: records around the watermark, some late.
pub(crate) fn acts(inputs: usize) -> impl Strategy<Value = Vec<Act>> {
    let records = prop::collection::vec((0u64..12, 0u64..50, -15i64..60), 1..12);
    let act = prop_oneof![
        4 => (0..inputs, records).prop_map(|(input, rows)| Act::Rows(input, rows)),
        2 => (0i64..40).prop_map(Act::Watermark),
        1 => (1i64..20).prop_map(Act::Tick),
    ];
    prop::collection::vec(act, 1..30).prop_map(|mut acts| {
        // From steps to absolute times.
        let (mut watermark, mut wall) = (0, 0);
        for act in &mut acts {
            match act {
                Act::Rows(_, rows) => rows.iter_mut().for_each(|r| r.2 += watermark),
                Act::Watermark(w) => {
                    watermark += *w;
                    *w = watermark;
                }
                Act::Tick(ms) => {
                    wall += *ms;
                    *ms = wall;
                }
            }
        }
        acts.push(Act::Watermark(WATERMARK_MAX));
        acts
    })
}

struct Subtask<O: Operator> {
    operator: O,
    context: Context,
    out: Collect<O::Out>,
}

/// All subtasks of an operator whose inputs carry [`Row`]s keyed by their first field.
pub(crate) struct Fleet<O: Operator> {
    subtasks: Vec<Subtask<O>>,
    clock: ManualClock,
    pub(crate) rows: Rc<RefCell<Vec<String>>>,
    /// Inputs of which every subtask gets every record.
    broadcast: Option<usize>,
    _disk: Disk,
}

/// Where state is: in memory, or in a directory that goes away with the fleet.
#[derive(Default)]
pub(crate) struct Disk {
    place: StatePlace,
    #[cfg(feature = "rocksdb")]
    _dir: Option<tempfile::TempDir>,
}

impl Disk {
    /// By number: the heap, RocksDB with snapshots of entries, RocksDB with those of files. Without
    /// RocksDB in this build always the heap. As little in memory as can be.
    pub(crate) fn number(number: usize) -> Self {
        Self::with_memory(number, 0)
    }

    /// The same with so much memory for the databases of a subtask.
    pub(crate) fn with_memory(number: usize, memory_bytes: usize) -> Self {
        #[cfg(feature = "rocksdb")]
        if !number.is_multiple_of(3) {
            // In memory where that can be had: nothing here has to survive.
            let memory = std::path::Path::new("/dev/shm");
            let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
            let dir = tempfile::tempdir_in(root).unwrap();
            let slot = RocksOptions { memory_bytes, background_jobs: 1, concurrent: true };
            let incremental = number % 3 == 2;
            let options = RocksDb { dir: dir.path().to_owned(), slot, incremental };
            let state = StateBackend::RocksDb(options);
            return Disk { place: state.slot().unwrap(), _dir: Some(dir) };
        }
        let _ = (number, memory_bytes);
        Disk::default()
    }

    /// Where a subtask keeps its state.
    pub(crate) fn place(&self) -> &StatePlace {
        &self.place
    }
}

/// Shared files of snapshots, in memory.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<BTreeMap<String, Vec<u8>>>);

impl Shelf {
    /// Takes a file of a snapshot.
    pub(crate) fn take(&self, source: &ShareSource) {
        let mut files = self.0.lock().unwrap();
        match source {
            ShareSource::Path { name, path } => {
                files.insert(name.clone(), std::fs::read(path).unwrap());
            }
            ShareSource::Stored(file) => assert!(files.contains_key(&file.name)),
        }
    }
}

impl SharedFiles for Shelf {
    fn fetch(&self, name: &str, to: &Path) -> Result<()> {
        std::fs::write(to, &self.0.lock().unwrap()[name]).unwrap();
        Ok(())
    }
}

impl<O: Operator> Fleet<O> {
    pub(crate) fn open(
        parallelism: u32,
        restored: Option<Arc<Restored>>,
        wall_ms: i64,
        open: impl Fn(&Context) -> O,
    ) -> Self {
        Self::open_on(Disk::default(), parallelism, restored, wall_ms, open)
    }

    fn open_on(
        disk: Disk,
        parallelism: u32,
        restored: Option<Arc<Restored>>,
        wall_ms: i64,
        open: impl Fn(&Context) -> O,
    ) -> Self {
        let (rows, clock) = (Rc::default(), ManualClock::new());
        clock.advance(wall_ms as u64 * 1000);
        let subtask = |subtask| {
            let mut context = Context::for_test();
            context.info.parallelism = parallelism;
            context.info.subtask = subtask;
            context.restored = restored.clone();
            context.place = disk.place().clone();
            context.time.refresh(&clock);
            Subtask { operator: open(&context), context, out: Collect::narrow(&rows) }
        };
        let subtasks = (0..parallelism).map(subtask).collect();
        Fleet { subtasks, clock, rows, broadcast: None, _disk: disk }
    }

    pub(crate) fn broadcast(mut self, input: usize) -> Self {
        self.broadcast = Some(input);
        self
    }

    pub(crate) fn act(&mut self, act: &Act) {
        match act {
            Act::Rows(input, rows) => self.send(*input, rows),
            Act::Watermark(w) => {
                for s in &mut self.subtasks {
                    let mut flow = s.operator.watermark(*w, &mut s.out).unwrap();
                    while flow == Flow::More {
                        flow = s.operator.resume(&mut s.out).unwrap();
                    }
                }
            }
            Act::Tick(ms) => self.tick(*ms),
        }
        self.subtasks.iter().for_each(|s| s.context.failure.check().unwrap());
    }

    fn send(&mut self, input: usize, rows: &[Row]) {
        let n = self.subtasks.len() as u32;
        for (number, s) in self.subtasks.iter_mut().enumerate() {
            let everything = self.broadcast == Some(input);
            let mine =
                |r: &&Row| everything || owner(<u64 as Key>::hash(r.0), n, 128) == number as u32;
            let batch = batch(rows.iter().filter(mine));
            let mut at = 0;
            while at < batch.len() {
                let end = batch.len().min(at + batch.len().div_ceil(2));
                let next = s.operator.records(input, &batch, at..end, &mut s.out).unwrap();
                assert!(next > at && next <= end, "{next} of {at}..{end}");
                at = next;
            }
        }
    }

    fn tick(&mut self, ms: i64) {
        let now = self.subtasks[0].context.time.wall_ms();
        self.clock.advance((ms - now).max(0) as u64 * 1000);
        for s in &mut self.subtasks {
            s.context.time.refresh(&self.clock);
            if s.operator.deadline().is_some_and(|at| at <= ms) {
                let mut flow = s.operator.tick(ms, &mut s.out).unwrap();
                while flow == Flow::More {
                    flow = s.operator.resume(&mut s.out).unwrap();
                }
            }
        }
    }

    pub(crate) fn begin_snapshot(&mut self, epoch: u64) {
        self.subtasks.iter_mut().for_each(|s| s.operator.snapshot(epoch).unwrap());
    }

    /// One step in each subtask; true when all are complete.
    pub(crate) fn snapshot_step(&mut self, epoch: u64) -> bool {
        let step = |s: &mut Subtask<O>| s.operator.snapshot_step(epoch, 0).unwrap();
        self.subtasks.iter_mut().map(step).fold(true, std::ops::BitAnd::bitand)
    }

    pub(crate) fn abort_snapshot(&mut self, epoch: u64) {
        self.subtasks.iter_mut().for_each(|s| s.operator.abort_snapshot(epoch));
        self.take_snapshot(epoch);
    }

    /// The entries that the subtasks have left.
    pub(crate) fn take_snapshot(&mut self, epoch: u64) -> Restored {
        let shelf = Arc::new(Shelf::default());
        let files = Some(shelf.clone() as Arc<dyn SharedFiles>);
        let mut restored = Restored { epoch, files, ..Restored::default() };
        for (number, s) in self.subtasks.iter().enumerate() {
            while let Some(event) = s.context.outbox.pop() {
                match event {
                    TaskEvent::Entry { epoch: of, section, payload, .. } if of == epoch => {
                        let entries: &mut Vec<_> = restored.sections.entry(section).or_default();
                        entries.push((number as u32, payload));
                    }
                    TaskEvent::File { epoch: of, source } if of == epoch => shelf.take(&source),
                    _ => {}
                }
            }
        }
        restored
    }

    pub(crate) fn late_dropped(&self) -> u64 {
        self.subtasks.iter().map(|s| s.context.metrics.late_dropped.get()).sum()
    }
}

/// A batch of rows with their keys' hashes.
pub(crate) fn batch<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Batch {
    let mut builder = BatchBuilder::new(Buffer::with_bytes(64 * rows.clone().count()));
    for r in rows {
        builder.push::<Row>(*r, r.2, <u64 as Key>::hash(r.0)).unwrap();
    }
    builder.seal()
}

fn sorted(rows: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut rows: Vec<String> = rows.into_iter().collect();
    rows.sort();
    rows
}

/// How a case is run: old and new parallelism, where the snapshot begins (per mille of the acts).
pub(crate) fn runs() -> impl Strategy<Value = (u32, u32, usize)> {
    (1u32..5, 1u32..5, 0usize..1000)
}

/// Checks an operator against what its oracle says that it emits: undisturbed, with a snapshot
/// beside processing (and one that was aborted before), and restored from that snapshot.
pub(crate) fn check<O: Operator>(
    acts: &[Act],
    (old, new, at): (u32, u32, usize),
    broadcast: Option<usize>,
    open: impl Fn(&Context) -> O,
    oracle: &[String],
) -> Result<(), TestCaseError> {
    let at = at * acts.len() / 1000;
    // Every pair of places before and after.
    let disks = [Disk::number(acts.len()), Disk::number(acts.len() / 3)];
    let fleet = |disk, n, restored, wall| {
        let fleet = Fleet::open_on(disk, n, restored, wall, &open);
        if let Some(input) = broadcast { fleet.broadcast(input) } else { fleet }
    };
    let [before, after] = disks;
    let mut first = fleet(before, old, None, 0);
    acts[..at].iter().for_each(|a| first.act(a));
    first.begin_snapshot(1);
    first.abort_snapshot(1);
    let before = first.rows.borrow().clone();
    first.begin_snapshot(2);
    let mut done = false;
    for act in &acts[at..] {
        first.act(act);
        done = done || first.snapshot_step(2);
    }
    // Links and checksums of files are made by another thread.
    for _ in 0..1_000_000 {
        done = done || first.snapshot_step(2);
        if done {
            break;
        }
        std::thread::yield_now();
    }
    prop_assert!(done, "the snapshot does not end");
    prop_assert_eq!(sorted(first.rows.borrow().clone()), sorted(oracle.to_vec()));

    let restored = Arc::new(first.take_snapshot(2));
    let ticks =
        acts[..at].iter().filter_map(|a| if let Act::Tick(ms) = a { Some(*ms) } else { None });
    let mut second = fleet(after, new, Some(restored), ticks.max().unwrap_or(0));
    acts[at..].iter().for_each(|a| second.act(a));
    let after = second.rows.borrow().clone();
    prop_assert_eq!(sorted(before.into_iter().chain(after)), sorted(oracle.to_vec()));
    Ok(())
}

/// Naive timers of a kind: fired in the order of time.
#[derive(Default)]
pub(crate) struct NaiveTimers(pub(crate) BTreeMap<i64, std::collections::BTreeSet<u64>>);

impl NaiveTimers {
    pub(crate) fn register(&mut self, time: i64, key: u64) {
        self.0.entry(time).or_default().insert(key);
    }
    pub(crate) fn delete(&mut self, time: i64, key: u64) {
        if let Some(keys) = self.0.get_mut(&time) {
            keys.remove(&key);
            if keys.is_empty() {
                self.0.remove(&time);
            }
        }
    }
    pub(crate) fn pop(&mut self, until: i64) -> Option<(i64, u64)> {
        let mut first = self.0.first_entry().filter(|e| *e.key() <= until)?;
        let time = *first.key();
        let key = first.get_mut().pop_first();
        if first.get().is_empty() {
            first.remove();
        }
        key.map(|key| (time, key))
    }
}

/// The watermark before the first.
pub(crate) const NONE: Timestamp = WATERMARK_MIN;
