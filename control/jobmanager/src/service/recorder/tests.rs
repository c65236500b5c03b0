//! The recorder against a store that answers as told.

use super::*;
use crate::metadata::{JobRecord, Lead, Pending};
use std::collections::VecDeque;
use std::sync::Mutex;
use tidemill_protocol::JobId;

/// Answers as told; keeps what was written.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<MetadataError>>,
    written: Mutex<Vec<Change>>,
}

impl MetadataStore for Scripted {
    fn campaign<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Lead, MetadataError>> {
        Box::pin(std::future::ready(Ok(Lead::Mine { term: 1 })))
    }
    fn resign(&self) -> Pending<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    fn load(&self, _: Term) -> Pending<'_, Result<Vec<JobRecord>, MetadataError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
    fn write<'a>(
        &'a self,
        _: Term,
        changes: &'a [Change],
    ) -> Pending<'a, Result<(), MetadataError>> {
        let answer = self.answers.lock().expect("lock").pop_front();
        let answer = answer.map_or(Ok(()), Err);
        if answer.is_ok() {
            self.written.lock().expect("lock").extend_from_slice(changes);
        }
        Box::pin(std::future::ready(answer))
    }
}

fn job(n: u8) -> JobId {
    JobId::from_bytes([n; 16])
}

fn change(n: u8) -> Vec<Change> {
    vec![Change::ForgetJob(job(n))]
}

fn then(n: u8) -> Then {
    Then::Over { job: job(n), clear: false }
}

fn away() -> MetadataError {
    MetadataError::Unavailable("a test".into())
}

struct Bench {
    store: Arc<Scripted>,
    recorder: Recorder,
    done: mpsc::UnboundedReceiver<Done>,
    clock: SystemClock,
}

fn bench(answers: impl IntoIterator<Item = MetadataError>) -> Bench {
    let store = Arc::new(Scripted::default());
    store.answers.lock().expect("lock").extend(answers);
    let (tell, done) = mpsc::unbounded_channel();
    let clock = SystemClock::new();
    let recorder = Recorder::start(store.clone(), clock.clone(), tell);
    Bench { store, recorder, done, clock }
}

impl Bench {
    fn written(&self) -> Vec<Change> {
        self.store.written.lock().expect("lock").clone()
    }
}

#[tokio::test]
async fn changes_are_written_in_order_however_often_it_takes() {
    let mut bench = bench([away(), away()]);
    bench.recorder.note(1, change(1));
    bench.recorder.write(1, change(2), then(2), None);
    assert_eq!(bench.recorder.waiting(), 2);
    let done = bench.done.recv().await.expect("an outcome");
    assert!(matches!(done, Done::Written { term: 1, then: Then::Over { .. } }), "{done:?}");
    assert_eq!(bench.written(), [change(1), change(2)].concat());
    assert_eq!(bench.recorder.waiting(), 0);
}

#[tokio::test]
async fn what_is_late_and_certainly_not_written_is_given_up() {
    let mut bench = bench([away(), away()]);
    bench.recorder.note(1, change(1));
    let now = bench.clock.now();
    bench.recorder.write(1, change(2), then(2), Some(now));
    let done = bench.done.recv().await.expect("an outcome");
    assert!(
        matches!(&done, Done::Unwritten { reason, .. } if reason.contains("a test")),
        "{done:?}"
    );
    bench.recorder.write(1, change(3), then(3), None);
    assert!(matches!(bench.done.recv().await, Some(Done::Written { .. })));
    assert_eq!(bench.written(), [change(1), change(3)].concat());
}

#[tokio::test]
async fn what_is_in_doubt_is_repeated_until_it_is_known() {
    let mut bench = bench([MetadataError::InDoubt("cut".into()), away(), away()]);
    let now = bench.clock.now();
    bench.recorder.write(1, change(1), then(1), Some(now));
    let done = bench.done.recv().await.expect("an outcome");
    assert!(matches!(done, Done::Written { .. }), "W3: {done:?}");
    assert_eq!(bench.written(), change(1));
}

#[tokio::test]
async fn a_fenced_leader_writes_nothing_more() {
    let mut bench = bench([MetadataError::Fenced]);
    bench.recorder.write(1, change(1), then(1), None);
    bench.recorder.write(1, change(2), then(2), None);
    assert!(matches!(bench.done.recv().await, Some(Done::Fenced { term: 1 })));
    bench.recorder.write(2, change(3), then(3), None);
    // A write of the old term that came later is its own to judge by the store.
    loop {
        match bench.done.recv().await.expect("an outcome") {
            Done::Written { term: 2, .. } => break,
            Done::Written { term: 1, .. } | Done::Fenced { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.written().last(), change(3).last());
}

#[tokio::test]
async fn what_the_store_refuses_is_not_tried_again() {
    let mut bench = bench([MetadataError::Refused("no such table".into())]);
    bench.recorder.write(1, change(1), then(1), None);
    let done = bench.done.recv().await.expect("an outcome");
    assert!(
        matches!(&done, Done::Unwritten { reason, .. } if reason.contains("table")),
        "{done:?}"
    );
    assert!(bench.written().is_empty());
}
