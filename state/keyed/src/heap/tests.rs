//! `HeapTable` against a `BTreeMap`.

use super::{Cursor, Found, Hashes, HeapTable};
use crate::snapshot::{BATCHES_MAX, SnapshotSink};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Debug;
use tidemill_base::hash::key_group;
use tidemill_base::{Batch, Key, Record};

/// Keys to test with: from a small number, so that they repeat.
trait TestKey: Key + Ord + Clone + Debug {
    fn make(n: u16) -> Self;
}
impl TestKey for u64 {
    fn make(n: u16) -> u64 {
        u64::from(n)
    }
}
impl TestKey for u16 {
    fn make(n: u16) -> u16 {
        n
    }
}
impl TestKey for String {
    fn make(n: u16) -> String {
        "key".repeat(usize::from(n % 9)) + &n.to_string()
    }
}
impl TestKey for (String, u32) {
    fn make(n: u16) -> Self {
        (String::make(n), u32::from(n) * 7)
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(u16, u32),
    Upsert(u16, u32),
    Change(u16, u32),
    Remove(u16),
    ScanAdd(u32),
    Batch(Vec<(u16, u32)>),
    Each(Vec<(u16, u32)>, usize),
    RetainOdd,
    Begin,
    Step(usize),
    Abort,
    Clear,
    DrainAll,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let key = 0u16..300;
    prop_oneof![
        8 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Insert(k, v)),
        20 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Upsert(k, v)),
        6 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Change(k, v)),
        10 => key.prop_map(Remove),
        1 => any::<u32>().prop_map(ScanAdd),
        2 => prop::collection::vec((0u16..300, any::<u32>()), 1..100).prop_map(Batch),
        2 => (prop::collection::vec((0u16..300, any::<u32>()), 1..200), 1usize..300)
            .prop_map(|(records, stop)| Each(records, stop)),
        1 => Just(RetainOdd),
        2 => Just(Begin),
        6 => (1usize..80).prop_map(Step),
        1 => Just(Abort),
        1 => Just(Clear),
        1 => Just(DrainAll),
    ]
}

/// Values to test with, made of a number.
trait TestValue: Record + Clone + Debug + PartialEq {
    fn make(n: u32) -> Self;
    fn number(&mut self) -> &mut u32;
}
/// Kept in the slab.
impl TestValue for (u32, String) {
    fn make(n: u32) -> Self {
        (n, format!("value {n}"))
    }
    fn number(&mut self) -> &mut u32 {
        &mut self.0
    }
}
/// Kept inside the index, beside integers.
impl TestValue for u32 {
    fn make(n: u32) -> Self {
        n
    }
    fn number(&mut self) -> &mut u32 {
        self
    }
}
/// With a `u8` an entry of 12 bytes, which straddles cache lines.
impl TestValue for (u32, u32) {
    fn make(n: u32) -> Self {
        (n, !n)
    }
    fn number(&mut self) -> &mut u32 {
        &mut self.0
    }
}

fn hash<K: Key>(key: &K) -> u64 {
    K::hash(key.view())
}

/// What a snapshot wrote; panics if a key comes twice.
fn collect<K: TestKey, V: Record + Clone>(out: &[(i64, Batch)]) -> BTreeMap<K, V> {
    let mut all = BTreeMap::new();
    for (namespace, batch) in out {
        batch.check::<(K, V)>().unwrap();
        for ((key, value), timestamp, h) in batch.iter::<(K, V)>() {
            assert_eq!((timestamp, h), (*namespace, K::hash(key)));
            assert!(all.insert(K::from_view(key), V::from_view(value)).is_none());
        }
    }
    all
}

struct Run<K: TestKey, V: TestValue> {
    table: HeapTable<K, V>,
    oracle: BTreeMap<K, V>,
    /// The oracle at the beginning of the running snapshot, and what came out so far.
    begun: Option<BTreeMap<K, V>>,
    out: Vec<(i64, Batch)>,
}

impl<K: TestKey, V: TestValue> Run<K, V> {
    fn step(&mut self, budget: usize) -> bool {
        let done = self.table.snapshot_step(budget, &mut self.out).unwrap();
        if let Some(begun) = self.begun.take_if(|_| done) {
            assert_eq!(collect::<K, V>(&self.out), begun);
            self.out.clear();
        }
        assert!(self.out.is_empty() || !done);
        done
    }

    fn apply(&mut self, operation: Operation) {
        use Operation::*;
        let (table, oracle) = (&mut self.table, &mut self.oracle);
        match operation {
            Insert(k, v) => {
                let k = K::make(k);
                assert_eq!(
                    table.insert(hash(&k), k.view(), V::make(v)),
                    oracle.insert(k, V::make(v))
                );
            }
            Upsert(k, v) => {
                let k = K::make(k);
                let got = table.upsert(hash(&k), k.view(), || V::make(v));
                let expected = oracle.entry(k).or_insert_with(|| V::make(v));
                assert_eq!(got, expected);
                *got.number() = got.number().wrapping_add(v);
                *expected.number() = expected.number().wrapping_add(v);
            }
            Change(k, v) => {
                let k = K::make(k);
                let got = table.get_mut(hash(&k), k.view());
                assert_eq!(got.is_some(), oracle.contains_key(&k));
                if let (Some(got), Some(expected)) = (got, oracle.get_mut(&k)) {
                    *got = V::make(v);
                    *expected = V::make(v);
                }
            }
            Remove(k) => {
                let k = K::make(k);
                assert_eq!(table.remove(hash(&k), k.view()), oracle.remove(&k));
            }
            ScanAdd(n) => self.scan_add(n),
            Batch(records) => self.batch(&records),
            Each(records, stop) => self.each(&records, stop),
            RetainOdd => {
                let mut cursor = Cursor::default();
                while !table.retain_scan(&mut cursor, 30, |_, v| *v.clone().number() % 2 == 1) {}
                oracle.retain(|_, v| *v.number() % 2 == 1);
            }
            Begin => {
                while !self.step(64) {}
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
            Clear => {
                table.clear();
                oracle.clear();
            }
            DrainAll => self.drain_all(),
        }
    }

    fn scan_add(&mut self, n: u32) {
        let mut cursor = Cursor::default();
        let mut seen = 0;
        let mut add = |_: K::View<'_>, v: &mut V| {
            seen += 1;
            *v.number() = v.number().wrapping_add(n);
        };
        while !self.table.scan(&mut cursor, 30, &mut add) {}
        assert_eq!(seen, self.oracle.len());
        self.oracle.values_mut().for_each(|v| *v.number() = v.number().wrapping_add(n));
    }

    fn batch(&mut self, records: &[(u16, u32)]) {
        let keys: Vec<K> = records.iter().map(|r| K::make(r.0)).collect();
        let mut order = Vec::new();
        self.table.for_batch(
            keys.len(),
            |i| (hash(&keys[i]), keys[i].view()),
            |i| V::make(records[i].1),
            |i, v| {
                *v.number() = v.number().wrapping_mul(3).wrapping_add(records[i].1);
                order.push(i);
            },
        );
        assert!(order.into_iter().eq(0..records.len()));
        for (k, r) in keys.into_iter().zip(records) {
            let v = self.oracle.entry(k).or_insert_with(|| V::make(r.1));
            *v.number() = v.number().wrapping_mul(3).wrapping_add(r.1);
        }
    }

    /// Like `batch`, but stops behind `stop` records.
    fn each(&mut self, records: &[(u16, u32)], stop: usize) {
        let keys: Vec<K> = records.iter().map(|r| K::make(r.0)).collect();
        let mut seen = 0;
        let end = self.table.each(
            0..keys.len(),
            |i| hash(&keys[i]),
            |i, aim| {
                assert_eq!(i, seen);
                seen += 1;
                let v = match aim.find(keys[i].view()) {
                    Found::Value(v) => v,
                    Found::Vacant(place) => place.insert(keys[i].view(), V::make(records[i].1)),
                };
                *v.number() = v.number().wrapping_mul(5).wrapping_add(records[i].1);
                seen < stop
            },
        );
        assert_eq!((end, end), (seen, stop.min(records.len())));
        for (k, r) in keys.into_iter().zip(records).take(end) {
            let v = self.oracle.entry(k).or_insert_with(|| V::make(r.1));
            *v.number() = v.number().wrapping_mul(5).wrapping_add(r.1);
        }
    }

    fn drain_all(&mut self) {
        let mut cursor = Cursor::default();
        let mut drained = BTreeMap::new();
        let mut take = |k: K::View<'_>, v: V| {
            assert!(drained.insert(K::from_view(k), v).is_none());
        };
        while !self.table.drain_scan(&mut cursor, 50, &mut take) {}
        assert_eq!(drained, std::mem::take(&mut self.oracle));
    }

    fn check(&self) {
        assert_eq!(self.table.len(), self.oracle.len());
        let all = self.table.iter().map(|(k, v)| (K::from_view(k), v.clone()));
        assert_eq!(all.collect::<BTreeMap<K, V>>(), self.oracle);
        for (k, v) in &self.oracle {
            assert_eq!(self.table.get(hash(k), k.view()), Some(v));
        }
    }
}

fn agree<K: TestKey, V: TestValue>(operations: Vec<Operation>) {
    agree_in::<K, V>(HeapTable::new(), operations);
}

fn agree_compact<K: TestKey, V: TestValue>(operations: Vec<Operation>) {
    let table = HeapTable::<K, V>::compact();
    assert!(table.store.is_flat());
    agree_in(table, operations);
}

fn agree_in<K: TestKey, V: TestValue>(table: HeapTable<K, V>, operations: Vec<Operation>) {
    let mut run = Run::<K, V> { table, oracle: BTreeMap::new(), begun: None, out: Vec::new() };
    for operation in operations {
        run.apply(operation);
        assert_eq!(run.table.len(), run.oracle.len());
    }
    run.check();
    while !run.step(100) {}
    assert!(run.begun.is_none());
    restore_by_key_groups(&mut run);
}

/// The snapshot of the table, restored by three subtasks of a random split of the key groups.
fn restore_by_key_groups<K: TestKey, V: TestValue>(run: &mut Run<K, V>) {
    run.table.begin_snapshot(8, 0);
    let mut out = Vec::new();
    while !run.table.snapshot_step(100, &mut out).unwrap() {}
    let mut all = BTreeMap::new();
    for groups in [0..30, 30..31, 31..100] {
        let mut part = HeapTable::<K, V>::new();
        for (_, batch) in &out {
            let mut bytes = Vec::new();
            batch.encode(&mut bytes);
            let (batch, _) = Batch::decode(&bytes).unwrap();
            part.restore_batch(&batch, |h| groups.contains(&key_group(h, 100))).unwrap();
        }
        for (k, v) in part.iter() {
            assert!(groups.contains(&key_group(K::hash(k), 100)));
            assert!(all.insert(K::from_view(k), v.clone()).is_none());
        }
    }
    assert_eq!(all, run.oracle);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_table_of_integers_is_a_map(operations in prop::collection::vec(operation(), 1..700)) {
        agree::<u64, (u32, String)>(operations);
    }

    #[test]
    fn a_table_of_small_entries_is_a_map(operations in prop::collection::vec(operation(), 1..700)) {
        agree_compact::<u64, u32>(operations);
    }

    #[test]
    fn a_table_of_entries_across_lines_is_a_map(
        operations in prop::collection::vec(operation(), 1..700),
    ) {
        agree_compact::<u16, (u32, u32)>(operations);
    }

    #[test]
    fn a_table_of_full_entries_is_a_map(operations in prop::collection::vec(operation(), 1..700)) {
        agree_compact::<u64, (u32, u32)>(operations);
    }

    #[test]
    fn a_table_of_small_entries_with_ids_is_a_map(
        operations in prop::collection::vec(operation(), 1..400),
    ) {
        agree::<u64, u32>(operations);
    }

    #[test]
    fn a_compact_table_of_large_entries_is_a_map(
        operations in prop::collection::vec(operation(), 1..300),
    ) {
        agree_in::<u64, (u32, String)>(HeapTable::compact(), operations);
    }

    #[test]
    fn a_table_of_strings_is_a_map(operations in prop::collection::vec(operation(), 1..500)) {
        agree::<String, (u32, String)>(operations);
    }

    #[test]
    fn a_table_of_pairs_is_a_map(operations in prop::collection::vec(operation(), 1..300)) {
        agree::<(String, u32), (u32, String)>(operations);
    }
}

#[test]
fn partitions_split_and_keep_every_entry() {
    // 150,000 entries: the first partition doubles to its full size, then splits twice.
    let mut table = HeapTable::<u64, u32>::new();
    for k in 0..150_000u64 {
        *table.upsert(hash(&k), k, || 0) += k as u32;
    }
    for k in (0..150_000u64).step_by(3) {
        assert_eq!(table.remove(hash(&k), k), Some(k as u32));
    }
    for k in 0..150_000u64 {
        let expected = (k % 3 != 0).then_some(k as u32);
        assert_eq!(table.get(hash(&k), k).copied(), expected);
    }
    assert_eq!(table.len(), 100_000);
    table.clear();
    assert!(table.is_empty() && table.get(hash(&1), 1).is_none());
}

#[test]
fn a_partition_full_of_one_hash_still_works() {
    let same = Hashes { table: |_| 0xABCD_0000_1234_5678, route: |_| 0 };
    let mut table = HeapTable::<u64, u32>::with_hashes(same);
    for k in 0..3_000u64 {
        table.insert(0xABCD_0000_1234_5678, k, 1);
    }
    for k in 0..3_000u64 {
        assert_eq!(table.get(0xABCD_0000_1234_5678, k), Some(&1));
        assert_eq!(table.remove(0xABCD_0000_1234_5678, k), Some(1));
    }
    assert!(table.is_empty());
}

#[test]
fn values_larger_than_a_buffer_are_saved() {
    let mut table = HeapTable::<u64, Vec<u64>>::new();
    let sizes = [0usize, 100, 5_000, 100_000, 3];
    for (k, &n) in sizes.iter().enumerate() {
        table.insert(hash(&(k as u64)), k as u64, vec![k as u64; n]);
    }
    table.begin_snapshot(1, 5);
    table.get_mut(hash(&3), 3).unwrap().clear();
    let mut out: Vec<(i64, Batch)> = Vec::new();
    while !table.snapshot_step(1, &mut out).unwrap() {}
    let all = collect::<u64, Vec<u64>>(&out);
    let lengths: Vec<usize> = all.values().map(Vec::len).collect();
    assert_eq!(lengths, sizes);
    assert!(all.iter().all(|(k, v)| v.iter().all(|x| x == k)));
}

#[test]
fn entries_without_bytes_and_large_entries_have_their_place() {
    let mut table = HeapTable::<(), ()>::new();
    table.insert(hash(&()), (), ());
    assert_eq!(table.remove(hash(&()), ()), Some(()));
    type Wide = ((u128, u128, u128, u128, u128, u128, u128, u128), u8);
    let mut wide = HeapTable::<u8, Wide>::new();
    for k in 0..200u8 {
        wide.insert(hash(&k), k, ((1, 2, 3, 4, 5, 6, 7, u128::from(k)), k));
    }
    assert!((0..200u8).all(|k| wide.get(hash(&k), k).unwrap().0.7 == u128::from(k)));
}

/// What changes write while nobody takes a snapshot's batches leaves in bounded steps, too.
#[test]
fn a_step_hands_over_what_had_to_be_written_by_and_by() {
    for mut table in [HeapTable::<u64, u64>::new(), HeapTable::compact()] {
        let keys = 50_000;
        for key in 0..keys {
            table.insert(hash(&key), key, 1);
        }
        table.begin_snapshot(1, 0);
        for key in 0..keys {
            *table.get_mut(hash(&key), key).unwrap() += 1;
        }
        let (mut out, mut steps) = (Vec::new(), 0);
        while !table.snapshot_step(3_000, &mut out).unwrap() {
            steps += 1;
            assert!(out.len() <= steps * BATCHES_MAX, "{} batches in {steps} steps", out.len());
        }
        assert!(out.len() > 2 * BATCHES_MAX);
        let saved = collect::<u64, u64>(&out);
        assert!(saved.len() == keys as usize && saved.values().all(|&value| value == 1));
    }
}

#[test]
fn damaged_and_foreign_batches_are_refused() {
    let mut table = HeapTable::<u64, String>::new();
    table.insert(hash(&1), 1, "one".repeat(9));
    table.begin_snapshot(1, 0);
    let mut out: Vec<(i64, Batch)> = Vec::new();
    assert!(table.snapshot_step(9, &mut out).unwrap());
    let mut foreign = HeapTable::<u64, Vec<String>>::new();
    assert!(foreign.restore_batch(&out[0].1, |_| true).is_err());
    let mut bytes = Vec::new();
    out[0].1.encode(&mut bytes);
    let at = bytes.len() - 10;
    bytes[at] ^= 1; // in the hash
    let (damaged, _) = Batch::decode(&bytes).unwrap();
    let error = HeapTable::<u64, String>::new().restore_batch(&damaged, |_| true).unwrap_err();
    assert!(error.to_string().contains("hash of key 1"), "{error}");
}

#[test]
fn values_are_dropped_once() {
    // A leak or double drop shows under the address sanitizer; here the counts must be right.
    let mut table = HeapTable::<u64, Vec<String>>::new();
    for k in 0..1000u64 {
        table.upsert(hash(&k), k, Vec::new).push(k.to_string());
    }
    for k in 0..500u64 {
        assert_eq!(table.remove(hash(&k), k), Some(vec![k.to_string()]));
    }
    let mut moved = Box::new(table);
    moved.begin_snapshot(3, 0);
    let mut sink: Vec<(i64, Batch)> = Vec::new();
    moved.clear();
    moved.insert(hash(&1), 1, vec![]);
    let mut frozen = *moved;
    while !frozen.snapshot_step(10, &mut sink as &mut dyn SnapshotSink).unwrap() {}
    assert_eq!(collect::<u64, Vec<String>>(&sink).len(), 500);
    assert_eq!(frozen.len(), 1);
}

#[test]
fn a_batch_tells_keys_of_one_hash_apart() {
    let same = Hashes { table: |_| 77, route: |_| 0 };
    let mut table = HeapTable::<u64, u64>::with_hashes(same);
    let keys: Vec<u64> = (0..200).map(|i| i % 100).collect();
    for _ in 0..2 {
        table.for_batch(keys.len(), |i| (77, keys[i]), |_| 0, |i, v| *v += keys[i]);
    }
    assert!(table.is_large());
    table.each(
        0..keys.len(),
        |_| 77,
        |i, aim| match aim.find(keys[i]) {
            Found::Value(v) => {
                *v += keys[i];
                true
            }
            Found::Vacant(_) => panic!("{i} is missing"),
        },
    );
    assert!((0..100).all(|k| table.get(77, k) == Some(&(6 * k))));
}

#[test]
fn churn_does_not_grow_a_table() {
    let mut table = HeapTable::<String, u64>::new();
    let mut bytes = 0;
    for round in 0..50u64 {
        let keys: Vec<String> =
            (0..100).map(|n| format!("a key of some length {n} {round}")).collect();
        keys.iter().for_each(|k| assert!(table.insert(hash(k), k, round).is_none()));
        keys.iter().for_each(|k| assert!(table.remove(hash(k), k).is_some()));
        if round == 9 {
            bytes = table.bytes();
        }
    }
    assert_eq!(table.bytes(), bytes);
}
