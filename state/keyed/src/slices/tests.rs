//! `SliceTables` against a map of maps.

use super::SliceTables;
use crate::heap::{Cursor, HeapTable};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tidemill_base::hash::{hash_u64, key_group};
use tidemill_base::{Batch, Key};

type Oracle = BTreeMap<i64, BTreeMap<u64, u64>>;

#[derive(Clone, Debug)]
enum Operation {
    Add(i64, u64, u64),
    Retire(i64),
    /// Take a slice, drain it in steps with other work in between, give it back.
    Fire(i64, Vec<(i64, u64, u64)>, bool),
    Begin,
    Step(usize),
    Abort,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let slice = -3i64..5;
    let add = (slice.clone(), 0u64..60, any::<u64>());
    prop_oneof![
        30 => add.clone().prop_map(|(s, k, v)| Add(s, k, v)),
        3 => slice.clone().prop_map(Retire),
        2 => (slice, prop::collection::vec(add, 0..5), any::<bool>())
            .prop_map(|(s, w, b)| Fire(s, w, b)),
        2 => Just(Begin),
        6 => (1usize..40).prop_map(Step),
        1 => Just(Abort),
    ]
}

#[derive(Default)]
struct Run {
    tables: SliceTables<u64, u64>,
    oracle: Oracle,
    begun: Option<Oracle>,
    out: Vec<(i64, Batch)>,
}

fn without_empty(oracle: &Oracle) -> Oracle {
    oracle.iter().filter(|(_, m)| !m.is_empty()).map(|(s, m)| (*s, m.clone())).collect()
}

fn collect(out: &[(i64, Batch)]) -> Oracle {
    let mut all = Oracle::new();
    for (slice, batch) in out {
        for ((k, v), timestamp, hash) in batch.iter::<(u64, u64)>() {
            assert_eq!((timestamp, hash), (*slice, hash_u64(k)));
            assert!(all.entry(*slice).or_default().insert(k, v).is_none());
        }
    }
    all
}

impl Run {
    fn add(&mut self, slice: i64, key: u64, value: u64) {
        let table = self.tables.table_mut(slice);
        let sum = table.upsert(hash_u64(key), key, || 0);
        *sum = sum.wrapping_add(value);
        let sum = self.oracle.entry(slice).or_default().entry(key).or_insert(0);
        *sum = sum.wrapping_add(value);
    }

    fn step(&mut self, budget: usize) -> bool {
        let done = self.tables.snapshot_step(budget, &mut self.out).unwrap();
        if let Some(begun) = self.begun.take_if(|_| done) {
            assert_eq!(collect(&self.out), without_empty(&begun));
            self.out.clear();
        }
        done
    }

    fn apply(&mut self, operation: Operation) {
        use Operation::*;
        match operation {
            Add(slice, key, value) => self.add(slice, key, value),
            Retire(slice) => {
                self.tables.retire(slice);
                self.oracle.remove(&slice);
            }
            Fire(slice, work, abort) => {
                let Some(mut table) = self.tables.take(slice) else {
                    assert!(!self.oracle.contains_key(&slice));
                    return;
                };
                let expected = self.oracle.remove(&slice).unwrap();
                let mut got = BTreeMap::new();
                let mut cursor = Cursor::default();
                let mut work = work.into_iter();
                while !table.drain_scan(&mut cursor, 10, |k, v| assert!(got.insert(k, v).is_none()))
                {
                    if let Some((slice, key, value)) = work.next() {
                        self.add(slice, key, value);
                    }
                    if abort {
                        self.apply(Abort);
                    } else {
                        self.step(5);
                    }
                }
                assert_eq!(got, expected);
                self.tables.recycle(table);
            }
            Begin => {
                while !self.step(1000) {}
                self.tables.begin_snapshot(3);
                self.begun = Some(self.oracle.clone());
            }
            Step(budget) => {
                self.step(budget);
            }
            Abort => {
                self.tables.abort_snapshot();
                self.begun = None;
                self.out.clear();
            }
        }
    }

    fn check(&self) {
        let contents = |t: &HeapTable<u64, u64>| t.iter().map(|(k, v)| (k, *v)).collect();
        let all: Oracle = self.tables.iter().map(|(s, t)| (s, contents(t))).collect();
        assert_eq!(all, self.oracle);
        assert_eq!(self.tables.first(), self.oracle.keys().next().copied());
        let range: Vec<i64> = self.tables.range(-1, 3).map(|r| r.0).collect();
        assert!(range.iter().eq(self.oracle.range(-1..3).map(|r| r.0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn slices_are_a_map_of_maps(operations in prop::collection::vec(operation(), 1..300)) {
        let mut run = Run::default();
        for operation in operations {
            run.apply(operation);
        }
        run.check();
        while !run.step(1000) {}
        prop_assert!(run.begun.is_none());

        run.tables.begin_snapshot(9);
        let mut out = Vec::new();
        while !run.tables.snapshot_step(7, &mut out).unwrap() {}
        let mut all = Oracle::new();
        for groups in [0..70, 70..128] {
            let mut part = SliceTables::<u64, u64>::new();
            for (slice, batch) in &out {
                let keep = |h| groups.contains(&key_group(h, 128));
                part.restore_batch(*slice, batch, keep).unwrap();
            }
            for (slice, table) in part.iter() {
                assert!(!table.is_empty());
                for (k, v) in table.iter() {
                    assert!(groups.contains(&key_group(u64::hash(k), 128)));
                    assert!(all.entry(slice).or_default().insert(k, *v).is_none());
                }
            }
        }
        prop_assert_eq!(all, without_empty(&run.oracle));
    }
}

#[test]
fn after_warm_up_slices_reuse_tables() {
    let mut tables = SliceTables::<u64, u64>::new();
    for slice in 0..3 {
        for k in 0..5_000 {
            tables.table_mut(slice).insert(hash_u64(k), k, 1);
        }
    }
    let bytes = tables.bytes();
    for slice in 3..20 {
        tables.retire(slice - 3);
        while !tables.step() {}
        for k in 0..5_000 {
            tables.table_mut(slice).insert(hash_u64(k), k, 1);
        }
        assert_eq!(tables.bytes(), bytes);
        assert_eq!(tables.len(), 15_000);
    }
}

#[test]
fn a_snapshot_waits_for_a_table_that_was_taken() {
    let mut tables = SliceTables::<u64, u64>::new();
    tables.table_mut(1).insert(hash_u64(7), 7, 70);
    tables.begin_snapshot(1);
    let table = tables.take(1).unwrap();
    let mut out = Vec::new();
    assert!(!tables.snapshot_step(10, &mut out).unwrap());
    tables.recycle(table);
    while !tables.snapshot_step(10, &mut out).unwrap() {}
    assert_eq!(collect(&out), Oracle::from([(1, BTreeMap::from([(7, 70)]))]));
}
