//! Sample checkpoints for the tests: content that is a function of the epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::*;

pub(crate) type Content = BTreeMap<ChunkKey, Vec<Vec<u8>>>;

/// (operator id, parallelism) of the sample job; two workers, subtask % 2 is the worker.
const OPERATORS: [(u64, u32); 3] = [(0xfeed_beef_dead_0001, 2), (2, 3), (3, 1)];

/// What the sample job's state is at an epoch. Operator 3 has none.
pub(crate) fn content(epoch: u64) -> Content {
    let mut content = Content::new();
    for (operator, parallelism) in &OPERATORS[..2] {
        for subtask in 0..*parallelism {
            for (i, kind) in SectionKind::ALL.into_iter().enumerate().take(3) {
                let key = ChunkKey { operator: *operator, subtask, kind, state: i as u16 };
                let chunk = |n: u64| {
                    let seed = epoch * 31 + operator % 89 + u64::from(subtask) * 7 + n;
                    (0..seed % 97).map(|b| (b * seed) as u8).collect()
                };
                content.insert(key, (0..2 + epoch % 3).map(chunk).collect());
            }
        }
    }
    content
}

pub(crate) fn facts(epoch: u64, savepoint: bool) -> JobFacts {
    let operator = |(id, parallelism): &(u64, u32)| OperatorEntry {
        uid: format!("uid-{id}"),
        id: *id,
        name: "word \"count\"\n".to_owned(),
        parallelism: *parallelism,
        states: vec![StateEntry {
            name: "sum".to_owned(),
            kind: "value".to_owned(),
            schema: "(String, u64)".to_owned(),
            fingerprint: u64::MAX - 1,
        }],
    };
    JobFacts {
        job: "WordCount".to_owned(),
        epoch,
        created_at_ms: 1_700_000_000_123,
        savepoint,
        parallelism: 3,
        max_parallelism: 128,
        operators: OPERATORS.iter().map(operator).collect(),
        properties: BTreeMap::from([("build".to_owned(), "7".to_owned())]),
    }
}

/// Writes the sample checkpoint of an epoch, with two workers and the given shared files.
pub(crate) fn write(
    store: &Arc<dyn SnapshotStore>,
    epoch: u64,
    savepoint: bool,
    shared: &[&str],
) -> Result<Manifest> {
    let mut parts = Vec::new();
    for worker in 0..2 {
        let mut files = Vec::new();
        // Sometimes two workers bring the same file, sometimes one alone does.
        for name in shared.iter().filter(|_| worker == 0 || epoch % 2 == 1) {
            files.push(store.put_shared(name, &mut name.repeat(9).as_bytes())?);
        }
        parts.push(write_part(store, epoch, worker, files)?);
    }
    let manifest = Manifest::assemble(facts(epoch, savepoint), parts);
    store.put_manifest(&manifest)?;
    Ok(manifest)
}

/// One worker's part, its subtasks' chunks interleaved as concurrent snapshots would.
pub(crate) fn write_part(
    store: &Arc<dyn SnapshotStore>,
    epoch: u64,
    worker: u32,
    shared: Vec<SharedFile>,
) -> Result<WorkerPart> {
    let mut core = WriterCore::new(Arc::clone(store), worker);
    let mut out = Vec::new();
    let subtasks = OPERATORS.iter().flat_map(|(operator, p)| {
        (0..*p).map(|subtask| SubtaskId { operator: *operator, subtask })
    });
    let expect: Vec<SubtaskId> = subtasks.filter(|id| id.subtask % 2 == worker).collect();
    core.on(Job::Begin { epoch, expect: expect.clone() }, &mut out);
    let mut content = content(epoch);
    content.retain(|key, _| key.subtask % 2 == worker);
    let rounds = content.values().map(Vec::len).max().unwrap_or(0);
    for round in 0..rounds {
        for (key, chunks) in &content {
            let payload = chunks[round].clone();
            core.on(Job::Chunk { epoch, key: *key, payload, records: 1 }, &mut out);
        }
    }
    for file in shared {
        core.on(Job::Share { epoch, source: ShareSource::Stored(file) }, &mut out);
    }
    for subtask in expect {
        core.on(Job::SubtaskDone { epoch, subtask }, &mut out);
    }
    match out.as_slice() {
        [Event::Finished { part, .. }] => Ok(part.clone()),
        [Event::Failed { error, .. }] => Err(error.clone()),
        other => panic!("one event was expected, not {other:?}"),
    }
}

/// Reads a checkpoint back.
pub(crate) fn read(store: &dyn SnapshotStore, manifest: &Arc<Manifest>) -> Result<Content> {
    let reader = SnapshotReader::open(store, Arc::clone(manifest))?;
    let mut content = Content::new();
    for (operator, _) in OPERATORS {
        for kind in SectionKind::ALL {
            for state in 0..4 {
                for section in reader.sections(operator, None, kind, state) {
                    let Section { key, payload } = section?;
                    content.entry(key).or_default().push(payload);
                }
            }
        }
    }
    Ok(content)
}

/// Restores the newest whole checkpoint and checks that it is exactly what was written.
pub(crate) fn restore_and_check(store: &dyn SnapshotStore) -> Result<Option<u64>> {
    let Some(restored) = restore_latest(store)? else { return Ok(None) };
    let epoch = restored.manifest.epoch;
    assert_eq!(read(store, &restored.manifest)?, content(epoch), "epoch {epoch} reads wrong");
    Ok(Some(epoch))
}
