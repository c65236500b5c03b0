//! Slices in RocksDB against sorted maps, with a cache much smaller than they are.

use super::*;
use crate::rocks::{Memory, NativeCheckpoint, RocksOptions};
use crate::slices::Slices;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tempfile::TempDir;
use tidemill_base::hash::key_group;

type Oracle = BTreeMap<i64, BTreeMap<String, u64>>;

#[derive(Clone, Debug)]
enum Operation {
    /// In the slice so many after the last one.
    Add(i64, Vec<(u8, u64)>),
    /// The first slice ends.
    Retire,
    Get(i64, u8),
    /// Entries read in one step, and one of how many parts of the hashes.
    Walk(i64, usize, u64),
    Drop,
    Begin,
    Step(usize),
    Abort,
    Native,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let records = prop::collection::vec((0u8..40, 1u64..9), 1..30);
    prop_oneof![
        12 => (-3i64..2, records).prop_map(|(s, r)| Add(s, r)),
        3 => Just(Retire),
        4 => (-4i64..1, 0u8..40).prop_map(|(s, k)| Get(s, k)),
        5 => (-4i64..1, 1usize..9, 1u64..4).prop_map(|(s, n, p)| Walk(s, n, p)),
        4 => Just(Drop),
        2 => Just(Begin),
        5 => (1usize..30).prop_map(Step),
        1 => Just(Abort),
        1 => Just(Native),
    ]
}

fn key(n: u8) -> String {
    "key".repeat(usize::from(n % 7)) + &n.to_string()
}

struct Run {
    root: TempDir,
    slices: DiskSlices<String, u64>,
    oracle: Oracle,
    last: i64,
    /// Slices before it have ended.
    first: i64,
    begun: Option<Oracle>,
    out: Vec<(i64, Batch)>,
    checkpoints: usize,
}

fn open(root: &TempDir, name: &str) -> Database {
    let options = RocksOptions { memory_bytes: 0, background_jobs: 1, concurrent: true };
    Database::open(&root.path().join(name), &Memory::new(options).unwrap()).unwrap()
}

fn collect(out: &[(i64, Batch)]) -> Oracle {
    let mut all = Oracle::new();
    for (namespace, batch) in out {
        for ((k, v), slice, h) in batch.iter::<(String, u64)>() {
            assert_eq!((slice, h), (*namespace, String::hash(k)));
            assert!(all.entry(slice).or_default().insert(k.to_owned(), v).is_none());
        }
    }
    all
}

fn contents(slices: &mut DiskSlices<String, u64>) -> Oracle {
    slices.begin_snapshot(99);
    let mut out = Vec::new();
    while !slices.snapshot_step(13, &mut out).unwrap() {}
    collect(&out)
}

impl Run {
    fn new() -> Self {
        let root = crate::rocks::tests::root();
        let slices = DiskSlices::open(&open(&root, "db"), "slices").unwrap();
        let oracle = Oracle::new();
        let (begun, out) = (None, Vec::new());
        Run { root, slices, oracle, last: 10, first: 0, begun, out, checkpoints: 0 }
    }

    /// What is there, but for slices that have ended: they may still be there.
    fn live(&self, mut all: Oracle) -> Oracle {
        all.retain(|slice, _| *slice >= self.first);
        all
    }

    fn step(&mut self, budget: usize) -> bool {
        let done = self.slices.snapshot_step(budget, &mut self.out).unwrap();
        if let Some(begun) = self.begun.take_if(|_| done) {
            let out = std::mem::take(&mut self.out);
            let first = begun.keys().next().copied().unwrap_or(i64::MAX);
            let mut got = collect(&out);
            got.retain(|slice, _| *slice >= first);
            assert_eq!(got, begun);
        }
        done
    }

    fn add(&mut self, ahead: i64, records: &[(u8, u64)]) {
        self.last = self.last.max(self.last + ahead);
        let slice = self.last + ahead.min(0);
        if slice < self.first {
            return;
        }
        let keys: Vec<String> = records.iter().map(|r| key(r.0)).collect();
        for k in &keys {
            self.slices.want(slice, String::hash(k), k).unwrap();
        }
        self.slices.fetch().unwrap();
        for (k, r) in keys.into_iter().zip(records) {
            *self.slices.upsert(slice, String::hash(&k), &k, || 0) += r.1;
            *self.oracle.entry(slice).or_default().entry(k).or_default() += r.1;
        }
    }

    fn apply(&mut self, operation: Operation) {
        use Operation::*;
        match operation {
            Add(ahead, records) => self.add(ahead, &records),
            Retire => {
                if let Some(slice) = self.slices.next_from(i64::MIN) {
                    self.slices.retire(slice);
                    self.oracle.remove(&slice);
                    self.first = self.first.max(slice + 1);
                }
            }
            Get(slice, k) => {
                let (slice, k) = (self.last + slice, key(k));
                if slice >= self.first {
                    let expected = self.oracle.get(&slice).and_then(|s| s.get(&k));
                    assert_eq!(self.slices.get(slice, String::hash(&k), &k), expected);
                }
            }
            Walk(slice, budget, parts) => self.walk(self.last + slice, budget, parts),
            Drop => self.slices.step().unwrap(),
            Begin => {
                while !self.step(100) {}
                self.slices.begin_snapshot(7);
                self.begun = Some(self.oracle.clone());
            }
            Step(budget) => {
                self.step(budget);
            }
            Abort => {
                self.slices.abort_snapshot();
                self.begun = None;
                self.out.clear();
            }
            Native => self.native_checkpoint(),
        }
    }

    /// All parts of a slice together are the slice, with steps of a snapshot between.
    fn walk(&mut self, slice: i64, budget: usize, parts: u64) {
        if slice < self.first {
            return;
        }
        let mut all = BTreeMap::new();
        for part in 0..parts {
            let hashes = u64::MAX / parts * part..=if part + 1 < parts {
                u64::MAX / parts * (part + 1) - 1
            } else {
                u64::MAX
            };
            let mut walk = GroupWalk::default();
            let mut done = false;
            while !done {
                done = self
                    .slices
                    .walk(slice, &hashes, &mut walk, budget, |hash, k, v| {
                        assert!(hashes.contains(&hash) && hash == String::hash(k));
                        assert!(all.insert(k.to_owned(), *v).is_none(), "{k} twice");
                    })
                    .unwrap();
                self.step(2);
            }
        }
        assert_eq!(all, self.oracle.get(&slice).cloned().unwrap_or_default());
    }

    fn native_checkpoint(&mut self) {
        while !self.step(100) {}
        let expected = self.oracle.clone();
        let first = self.first;
        self.slices.begin_snapshot(8);
        let mut n = 0;
        while !self.slices.flush_step(3).unwrap() {
            self.apply(Operation::Add(0, vec![(n % 40, 1), (n / 2, 5)]));
            if n % 8 == 0 {
                self.apply(Operation::Retire);
            }
            self.apply(Operation::Drop);
            n = (n + 7) % 80;
        }
        self.apply(Operation::Retire);
        for n in 0..40 {
            self.apply(Operation::Add(1, vec![(n, 7)]));
            self.apply(Operation::Drop);
        }
        self.checkpoints += 1;
        let dir = self.root.path().join(format!("checkpoint {}", self.checkpoints));
        let checkpoint = self.slices.table.db.checkpoint_job(dir).run().unwrap();
        self.slices.end_flush();
        self.restored_equals(&checkpoint, &expected, first);
    }

    /// The same parallelism by opening the files, another one by importing key groups, and the heap.
    fn restored_equals(&self, checkpoint: &NativeCheckpoint, expected: &Oracle, first: i64) {
        let copy = self.root.path().join(format!("copy {}", self.checkpoints));
        let options = RocksOptions { memory_bytes: 0, background_jobs: 1, concurrent: true };
        let memory = Memory::new(options).unwrap();
        let db = Database::open_from(&copy, &checkpoint.dir, &memory).unwrap();
        let mut heap = Slices::<String, u64>::default();
        heap.restore_from(&db, "slices", &|_| true).unwrap();
        let Slices::Heap(tables) = &heap else { unreachable!("the default is the heap") };
        let mut on_heap = Oracle::new();
        for (slice, table) in tables.iter().filter(|(slice, _)| *slice >= first) {
            let all = table.iter().map(|(k, v)| (k.to_owned(), *v)).collect();
            on_heap.insert(slice, all);
        }
        assert_eq!(&on_heap, expected);
        let mut all = Oracle::new();
        for groups in [0..40, 40..128] {
            let name = format!("part {} {}", self.checkpoints, groups.start);
            let db = open(&self.root, &name);
            let keep = |h| groups.contains(&key_group(h, 128));
            db.import(&checkpoint.dir, keep).unwrap();
            let mut part = DiskSlices::<String, u64>::open(&db, "slices").unwrap();
            assert!(part.live.iter().all(|slice| part.next_from(*slice) == Some(*slice)));
            for (slice, entries) in contents(&mut part) {
                assert!(
                    part.live.contains(&slice) && entries.keys().all(|k| keep(String::hash(k)))
                );
                all.entry(slice).or_default().extend(entries);
            }
        }
        all.retain(|slice, _| *slice >= first);
        assert_eq!(&all, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn slices_in_rocksdb_are_maps(operations in prop::collection::vec(operation(), 1..120)) {
        let mut run = Run::new();
        for operation in operations {
            run.apply(operation);
        }
        while !run.step(100) {}
        let all = contents(&mut run.slices);
        prop_assert_eq!(&run.live(all), &run.oracle);
        // What has ended leaves nothing behind.
        while let Some(slice) = run.slices.next_from(i64::MIN) {
            run.slices.retire(slice);
        }
        for _ in 0..10 {
            run.slices.step().unwrap();
        }
        prop_assert_eq!(run.slices.cached(), 0);
        prop_assert!(run.slices.table.namespaces().unwrap().is_empty());
    }
}
