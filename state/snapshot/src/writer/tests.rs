//! The writer: the core's state machine, and the thread around it.

use std::sync::Mutex;

use super::*;
use crate::format::{ChunkKey, SectionKind};
use crate::manifest::SubtaskId;
use crate::testing;
use crate::{Faults, FaultyStore, Manifest, MemoryStore, Policy, restore_latest};

fn key(operator: u64, subtask: u32) -> ChunkKey {
    ChunkKey { operator, subtask, kind: SectionKind::KeyedState, state: 0 }
}

fn id(operator: u64, subtask: u32) -> SubtaskId {
    SubtaskId { operator, subtask }
}

fn chunk(epoch: u64, operator: u64, subtask: u32) -> Job {
    Job::Chunk { epoch, key: key(operator, subtask), payload: vec![1, 2, 3], records: 1 }
}

fn done(epoch: u64, operator: u64, subtask: u32) -> Job {
    Job::SubtaskDone { epoch, subtask: id(operator, subtask) }
}

fn run_all(core: &mut WriterCore, jobs: impl IntoIterator<Item = Job>) -> Vec<Event> {
    let mut out = Vec::new();
    jobs.into_iter().for_each(|job| core.on(job, &mut out));
    out
}

fn core_on_memory() -> WriterCore {
    WriterCore::new(Arc::new(MemoryStore::new()), 0)
}

#[test]
fn begin_may_come_late_or_never() {
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
        let jobs = [Job::Begin { epoch: 3, expect: vec![id(1, 0)] }, chunk(3, 1, 0), done(3, 1, 0)];
        let events = run_all(&mut core_on_memory(), order.map(|i| jobs[i].clone()));
        let [Event::Finished { epoch: 3, part }] = events.as_slice() else {
            panic!("{order:?}: {events:?}")
        };
        assert_eq!(part.subtasks[0].sections[0].bytes, 3);
    }
    let jobs = [chunk(3, 1, 0), done(3, 1, 0), Job::Finish { epoch: 3 }];
    let events = run_all(&mut core_on_memory(), jobs);
    assert!(matches!(events[..], [Event::Finished { .. }]), "{events:?}");
}

#[test]
fn unfinished_subtasks_fail_the_epoch_by_name() {
    let expected = Job::Begin { epoch: 3, expect: vec![id(1, 0), id(1, 1)] };
    for jobs in [
        vec![expected, done(3, 1, 1), Job::Finish { epoch: 3 }],
        vec![chunk(3, 1, 0), Job::Finish { epoch: 3 }],
    ] {
        let events = run_all(&mut core_on_memory(), jobs);
        let [Event::Failed { epoch: 3, error }] = events.as_slice() else { panic!("{events:?}") };
        let text = error.to_string();
        assert!(text.contains("operator 0000000000000001 subtask 0 is not done"), "{text}");
    }
    let events = run_all(&mut core_on_memory(), [done(3, 1, 0), chunk(3, 1, 0)]);
    let [Event::Failed { error, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert!(error.to_string().contains("after saying that it was done"), "{error}");
    let events = run_all(&mut core_on_memory(), [Job::Finish { epoch: 3 }]);
    assert!(matches!(events[..], [Event::Failed { epoch: 3, .. }]), "{events:?}");
}

/// C1, C3: after an abort, late jobs of the epoch are dropped and nothing becomes visible.
#[test]
fn abort_is_final() {
    let store = MemoryStore::new();
    let mut core = WriterCore::new(Arc::new(store.clone()), 0);
    let jobs = [chunk(3, 1, 0), Job::Abort { epoch: 3 }, chunk(3, 1, 0), done(3, 1, 0)];
    let mut events = run_all(&mut core, jobs);
    events.extend(run_all(&mut core, [Job::Finish { epoch: 3 }, Job::Abort { epoch: 3 }]));
    assert_eq!(events, [Event::Aborted { epoch: 3 }]);
    assert!(store.open_object(3, "worker-0.data").is_err());
    // An abort that overtakes everything settles the epoch too.
    let events = run_all(&mut core, [Job::Abort { epoch: 4 }, chunk(4, 1, 0)]);
    assert_eq!(events, []);
    assert_eq!(core.open_epochs().count(), 0);
}

#[test]
fn settled_epochs_are_remembered_in_bounded_memory() {
    let mut core = core_on_memory();
    run_all(&mut core, (0..1000).map(|epoch| Job::Abort { epoch }));
    assert_eq!(run_all(&mut core, [chunk(1, 1, 0), chunk(999, 1, 0)]), []);
    assert_eq!(core.open_epochs().count(), 0);
    run_all(&mut core, [chunk(1000, 1, 0)]);
    assert_eq!(core.open_epochs().collect::<Vec<_>>(), [1000]);
}

/// C2, for a failure at every operation: one Failed, and the next epoch works.
#[test]
fn a_failing_disk_fails_that_checkpoint_only() {
    let epoch = |epoch| {
        let begin = Job::Begin { epoch, expect: vec![id(1, 0), id(1, 1)] };
        [begin, chunk(epoch, 1, 0), chunk(epoch, 1, 1), done(epoch, 1, 0), done(epoch, 1, 1)]
    };
    let count = Arc::new(FaultyStore::new(MemoryStore::new(), Faults::None));
    run_all(&mut WriterCore::new(count.clone(), 0), epoch(1));
    assert!(count.operations() >= 7);
    for k in 0..count.operations() {
        let store = Arc::new(FaultyStore::new(MemoryStore::new(), Faults::Once(k)));
        let mut core = WriterCore::new(store.clone(), 0);
        let events = run_all(&mut core, epoch(1));
        assert!(matches!(events[..], [Event::Failed { epoch: 1, .. }]), "{k}: {events:?}");
        assert!(store.open_object(1, "worker-0.data").is_err(), "{k}: visible");
        let events = run_all(&mut core, epoch(2));
        assert!(matches!(events[..], [Event::Finished { epoch: 2, .. }]), "{k}: {events:?}");
    }
}

#[test]
fn a_payload_beyond_the_limit_is_refused_by_name() {
    let payload = vec![0; crate::PAYLOAD_BYTES_MAX + 1];
    let job = Job::Chunk { epoch: 1, key: key(1, 0), payload, records: 1 };
    let events = run_all(&mut core_on_memory(), [job]);
    let [Event::Failed { error, .. }] = events.as_slice() else { panic!() };
    assert!(error.to_string().contains("268435457 bytes"), "{error}");
}

#[test]
fn shared_files_come_from_disk_or_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000012.sst");
    std::fs::write(&path, b"sorted").unwrap();
    let mut core = core_on_memory();
    let share = |path: &std::path::Path| Job::Share {
        epoch: 1,
        source: ShareSource::Path { name: "x.sst".to_owned(), path: path.into() },
    };
    let events = run_all(&mut core, [share(&path), share(&path), Job::Finish { epoch: 1 }]);
    let [Event::Finished { part, .. }] = events.as_slice() else { panic!("{events:?}") };
    let file = part.shared[0].clone();
    assert_eq!((part.shared.len(), file.bytes), (1, 6));
    let stored = Job::Share { epoch: 2, source: ShareSource::Stored(file.clone()) };
    let events = run_all(&mut core, [stored, Job::Finish { epoch: 2 }]);
    let [Event::Finished { part, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(part.shared, [file]);
    let mut core = core_on_memory();
    let events = run_all(&mut core, [share(&dir.path().join("gone"))]);
    let [Event::Failed { error, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert!(error.to_string().contains("gone"), "{error}");
}

/// The whole life on the thread: parts, commits, retention.
#[test]
fn thread_end_to_end() {
    let store: Arc<dyn SnapshotStore> = Arc::new(MemoryStore::new());
    let (events, inbox) = crossbeam_channel::unbounded();
    let writer =
        SnapshotWriter::start(WriterOptions::for_worker(0), Arc::clone(&store), events).unwrap();
    let sender = writer.sender();
    for epoch in 1..=4 {
        let other = testing::write_part(&store, epoch, 1, Vec::new()).unwrap();
        for (key, payloads) in
            testing::content(epoch).into_iter().filter(|(k, _)| k.subtask % 2 == 0)
        {
            for payload in payloads {
                sender.send(Job::Chunk { epoch, key, payload, records: 1 }).unwrap();
            }
        }
        for operator in testing::facts(epoch, false).operators {
            for subtask in (0..operator.parallelism).filter(|s| s % 2 == 0) {
                sender.send(done(epoch, operator.id, subtask)).unwrap();
            }
        }
        sender.send(Job::Finish { epoch }).unwrap();
        let Ok(Event::Finished { part, .. }) = inbox.recv() else { panic!() };
        let manifest = Manifest::assemble(testing::facts(epoch, false), [part, other]);
        sender.send(Job::Commit { manifest: Box::new(manifest) }).unwrap();
        assert_eq!(inbox.recv(), Ok(Event::Committed { epoch }));
        assert_eq!(testing::restore_and_check(&*store).unwrap(), Some(epoch));
        let (policy, none) = (Policy::default(), Default::default());
        let retain = Job::Retain { policy, in_flight: none, suspect: Default::default() };
        sender.send(retain).unwrap();
        let Ok(Event::Retained(retained)) = inbox.recv() else { panic!() };
        let want: Vec<u64> = epoch.checked_sub(2).filter(|e| *e > 0).into_iter().collect();
        assert_eq!(retained.checkpoints, want);
    }
    assert_eq!(store.list().unwrap().len(), 2);
    sender.send(chunk(9, 1, 0)).unwrap();
    writer.shutdown();
    assert!(store.open_object(9, "worker-0.data").is_err());
    assert!(matches!(sender.try_send(chunk(9, 1, 0)), Err(TrySendError::Closed(_))));
    assert!(sender.send(chunk(9, 1, 0)).is_err());
    assert_eq!(restore_latest(&*store).unwrap().unwrap().manifest.epoch, 4);
}

/// A store whose writes wait for a gate: a disk that hangs.
struct Gated(MemoryStore, Mutex<Receiver<()>>);

impl SnapshotStore for Gated {
    fn locate(&self, epoch: Option<u64>) -> String {
        self.0.locate(epoch)
    }
    fn begin(&self, epoch: u64, name: &str) -> Result<Box<dyn crate::ObjectWriter>> {
        let _ = self.1.lock().unwrap().recv();
        self.0.begin(epoch, name)
    }
    fn write_manifest(&self, epoch: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_manifest(epoch, bytes)
    }
    fn read_manifest(&self, epoch: u64) -> Result<Option<Vec<u8>>> {
        self.0.read_manifest(epoch)
    }
    fn list(&self) -> Result<Vec<crate::CheckpointId>> {
        self.0.list()
    }
    fn open_object(&self, epoch: u64, name: &str) -> Result<Box<dyn crate::ObjectReader>> {
        self.0.open_object(epoch, name)
    }
    fn put_shared(&self, name: &str, r: &mut dyn std::io::Read) -> Result<crate::SharedFile> {
        self.0.put_shared(name, r)
    }
    fn get_shared(&self, name: &str) -> Result<Box<dyn crate::ObjectReader>> {
        self.0.get_shared(name)
    }
    fn list_shared(&self) -> Result<Vec<String>> {
        self.0.list_shared()
    }
    fn delete(&self, epoch: u64) -> Result<()> {
        self.0.delete(epoch)
    }
    fn delete_shared(&self, name: &str) -> Result<()> {
        self.0.delete_shared(name)
    }
}

/// W1: with the disk hanging, a full queue hands the job back at once, whole.
#[test]
fn a_full_queue_hands_the_job_back() {
    let (gate, key) = crossbeam_channel::bounded(0);
    let store = Arc::new(Gated(MemoryStore::new(), Mutex::new(key)));
    let (events, inbox) = crossbeam_channel::unbounded();
    let options = WriterOptions { worker: 0, queue_jobs: 2 };
    let writer = SnapshotWriter::start(options, store, events).unwrap();
    let sender = writer.sender();
    let mut taken = 0;
    let back = loop {
        match sender.try_send(chunk(1, 1, taken)) {
            Ok(()) => taken += 1,
            Err(TrySendError::Full(job)) => break job,
            Err(TrySendError::Closed(_)) => panic!("closed"),
        }
    };
    assert_eq!(*back, chunk(1, 1, taken));
    assert!((2..=3).contains(&taken), "{taken}");
    gate.send(()).unwrap();
    sender.send(*back).unwrap();
    (0..=taken).for_each(|subtask| sender.send(done(1, 1, subtask)).unwrap());
    sender.send(Job::Finish { epoch: 1 }).unwrap();
    let Ok(Event::Finished { part, .. }) = inbox.recv() else { panic!() };
    assert_eq!(part.object.chunks, u64::from(taken) + 1);
}

/// C5: a manifest for which there is no place leaves no data object behind, nor does an epoch that
/// is given up after it was finished; where removing fails too, the next epoch's begin does it.
#[test]
fn what_a_failed_commit_leaves_is_removed() {
    let jobs = |epoch| [chunk(epoch, 1, 0), done(epoch, 1, 0), Job::Finish { epoch }];
    let manifest = |events: &[Event]| {
        let Some(Event::Finished { epoch, part }) = events.last() else { panic!("{events:?}") };
        let mut facts = testing::facts(*epoch, false);
        facts.operators.truncate(1);
        (facts.operators[0].id, facts.operators[0].parallelism) = (1, 1);
        Box::new(Manifest::assemble(facts, [part.clone()]))
    };
    let there = |store: &MemoryStore, epoch| store.open_object(epoch, "worker-0.data").is_ok();
    // How many operations an epoch takes, and where its commit is among them.
    let probe = FaultyStore::new(MemoryStore::new(), Faults::None);
    let probe = Arc::new(probe);
    run_all(&mut WriterCore::new(probe.clone(), 0), jobs(3));
    let commit = probe.operations();
    for (failures, gone_at_once) in [(1, true), (2, false)] {
        let inner = MemoryStore::new();
        let store =
            Arc::new(FaultyStore::new(inner.clone(), Faults::Between(commit, commit + failures)));
        let mut core = WriterCore::new(store, 0);
        let finished = run_all(&mut core, jobs(3));
        assert!(there(&inner, 3));
        let events = run_all(&mut core, [Job::Commit { manifest: manifest(&finished) }]);
        assert!(matches!(events[..], [Event::Failed { epoch: 3, .. }]), "{events:?}");
        assert_eq!(there(&inner, 3), !gone_at_once);
        let finished = run_all(&mut core, jobs(4));
        assert!(!there(&inner, 3) && there(&inner, 4));
        let events = run_all(&mut core, [Job::Commit { manifest: manifest(&finished) }]);
        assert_eq!(events, [Event::Committed { epoch: 4 }]);
        // Too late to give it up; a finished one goes.
        run_all(&mut core, jobs(5).into_iter().chain([4, 5].map(|epoch| Job::Abort { epoch })));
        assert!(there(&inner, 4) && !there(&inner, 5));
    }
}
