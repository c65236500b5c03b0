//! Rows by chance, of few jobs with few numbers, so that they meet. Strategies are boxed: what they hold of
//! a whole row is too much for a test's stack.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidemill_coordination::{
    Assigned, Backoff, JobSettings, JobStatus, RestartStrategy, Submission,
};
use tidemill_jobmanager::metadata::{
    Change, CheckpointRow, CheckpointState, ExceptionRow, JobRow, SavepointRow, SavepointState,
    StatusRow,
};
use tidemill_plan::{Edge, LogicalGraph, OperatorKind, OperatorSpec};
use tidemill_protocol::{AgentId, ArtifactHash, JobId, RestoreFrom, StoreSettings};

pub(crate) fn job_id(n: u8) -> JobId {
    JobId::from_bytes([n; 16])
}

/// What a program would print of itself.
pub(crate) fn submission(name: &str, parallelism: u32) -> Submission {
    let mut graph = LogicalGraph::new(name).with_parallelism(parallelism);
    let source = graph.add_operator(OperatorSpec::new("in", OperatorKind::Source).stateful());
    let sink = graph.add_operator(OperatorSpec::new("out \"'\\", OperatorKind::Sink).stateful());
    graph.connect(Edge::hash(source, sink));
    Submission {
        stores: vec!["dir".into(), "s3".into()],
        protocol: tidemill_protocol::VERSION,
        version: "0.1.0".into(),
        settings: JobSettings {
            checkpoint_interval_ms: Some(u64::from(parallelism)),
            aligned_timeout_ms: None,
            restart: RestartStrategy::ExponentialBackoff(Backoff::default()),
            state: Some(tidemill_protocol::StateSettings::Rocksdb { memory_mib: 64 }),
        },
        plan: graph.plan().unwrap(),
    }
}

/// A job's head with nothing special.
pub(crate) fn job_row(n: u8) -> JobRow {
    JobRow {
        id: job_id(n),
        name: format!("job {n}"),
        submitted_ms: 1_700_000_000_123,
        ended_ms: None,
        artifact: ArtifactHash::from_bytes([n; 32]),
        args: vec!["--input".into(), "a b".into()],
        submission: submission("a job", 2),
        store: StoreSettings::Dir { path: "/checkpoints".into() },
        allow_dropped_state: false,
        initial: None,
        status: JobStatus::Scheduling,
        cause: None,
        attempt: 0,
        workers: Vec::new(),
    }
}

/// Texts with what quoting may trip over. A NUL is in none: what is shown to people has none.
fn text() -> BoxedStrategy<String> {
    prop_oneof![
        Just(String::new()),
        "[a-z ]{1,12}",
        "[\\PC'\"\\\\%$;\n\t{}]{0,20}",
        Just("'; DROP TABLE jobs; --".to_owned()),
        Just("ÿ — \u{1F30A} \r\n".to_owned()),
    ]
    .boxed()
}

/// 1970 to 2100.
fn time() -> impl Strategy<Value = i64> {
    0i64..4_102_444_800_000
}

/// Up to what a signed number of 64 bits holds.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..10, 0u64..=i64::MAX as u64, Just(i64::MAX as u64)]
}

fn store() -> BoxedStrategy<StoreSettings> {
    prop_oneof![
        text().prop_map(|path| StoreSettings::Dir { path }),
        (text(), text(), option::of(text()), option::of(text()), any::<bool>()).prop_map(
            |(bucket, prefix, endpoint, region, path_style)| StoreSettings::S3 {
                bucket,
                prefix,
                endpoint,
                region,
                path_style
            }
        ),
    ]
    .boxed()
}

fn status() -> impl Strategy<Value = JobStatus> {
    use JobStatus::*;
    proptest::sample::select(vec![
        Scheduling, Deploying, Running, Restarting, Rescaling, Cancelling, Finished, Stopped,
        Cancelled, Failed,
    ])
}

fn assigned() -> impl Strategy<Value = Assigned> {
    (any::<u32>(), any::<[u8; 16]>(), 1u32..100).prop_map(|(worker, agent, slots)| Assigned {
        worker,
        agent: AgentId::from_bytes(agent),
        slots,
    })
}

fn job() -> impl Strategy<Value = u8> {
    0u8..4
}

fn head() -> BoxedStrategy<JobRow> {
    let first = (job(), text(), time(), option::of(time()), any::<[u8; 32]>(), vec(text(), 0..3));
    let second = (text(), 1u32..5, store(), any::<bool>(), option::of((store(), count())));
    let third = (status(), option::of(text()), any::<u32>(), vec(assigned(), 0..3));
    (first, second, third)
        .prop_map(|(first, second, third)| {
            let (id, name, submitted_ms, ended_ms, artifact, args) = first;
            let (plan, parallelism, store, allow_dropped_state, initial) = second;
            let (status, cause, attempt, workers) = third;
            JobRow {
                id: job_id(id),
                name,
                submitted_ms,
                ended_ms,
                artifact: ArtifactHash::from_bytes(artifact),
                args,
                submission: submission(&plan, parallelism),
                store,
                allow_dropped_state,
                initial: initial.map(|(store, epoch)| RestoreFrom { store, epoch }),
                status,
                cause,
                attempt,
                workers,
            }
        })
        .boxed()
}

fn checkpoint() -> BoxedStrategy<CheckpointRow> {
    use CheckpointState::*;
    let state = proptest::sample::select(vec![InProgress, Completed, Failed, Damaged, Expired]);
    let first = (0u64..6, state, any::<bool>(), time(), option::of(count()));
    let second = (count(), count(), count(), option::of(text()), option::of(text()));
    (first, second)
        .prop_map(|(first, second)| {
            let (epoch, state, savepoint, triggered_ms, duration_ms) = first;
            let (object_bytes, shared_bytes, records, location, reason) = second;
            CheckpointRow {
                epoch,
                state,
                savepoint,
                triggered_ms,
                duration_ms,
                object_bytes,
                shared_bytes,
                records,
                location,
                reason,
            }
        })
        .boxed()
}

fn savepoint() -> BoxedStrategy<SavepointRow> {
    use SavepointState::*;
    let state = proptest::sample::select(vec![InProgress, Completed, Failed]);
    let second = (option::of(count()), option::of(text()), option::of(text()));
    (0u64..6, any::<bool>(), time(), state, second)
        .prop_map(|(trigger, stop, requested_ms, state, (epoch, location, reason))| SavepointRow {
            trigger,
            stop,
            requested_ms,
            state,
            epoch,
            location,
            reason,
        })
        .boxed()
}

fn exception() -> BoxedStrategy<ExceptionRow> {
    (0u64..6, time(), any::<u32>(), option::of(text()), option::of(text()), text())
        .prop_map(|(number, at_ms, attempt, task, host, message)| ExceptionRow {
            number,
            at_ms,
            attempt,
            task,
            host,
            message,
        })
        .boxed()
}

/// A change of one of four jobs, known or not.
pub(crate) fn change() -> BoxedStrategy<Change> {
    let status = (0u64..6, status(), time());
    let status = status.prop_map(|(number, status, at_ms)| StatusRow { number, status, at_ms });
    prop_oneof![
        4 => head().prop_map(|row| Change::Job(Box::new(row))),
        3 => (job(), status).prop_map(|(job, row)| Change::Status(job_id(job), row)),
        4 => (job(), checkpoint()).prop_map(|(job, row)| Change::Checkpoint(job_id(job), row)),
        3 => (job(), savepoint()).prop_map(|(job, row)| Change::Savepoint(job_id(job), row)),
        3 => (job(), exception()).prop_map(|(job, row)| Change::Exception(job_id(job), row)),
        1 => (job(), 0u64..6).prop_map(|(job, n)| Change::ForgetCheckpoint(job_id(job), n)),
        1 => (job(), 0u64..6).prop_map(|(job, n)| Change::ForgetException(job_id(job), n)),
        1 => job().prop_map(|job| Change::ForgetJob(job_id(job))),
    ]
    .boxed()
}
