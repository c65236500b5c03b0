//! The crate as a whole: damaged files, crashes, retention, restoring by path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use crate::testing::{content, read, restore_and_check, write, write_part};
use crate::*;

fn dir_store() -> (tempfile::TempDir, Arc<dyn SnapshotStore>) {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(DirStore::create(root.path()).unwrap());
    (root, store)
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Truncate(prop::sample::Index),
    Extend(Vec<u8>),
    Insert(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index, u8),
    Zero(prop::sample::Index),
    Remove,
    BecomeDirectory,
    /// Replaced by another file of the store, whole.
    Swap(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    let some = || prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => at().prop_map(Damage::Truncate),
        2 => some().prop_map(Damage::Extend),
        2 => (at(), some()).prop_map(|(at, b)| Damage::Insert(at, b)),
        2 => (at(), 1u8..40).prop_map(|(at, n)| Damage::Cut(at, n)),
        1 => at().prop_map(Damage::Zero),
        1 => Just(Damage::Remove),
        1 => Just(Damage::BecomeDirectory),
        2 => at().prop_map(Damage::Swap),
    ]
}

impl Damage {
    /// Whether the file's bytes are other than before.
    fn inflict(&self, file: &Path, all: &[PathBuf]) -> bool {
        let before = fs::read(file).unwrap();
        let mut bytes = before.clone();
        let place = |at: &prop::sample::Index| at.index(before.len().max(1)).min(before.len());
        match self {
            Damage::Flip(at, bit) => {
                if let Some(byte) = bytes.get_mut(place(at)) {
                    *byte ^= 1 << bit;
                }
            }
            Damage::Truncate(at) => bytes.truncate(place(at)),
            Damage::Extend(tail) => bytes.extend(tail),
            Damage::Insert(at, some) => drop(bytes.splice(place(at)..place(at), some.clone())),
            Damage::Cut(at, n) => {
                let end = (place(at) + usize::from(*n)).min(bytes.len());
                bytes.drain(place(at)..end);
            }
            Damage::Zero(at) => bytes[place(at)..].fill(0),
            Damage::Swap(at) => bytes = fs::read(&all[at.index(all.len())]).unwrap(),
            Damage::Remove | Damage::BecomeDirectory => {
                fs::remove_file(file).unwrap();
                if matches!(self, Damage::BecomeDirectory) {
                    fs::create_dir(file).unwrap();
                }
                return true;
            }
        }
        fs::write(file, &bytes).unwrap();
        bytes != before
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One damaged file: the checkpoint that needs it is never used, the one before it is.
    #[test]
    fn a_damaged_file_costs_only_the_checkpoints_that_need_it(
        which: prop::sample::Index, damage in damage(),
    ) {
        let (root, store) = dir_store();
        write(&store, 5, false, &["both", "five"]).unwrap();
        write(&store, 6, false, &["both", "six"]).unwrap();
        let all = files(root.path());
        prop_assert_eq!(all.len(), 9);
        let file = &all[which.index(all.len())];
        let name = file.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned();
        let changed = damage.inflict(file, &all);
        let six_needs_it = name.starts_with("chk-6") || name.ends_with("six");
        let both_need_it = name.ends_with("both");
        let found = restore_and_check(&*store);
        if !changed {
            prop_assert_eq!(found, Ok(Some(6)));
        } else if both_need_it {
            let error = found.unwrap_err();
            prop_assert!(matches!(error, Error::Damaged(_)), "{}", error);
            prop_assert!(error.to_string().contains("shared/both"), "{}", error);
        } else {
            prop_assert_eq!(found, Ok(Some(if six_needs_it { 5 } else { 6 })));
        }
    }

    /// Bytes that go bad after the verification: an error, or the right bytes; never others.
    #[test]
    fn reading_checks_again(which in 0u32..2, damage in damage()) {
        let (root, store) = dir_store();
        let manifest = Arc::new(write(&store, 5, false, &[]).unwrap());
        let file = root.path().join("chk-5").join(object_name(which));
        damage.inflict(&file, &files(root.path()));
        if let Ok(found) = read(&*store, &manifest) {
            prop_assert_eq!(found, content(5));
        }
    }

    /// A manifest that is whole, but of other objects: verified against what is stored.
    #[test]
    fn a_manifest_must_match_the_objects(field in 0usize..6, which: prop::sample::Index) {
        let (_root, store) = dir_store();
        let good = write(&store, 5, false, &["a"]).unwrap();
        verify(&*store, &good).unwrap();
        let mut bad = good.clone();
        let n = bad.subtasks.iter().filter(|s| !s.sections.is_empty()).count();
        let mut with = bad.subtasks.iter_mut().filter(|s| !s.sections.is_empty());
        let section = &mut with.nth(which.index(n)).unwrap().sections[0];
        match field {
            0 => section.crc32 ^= 1,
            1 => section.bytes += 1,
            2 => section.state += 9,
            3 => section.runs.swap(0, 1),
            4 => { section.runs.pop(); section.chunks -= 1; }
            _ => section.kind = SectionKind::Sink,
        }
        let error = verify(&*store, &bad).unwrap_err();
        prop_assert!(matches!(error, Error::Damaged(_)), "{}", error);
    }
}

/// The checksums guard one another: each of these is seen by one of them alone.
#[test]
fn every_checksum_is_compared() {
    let memory = MemoryStore::new();
    let store: Arc<dyn SnapshotStore> = Arc::new(memory.clone());
    let good = write(&store, 5, false, &["a"]).unwrap();
    let sees = |manifest: &Manifest, what: &str| {
        let error = verify(&*store, manifest).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    };
    let mut object = good.clone();
    object.objects[1].crc32 ^= 1;
    sees(&object, "worker-1.data: altered");
    let mut chunks = good.clone();
    chunks.objects[0].chunks += 1;
    sees(&chunks, "chunks, the manifest says");
    store.delete_shared("a").unwrap();
    sees(&good, "shared/a: is missing");
    store.put_shared("a", &mut &b"another a"[..]).unwrap();
    sees(&good, "shared/a: altered");
    // A payload byte changes and the object's own checksum is made to fit: the chunk's does not.
    let mut bytes = Vec::new();
    memory.tamper(5, "worker-0.data", |b| {
        b[16 + 24] ^= 1;
        bytes.clone_from(b);
    });
    let mut fitted = good.clone();
    fitted.objects[0].crc32 = crc32fast::hash(&bytes);
    sees(&fitted, "at byte 16: chunk has crc32");
}

/// Collects warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(event.metadata().level().to_string() + " ");
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_warning_names_the_skipped_one_and_the_one_used() {
    let (root, store) = dir_store();
    write(&store, 5, false, &[]).unwrap();
    write(&store, 6, false, &[]).unwrap();
    write_part(&store, 7, 0, Vec::new()).unwrap();
    let file = root.path().join("chk-6/worker-1.data");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let warnings = Warnings::default();
    let restored = tracing::subscriber::with_default(warnings.clone(), || {
        restore_latest(&*store).unwrap().unwrap()
    });
    assert_eq!((restored.manifest.epoch, restored.next_epoch), (5, 8));
    let skipped: Vec<_> = restored.skipped.iter().map(|s| (s.epoch, s.damaged)).collect();
    assert_eq!(skipped, [(7, false), (6, true)]);
    let seen = warnings.0.lock().unwrap().clone();
    let at = |epoch: u64| root.path().join(format!("chk-{epoch}")).display().to_string();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].starts_with("WARN") && seen[0].contains(&at(7)), "{seen:?}");
    assert!(seen[0].contains("never completed"), "{seen:?}");
    for part in [&at(6), &at(5), "worker-1.data", "crc32"] {
        assert!(seen[1].contains(part), "{part}: {seen:?}");
    }
}

#[test]
fn nothing_whole_is_an_error_not_a_fresh_start() {
    let (root, store) = dir_store();
    write(&store, 5, false, &[]).unwrap();
    fs::write(root.path().join("chk-5/worker-0.data"), b"").unwrap();
    let error = restore_latest(&*store).unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    assert!(error.to_string().contains("torn: 0 bytes"), "{error}");
    assert!(error.to_string().contains("savepoint"), "{error}");
}

#[test]
fn a_copied_checkpoint_does_not_pass_for_another_epoch() {
    let (root, store) = dir_store();
    write(&store, 5, false, &[]).unwrap();
    fs::create_dir(root.path().join("chk-8")).unwrap();
    for file in files(&root.path().join("chk-5")) {
        fs::copy(&file, root.path().join("chk-8").join(file.file_name().unwrap())).unwrap();
    }
    assert_eq!(restore_and_check(&*store).unwrap(), Some(5));
    assert!(matches!(restore_epoch(&*store, 8), Err(Error::Damaged(_))));
}

#[test]
fn open_path_takes_the_root_or_one_checkpoint() {
    let (root, store) = dir_store();
    write(&store, 5, false, &["a"]).unwrap();
    write(&store, 6, false, &[]).unwrap();
    let epoch = |path: &str| {
        let opened = open_path(&root.path().join(path))?;
        let manifest = &opened.restored.manifest;
        assert_eq!(read(&*opened.store, manifest).unwrap(), content(manifest.epoch));
        Ok::<_, Error>((manifest.epoch, opened.restored.next_epoch))
    };
    assert_eq!(epoch(""), Ok((6, 7)));
    assert_eq!(epoch("chk-5"), Ok((5, 7)));
    assert_eq!(epoch("chk-6/"), Ok((6, 7)));
    assert_eq!(epoch("chk-6/../chk-5/."), Ok((5, 7)));
    std::os::unix::fs::symlink(root.path().join("chk-5"), root.path().join("mine")).unwrap();
    assert_eq!(epoch("mine"), Ok((5, 7)));
    assert!(matches!(epoch("chk-4"), Err(Error::Missing(_))));
    assert!(matches!(epoch("shared"), Err(Error::Missing(_))));
    assert!(matches!(epoch("chk-5/manifest.json"), Err(Error::Refused(_))));
    // One that was named is used or refused, never replaced by another.
    fs::write(root.path().join("chk-6/worker-0.data"), b"").unwrap();
    assert!(matches!(epoch("chk-6"), Err(Error::Damaged(_))));
    assert_eq!(epoch(""), Ok((5, 7)));
}

/// Fails at every store operation, in every way; then either the old or the new one, whole.
#[test]
fn a_crash_at_every_store_operation() {
    let run = |faults: Faults| {
        let memory = MemoryStore::new();
        write(&(Arc::new(memory.clone()) as _), 5, false, &["a"]).unwrap();
        let faulty = Arc::new(FaultyStore::new(memory.clone(), faults));
        let store: Arc<dyn SnapshotStore> = faulty.clone();
        let wrote = write(&store, 6, false, &["a", "b"]);
        let none = BTreeSet::new();
        let retained = retain(&*store, Policy { keep: 1 }, &none, &none);
        (memory, wrote, retained, faulty.operations())
    };
    let (_, wrote, retained, operations) = run(Faults::None);
    assert!(wrote.is_ok() && retained.unwrap().checkpoints == [5] && operations > 20);
    for k in 0..operations {
        for faults in [Faults::Once(k), Faults::From(k), Faults::FromAfterEffect(k)] {
            let (memory, wrote, _, _) = run(faults);
            let found = restore_and_check(&memory).unwrap();
            match wrote {
                Ok(_) => assert_eq!(found, Some(6), "{faults:?}"),
                Err(Error::InDoubt(_)) => assert!(found >= Some(5), "{faults:?}"),
                Err(_) => assert_eq!(found, Some(5), "{faults:?}"),
            }
        }
    }
}

/// Store-level retention: whatever the history, everything that is kept stays whole.
#[derive(Debug, Clone)]
enum Step {
    Commit {
        savepoint: bool,
        shared: BTreeSet<u8>,
    },
    /// Begun and never committed.
    Torn,
    /// The manifest of the n-th newest goes bad.
    Spoil(usize),
    Retain {
        keep: usize,
        in_flight: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let shared = prop::collection::btree_set(0u8..6, 0..4);
    prop_oneof![
        5 => (prop::bool::weighted(0.2), shared)
            .prop_map(|(savepoint, shared)| Step::Commit { savepoint, shared }),
        1 => Just(Step::Torn),
        1 => (0usize..4).prop_map(Step::Spoil),
        4 => (0usize..4, prop::bool::weighted(0.2))
            .prop_map(|(keep, in_flight)| Step::Retain { keep, in_flight }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn retention_never_deletes_what_is_needed(steps in prop::collection::vec(step(), 1..25)) {
        let memory = MemoryStore::new();
        let store: Arc<dyn SnapshotStore> = Arc::new(memory.clone());
        let mut epoch = 0;
        // What must be restorable: epoch -> savepoint. Spoilt ones leave this map.
        let mut whole: BTreeMap<u64, bool> = BTreeMap::new();
        let mut spoilt: BTreeSet<u64> = BTreeSet::new();
        for step in steps {
            epoch += 1;
            match step {
                Step::Commit { savepoint, shared } => {
                    let names: Vec<String> = shared.iter().map(|n| format!("f{n}")).collect();
                    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
                    if savepoint { names.clear(); }
                    write(&store, epoch, savepoint, &names).unwrap();
                    whole.insert(epoch, savepoint);
                }
                Step::Torn => drop(write_part(&store, epoch, 0, Vec::new()).unwrap()),
                Step::Spoil(n) => {
                    if let Some(e) = whole.keys().rev().nth(n).copied() {
                        memory.tamper(e, "manifest.json", |b| b[9] ^= 1);
                        whole.remove(&e);
                        spoilt.insert(e);
                    }
                }
                Step::Retain { keep, in_flight } => {
                    let torn = store.list().unwrap().into_iter().find(|id| !id.committed);
                    let flying: BTreeSet<u64> =
                        torn.filter(|_| in_flight).map(|id| id.epoch).into_iter().collect();
                    let before = store.list_shared().unwrap();
                    let none = BTreeSet::new();
                    retain(&*store, Policy { keep }, &flying, &none).unwrap();
                    let after: BTreeSet<u64> =
                        store.list().unwrap().iter().map(|id| id.epoch).collect();
                    // The oracle: the newest `keep` regular ones and every savepoint.
                    let regular: Vec<u64> = whole.iter().rev().filter(|(_, s)| !**s)
                        .map(|(e, _)| *e).collect();
                    let cut = keep.max(1).min(regular.len());
                    whole.retain(|e, savepoint| *savepoint || regular[..cut].contains(e));
                    prop_assert!(whole.keys().all(|e| after.contains(e)));
                    prop_assert!(regular[cut..].iter().all(|e| !after.contains(e)));
                    prop_assert!(spoilt.iter().all(|e| after.contains(e)), "T3");
                    prop_assert!(flying.iter().all(|e| after.contains(e)), "T4");
                    if !flying.is_empty() || !spoilt.is_empty() {
                        prop_assert_eq!(before, store.list_shared().unwrap());
                    } else {
                        // Collected to the last orphan.
                        let mut referenced = BTreeSet::new();
                        for e in whole.keys() {
                            let manifest = store.load_manifest(*e).unwrap();
                            referenced.extend(manifest.shared.into_iter().map(|s| s.name));
                        }
                        let left: BTreeSet<String> =
                            store.list_shared().unwrap().into_iter().collect();
                        prop_assert_eq!(referenced, left);
                    }
                }
            }
            for e in whole.keys() {
                let manifest = restore_epoch(&*store, *e).unwrap();
                prop_assert_eq!(read(&*store, &Arc::new(manifest)).unwrap(), content(*e));
            }
        }
    }
}

#[test]
fn a_suspect_checkpoint_does_not_count() {
    let store: Arc<dyn SnapshotStore> = Arc::new(MemoryStore::new());
    for epoch in 1..=4 {
        write(&store, epoch, false, &[]).unwrap();
    }
    let suspect = BTreeSet::from([3]);
    let retained = retain(&*store, Policy::default(), &BTreeSet::new(), &suspect).unwrap();
    // 4 and 2 are whole; 3 does not count, and stays until two newer whole ones exist.
    assert_eq!(retained.checkpoints, [1]);
    write(&store, 5, false, &[]).unwrap();
    let retained = retain(&*store, Policy::default(), &BTreeSet::new(), &suspect).unwrap();
    assert_eq!(retained.checkpoints, [2, 3]);
}

#[test]
fn sections_select_by_operator_subtask_kind_and_state() {
    let store: Arc<dyn SnapshotStore> = Arc::new(MemoryStore::new());
    let manifest = Arc::new(write(&store, 5, false, &[]).unwrap());
    let reader = SnapshotReader::open(&*store, manifest).unwrap();
    let want = content(5);
    for (key, payloads) in &want {
        let ChunkKey { operator, subtask, kind, state } = *key;
        let found: Vec<Section> =
            reader.sections(operator, Some(subtask), kind, state).collect::<Result<_>>().unwrap();
        assert!(found.iter().all(|s| s.key == *key));
        let found: Vec<Vec<u8>> = found.into_iter().map(|s| s.payload).collect();
        assert_eq!(found, *payloads);
        assert_eq!(reader.sections(operator, Some(99), kind, state).count(), 0);
        assert_eq!(reader.sections(operator, Some(subtask), kind, 9).count(), 0);
    }
    let all = reader.sections(2, None, SectionKind::KeyedState, 0);
    let subtasks: Vec<u32> = all.map(|s| s.unwrap().key.subtask).collect();
    let mut sorted = subtasks.clone();
    sorted.sort_unstable();
    assert_eq!(subtasks, sorted);
    assert_eq!(subtasks.iter().collect::<BTreeSet<_>>().len(), 3);
}
