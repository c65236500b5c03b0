//! Which files are uploaded, which are referred to, and how long their links stay.

use super::*;
use crate::backend::{RocksDb, StateBackend};
use crate::context::{Restored, SharedFiles};
use crate::process::part::{PartRef, Snapshots};
use std::sync::{Arc, Mutex};
use tidemill_base::{Key, hash::hash_bytes};
use tidemill_keyed::Table;
use tidemill_keyed::rocks::RocksOptions;

const OPERATOR: u64 = 7;

/// Shared files in memory.
#[derive(Debug, Default)]
struct Store(Mutex<BTreeMap<String, Vec<u8>>>);

impl SharedFiles for Store {
    fn fetch(&self, name: &str, to: &Path) -> Result<()> {
        let files = self.0.lock().unwrap();
        std::fs::write(to, &files[name]).unwrap();
        Ok(())
    }
}

struct Run {
    root: tempfile::TempDir,
    context: Context,
    table: Table<u64, String>,
    snapshots: Snapshots,
    store: Arc<Store>,
}

fn parts(table: &mut Table<u64, String>) -> [PartRef<'_>; 1] {
    [PartRef::keyed(0, "names", table)]
}

impl Run {
    fn open(store: &Arc<Store>, restored: Option<Restored>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let slot = RocksOptions { memory_bytes: 16 << 20, background_jobs: 1, concurrent: false };
        let options = RocksDb { dir: root.path().to_owned(), slot, incremental: true };
        let mut context = Context::for_test();
        context.place = StateBackend::RocksDb(options).slot().unwrap();
        context.restored = restored.map(Arc::new);
        let mut table = context.backend(OPERATOR).unwrap().table("names").unwrap();
        let (snapshots, _) = Snapshots::open(&context, OPERATOR, &mut parts(&mut table)).unwrap();
        Run { root, context, table, snapshots, store: store.clone() }
    }

    fn put(&mut self, keys: std::ops::Range<u64>, value: &str) {
        for k in keys {
            self.table.insert(u64::hash(k), k, format!("{value} of {k}"));
        }
    }

    /// Takes a snapshot; the checkpoint, how many tables it uploads and to how many it refers.
    fn snapshot(&mut self, epoch: u64) -> (Restored, usize, usize) {
        self.snapshots.begin(epoch, 0, &mut parts(&mut self.table)).unwrap();
        while !self.snapshots.step(epoch, &mut parts(&mut self.table)).unwrap() {}
        let files = Some(self.store.clone() as Arc<dyn SharedFiles>);
        let mut restored = Restored { epoch, files, ..Restored::default() };
        let (mut uploaded, mut referred) = (0, 0);
        while let Some(event) = self.context.outbox.pop() {
            match event {
                TaskEvent::Entry { section, payload, .. } => {
                    restored.sections.entry(section).or_default().push((0, payload));
                }
                TaskEvent::File { source: ShareSource::Path { name, path }, .. } => {
                    let content = std::fs::read(path).unwrap();
                    self.store.0.lock().unwrap().insert(name, content);
                    uploaded += 1;
                }
                TaskEvent::File { source: ShareSource::Stored(file), .. } => {
                    assert!(self.store.0.lock().unwrap().contains_key(&file.name));
                    referred += 1;
                }
                _ => {}
            }
        }
        (restored, uploaded, referred)
    }

    fn links(&self) -> Vec<String> {
        let dir = self.root.path().join(format!("{OPERATOR:016x}-0.checkpoints"));
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn digest(&mut self, keys: std::ops::Range<u64>) -> Vec<Option<u64>> {
        let mut of = |k| self.table.get(u64::hash(k), k).map(|v| hash_bytes(v.as_bytes()));
        keys.map(&mut of).collect()
    }
}

#[test]
fn tables_of_a_complete_checkpoint_are_not_uploaded_again() {
    let store = Arc::new(Store::default());
    let mut run = Run::open(&store, None);
    run.put(0..500, "first");
    assert_eq!((run.snapshot(1).1, run.snapshot(2).1), (1, 1), "1 is not complete: again");
    run.context.committed(2);
    run.put(500..900, "second");
    let (_, uploaded, referred) = run.snapshot(3);
    assert_eq!((uploaded, referred), (1, 1));
    // 3 is given up: what only it has is uploaded again.
    run.put(900..1000, "third");
    let (restored, uploaded, referred) = run.snapshot(4);
    assert_eq!((uploaded, referred), (2, 1));
    let wanted = run.digest(0..1000);
    assert!(wanted.iter().all(Option::is_some));

    run.put(0..1000, "later");
    let mut again = Run::open(&store, Some(restored));
    assert_eq!(again.digest(0..1000), wanted);
    assert_ne!(run.digest(0..1000), wanted);
    // A new life knows nothing of what is stored.
    let (_, uploaded, referred) = again.snapshot(5);
    assert_eq!((uploaded, referred), (3, 0));
}

#[test]
fn links_stay_until_a_checkpoint_is_complete() {
    let mut run = Run::open(&Arc::default(), None);
    run.put(0..10, "x");
    run.snapshot(1);
    run.snapshot(2);
    assert_eq!(run.links(), ["1", "2"]);
    run.context.committed(1);
    assert_eq!(run.links(), ["2"]);
    run.snapshot(5);
    run.context.committed(5);
    assert!(run.links().is_empty());
}

#[test]
fn a_checkpoint_in_files_is_read_onto_the_heap_for_the_keys_of_a_subtask() {
    let store = Arc::new(Store::default());
    let mut run = Run::open(&store, None);
    run.put(0..300, "x");
    let restored = Arc::new(run.snapshot(1).0);
    let mut found = 0;
    for subtask in 0..3 {
        let mut context = Context::for_test();
        (context.info.parallelism, context.info.subtask) = (3, subtask);
        context.restored = Some(restored.clone());
        let mut table = context.backend(OPERATOR).unwrap().table("names").unwrap();
        Snapshots::open(&context, OPERATOR, &mut parts(&mut table)).unwrap();
        for k in 0..300u64 {
            let value = table.get(u64::hash(k), k);
            assert_eq!(value.is_some(), context.info.owns(u64::hash(k)));
            found += usize::from(value.is_some_and(|v| *v == format!("x of {k}")));
        }
    }
    assert_eq!(found, 300);
}
