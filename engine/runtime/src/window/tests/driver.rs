//! Drives the subtasks of a window operator without tasks, channels or threads.

use crate::context::{Context, Restored, SectionId, SharedFiles, TaskEvent, owner};
use crate::operator::{Flow, Operator as _};
use crate::process::testing::{Disk, Shelf};
use crate::stage::{Control, Stage};
use crate::window::{Spec, Window, WindowFunction, WindowOperator};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tidemill_base::clock::ManualClock;
use tidemill_base::{Batch, BatchBuilder, Buffer, Key as _, Record as _, Result, Timestamp};

pub(super) type Input = (String, u64);
/// Key, start, end, sorted record ids.
pub(super) type Output = (String, i64, i64, Vec<u64>);
type Selector = for<'a> fn(&'a (&'a str, u64)) -> &'a str;
type Subject = WindowOperator<String, Input, Selector, Ids>;

/// Keeps the ids of the records of a window.
pub(super) struct Ids;

impl WindowFunction<String, Input> for Ids {
    type Acc = Vec<u64>;
    type Out = Output;

    fn first(&mut self, record: (&str, u64)) -> Vec<u64> {
        vec![record.1]
    }
    fn add(&mut self, acc: &mut Vec<u64>, record: (&str, u64)) {
        acc.push(record.1);
    }
    fn merge(&mut self, into: &mut Vec<u64>, from: &Vec<u64>) {
        into.extend(from);
    }
    fn emit<S: Stage<Output>>(
        &mut self,
        key: &str,
        window: Window,
        acc: &Vec<u64>,
        timestamp: Timestamp,
        out: &mut S,
    ) {
        let mut ids = acc.clone();
        ids.sort_unstable();
        out.push((key.to_owned(), window.start, window.end, ids).view(), timestamp);
    }
}

/// Collects records; not writable, and without room, on every third look.
pub(super) struct Collect<T> {
    pub(super) records: Rc<RefCell<Vec<(T, Timestamp)>>>,
    looks: Cell<u32>,
}

impl<T> Collect<T> {
    fn new(records: &Rc<RefCell<Vec<(T, Timestamp)>>>) -> Self {
        Collect { records: records.clone(), looks: Cell::new(0) }
    }
}

impl<T: tidemill_base::Record> Stage<T> for Collect<T> {
    fn push(&mut self, view: T::View<'_>, timestamp: Timestamp) {
        self.records.borrow_mut().push((T::from_view(view), timestamp));
    }
    fn control(&mut self, _: Control) -> Result<()> {
        Ok(())
    }
    fn writable(&mut self) -> bool {
        self.room()
    }
    fn room(&self) -> bool {
        self.looks.set(self.looks.get() + 1);
        !self.looks.get().is_multiple_of(3)
    }
}

/// Collects late records, and sees that each is asked behind, and none comes where there is no room.
struct Late {
    collect: Collect<Input>,
    asked: Cell<bool>,
    /// Until the next run.
    full: Rc<Cell<bool>>,
}

impl Stage<Input> for Late {
    fn push(&mut self, view: (&str, u64), timestamp: Timestamp) {
        assert!(self.asked.take(), "nobody has asked for room behind the late record before");
        assert!(!self.full.get(), "the run goes on although a late record found no room");
        self.collect.push(view, timestamp);
    }
    fn control(&mut self, control: Control) -> Result<()> {
        self.collect.control(control)
    }
    fn writable(&mut self) -> bool {
        self.collect.writable()
    }
    fn room(&self) -> bool {
        self.asked.set(true);
        let room = self.collect.room();
        self.full.set(self.full.get() | !room);
        room
    }
}

struct Subtask {
    operator: Subject,
    context: Context,
    out: Collect<Output>,
    /// A late record of the run at hand found no room.
    full: Rc<Cell<bool>>,
}

/// The subtasks of one attempt, and what they have emitted so far.
pub(super) struct Driver {
    subtasks: Vec<Subtask>,
    clock: ManualClock,
    outputs: Rc<RefCell<Vec<(Output, Timestamp)>>>,
    late: Rc<RefCell<Vec<(Input, Timestamp)>>>,
    /// The epoch of the running snapshot, and which subtasks have completed it.
    snapshot: Option<(u64, Vec<bool>)>,
    entries: BTreeMap<SectionId, Vec<(u32, Vec<u8>)>>,
    shelf: Arc<Shelf>,
    _disk: Disk,
}

pub(super) fn name(key: u8) -> String {
    // Short keys and keys longer than a table's slot.
    if key.is_multiple_of(2) { format!("k{key}") } else { format!("a longer key, number {key}") }
}

impl Driver {
    pub(super) fn new(
        spec: &Spec,
        parallelism: u32,
        clock: &ManualClock,
        restored: Option<Restored>,
        side_output: bool,
        disk: Disk,
    ) -> Self {
        let restored = restored.map(Arc::new);
        let (outputs, late) = (Rc::default(), Rc::default());
        let subtasks = (0..parallelism).map(|subtask| {
            let mut context = Context::for_test();
            context.info.subtask = subtask;
            context.info.parallelism = parallelism;
            context.restored.clone_from(&restored);
            context.place = disk.place().clone();
            context.time.refresh(clock);
            let full = Rc::<Cell<bool>>::default();
            let mut side = Vec::<crate::stage::Collector<Input>>::new();
            if side_output {
                let (collect, asked) = (Collect::new(&late), Cell::new(true));
                side.push(Box::new(Late { collect, asked, full: full.clone() }));
            }
            let selector: Selector = |record| record.0;
            let operator = Subject::open(spec, selector, Ids, side, &context, 7).unwrap();
            Subtask { operator, context, out: Collect::new(&outputs), full }
        });
        let subtasks = subtasks.collect();
        let (clock, entries) = (clock.clone(), BTreeMap::new());
        let (snapshot, shelf) = (None, Arc::default());
        Driver { subtasks, clock, outputs, late, snapshot, entries, shelf, _disk: disk }
    }

    pub(super) fn parallelism(&self) -> u32 {
        self.subtasks.len() as u32
    }

    /// The subtask of a key.
    pub(super) fn owner(&self, key: &str) -> u32 {
        owner(String::hash(key), self.parallelism(), 128)
    }

    /// Gives records to their subtasks, one batch each.
    pub(super) fn records(&mut self, records: &[(String, u64, Timestamp)]) {
        for subtask in 0..self.parallelism() {
            let mut builder = BatchBuilder::new(Buffer::with_bytes(128 * records.len() + 64));
            for (key, id, timestamp) in records {
                if self.owner(key) == subtask {
                    let hash = String::hash(key);
                    builder.push::<Input>((key, *id), *timestamp, hash).unwrap();
                }
            }
            let batch: Batch = builder.seal();
            let s = &mut self.subtasks[subtask as usize];
            let mut at = 0;
            while at < batch.len() {
                s.full.set(false);
                let end = batch.len().min(at + crate::task::RUN_RECORDS);
                let next = s.operator.records(0, &batch, at..end, &mut s.out).unwrap();
                assert!(next > at && next <= end, "{next} of {at}..{end}");
                at = next;
            }
        }
    }

    /// Advances the watermark of the subtasks whose bit is set.
    pub(super) fn watermark(&mut self, watermark: Timestamp, mask: u32) {
        for i in (0..self.subtasks.len()).filter(|i| mask >> i & 1 == 1) {
            let s = &mut self.subtasks[i];
            let flow = s.operator.watermark(watermark, &mut s.out).unwrap();
            self.finish(i, flow);
        }
    }

    /// Moves the clock.
    pub(super) fn pass(&mut self, ms: u64) {
        self.clock.advance(ms * 1000);
        for i in 0..self.subtasks.len() {
            let s = &mut self.subtasks[i];
            s.context.time.refresh(&self.clock);
            let now = s.context.time.wall_ms();
            if s.operator.deadline().is_some_and(|at| at <= now) {
                let flow = s.operator.tick(now, &mut s.out).unwrap();
                self.finish(i, flow);
                let after = self.subtasks[i].operator.deadline();
                assert!(after.is_none_or(|at| at > now), "a tick leaves nothing due");
            }
        }
    }

    /// Resumes until all is emitted, with steps of a running snapshot between.
    fn finish(&mut self, i: usize, mut flow: Flow) {
        while flow == Flow::More {
            self.snapshot_step_of(i);
            let s = &mut self.subtasks[i];
            flow = s.operator.resume(&mut s.out).unwrap();
        }
    }

    pub(super) fn begin_snapshot(&mut self, epoch: u64) {
        assert!(self.snapshot.is_none());
        self.entries.clear();
        for i in 0..self.subtasks.len() {
            self.subtasks[i].operator.snapshot(epoch).unwrap();
            self.collect(i);
        }
        self.snapshot = Some((epoch, vec![false; self.subtasks.len()]));
    }

    pub(super) fn abort_snapshot(&mut self) {
        let Some((epoch, _)) = self.snapshot.take() else { return };
        for s in &mut self.subtasks {
            s.operator.abort_snapshot(epoch);
        }
        self.entries.clear();
    }

    fn snapshot_step_of(&mut self, i: usize) {
        let Some((epoch, done)) = &mut self.snapshot else { return };
        if !done[i] {
            done[i] = self.subtasks[i].operator.snapshot_step(*epoch, 0).unwrap();
            self.collect(i);
        }
    }

    /// One step of the running snapshot in every subtask.
    pub(super) fn snapshot_step(&mut self) {
        for i in 0..self.subtasks.len() {
            self.snapshot_step_of(i);
        }
    }

    /// Completes the running snapshot.
    pub(super) fn snapshot_rest(&mut self) -> Restored {
        while self.snapshot.as_ref().unwrap().1.contains(&false) {
            self.snapshot_step();
            // Links and checksums of files are made by another thread.
            std::thread::yield_now();
        }
        let (epoch, _) = self.snapshot.take().unwrap();
        let (states, sections) = (BTreeMap::new(), std::mem::take(&mut self.entries));
        let files = Some(self.shelf.clone() as Arc<dyn SharedFiles>);
        Restored { epoch, states, sections, files, ..Restored::default() }
    }

    fn collect(&mut self, i: usize) {
        while let Some(event) = self.subtasks[i].context.outbox.pop() {
            match event {
                TaskEvent::Entry { section, payload, .. } => {
                    self.entries.entry(section).or_default().push((i as u32, payload));
                }
                TaskEvent::File { source, .. } => self.shelf.take(&source),
                event => panic!("unexpected {event:?}"),
            }
        }
    }

    /// What has been emitted since the last call, sorted.
    pub(super) fn take_outputs(&mut self) -> Vec<(Output, Timestamp)> {
        let mut outputs = std::mem::take(&mut *self.outputs.borrow_mut());
        outputs.sort();
        outputs
    }

    /// Ids of the late records since the last call, sorted.
    pub(super) fn take_late(&mut self) -> Vec<u64> {
        let mut late: Vec<u64> = self.late.borrow_mut().drain(..).map(|(r, _)| r.1).collect();
        late.sort_unstable();
        late
    }

    /// Late records that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.subtasks.iter().map(|s| s.context.metrics.late_dropped.get()).sum()
    }
}
