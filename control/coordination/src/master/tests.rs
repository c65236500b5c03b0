//! One job's life, step by step.

use super::*;
use crate::pool::Grant;
use crate::{JobSettings, RestartStrategy};
use tidemill_plan::{Edge, LogicalGraph, OperatorKind, OperatorSpec};
use tidemill_protocol::{AgentId, RunningAttempt, StoreSettings, WorkerSays as Says};
use tidemill_snapshot::{ObjectInfo, WorkerPart};

fn submission(parallelism: u32, interval_ms: u64) -> Submission {
    let mut graph = LogicalGraph::new("test").with_parallelism(parallelism);
    let source = graph.add_operator(OperatorSpec::new("in", OperatorKind::Source).stateful());
    let sink = graph.add_operator(OperatorSpec::new("out", OperatorKind::Sink).stateful());
    graph.connect(Edge::hash(source, sink));
    Submission {
        stores: vec!["dir".into()],
        protocol: 1,
        version: "0".into(),
        settings: JobSettings {
            checkpoint_interval_ms: Some(interval_ms),
            aligned_timeout_ms: Some(1_000),
            restart: RestartStrategy::default(),
            state: None,
        },
        plan: graph.plan().expect("a plan"),
    }
}

fn settings() -> MasterSettings {
    MasterSettings::new(StoreSettings::Dir { path: "/checkpoints".into() })
}

/// A master with its clock and what it asked for since the last look.
struct Bench {
    master: Master,
    now: Micros,
    out: Vec<Effect>,
}

impl Bench {
    fn new(parallelism: u32) -> Self {
        let master = Master::new(settings(), submission(parallelism, 1_000), 1, None);
        Bench { master, now: 1_000_000, out: Vec::new() }
    }

    fn on(&mut self, event: MasterEvent) -> Vec<Effect> {
        self.now += 1_000;
        self.master.on(self.now, event, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn later(&mut self, us: Micros) -> Vec<Effect> {
        self.now += us;
        self.on(MasterEvent::Tick)
    }

    fn says(&mut self, worker: u32, says: Says) -> Vec<Effect> {
        self.on(MasterEvent::Said { worker, says })
    }

    fn attach(&mut self, worker: u32) -> Vec<Effect> {
        let address = format!("127.0.0.1:{}", 9000 + worker);
        self.on(MasterEvent::WorkerAttached { worker, address, running: None })
    }

    fn ready(&mut self, worker: u32) -> Vec<Effect> {
        let attempt = self.master.attempt();
        self.says(worker, Says::Ready { attempt, states: Vec::new() })
    }

    /// Two workers of two slots each, running.
    fn running() -> Self {
        let mut bench = Bench::new(4);
        assert_eq!(acquired(&bench.on(MasterEvent::Tick)), [4]);
        let grants = [1, 2].map(|n| Grant { agent: AgentId::from_bytes([n; 16]), slots: 2 });
        let out = bench.on(MasterEvent::SlotsGranted(grants.to_vec()));
        assert_eq!(started(&out), [0, 1]);
        assert!(deployments(&bench.attach(0)).is_empty());
        let deployed = deployments(&bench.attach(1));
        assert_eq!(deployed, [(0, 0, 0, 2), (1, 0, 2, 2)], "worker, attempt, first slot, slots");
        bench.ready(1);
        assert_eq!(bench.master.status(), JobStatus::Deploying);
        bench.ready(0);
        assert_eq!(bench.master.status(), JobStatus::Running);
        bench
    }

    /// Takes the checkpoint that is due.
    fn checkpoint(&mut self) -> Epoch {
        let epoch = triggered(&self.later(1_000_000)).expect("due");
        let attempt = self.master.attempt();
        let subtasks: Vec<SubtaskId> = self.master.submission().plan.subtasks().collect();
        let mut out = Vec::new();
        for subtask in &subtasks {
            out = self.says(0, Says::Acked { attempt, epoch, subtask: *subtask });
        }
        assert!(sent(&out).iter().any(|m| matches!(m, ToWorker::Finish { .. })));
        for worker in self.master.workers().iter().map(|w| w.worker).collect::<Vec<_>>() {
            let part = Box::new(part(worker));
            out = self.says(worker, Says::Written { attempt, epoch, part });
        }
        let stored = out.iter().any(|e| matches!(e, Effect::StoreManifest { .. }));
        assert!(stored, "{out:?}");
        let out = self.on(MasterEvent::ManifestStored { epoch });
        assert!(sent(&out).iter().any(|m| matches!(m, ToWorker::Commit { .. })));
        for subtask in subtasks {
            self.says(0, Says::CommitAcked { attempt, epoch, subtask });
        }
        epoch
    }
}

fn part(worker: u32) -> WorkerPart {
    let name = format!("worker-{worker}.data");
    let object = ObjectInfo { name, bytes: 0, crc32: 0, chunks: 0 };
    WorkerPart { object, subtasks: Vec::new(), shared: Vec::new() }
}

fn acquired(out: &[Effect]) -> Vec<u32> {
    let slots = |e: &Effect| if let Effect::Acquire { slots } = e { Some(*slots) } else { None };
    out.iter().filter_map(slots).collect()
}

fn started(out: &[Effect]) -> Vec<u32> {
    let number = |e: &Effect| match e {
        Effect::StartWorker { worker, .. } => Some(*worker),
        _ => None,
    };
    out.iter().filter_map(number).collect()
}

fn stopped(out: &[Effect]) -> Vec<u32> {
    let number = |e: &Effect| match e {
        Effect::StopWorker { worker } => Some(*worker),
        _ => None,
    };
    out.iter().filter_map(number).collect()
}

fn sent(out: &[Effect]) -> Vec<&ToWorker> {
    let mut messages = Vec::new();
    for effect in out {
        if let Effect::Send { message, .. } = effect {
            messages.push(message);
        }
    }
    messages
}

fn deployments(out: &[Effect]) -> Vec<(u32, Attempt, u32, u32)> {
    let one = |e: &Effect| match e {
        Effect::Send { worker, message: ToWorker::Deploy(d) } => {
            Some((*worker, d.attempt, d.own.first, d.own.count))
        }
        _ => None,
    };
    out.iter().filter_map(one).collect()
}

fn triggered(out: &[Effect]) -> Option<Epoch> {
    sent(out).iter().find_map(|m| match m {
        ToWorker::Trigger { epoch, .. } => Some(*epoch),
        _ => None,
    })
}

fn restored(out: &[Effect]) -> Option<Epoch> {
    out.iter().find_map(|e| match e {
        Effect::AttemptStarted { restored, .. } => restored.as_ref().map(|r| r.epoch),
        _ => None,
    })
}

#[test]
fn a_lost_worker_is_replaced_and_the_others_are_kept() {
    let mut bench = Bench::running();
    let epoch = bench.checkpoint();
    let out = bench.on(MasterEvent::WorkerLost { worker: 1, reason: "killed".into() });
    assert_eq!(bench.master.status(), JobStatus::Restarting);
    assert_eq!(acquired(&out), [2], "only what was lost, at once");
    assert!(sent(&out).contains(&&ToWorker::Stop { attempt: 0 }));
    let agent = AgentId::from_bytes([2; 16]);
    assert_eq!(started(&bench.on(MasterEvent::SlotsGranted(vec![Grant { agent, slots: 2 }]))), [2]);
    bench.says(0, Says::Stopped { attempt: 0 });
    assert!(deployments(&bench.attach(2)).is_empty(), "the pause is not over");
    let out = bench.later(1_000_000);
    assert_eq!(deployments(&out), [(0, 1, 0, 2), (2, 1, 2, 2)]);
    assert_eq!(restored(&out), Some(epoch));
    bench.ready(0);
    bench.ready(2);
    assert!(bench.checkpoint() > epoch);
}

#[test]
fn what_an_earlier_attempt_says_changes_nothing() {
    let mut bench = Bench::running();
    bench.on(MasterEvent::WorkerLost { worker: 1, reason: "killed".into() });
    let failure =
        TaskFailure { message: "late".into(), task: None, fatal: true, damaged_epoch: None };
    let out = bench.says(0, Says::Failed { attempt: 0, failure });
    assert!(out.iter().all(|e| !matches!(e, Effect::Done { .. } | Effect::AttemptFailed { .. })));
    assert_eq!(bench.master.attempt(), 1);
}

#[test]
fn a_fatal_failure_ends_the_job_and_its_workers() {
    let mut bench = Bench::running();
    let failure = TaskFailure {
        message: "state of another type".into(),
        task: Some("out".into()),
        fatal: true,
        damaged_epoch: None,
    };
    let out = bench.says(1, Says::Failed { attempt: 0, failure });
    assert_eq!(stopped(&out), [0, 1]);
    assert!(matches!(out.last(), Some(Effect::Done { outcome: Err(e) }) if e.contains("another")));
    assert!(bench.on(MasterEvent::Tick).is_empty());
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let mut bench = Bench::running();
    let first = bench.checkpoint();
    let second = bench.checkpoint();
    bench.on(MasterEvent::WorkerLost { worker: 1, reason: "killed".into() });
    let agent = AgentId::from_bytes([2; 16]);
    bench.on(MasterEvent::SlotsGranted(vec![Grant { agent, slots: 2 }]));
    bench.says(0, Says::Stopped { attempt: 0 });
    bench.attach(2);
    assert_eq!(restored(&bench.later(1_000_000)), Some(second));
    let failure = TaskFailure {
        message: "torn".into(),
        task: None,
        fatal: true,
        damaged_epoch: Some(second),
    };
    let out = bench.says(2, Says::Failed { attempt: 1, failure });
    assert!(out.iter().any(|e| matches!(e, Effect::Damaged { epoch } if *epoch == second)));
    bench.says(0, Says::Stopped { attempt: 1 });
    bench.says(2, Says::Stopped { attempt: 1 });
    assert_eq!(restored(&bench.later(2_000_000)), Some(first));
}

#[test]
fn damage_is_believed_of_an_attempt_that_another_worker_ended() {
    let mut bench = Bench::running();
    let first = bench.checkpoint();
    let second = bench.checkpoint();
    bench.says(1, Says::Failed { attempt: 0, failure: failure("a panic", None) });
    bench.says(0, Says::Stopped { attempt: 0 });
    bench.says(1, Says::Stopped { attempt: 0 });
    assert_eq!(restored(&bench.later(1_000_000)), Some(second));
    bench.says(0, Says::Failed { attempt: 1, failure: failure("the peer is gone", None) });
    let late = Says::Failed { attempt: 1, failure: failure("torn", Some(second)) };
    let out = bench.says(1, late);
    assert!(out.iter().any(|e| matches!(e, Effect::Damaged { epoch } if *epoch == second)));
    bench.says(0, Says::Stopped { attempt: 1 });
    bench.says(1, Says::Stopped { attempt: 1 });
    assert_eq!(restored(&bench.later(2_000_000)), Some(first));
}

fn failure(message: &str, damaged_epoch: Option<Epoch>) -> TaskFailure {
    TaskFailure { message: message.into(), task: None, fatal: false, damaged_epoch }
}

#[test]
fn rescaling_starts_other_workers_from_the_newest_checkpoint() {
    let mut bench = Bench::running();
    bench.on(MasterEvent::Rescale(Box::new(submission(2, 1_000))));
    assert_eq!(bench.master.status(), JobStatus::Running, "there is nothing to start from yet");
    let attempt = bench.master.attempt();
    let subtasks: Vec<SubtaskId> = bench.master.submission().plan.subtasks().collect();
    for subtask in subtasks {
        bench.says(0, Says::Acked { attempt, epoch: 1, subtask });
    }
    for worker in [0, 1] {
        let part = Box::new(part(worker));
        bench.says(worker, Says::Written { attempt, epoch: 1, part });
    }
    let out = bench.on(MasterEvent::ManifestStored { epoch: 1 });
    assert_eq!(stopped(&out), [0, 1]);
    assert_eq!(acquired(&out), [2]);
    let agent = AgentId::from_bytes([1; 16]);
    bench.on(MasterEvent::SlotsGranted(vec![Grant { agent, slots: 2 }]));
    let out = bench.attach(2);
    assert_eq!((deployments(&out), restored(&out)), (vec![(2, 1, 0, 2)], Some(1)));
}

fn left_behind(workers: Vec<Assigned>, completed: Vec<Epoch>) -> LeftBehind {
    LeftBehind { attempt: 5, workers, completed, first_epoch: 8, initial: None }
}

#[test]
fn a_new_job_manager_adopts_what_runs() {
    let known = Bench::running().master.workers();
    let left = left_behind(known, vec![6, 7]);
    let mut master = Master::adopt(settings(), submission(4, 1_000), left, 60_000_000);
    let mut out = Vec::new();
    for worker in [0, 1] {
        let running = Some(RunningAttempt {
            attempt: 5,
            ready: true,
            states: Vec::new(),
            finished: Vec::new(),
            last_epoch: 9,
            failure: None,
        });
        let address = "127.0.0.1:1".into();
        master.on(1_000, MasterEvent::WorkerAttached { worker, address, running }, &mut out);
    }
    assert_eq!(master.status(), JobStatus::Running);
    let messages = sent(&out);
    for epoch in [8, 9] {
        assert!(messages.contains(&&ToWorker::Abort { attempt: 5, epoch }), "{messages:?}");
    }
    assert!(messages.contains(&&ToWorker::Commit { attempt: 5, epoch: 7 }));
    out.clear();
    master.on(2_000_000, MasterEvent::Tick, &mut out);
    assert!(triggered(&out) > Some(9), "no epoch twice");
}

#[test]
fn what_does_not_come_back_is_restarted() {
    let known = Bench::running().master.workers();
    let left = left_behind(known, vec![7]);
    let mut master = Master::adopt(settings(), submission(4, 1_000), left, 5_000);
    let mut out = Vec::new();
    let address = "127.0.0.1:1".into();
    master.on(1_000, MasterEvent::WorkerAttached { worker: 0, address, running: None }, &mut out);
    assert_eq!(master.attempt(), 6);
    out.clear();
    master.on(6_000, MasterEvent::Tick, &mut out);
    assert_eq!(stopped(&out), [1], "it did not attach");
    assert_eq!(acquired(&out), [2]);
}

#[test]
fn every_savepoint_is_answered() {
    let mut bench = Bench::new(4);
    assert!(
        bench
            .on(MasterEvent::Savepoint { id: 7 })
            .iter()
            .all(|e| !matches!(e, Effect::SavepointFailed { .. }))
    );
    let out = bench.on(MasterEvent::Cancel);
    assert!(out.iter().any(|e| matches!(e, Effect::SavepointFailed { id: 7, .. })));
    let out = bench.on(MasterEvent::Savepoint { id: 8 });
    assert!(out.iter().any(|e| matches!(e, Effect::SavepointFailed { id: 8, .. })));
}

/// Acknowledges and writes the epoch that is due, up to its manifest.
fn store(bench: &mut Bench) -> Epoch {
    let epoch = triggered(&bench.later(1_000_000)).expect("due");
    let attempt = bench.master.attempt();
    let subtasks: Vec<SubtaskId> = bench.master.submission().plan.subtasks().collect();
    for subtask in subtasks {
        bench.says(0, Says::Acked { attempt, epoch, subtask });
    }
    for worker in [0, 1] {
        bench.says(worker, Says::Written { attempt, epoch, part: Box::new(part(worker)) });
    }
    epoch
}

fn running(attempt: Attempt, finished: Vec<SubtaskId>) -> Option<RunningAttempt> {
    let (states, failure) = (Vec::new(), None);
    Some(RunningAttempt { attempt, ready: true, states, finished, last_epoch: 1, failure })
}

#[test]
fn a_worker_that_comes_back_while_a_manifest_is_stored_disturbs_nothing() {
    let mut bench = Bench::running();
    let epoch = store(&mut bench);
    let (address, running) = ("127.0.0.1:9001".to_owned(), running(0, Vec::new()));
    let out = bench.on(MasterEvent::WorkerAttached { worker: 1, address, running });
    assert_eq!(bench.master.status(), JobStatus::Running, "{out:?}");
    let out = bench.on(MasterEvent::ManifestStored { epoch });
    let commits = sent(&out).iter().filter(|m| matches!(m, ToWorker::Commit { .. })).count();
    assert_eq!(commits, 2, "{out:?}");
}

#[test]
fn subtasks_that_finished_in_an_attempt_that_their_news_ended_run_in_the_next() {
    let mut bench = Bench::running();
    let subtasks: Vec<SubtaskId> = bench.master.submission().plan.subtasks().collect();
    // It comes back with an attempt that failed: what had finished in it, had finished in it alone.
    let failure =
        TaskFailure { message: "torn".into(), task: None, fatal: false, damaged_epoch: None };
    let mut back = running(0, subtasks).expect("it runs");
    back.failure = Some(failure);
    let address = "127.0.0.1:9001".to_owned();
    bench.on(MasterEvent::WorkerAttached { worker: 1, address, running: Some(back) });
    assert_eq!(bench.master.attempt(), 1);
    bench.says(0, Says::Stopped { attempt: 0 });
    bench.says(1, Says::Stopped { attempt: 0 });
    assert_eq!(deployments(&bench.later(1_000_000)).len(), 2);
    bench.ready(0);
    let out = bench.ready(1);
    assert_eq!(triggered(&out), None, "the next attempt is not at its end");
}

#[test]
fn a_job_that_is_cancelled_while_it_commits_is_over_when_its_attempt_fails() {
    let mut bench = Bench::running();
    let epoch = store(&mut bench);
    bench.on(MasterEvent::ManifestStored { epoch });
    bench.on(MasterEvent::Cancel);
    assert_eq!(bench.master.status(), JobStatus::Cancelling, "its sinks commit");
    let out = bench.on(MasterEvent::WorkerLost { worker: 1, reason: "killed".into() });
    assert!(
        matches!(out.last(), Some(Effect::Done { outcome: Ok(Outcome::Cancelled) })),
        "{out:?}"
    );
    assert_eq!(bench.master.status(), JobStatus::Cancelled);
    assert!(bench.later(60_000_000).is_empty(), "M6");
}

#[test]
fn epochs_go_on_above_the_checkpoint_that_a_job_starts_from() {
    let store = StoreSettings::Dir { path: "/other".into() };
    let mut bench = started_from(RestoreFrom { store, epoch: 41 });
    bench.ready(0);
    bench.ready(1);
    assert_eq!(triggered(&bench.later(1_000_000)), Some(42));
}

#[test]
fn a_job_that_says_where_its_state_lives_goes_before_the_cluster() {
    use tidemill_protocol::StateSettings::{self, Heap, Rocksdb};
    let deployed = |cluster: StateSettings, job: Option<StateSettings>| {
        let mut submission = submission(1, 1_000);
        submission.settings.state = job;
        let settings = MasterSettings { state: cluster, ..settings() };
        let master = Master::new(settings, submission, 1, None);
        let mut bench = Bench { master, now: 1_000_000, out: Vec::new() };
        bench.on(MasterEvent::Tick);
        let grant = Grant { agent: AgentId::from_bytes([1; 16]), slots: 1 };
        bench.on(MasterEvent::SlotsGranted(vec![grant]));
        let out = bench.attach(0);
        let state = sent(&out).into_iter().find_map(|m| match m {
            ToWorker::Deploy(deployment) => Some(deployment.state),
            _ => None,
        });
        state.expect("deployed")
    };
    let rocks = Rocksdb { memory_mib: 64 };
    assert_eq!(deployed(rocks, None), rocks);
    assert_eq!(deployed(rocks, Some(Heap)), Heap);
    assert_eq!(deployed(Heap, Some(rocks)), rocks);
    assert_eq!(deployed(Heap, None), Heap);
}

/// A bench whose two workers are deployed, from there.
fn started_from(initial: RestoreFrom) -> Bench {
    let epoch = initial.epoch;
    let master = Master::new(settings(), submission(4, 1_000), 1, Some(initial));
    let mut bench = Bench { master, now: 1_000_000, out: Vec::new() };
    bench.on(MasterEvent::Tick);
    let grants = [1, 2].map(|n| Grant { agent: AgentId::from_bytes([n; 16]), slots: 2 });
    bench.on(MasterEvent::SlotsGranted(grants.to_vec()));
    bench.attach(0);
    assert_eq!(restored(&bench.attach(1)), Some(epoch));
    bench
}

fn failed_for_good(out: &[Effect]) -> Option<&str> {
    out.iter().find_map(|e| match e {
        Effect::Done { outcome: Err(cause) } => Some(cause.as_str()),
        _ => None,
    })
}

#[test]
fn a_job_whose_checkpoints_are_all_damaged_is_over_and_does_not_begin_anew() {
    let mut bench = Bench::running();
    let (first, second) = (bench.checkpoint(), bench.checkpoint());
    bench.says(1, Says::Failed { attempt: 0, failure: failure("a panic", None) });
    for (attempt, epoch) in [(0, second), (1, first)] {
        bench.says(0, Says::Stopped { attempt });
        bench.says(1, Says::Stopped { attempt });
        assert_eq!(restored(&bench.later(2_000_000)), Some(epoch));
        let torn = Says::Failed { attempt: attempt + 1, failure: failure("torn", Some(epoch)) };
        let out = bench.says(0, torn.clone());
        assert!(out.iter().any(|e| matches!(e, Effect::Damaged { epoch: e } if *e == epoch)));
        if epoch == first {
            let cause = failed_for_good(&out).expect("M5");
            assert!(cause.contains("torn") && cause.contains("from a savepoint"), "{cause}");
        } else {
            assert_eq!(failed_for_good(&out), None, "an older one is there");
            assert_eq!(failed_for_good(&bench.says(1, torn)), None, "its peer finds the same");
        }
    }
    assert_eq!(bench.master.status(), JobStatus::Failed);
}

#[test]
fn a_damaged_savepoint_that_the_user_gave_ends_the_job() {
    let store = StoreSettings::Dir { path: "/other".into() };
    let mut bench = started_from(RestoreFrom { store, epoch: 41 });
    let out = bench.says(1, Says::Failed { attempt: 0, failure: failure("torn", Some(41)) });
    assert!(failed_for_good(&out).is_some_and(|cause| cause.contains("torn")), "{out:?}");
}

#[test]
fn what_the_user_gave_is_used_where_all_later_checkpoints_are_damaged() {
    let store = StoreSettings::Dir { path: "/other".into() };
    let mut bench = started_from(RestoreFrom { store, epoch: 41 });
    bench.ready(0);
    bench.ready(1);
    let epoch = bench.checkpoint();
    bench.says(1, Says::Failed { attempt: 0, failure: failure("a panic", None) });
    for (attempt, from) in [(0, epoch), (1, 41)] {
        bench.says(0, Says::Stopped { attempt });
        bench.says(1, Says::Stopped { attempt });
        assert_eq!(restored(&bench.later(2_000_000)), Some(from));
        // Its peer felt the end of the attempt first; the damage is told late.
        let attempt = attempt + 1;
        bench.says(0, Says::Failed { attempt, failure: failure("the peer is gone", None) });
        let late = Says::Failed { attempt, failure: failure("torn", Some(from)) };
        let out = bench.says(1, late);
        assert_eq!(failed_for_good(&out).is_some(), from == 41, "{out:?}");
    }
}

#[test]
fn workers_that_stopped_while_nothing_was_told_are_kept() {
    for told in [false, true] {
        let mut bench = Bench::running();
        let epoch = bench.checkpoint();
        bench.says(1, Says::Failed { attempt: 0, failure: failure("a panic", None) });
        bench.now += 60_000_000;
        if told {
            bench.master.slept(60_000_000);
        }
        // What was held back is told first; the workers' answers lie behind it.
        let lost = bench.on(MasterEvent::Tick);
        let lost = lost.iter().filter(|e| matches!(e, Effect::StopWorker { .. })).count();
        assert_eq!(lost, if told { 0 } else { 2 }, "told: {told}");
        bench.says(0, Says::Stopped { attempt: 0 });
        let out = bench.says(1, Says::Stopped { attempt: 0 });
        assert_eq!(restored(&out), told.then_some(epoch));
    }
}
