//! A task behind a channel, with a sink that settles when the test says so (T7).

use super::*;
use crate::channel::{ChannelOptions, ChannelSender, channel};
use crate::operator::PassThrough;
use crate::sink::{Sink, SinkContext, SinkStage, SinkWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidemill_base::Element;
use tidemill_base::clock::ManualClock;

#[derive(Clone, Default)]
struct Slow {
    settled: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
}

impl Sink<u64> for Slow {
    type Writer = Slow;
    fn open(&self, _: &SinkContext) -> Result<Slow> {
        Ok(self.clone())
    }
    fn name(&self) -> String {
        "slow".into()
    }
}

impl SinkWriter<u64> for Slow {
    fn write(&mut self, n: u64, _: Timestamp) -> Result<()> {
        self.written.fetch_add(n, Ordering::Relaxed);
        Ok(())
    }
    fn prepare(&mut self, epoch: u64) -> Result<Vec<Vec<u8>>> {
        Ok(vec![epoch.to_le_bytes().to_vec()])
    }
    fn settled(&mut self) -> Result<bool> {
        Ok(self.settled.load(Ordering::Relaxed))
    }
}

struct Driver {
    sink: Slow,
    sender: ChannelSender,
    context: Context,
    task: Box<dyn Task>,
}

impl Driver {
    fn new() -> Self {
        let (sender, receiver) = channel(ChannelOptions::default(), None, None);
        let (context, sink) = (Context::for_test(), Slow::default());
        let stage = SinkStage::<u64, Slow>::open(&sink, &context, 3, 1).unwrap();
        let gate = Gate::new(vec![(0, receiver)], 0, Vec::new());
        let operator = PassThrough::<u64>::default();
        let task = Box::new(OperatorTask::new(gate, operator, stage, context.clone(), 7));
        context.time.refresh(&ManualClock::new());
        Driver { sink, sender, context, task }
    }

    fn send(&mut self, n: u64) {
        let mut builder = BatchBuilder::new(Buffer::with_bytes(256));
        builder.push::<u64>(n, 0, 0).unwrap();
        self.sender.send(Element::Batch(builder.seal()));
    }

    fn barrier(&mut self, epoch: u64) {
        let kind = BarrierKind::Aligned { timeout: None };
        self.sender.send(Element::Barrier(Barrier { epoch, triggered_at: 0, kind }));
    }

    /// Steps until there is nothing to do; what the task has said.
    fn run(&mut self) -> (Progress, Vec<String>) {
        loop {
            let progress = self.task.step().unwrap();
            if progress != Progress::Worked {
                let said = std::iter::from_fn(|| self.context.outbox.pop());
                let word = |e: TaskEvent| match e {
                    TaskEvent::Entry { epoch, .. } => format!("entry {epoch}"),
                    TaskEvent::Acknowledged { epoch } => format!("acknowledged {epoch}"),
                    TaskEvent::Committed { epoch } => format!("committed {epoch}"),
                    other => format!("{other:?}"),
                };
                return (progress, said.map(word).collect());
            }
        }
    }
}

const POLL: Progress = Progress::Idle { until: Some(1_000) };

#[test]
fn an_epoch_waits_for_its_sinks_and_records_do_not() {
    let mut driver = Driver::new();
    driver.send(1);
    driver.barrier(1);
    driver.send(10);
    let (progress, said) = driver.run();
    assert_eq!((progress, said.join(" ").as_str()), (POLL, "entry 1"));
    driver.send(100);
    assert_eq!(driver.run().0, POLL);
    assert_eq!(driver.sink.written.load(Ordering::Relaxed), 111);
    driver.sink.settled.store(true, Ordering::Relaxed);
    let (progress, said) = driver.run();
    assert_eq!(progress, Progress::Idle { until: None });
    assert_eq!(said, ["acknowledged 1"]);
    driver.sink.settled.store(false, Ordering::Relaxed);
    driver.task.outcome(Control::Commit(1)).unwrap();
    assert_eq!(driver.run(), (POLL, Vec::new()));
    driver.sink.settled.store(true, Ordering::Relaxed);
    assert_eq!(driver.run().1, ["committed 1"]);
}

#[test]
fn a_finished_task_is_stepped_until_its_sinks_have_settled() {
    let mut driver = Driver::new();
    driver.send(1);
    driver.sender.send(Element::End);
    assert_eq!(driver.run(), (Progress::Finished, vec!["Finished".to_owned()]));
    let barrier = Barrier { epoch: 4, triggered_at: 0, kind: BarrierKind::Unaligned };
    driver.task.trigger(barrier).unwrap();
    driver.task.trigger(barrier).unwrap();
    assert_eq!(driver.run(), (POLL, vec!["entry 4".to_owned()]));
    // A later one takes its place: only that is acknowledged.
    driver.task.outcome(Control::Abort(4)).unwrap();
    driver.task.trigger(Barrier { epoch: 5, ..barrier }).unwrap();
    driver.sink.settled.store(true, Ordering::Relaxed);
    assert_eq!(driver.run().1, ["entry 5", "acknowledged 5"]);
    driver.task.outcome(Control::Commit(5)).unwrap();
    assert_eq!(driver.run(), (Progress::Finished, vec!["committed 5".to_owned()]));
}
