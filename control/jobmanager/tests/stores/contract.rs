//! The contract of `MetadataStore` (laws Y1 to Y5): [`run`] it against an implementation.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tidemill_coordination::JobStatus;
use tidemill_jobmanager::MetadataStore;
use tidemill_jobmanager::metadata::{
    Change, CheckpointRow, CheckpointState, ExceptionRow, JobRecord, Lead, MemoryMetadata,
    MetadataError, SavepointRow, SavepointState, StatusRow, Term,
};
use tidemill_protocol::RestoreFrom;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use crate::rows::{change, job_id, job_row};

/// How long something may take that only has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where metadata is kept.
pub(crate) trait Place {
    type Store: MetadataStore;

    /// How many lives by chance are tried.
    const LIVES: u32 = 24;

    /// A further candidate for leadership.
    fn candidate(&self) -> impl Future<Output = Self::Store>;

    /// A candidate is gone without resigning.
    fn abandon(&self, leader: Self::Store) -> impl Future<Output = ()>;

    /// The same place as another process finds it; all candidates are gone without resigning.
    fn reopen(self) -> impl Future<Output = Self>;
}

/// Runs every case, each on a place of its own, which is empty.
pub(crate) fn run<P: Place, F: Future<Output = P>>(make: impl Fn() -> F) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let runtime = runtime.unwrap();
    runtime.block_on(async {
        println!("contract: one leads, and the next has a greater term (Y3)");
        leadership(make().await).await;
        println!("contract: who does not lead changes nothing (Y3)");
        fencing(make().await).await;
        println!("contract: everything is kept, over a reopening (Y1, Y4)");
        everything(make().await).await;
        println!("contract: the same again changes nothing (Y2)");
        again(make().await).await;
        println!("contract: jobs are in the order of their submission (Y4)");
        order(make().await).await;
        println!("contract: what belongs to no job is nothing");
        of_no_job(make().await).await;
        println!("contract: terms increase over reopenings (Y3)");
        terms(make().await).await;
        println!("contract: candidates that race (Y3)");
        race(make().await).await;
    });
    println!("contract: random changes and reopenings, against the store in memory");
    random(&runtime, make);
}

/// Campaigns until elected.
pub(crate) async fn elect(store: &impl MetadataStore, address: &str) -> Term {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.campaign(address).await {
            Ok(Lead::Mine { term }) => return term,
            Ok(Lead::Other { .. }) | Err(MetadataError::Unavailable(_)) => {}
            Err(e) => panic!("{e}"),
        }
        assert!(Instant::now() < deadline, "not elected");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn job(n: u8) -> Change {
    Change::Job(Box::new(job_row(n)))
}

pub(crate) fn status(n: u8, number: u64) -> Change {
    Change::Status(job_id(n), StatusRow { number, status: JobStatus::Running, at_ms: 5 })
}

async fn leadership<P: Place>(place: P) {
    let (first, second) = (place.candidate().await, place.candidate().await);
    let term = elect(&first, "one:1").await;
    assert_eq!(first.campaign("one:1").await, Ok(Lead::Mine { term }), "it stays so");
    let other = Lead::Other { address: Some("one:1".into()) };
    assert_eq!(second.campaign("two:2").await, Ok(other.clone()));
    assert_eq!(second.campaign("two:2").await, Ok(other));
    second.resign().await;
    assert_eq!(first.campaign("one:1").await, Ok(Lead::Mine { term }), "another cannot resign it");
    first.resign().await;
    let next = elect(&second, "two:2").await;
    assert!(next > term, "{next} > {term}");
    let other = Lead::Other { address: Some("two:2".into()) };
    assert_eq!(first.campaign("one:1").await, Ok(other));
    place.abandon(second).await;
    let last = elect(&first, "one:1").await;
    assert!(last > next, "{last} > {next}");
    first.resign().await;
    assert!(elect(&first, "one:1").await > last, "its own next term is another");
}

async fn fencing<P: Place>(place: P) {
    let (first, second) = (place.candidate().await, place.candidate().await);
    assert_eq!(first.write(0, &[job(1)]).await, Err(MetadataError::Fenced), "nobody leads");
    assert_eq!(first.holds(0).await, Err(MetadataError::Fenced), "nobody leads");
    let term = elect(&first, "one:1").await;
    assert_eq!(first.holds(term).await, Ok(()), "Y5");
    first.write(term, &[job(1)]).await.unwrap();
    let kept = first.load(term).await.unwrap();
    for wrong in [term - 1, term + 1, 0] {
        assert_eq!(first.write(wrong, &[job(2)]).await, Err(MetadataError::Fenced));
        assert_eq!(first.load(wrong).await, Err(MetadataError::Fenced));
        assert_eq!(first.holds(wrong).await, Err(MetadataError::Fenced), "Y5");
    }
    assert_eq!(second.holds(term).await, Err(MetadataError::Fenced), "not its term");
    assert_eq!(second.write(term, &[job(2)]).await, Err(MetadataError::Fenced), "not its term");
    assert_eq!(first.load(term).await.unwrap(), kept);
    first.resign().await;
    assert_eq!(first.write(term, &[job(2)]).await, Err(MetadataError::Fenced), "it resigned");
    assert_eq!(first.holds(term).await, Err(MetadataError::Fenced), "it resigned");
    let next = elect(&second, "two:2").await;
    let stale = [Change::ForgetJob(job_id(1)), job(2)];
    assert_eq!(first.write(term, &stale).await, Err(MetadataError::Fenced));
    assert_eq!(first.write(next, &stale).await, Err(MetadataError::Fenced), "not its term");
    assert_eq!(first.load(term).await, Err(MetadataError::Fenced));
    assert_eq!(first.holds(term).await, Err(MetadataError::Fenced));
    assert_eq!(second.holds(next).await, Ok(()), "Y5");
    assert_eq!(second.load(next).await.unwrap(), kept);
    second.write(next, &[job(2)]).await.unwrap();
    assert_eq!(second.load(next).await.unwrap().len(), 2);
}

fn record() -> JobRecord {
    let checkpoint = CheckpointRow {
        epoch: 1 << 40,
        state: CheckpointState::Completed,
        savepoint: true,
        triggered_ms: 1_700_000_000_001,
        duration_ms: Some(17),
        object_bytes: 1 << 50,
        shared_bytes: 3,
        records: 4,
        location: Some("/checkpoints/x/chk-7".into()),
        reason: None,
    };
    let savepoint = SavepointRow {
        trigger: 1 << 41,
        stop: true,
        requested_ms: 1_700_000_000_002,
        state: SavepointState::Failed,
        epoch: None,
        location: None,
        reason: Some("no \"disk\"".into()),
    };
    let exception = ExceptionRow {
        number: 0,
        at_ms: 1_700_000_000_003,
        attempt: 3,
        task: Some("map -> sink".into()),
        host: None,
        message: "a line\nand 'another'; -- ü".into(),
    };
    let mut head = job_row(9);
    head.ended_ms = Some(1_700_000_009_999);
    head.initial = Some(RestoreFrom { store: head.store.clone(), epoch: 77 });
    head.cause = Some("it failed".into());
    (head.allow_dropped_state, head.attempt, head.status) = (true, 3, JobStatus::Failed);
    let statuses = [(0, JobStatus::Scheduling), (1, JobStatus::Failed)];
    JobRecord {
        job: head,
        statuses: statuses.map(|(number, status)| StatusRow { number, status, at_ms: 9 }).into(),
        checkpoints: vec![CheckpointRow { epoch: 6, ..checkpoint.clone() }, checkpoint],
        savepoints: vec![SavepointRow { trigger: 2, ..savepoint.clone() }, savepoint],
        exceptions: vec![exception],
    }
}

/// What makes a record, its rows in reverse.
fn changes_of(record: &JobRecord) -> Vec<Change> {
    let id = || record.job.id.clone();
    let mut changes = vec![Change::Job(Box::new(record.job.clone()))];
    changes.extend(record.statuses.iter().rev().map(|r| Change::Status(id(), r.clone())));
    changes.extend(record.checkpoints.iter().rev().map(|r| Change::Checkpoint(id(), r.clone())));
    changes.extend(record.savepoints.iter().rev().map(|r| Change::Savepoint(id(), r.clone())));
    changes.extend(record.exceptions.iter().rev().map(|r| Change::Exception(id(), r.clone())));
    changes
}

async fn everything<P: Place>(place: P) {
    let store = place.candidate().await;
    let term = elect(&store, "one:1").await;
    assert_eq!(store.load(term).await.unwrap(), []);
    let record = record();
    store.write(term, &changes_of(&record)).await.unwrap();
    store.write(term, &[]).await.unwrap();
    assert_eq!(store.load(term).await.unwrap(), std::slice::from_ref(&record));
    drop(store);
    let place = place.reopen().await;
    let store = place.candidate().await;
    let term = elect(&store, "one:1").await;
    assert_eq!(store.load(term).await.unwrap(), [record]);
}

async fn again<P: Place>(place: P) {
    let store = place.candidate().await;
    let term = elect(&store, "one:1").await;
    let (record, other) = (record(), job(1));
    let changes = changes_of(&record);
    store.write(term, &changes).await.unwrap();
    store.write(term, std::slice::from_ref(&other)).await.unwrap();
    let kept = store.load(term).await.unwrap();
    store.write(term, &changes).await.unwrap();
    assert_eq!(store.load(term).await.unwrap(), kept, "in place, not anew");
    // Each replaces what it names, also within one write.
    let mut later = record.checkpoints[0].clone();
    later.state = CheckpointState::Expired;
    let mut head = record.job.clone();
    head.attempt += 1;
    let id = || record.job.id.clone();
    let replacing = [
        Change::Checkpoint(id(), record.checkpoints[0].clone()),
        Change::Checkpoint(id(), later.clone()),
        Change::Job(Box::new(head.clone())),
        Change::ForgetException(id(), 0),
        Change::ForgetCheckpoint(id(), record.checkpoints[1].epoch),
    ];
    for _ in 0..2 {
        store.write(term, &replacing).await.unwrap();
        let now = store.load(term).await.unwrap();
        assert_eq!(now[0].job, head);
        assert_eq!(now[0].checkpoints, std::slice::from_ref(&later));
        assert_eq!(now[0].exceptions, []);
        assert_eq!((&now[0].savepoints, &now[1]), (&kept[0].savepoints, &kept[1]));
    }
}

async fn order<P: Place>(place: P) {
    let store = place.candidate().await;
    let term = elect(&store, "one:1").await;
    for n in [7, 3, 5] {
        store.write(term, &[job(n)]).await.unwrap();
    }
    store.write(term, &[job(4), job(1)]).await.unwrap();
    store.write(term, &[job(3)]).await.unwrap();
    let ids = |jobs: Vec<JobRecord>| jobs.into_iter().map(|r| r.job.id).collect::<Vec<_>>();
    assert_eq!(ids(store.load(term).await.unwrap()), [7, 3, 5, 4, 1].map(job_id));
    drop(store);
    let place = place.reopen().await;
    let store = place.candidate().await;
    let term = elect(&store, "one:1").await;
    let changes = [Change::ForgetJob(job_id(7)), Change::ForgetJob(job_id(1)), job(7)];
    store.write(term, &changes).await.unwrap();
    assert_eq!(ids(store.load(term).await.unwrap()), [3, 5, 4, 7].map(job_id));
}

async fn of_no_job<P: Place>(place: P) {
    let store = place.candidate().await;
    let term = elect(&store, "one:1").await;
    let mut changes = changes_of(&record());
    changes.remove(0);
    changes.extend([Change::ForgetJob(job_id(9)), Change::ForgetException(job_id(9), 1)]);
    changes.extend([Change::ForgetCheckpoint(job_id(9), 1), job(1)]);
    store.write(term, &changes).await.unwrap();
    let kept = store.load(term).await.unwrap();
    assert_eq!(kept.len(), 1);
    // A job that comes after its rows does not have them.
    store.write(term, &[Change::Job(Box::new(record().job))]).await.unwrap();
    assert_eq!(store.load(term).await.unwrap()[1], JobRecord::new(record().job));
    // What a forgotten job had does not come back with its id.
    store.write(term, &changes_of(&record())).await.unwrap();
    store.write(term, &[Change::ForgetJob(job_id(9))]).await.unwrap();
    store.write(term, &[Change::Job(Box::new(record().job))]).await.unwrap();
    assert_eq!(store.load(term).await.unwrap()[1], JobRecord::new(record().job));
}

async fn terms<P: Place>(mut place: P) {
    let mut last = 0;
    for round in 0..3 {
        let store = place.candidate().await;
        let term = elect(&store, "one:1").await;
        assert!(term > last, "{term} > {last}");
        last = term;
        if round == 1 {
            store.resign().await;
        }
        drop(store);
        place = place.reopen().await;
    }
}

/// Each candidate, whenever elected, writes rows in the name of its term, and gives up or forgets to.
async fn race<P: Place>(place: P) {
    const ROUNDS: usize = 4;
    let terms: Mutex<BTreeMap<Term, usize>> = Mutex::default();
    let setup = place.candidate().await;
    let term = elect(&setup, "zero:0").await;
    setup.write(term, &[job(1)]).await.unwrap();
    setup.resign().await;
    let candidates = [place.candidate().await, place.candidate().await, place.candidate().await];
    let life = |me: usize| {
        let (store, terms) = (&candidates[me], &terms);
        async move {
            let mut stale = None;
            for _ in 0..ROUNDS {
                let term = elect(store, &format!("c:{me}")).await;
                let before = terms.lock().unwrap().insert(term, me);
                assert_eq!(before, None, "a term is one candidate's");
                let number = term;
                store.write(term, &[status(1, number)]).await.unwrap();
                if let Some(stale) = stale {
                    let late = store.write(stale, &[Change::ForgetJob(job_id(1))]).await;
                    assert_eq!(late, Err(MetadataError::Fenced));
                }
                let kept = store.load(term).await.unwrap();
                let numbers: Vec<_> = kept[0].statuses.iter().map(|s| s.number).collect();
                assert_eq!(numbers.last(), Some(&term), "nobody wrote after it: {numbers:?}");
                store.resign().await;
                stale = Some(term);
            }
        }
    };
    tokio::join!(life(0), life(1), life(2));
    assert_eq!(terms.lock().unwrap().len(), 3 * ROUNDS);
    let last = elect(&setup, "zero:0").await;
    let kept = setup.load(last).await.unwrap();
    let numbers: Vec<_> = kept[0].statuses.iter().map(|s| s.number).collect();
    assert!(numbers.iter().eq(terms.lock().unwrap().keys()), "{numbers:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Change>),
    Reopen,
    /// Leadership moves to another candidate.
    Move,
}

fn random<P: Place, F: Future<Output = P>>(runtime: &Runtime, make: impl Fn() -> F) {
    let step = prop_oneof![
        12 => vec(change(), 0..10).prop_map(Step::Write),
        1 => Just(Step::Reopen),
        2 => Just(Step::Move),
    ];
    let config = Config { cases: P::LIVES, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&vec(step, 1..12), |steps| {
            runtime.block_on(against_memory(&make, steps));
            Ok(())
        })
        .unwrap();
}

async fn against_memory<P: Place, F: Future<Output = P>>(make: &impl Fn() -> F, steps: Vec<Step>) {
    let oracle = MemoryMetadata::default();
    let known = elect(&oracle, "o").await;
    let mut place = make().await;
    let mut store = place.candidate().await;
    let mut term = elect(&store, "a").await;
    for step in steps {
        match step {
            Step::Write(changes) => {
                oracle.write(known, &changes).await.unwrap();
                store.write(term, &changes).await.unwrap();
            }
            Step::Reopen => {
                drop(store);
                place = place.reopen().await;
                store = place.candidate().await;
                term = elect(&store, "b").await;
            }
            Step::Move => {
                store.resign().await;
                store = place.candidate().await;
                term = elect(&store, "c").await;
            }
        }
        assert_eq!(store.load(term).await.unwrap(), oracle.load(known).await.unwrap());
    }
}
