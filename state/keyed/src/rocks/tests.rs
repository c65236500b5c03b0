//! RocksDB tables against a `BTreeMap`, with caches much smaller than the state.

use super::{Database, Memory, NativeCheckpoint, RocksOptions, RocksTable};
use crate::table::Backend;
use crate::{CurrentKey, StateTime, StateTtl, States};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tempfile::TempDir;
use tidemill_base::hash::key_group;
use tidemill_base::{Batch, Key, Record};

/// The least of everything.
fn small() -> Memory {
    Memory::new(RocksOptions { memory_bytes: 0, background_jobs: 1, concurrent: true }).unwrap()
}

/// A directory, in memory where that can be had: nothing here has to survive.
pub(crate) fn root() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(root).unwrap()
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(u16, u32),
    Upsert(u16, u32),
    Change(u16, u32),
    Remove(u16),
    Get(u16),
    Fold(Vec<(u16, u32)>),
    EditRound,
    Begin,
    Step(usize),
    Abort,
    Native,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let key = 0u16..60;
    prop_oneof![
        6 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Insert(k, v)),
        12 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Upsert(k, v)),
        6 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Change(k, v)),
        8 => key.clone().prop_map(Remove),
        8 => key.clone().prop_map(Get),
        4 => prop::collection::vec((key, any::<u32>()), 1..40).prop_map(Fold),
        1 => Just(EditRound),
        2 => Just(Begin),
        6 => (1usize..30).prop_map(Step),
        1 => Just(Abort),
        1 => Just(Native),
    ]
}

fn key(n: u16) -> String {
    "key".repeat(usize::from(n % 7)) + &n.to_string()
}

fn hash(key: &str) -> u64 {
    String::hash(key)
}

type Value = (u32, String);
type Oracle = BTreeMap<String, Value>;

fn value(v: u32) -> Value {
    (v, format!("value {}", v % 100))
}

struct Run {
    root: TempDir,
    table: RocksTable<String, Value>,
    oracle: Oracle,
    begun: Option<Oracle>,
    out: Vec<(i64, Batch)>,
    checkpoints: usize,
}

fn open(root: &TempDir, name: &str) -> Database {
    Database::open(&root.path().join(name), &small()).unwrap()
}

fn table(db: &Database) -> RocksTable<String, Value> {
    RocksTable::open(db, "table").unwrap()
}

fn collect(out: &[(i64, Batch)]) -> Oracle {
    let mut all = Oracle::new();
    for (_, batch) in out {
        for ((k, v), timestamp, h) in batch.iter::<(String, Value)>() {
            assert_eq!((timestamp, h), (42, hash(k)));
            assert!(all.insert(k.to_owned(), Value::from_view(v)).is_none());
        }
    }
    all
}

fn contents(table: &mut RocksTable<String, Value>) -> Oracle {
    table.begin_snapshot(99, 42);
    let mut out = Vec::new();
    while !table.snapshot_step(13, &mut out).unwrap() {}
    collect(&out)
}

impl Run {
    fn new() -> Self {
        let root = root();
        let table = table(&open(&root, "db"));
        Run { root, table, oracle: Oracle::new(), begun: None, out: vec![], checkpoints: 0 }
    }

    /// R5
    fn check_owned(&mut self) {
        self.table.settle();
        let values = self.table.cache.iter().map(|(_, cached)| cached.value.owned_bytes());
        assert_eq!(self.table.owned, values.sum::<usize>());
    }

    fn step(&mut self, budget: usize) -> bool {
        let done = self.table.snapshot_step(budget, &mut self.out).unwrap();
        if let Some(begun) = self.begun.take_if(|_| done) {
            assert_eq!(collect(&self.out), begun);
            self.out.clear();
        }
        done
    }

    fn apply(&mut self, operation: Operation) {
        use Operation::*;
        let (table, oracle) = (&mut self.table, &mut self.oracle);
        match operation {
            Insert(k, v) => {
                let k = key(k);
                assert_eq!(table.insert(hash(&k), &k, value(v)), oracle.insert(k, value(v)));
            }
            Upsert(k, v) => {
                let k = key(k);
                let got = table.upsert(hash(&k), &k, || value(v));
                let expected = oracle.entry(k).or_insert_with(|| value(v));
                assert_eq!(got, expected);
                got.0 ^= v;
                expected.0 ^= v;
            }
            Change(k, v) => {
                let k = key(k);
                let got = table.get_mut(hash(&k), &k);
                assert_eq!(got.is_some(), oracle.contains_key(&k));
                if let (Some(got), Some(expected)) = (got, oracle.get_mut(&k)) {
                    *got = value(v);
                    *expected = value(v);
                }
            }
            Remove(k) => {
                let k = key(k);
                assert_eq!(table.remove(hash(&k), &k), oracle.remove(&k));
            }
            Get(k) => {
                let k = key(k);
                assert_eq!(table.get(hash(&k), &k), oracle.get(&k));
                assert_eq!(table.peek(hash(&k), &k), oracle.get(&k));
            }
            Fold(records) => self.fold(&records),
            EditRound => self.edit_round(),
            Begin => {
                while !self.step(100) {}
                self.table.begin_snapshot(7, 42);
                self.begun = Some(self.oracle.clone());
            }
            Step(budget) => {
                self.step(budget);
            }
            Abort => {
                table.abort_snapshot();
                self.begun = None;
                self.out.clear();
            }
            Native => self.native_checkpoint(),
        }
    }

    fn fold(&mut self, records: &[(u16, u32)]) {
        let keys: Vec<String> = records.iter().map(|r| key(r.0)).collect();
        let record = |i: usize| (hash(&keys[i]), &*keys[i]);
        let folded = self.table.fold_batch(keys.len(), record, |i, v| match v {
            Some(v) => {
                v.0 = v.0.wrapping_add(records[i].1);
                None
            }
            // Some keys stay without a value.
            None => (!records[i].1.is_multiple_of(4)).then(|| value(records[i].1)),
        });
        folded.unwrap();
        for (k, r) in keys.into_iter().zip(records) {
            match self.oracle.get_mut(&k) {
                Some(v) => v.0 = v.0.wrapping_add(r.1),
                None if !r.1.is_multiple_of(4) => {
                    self.oracle.insert(k, value(r.1));
                }
                None => (),
            }
        }
    }

    /// Removes values divisible by 3, doubles those by 5.
    fn edit_round(&mut self) {
        let edit = |v: &mut Value| {
            v.0 = v.0.wrapping_mul(2) | 1;
            v.1.len() < 8
        };
        // Finish the round under way without effect, then one with effect.
        while !self.table.edit_step(9, |_, _| false, |_| true).unwrap() {}
        while !self.table.edit_step(9, |_, v| v.0.is_multiple_of(2), edit).unwrap() {}
        self.oracle.retain(|_, v| !v.0.is_multiple_of(2) || edit(v));
    }

    fn native_checkpoint(&mut self) {
        while !self.step(100) {}
        let expected = self.oracle.clone();
        self.table.begin_snapshot(8, 0);
        let mut n = 0;
        while !self.table.flush_step(3).unwrap() {
            self.apply(Operation::Upsert(n % 60, 77));
            self.apply(Operation::Remove((n + 1) % 60));
            self.apply(Operation::Fold(vec![(n % 50, 1), (n % 50 + 1, 2), (n % 50 + 2, 3)]));
            n += 7;
        }
        // Newer values, more than the cache holds, must not reach the files.
        self.apply(Operation::Remove(3));
        for n in 0..60 {
            self.apply(Operation::Upsert(n, 5));
        }
        self.checkpoints += 1;
        let dir = self.root.path().join(format!("checkpoint {}", self.checkpoints));
        let checkpoint = self.table.db.checkpoint_job(dir).run().unwrap();
        self.table.end_flush();
        self.restored_equals(&checkpoint, &expected);
    }

    /// The same parallelism by opening the files, another one by importing key groups.
    fn restored_equals(&self, checkpoint: &NativeCheckpoint, expected: &Oracle) {
        let copy = self.root.path().join(format!("copy {}", self.checkpoints));
        let db = Database::open_from(&copy, &checkpoint.dir, &small()).unwrap();
        assert_eq!(&contents(&mut table(&db)), expected);
        let mut all = Oracle::new();
        for groups in [0..40, 40..128] {
            let name = format!("part {} {}", self.checkpoints, groups.start);
            let db = open(&self.root, &name);
            let keep = |h| groups.contains(&key_group(h, 128));
            db.import(&checkpoint.dir, keep).unwrap();
            let part = contents(&mut table(&db));
            assert!(part.keys().all(|k| keep(hash(k))));
            all.extend(part);
        }
        assert_eq!(&all, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn a_table_in_rocksdb_is_a_map(operations in prop::collection::vec(operation(), 1..250)) {
        let mut run = Run::new();
        for operation in operations {
            run.apply(operation);
            run.check_owned();
        }
        while !run.step(100) {}
        prop_assert!(run.begun.is_none());
        prop_assert_eq!(&contents(&mut run.table), &run.oracle);
        // Batches restore into another table.
        run.table.begin_snapshot(9, 42);
        let mut out = Vec::new();
        while !run.table.snapshot_step(13, &mut out).unwrap() {}
        let mut restored = table(&open(&run.root, "other"));
        for (_, batch) in &out {
            restored.restore_batch(batch, |_| true).unwrap();
        }
        prop_assert_eq!(&contents(&mut restored), &run.oracle);
    }
}

#[test]
fn only_new_files_are_uploaded() {
    let root = root();
    let memory = Memory::new(RocksOptions::default()).unwrap();
    let db = Database::open(&root.path().join("db"), &memory).unwrap();
    let mut table = RocksTable::<u64, u64>::open(&db, "sums").unwrap();
    let mut checkpoints = Vec::new();
    for round in 0..3u64 {
        for k in round * 2_000..(round + 1) * 2_000 {
            *table.upsert(u64::hash(k), k, || 0) += k;
        }
        table.begin_snapshot(round, 0);
        while !table.flush_step(100).unwrap() {}
        assert_eq!(table.dirty(), 0);
        let job = db.checkpoint_job(root.path().join(format!("c{round}")));
        let checkpoint = std::thread::scope(|s| s.spawn(|| job.run()).join()).unwrap().unwrap();
        table.end_flush();
        checkpoints.push(checkpoint);
    }
    let tables = |c: &NativeCheckpoint| -> std::collections::BTreeSet<String> {
        c.files.iter().filter(|f| f.is_table()).map(|f| f.name.clone()).collect()
    };
    let [first, .., last] = checkpoints.as_slice() else { panic!("three") };
    assert_eq!((tables(first).len(), tables(last).len()), (1, 3));
    assert_eq!(tables(last).intersection(&tables(&checkpoints[1])).count(), 2);
}

#[test]
fn tables_of_a_database_do_not_meet() {
    let root = root();
    let db = open(&root, "db");
    let open = |name: &str| RocksTable::<u64, u64>::open(&db, name);
    let (mut a, mut b) = (open("a").unwrap(), open("b").unwrap());
    for k in 0..3_000u64 {
        a.insert(u64::hash(k), k, 1);
        b.insert(u64::hash(k), k, 2);
    }
    assert_eq!(a.remove(u64::hash(7), 7), Some(1));
    for (table, count) in [(&mut a, 2_999), (&mut b, 3_000)] {
        table.begin_snapshot(1, 0);
        let mut out: Vec<(i64, Batch)> = Vec::new();
        while !table.snapshot_step(500, &mut out).unwrap() {}
        assert_eq!(out.iter().map(|(_, b)| b.len()).sum::<usize>(), count);
    }
    let error = open("a").err().unwrap();
    assert!(error.to_string().contains("\"a\" is open"), "{error}");
}

#[test]
fn user_states_live_in_rocksdb() {
    let root = root();
    let backend = Backend::Rocks(open(&root, "db").into());
    let time = StateTime::new();
    let mut states =
        States::<u64>::with_backend(CurrentKey::new(), time.clone(), backend, "operator 1/");
    let value = states.value::<u64>("v", Some(StateTtl::processing(10))).unwrap();
    let list = states.list::<String>("l", None).unwrap();
    for round in 0..2 {
        for k in 0..5_000u64 {
            states.key().set(u64::hash(k), k);
            value.update(|v| *v += k);
            list.add(format!("{k} {round}"));
        }
    }
    states.key().set(u64::hash(17), 17);
    assert_eq!(value.get(), Some(34));
    assert_eq!(list.iter().collect::<Vec<_>>(), ["17 0", "17 1"]);
    time.set_processing_ms(10);
    assert_eq!(value.get(), None);
    // Expired values leave the disk, too.
    let table = &mut states.tables_mut()[0];
    for _ in 0..400 {
        table.expire_step(100);
    }
    table.begin_snapshot(1);
    let mut out: Vec<(i64, Batch)> = Vec::new();
    while !table.snapshot_step(1000, &mut out).unwrap() {}
    assert!(out.iter().all(|(_, b)| b.is_empty()));
}

#[test]
fn a_damaged_database_is_refused() {
    let root = root();
    std::fs::create_dir(root.path().join("db")).unwrap();
    std::fs::write(root.path().join("db/CURRENT"), "nonsense").unwrap();
    let error = Database::open(&root.path().join("db"), &small()).unwrap_err();
    assert!(error.to_string().contains("opening"), "{error}");
}

#[test]
fn databases_share_memory() {
    let root = root();
    let memory =
        Memory::new(RocksOptions { memory_bytes: 32 << 20, background_jobs: 1, concurrent: true })
            .unwrap();
    let open = |name: &str| Database::open(&root.path().join(name), &memory).unwrap();
    let (a, b) = (open("a"), open("b"));
    assert_eq!(memory.write_buffer(2), 2 << 20);
    assert_eq!(memory.cache_share(), 12 << 20);
    let table = |db: &Database, name: &str| RocksTable::<u64, u64>::open(db, name).unwrap();
    let tables = [table(&a, "x"), table(&a, "y"), table(&b, "x")];
    assert_eq!(memory.cache_share(), (12 << 20) / 3);
    drop(tables);
    assert_eq!(memory.cache_share(), 12 << 20);
}

/// R5 and what follows from it: neither long strings nor lists that grow make the cache larger than
/// its share and the part that a table keeps once it has grown.
#[test]
fn what_values_own_counts() {
    let root = root();
    let options = RocksOptions { memory_bytes: 8 << 20, background_jobs: 1, concurrent: true };
    let memory = Memory::new(options).unwrap();
    let db = Database::open(&root.path().join("db"), &memory).unwrap();
    let mut table = RocksTable::<u64, Vec<String>>::open(&db, "lists").unwrap();
    let most = memory.cache_share() + memory.cache_share() / 4;
    let text = |k: u64, n: u64| format!("{k} {n} ").repeat(20 + (k % 7) as usize * 30);
    let keys = 3_000;
    for k in 0..keys {
        table.insert(u64::hash(k), k, Vec::new());
    }
    assert_eq!(table.cached(), keys as usize, "empty lists fit");
    for n in 0..3 {
        for k in 0..keys {
            table.upsert(u64::hash(k), k, Vec::new).push(text(k, n));
            assert!(table.bytes() <= most + (1 << 20), "{} bytes of {most}", table.bytes());
        }
    }
    assert!(table.cached() < keys as usize, "{} lists of 6 KiB", table.cached());
    for k in 0..keys {
        let list = table.get(u64::hash(k), k).unwrap();
        assert!(list.iter().eq(&[text(k, 0), text(k, 1), text(k, 2)]), "{k}");
    }
    table.settle();
    let owned = table.cache.iter().map(|(_, cached)| cached.value.owned_bytes());
    assert_eq!(table.owned, owned.sum::<usize>());
}
