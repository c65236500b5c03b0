//! Timers in RocksDB against a sorted set, far more of them than memory holds.

use super::*;
use crate::rocks::{Memory, NativeCheckpoint, RocksOptions};
use crate::timers::TimerQueue;
use proptest::prelude::*;
use tempfile::TempDir;
use tidemill_base::Batch;
use tidemill_base::hash::key_group;

type Oracle = BTreeSet<(i64, u64, String)>;

#[derive(Clone, Debug)]
enum Operation {
    Register(i64, u8),
    Many(i64, Vec<u8>),
    Delete(i64, u8),
    /// Up to a time, at most so many.
    Pop(i64, usize),
    Ahead(i64, usize),
    Begin,
    Step(usize),
    Abort,
    Native,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let time = -20i64..60;
    prop_oneof![
        12 => (time.clone(), 0u8..20).prop_map(|(t, k)| Register(t, k)),
        4 => (time.clone(), prop::collection::vec(0u8..20, 1..20)).prop_map(|(t, k)| Many(t, k)),
        8 => (time.clone(), 0u8..20).prop_map(|(t, k)| Delete(t, k)),
        5 => (time.clone(), 0usize..10).prop_map(|(t, n)| Pop(t, n)),
        3 => (time, 0usize..10).prop_map(|(t, n)| Ahead(t, n)),
        2 => Just(Begin),
        6 => (1usize..20).prop_map(Step),
        1 => Just(Abort),
        1 => Just(Native),
    ]
}

fn key(n: u8) -> (u64, String) {
    let key = "k".repeat(usize::from(n));
    (String::hash(&key), key)
}

struct Run {
    root: TempDir,
    timers: DiskTimers<String>,
    oracle: Oracle,
    begun: Option<Oracle>,
    out: Vec<(i64, Batch)>,
    checkpoints: usize,
}

fn memory() -> Memory {
    Memory::new(RocksOptions { memory_bytes: 0, background_jobs: 1, concurrent: true }).unwrap()
}

fn open(root: &TempDir, name: &str) -> Database {
    Database::open(&root.path().join(name), &memory()).unwrap()
}

fn collect(out: &[(i64, Batch)]) -> Oracle {
    let mut all = Oracle::new();
    for (_, batch) in out {
        for (((time, key), ()), _, hash) in batch.iter::<((i64, String), ())>() {
            assert_eq!(hash, String::hash(key));
            assert!(all.insert((time, hash, key.to_owned())), "twice");
        }
    }
    all
}

/// All timers in their order, taken out.
fn drain(timers: &mut DiskTimers<String>) -> Vec<(i64, u64, String)> {
    let mut all = Vec::new();
    while let Some(timer) =
        timers.pop_due(i64::MAX, |time, hash, key| (time, hash, key.to_owned())).unwrap()
    {
        all.push(timer);
    }
    assert_eq!(timers.next_time(), None);
    all
}

impl Run {
    fn new() -> Self {
        let root = crate::rocks::tests::root();
        let timers = DiskTimers::open(&open(&root, "db"), "timers").unwrap();
        let (begun, out) = (None, Vec::new());
        Run { root, timers, oracle: Oracle::new(), begun, out, checkpoints: 0 }
    }

    fn step(&mut self, budget: usize) -> bool {
        let done = self.timers.snapshot_step(budget, &mut self.out).unwrap();
        if let Some(begun) = self.begun.take_if(|_| done) {
            assert_eq!(collect(&std::mem::take(&mut self.out)), begun);
        }
        done
    }

    fn register(&mut self, time: i64, n: u8) {
        let (hash, key) = key(n);
        self.timers.register(time, hash, &key);
        self.oracle.insert((time, hash, key));
    }

    fn pop(&mut self, now: i64, most: usize) {
        for _ in 0..most {
            let due = self.timers.pop_due(now, |t, h, k| (t, h, k.to_owned())).unwrap();
            let expected = self.oracle.first().filter(|t| t.0 <= now).cloned();
            assert_eq!(due, expected);
            let Some(due) = due else {
                // What is not due is not said to be.
                assert!(self.timers.next_time().is_none_or(|t| t > now));
                return;
            };
            self.oracle.remove(&due);
        }
    }

    fn apply(&mut self, operation: Operation) {
        use Operation::*;
        match operation {
            Register(time, n) => self.register(time, n),
            Many(time, keys) => keys.into_iter().for_each(|n| self.register(time, n)),
            Delete(time, n) => {
                let (hash, key) = key(n);
                self.timers.delete(time, hash, &key);
                self.oracle.remove(&(time, hash, key));
            }
            Pop(now, most) => self.pop(now, most),
            Ahead(now, most) => {
                let mut shown = Vec::new();
                let look = |hash, key: &str| {
                    shown.push((hash, key.to_owned()));
                    Ok(())
                };
                self.timers.look_ahead(now, most, look).unwrap();
                let due = self.oracle.iter().filter(|t| t.0 <= now).map(|t| (t.1, t.2.clone()));
                assert!(shown.iter().cloned().eq(due.take(shown.len())), "{shown:?}");
                assert!(
                    most == 0 || !shown.is_empty() || self.oracle.first().is_none_or(|t| t.0 > now)
                );
            }
            Begin => {
                while !self.step(100) {}
                self.timers.begin_snapshot(7, 0);
                self.begun = Some(self.oracle.clone());
            }
            Step(budget) => {
                self.step(budget);
            }
            Abort => {
                self.timers.end_flush();
                self.begun = None;
                self.out.clear();
            }
            Native => self.native_checkpoint(),
        }
        let first = self.oracle.first().map(|t| t.0);
        let next = self.timers.next_time();
        assert!(first.is_none_or(|first| next.is_some_and(|next| next <= first)));
    }

    fn native_checkpoint(&mut self) {
        while !self.step(100) {}
        let expected = self.oracle.clone();
        self.timers.begin_snapshot(8, 0);
        let mut n = 0u8;
        let mut done = false;
        for _ in 0..40 {
            done = done || self.timers.flush_step(1).unwrap();
            n = n.wrapping_add(7);
            self.apply(Operation::Register(i64::from(n % 70) - 20, n % 20));
            self.apply(Operation::Delete(i64::from(n % 50) - 20, (n + 3) % 20));
            self.apply(Operation::Pop(i64::from(n % 13), 2));
        }
        assert!(done);
        self.checkpoints += 1;
        let dir = self.root.path().join(format!("checkpoint {}", self.checkpoints));
        let checkpoint = self.timers.db.checkpoint_job(dir).run().unwrap();
        self.timers.end_flush();
        self.restored_equals(&checkpoint, &expected);
    }

    /// The same parallelism by opening the files, another one by importing key groups, and the heap.
    fn restored_equals(&self, checkpoint: &NativeCheckpoint, expected: &Oracle) {
        let copy = self.root.path().join(format!("copy {}", self.checkpoints));
        let db = Database::open_from(&copy, &checkpoint.dir, &memory()).unwrap();
        let mut heap = TimerQueue::<String>::default();
        heap.restore_from(&db, "timers", &|_| true).unwrap();
        for (time, hash, key) in expected {
            let next = heap.pop_due(i64::MAX, |t, h, k| (t, h, k.to_owned())).unwrap();
            assert_eq!(next, Some((*time, *hash, key.clone())));
        }
        assert_eq!(heap.next_time(), None);
        let mut all = Oracle::new();
        for groups in [0..40, 40..128] {
            let name = format!("part {} {}", self.checkpoints, groups.start);
            let db = open(&self.root, &name);
            let keep = |h| groups.contains(&key_group(h, 128));
            db.import(&checkpoint.dir, keep).unwrap();
            let part = drain(&mut DiskTimers::open(&db, "timers").unwrap());
            assert!(part.is_sorted() && part.iter().all(|t| keep(t.1)));
            all.extend(part);
        }
        assert_eq!(&all, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn timers_in_rocksdb_are_a_sorted_set(operations in prop::collection::vec(operation(), 1..150)) {
        let mut run = Run::new();
        for operation in operations {
            run.apply(operation);
        }
        while !run.step(100) {}
        let all: Vec<_> = run.oracle.iter().cloned().collect();
        prop_assert_eq!(drain(&mut run.timers), all);
        // The database has none of them any more.
        run.timers.hand_over().unwrap();
        prop_assert_eq!(run.timers.first_from((i64::MIN, 0)).unwrap(), None);
    }

    #[test]
    fn few_timers_are_in_memory(times in prop::collection::vec((0i64..1000, 0u8..20), 200..400)) {
        let mut run = Run::new();
        for (time, n) in times {
            run.register(time, n);
            prop_assert!(run.timers.near() <= 24, "{} in memory", run.timers.near());
        }
        let all: Vec<_> = run.oracle.iter().cloned().collect();
        prop_assert_eq!(drain(&mut run.timers), all);
    }
}
