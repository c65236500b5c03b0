//! Nothing but an exchange: 24-byte keyed records are made, routed by their key, and added up where they
//! arrive. Tasks of the runtime's own kinds, but for the producer, which is a loop.

use crate::definitions::mix;
use crate::tally::{Part, Tally};
use std::ops::Range;
use std::sync::Arc;
use tidemill_base::{Barrier, Batch, Key, Result, Timestamp, WATERMARK_MAX};
use tidemill_runtime::context::TaskEvent;
use tidemill_runtime::deploy::{Build, EdgePlan, Io, JobPlan, TaskPlan, Wiring};
use tidemill_runtime::gate::Gate;
use tidemill_runtime::operator::Operator;
use tidemill_runtime::output::{EdgeWriter, HashRouter, Route, Router};
use tidemill_runtime::stage::{Control, Stage};
use tidemill_runtime::task::{OperatorTask, Progress, Task};

type Record = (u64, u64, u64);

/// Records that a producer makes at most in one step.
const STEP: u64 = 1024;

/// Routes every record to the other slot: nothing stays at home.
pub struct All {
    own: usize,
    lanes: usize,
}

impl Router<Record> for All {
    #[inline(always)]
    fn route(&mut self, view: (u64, u64, u64)) -> Route {
        Route::One((self.own + 1) % self.lanes, u64::hash(view.0))
    }
}

struct Producer<R> {
    writer: EdgeWriter<Record, R>,
    io: Io,
    next: u64,
    step: u64,
    end: u64,
}

impl<R: Router<Record>> Task for Producer<R> {
    fn step(&mut self) -> Result<Progress> {
        if self.next >= self.end {
            return Ok(Progress::Finished);
        }
        if !self.writer.writable() {
            return Ok(Progress::Blocked { until: None });
        }
        let mut i = self.next;
        let last = self.end.min(i.saturating_add(STEP * self.step));
        while i < last {
            self.writer.push((mix(i), i & 0xff, i / 10), (i / 10) as i64);
            i += self.step;
        }
        self.next = i;
        if self.next >= self.end {
            self.writer.control(Control::Watermark(WATERMARK_MAX))?;
            self.writer.control(Control::End)?;
            self.io.context.outbox.push(TaskEvent::Finished);
        }
        Ok(Progress::Worked)
    }
    fn trigger(&mut self, _: Barrier) -> Result<()> {
        Ok(())
    }
    fn outcome(&mut self, _: Control) -> Result<()> {
        Ok(())
    }
}

struct Adder {
    tally: Tally,
    part: Part,
}

impl Operator for Adder {
    type Out = ();
    #[inline]
    fn records<S: Stage<()>>(
        &mut self,
        _: usize,
        batch: &Batch,
        range: Range<usize>,
        _: &mut S,
    ) -> Result<usize> {
        for i in range.clone() {
            let ((key, value, time), ..) = batch.get::<Record>(i);
            self.part.add(key ^ value ^ time);
        }
        Ok(range.end)
    }
    fn watermark<S: Stage<()>>(
        &mut self,
        watermark: Timestamp,
        _: &mut S,
    ) -> Result<tidemill_runtime::operator::Flow> {
        if watermark == WATERMARK_MAX {
            self.tally.merge(&std::mem::take(&mut self.part));
        }
        Ok(tidemill_runtime::operator::Flow::Done)
    }
}

/// The end of the adder's chain.
struct Nothing;

impl Stage<()> for Nothing {
    fn push(&mut self, (): (), _: Timestamp) {}
    fn control(&mut self, _: Control) -> Result<()> {
        Ok(())
    }
    fn writable(&mut self) -> bool {
        true
    }
    fn room(&self) -> bool {
        true
    }
}

fn produce<R: Router<Record>>(
    mut io: Io,
    n: u64,
    router: impl Fn(&Io, usize) -> R,
) -> Result<Box<dyn Task>> {
    let outlet = io.take_output(0)?;
    let router = router(&io, outlet.channels.len());
    let writer = EdgeWriter::new(outlet, router, io.context.clone());
    let (next, step) = (u64::from(io.context.info.subtask), u64::from(io.context.info.parallelism));
    Ok(Box::new(Producer { writer, io, next, step, end: n }))
}

fn by_key(io: &Io, lanes: usize) -> impl Router<Record> + use<> {
    let groups = io.context.info.max_parallelism;
    HashRouter::<u64, _>::new(|view: &(u64, u64, u64)| view.0, lanes as u32, groups)
}

/// The exchange of `n` records among `slots` slots; `remote`: every record goes to another slot,
/// otherwise where its key belongs.
pub fn shuffle(n: u64, slots: u32, remote: bool, tally: &Tally) -> JobPlan {
    let tally = tally.clone();
    let producer = move || -> Build {
        Box::new(move |io| {
            if remote {
                produce(io, n, |io, lanes| All { own: io.context.info.subtask as usize, lanes })
            } else {
                produce(io, n, by_key)
            }
        })
    };
    let consumer = move || -> Build {
        let tally = tally.clone();
        Box::new(move |mut io| {
            let gate = Gate::new(std::mem::take(&mut io.inputs), 0, Vec::new());
            let adder = Adder { tally, part: Part::default() };
            Ok(Box::new(OperatorTask::new(gate, adder, Nothing, io.context, 2)))
        })
    };
    let task = |name: &str, operator, factory| TaskPlan {
        name: name.into(),
        parallelism: slots,
        operators: vec![operator],
        factory,
    };
    JobPlan {
        tasks: vec![task("produce", 0, Box::new(producer)), task("add up", 1, Box::new(consumer))],
        edges: vec![EdgePlan { from: 0, operator: 0, to: 1, input: 0, wiring: Wiring::AllToAll }],
        operator_names: vec!["produce".into(), "add up".into()],
        operator_ids: Arc::from([1, 2]),
        max_parallelism: 128,
        max_skew: None,
    }
}
