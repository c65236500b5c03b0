//! Every kind of state against naive maps, with and without TTL, with snapshots in between.

use super::*;
use crate::current::{CurrentKey, StateTime};
#[cfg(feature = "rocksdb")]
use crate::rocks::{Database, Memory, RocksOptions};
use crate::table::Backend;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tidemill_base::hash::key_group;
use tidemill_base::{Key, WATERMARK_MAX};

#[derive(Clone, Debug)]
enum Operation {
    Key(u8),
    Timestamp(i64),
    Watermark(i64),
    Processing(i64),
    Set(u64),
    Update(u64),
    Take,
    Add(u64),
    SetList(Vec<u64>),
    ClearList,
    Put(u8, u64),
    UpdateMap(u8, u64),
    RemoveMap(u8),
    ClearMap,
    Reduce(u64),
    Read,
    Expire(usize),
    Begin,
    Step(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let n = 0u64..1000;
    prop_oneof![
        20 => (0u8..12).prop_map(Key),
        3 => (0i64..200).prop_map(Timestamp),
        2 => (0i64..15).prop_map(Watermark),
        2 => (0i64..15).prop_map(Processing),
        5 => n.clone().prop_map(Set),
        5 => n.clone().prop_map(Update),
        2 => Just(Take),
        8 => n.clone().prop_map(Add),
        1 => prop::collection::vec(n.clone(), 0..4).prop_map(SetList),
        1 => Just(ClearList),
        8 => (0u8..6, n.clone()).prop_map(|(k, v)| Put(k, v)),
        4 => (0u8..6, n.clone()).prop_map(|(k, v)| UpdateMap(k, v)),
        3 => (0u8..6).prop_map(RemoveMap),
        1 => Just(ClearMap),
        5 => n.prop_map(Reduce),
        8 => Just(Read),
        3 => (1usize..20).prop_map(Expire),
        1 => Just(Begin),
        4 => (1usize..20).prop_map(Step),
    ]
}

fn ttl() -> impl Strategy<Value = Option<StateTtl>> {
    let time = prop_oneof![Just(TtlTime::Event), Just(TtlTime::Processing)];
    let some = (1i64..60, any::<bool>(), time).prop_map(|(duration_ms, update_on_read, time)| {
        StateTtl { duration_ms, update_on_read, time }
    });
    prop::option::weighted(0.8, some)
}

/// A value and when it expires.
type Aged<T> = (T, i64);

/// What a user should see of one key.
#[derive(Clone, Debug, Default, PartialEq)]
struct Naive {
    value: Option<Aged<u64>>,
    list: Vec<Aged<u64>>,
    /// In the order of adding.
    map: Vec<(String, Aged<u64>)>,
    reduced: Option<Aged<u64>>,
}

impl Naive {
    fn expire(&mut self, now: i64) {
        self.value.take_if(|v| v.1 <= now);
        self.reduced.take_if(|v| v.1 <= now);
        self.list.retain(|v| v.1 > now);
        self.map.retain(|v| v.1.1 > now);
    }

    fn touch(&mut self, expiry: i64) {
        let all = self.value.iter_mut().chain(&mut self.reduced).chain(&mut self.list);
        all.chain(self.map.iter_mut().map(|m| &mut m.1)).for_each(|v| v.1 = v.1.max(expiry));
    }

    fn update(slot: &mut Option<Aged<u64>>, expiry: i64, f: impl FnOnce(Option<u64>) -> u64) {
        let old = slot.take();
        let after = old.map_or(expiry, |o| o.1.max(expiry));
        *slot = Some((f(old.map(|o| o.0)), after));
    }

    fn update_map(&mut self, key: &str, expiry: i64, f: impl FnOnce(Option<u64>) -> u64) {
        match self.map.iter_mut().find(|m| m.0 == key) {
            Some((_, v)) => *v = (f(Some(v.0)), v.1.max(expiry)),
            None => self.map.push((key.to_owned(), (f(None), expiry))),
        }
    }
}

struct Subject {
    states: States<String>,
    value: ValueState<u64>,
    list: ListState<u64>,
    map: MapState<String, u64>,
    reduced: ReducingState<u64>,
}

impl Subject {
    fn new(time: StateTime, ttl: Option<StateTtl>, backend: Backend) -> Self {
        let key = CurrentKey::<String>::new();
        let mut states = States::with_backend(key, time, backend, "");
        Subject {
            value: states.value("value", ttl).unwrap(),
            list: states.list("list", ttl).unwrap(),
            map: states.map("map", ttl).unwrap(),
            reduced: states.reducing("reduced", ttl, |a, b| *a += b).unwrap(),
            states,
        }
    }

    fn select(&self, key: &str) {
        self.states.key().set(String::hash(key), key);
    }

    fn assert_is(&self, naive: &Naive) {
        assert_eq!(self.value.get(), naive.value.map(|v| v.0));
        assert_eq!(self.reduced.get(), naive.reduced.map(|v| v.0));
        assert!(self.list.iter().eq(naive.list.iter().map(|v| v.0)));
        assert_eq!(self.list.len(), naive.list.len());
        let mut map: Vec<(String, u64)> = self.map.iter().collect();
        let mut expected: Vec<_> = naive.map.iter().map(|m| (m.0.clone(), m.1.0)).collect();
        if self.states.is_on_disk() {
            // The order is that of archives.
            map.sort();
            expected.sort();
        }
        assert_eq!(map, expected);
        assert_eq!(self.map.is_empty(), naive.map.is_empty());
        for n in 0..6 {
            let key = map_key(n);
            let expected = naive.map.iter().find(|m| m.0 == key).map(|m| m.1.0);
            assert_eq!(self.map.get(&key), expected);
        }
    }
}

fn key(n: u8) -> String {
    "key ".repeat(usize::from(n % 5)) + &n.to_string()
}

fn map_key(n: u8) -> String {
    "field ".repeat(usize::from(n % 4)) + &n.to_string()
}

type Saved = BTreeMap<usize, Vec<(i64, Batch)>>;

struct Run {
    subject: Subject,
    naive: BTreeMap<String, Naive>,
    key: String,
    ttl: Option<StateTtl>,
    time: StateTime,
    begun: Option<BTreeMap<String, Naive>>,
    out: Saved,
}

impl Run {
    fn new(ttl: Option<StateTtl>, backend: Backend) -> Self {
        let time = StateTime::new();
        time.set_watermark(0);
        time.set_timestamp(0);
        let subject = Subject::new(time.clone(), ttl, backend);
        let naive = BTreeMap::new();
        let mut run =
            Run { subject, naive, key: String::new(), ttl, time, begun: None, out: Saved::new() };
        run.apply(Operation::Key(0));
        run
    }

    fn now(&self) -> i64 {
        match self.ttl {
            None => i64::MIN,
            Some(ttl) if ttl.time == TtlTime::Event => self.time.watermark(),
            Some(_) => self.time.processing_ms(),
        }
    }

    fn expiry(&self) -> i64 {
        let Some(ttl) = self.ttl else { return i64::MAX };
        let used = match ttl.time {
            TtlTime::Event => self.time.timestamp().max(self.time.watermark()),
            TtlTime::Processing => self.time.processing_ms(),
        };
        used + ttl.duration_ms
    }

    fn apply(&mut self, operation: Operation) {
        use Operation::*;
        let (now, expiry) = (self.now(), self.expiry());
        let naive = self.naive.entry(self.key.clone()).or_default();
        naive.expire(now);
        let subject = &self.subject;
        match operation {
            Key(n) => {
                self.key = key(n);
                subject.select(&self.key);
            }
            Timestamp(t) => self.time.set_timestamp(t),
            Watermark(t) => {
                self.time.set_watermark(WATERMARK_MAX);
                self.time.set_watermark(self.time.watermark() + t);
            }
            Processing(t) => self.time.set_processing_ms(self.time.processing_ms() + t),
            Set(v) => {
                subject.value.set(v);
                Naive::update(&mut naive.value, expiry, |_| v);
            }
            Update(v) => {
                subject.value.update(|x| *x += v);
                Naive::update(&mut naive.value, expiry, |x| x.unwrap_or(0) + v);
            }
            Take => assert_eq!(subject.value.take(), naive.value.take().map(|v| v.0)),
            Add(v) => {
                subject.list.add(v);
                naive.list.push((v, expiry));
            }
            SetList(values) => {
                naive.list = values.iter().map(|v| (*v, expiry)).collect();
                subject.list.set(values);
            }
            ClearList => {
                subject.list.clear();
                naive.list.clear();
            }
            Put(..) | UpdateMap(..) | RemoveMap(..) | ClearMap => {
                Self::apply_map(&subject.map, naive, expiry, operation);
            }
            Reduce(v) => {
                subject.reduced.add(v);
                Naive::update(&mut naive.reduced, expiry, |x| x.map_or(v, |x| x + v));
            }
            Read => {
                subject.assert_is(naive);
                if self.ttl.is_some_and(|t| t.update_on_read) {
                    naive.touch(expiry);
                }
            }
            Expire(n) => self.subject.states.tables_mut().iter_mut().for_each(|t| t.expire_step(n)),
            Begin => {
                while !self.step(100) {}
                self.subject.states.tables_mut().iter_mut().for_each(|t| t.begin_snapshot(4));
                self.begun = Some(self.naive.clone());
            }
            Step(n) => {
                self.step(n);
            }
        }
    }

    fn apply_map(
        map: &MapState<String, u64>,
        naive: &mut Naive,
        expiry: i64,
        operation: Operation,
    ) {
        use Operation::*;
        match operation {
            Put(k, v) => {
                map.put(&map_key(k), v);
                naive.update_map(&map_key(k), expiry, |_| v);
            }
            UpdateMap(k, v) => {
                map.update(&map_key(k), |x| *x += v);
                naive.update_map(&map_key(k), expiry, |x| x.unwrap_or(0) + v);
            }
            RemoveMap(k) => {
                let at = naive.map.iter().position(|m| m.0 == map_key(k));
                let expected = at.map(|at| naive.map.remove(at).1.0);
                assert_eq!(map.remove(&map_key(k)), expected);
            }
            ClearMap => {
                map.clear();
                naive.map.clear();
            }
            other => unreachable!("{other:?} is not about maps"),
        }
    }

    fn all(mut self, operations: Vec<Operation>) -> Result<(), TestCaseError> {
        let run = &mut self;
        for operation in operations {
            run.apply(operation);
        }
        run.apply(Operation::Read);
        run.apply(Operation::Begin);
        while !run.step(100) {}
        prop_assert!(run.begun.is_none());
        for n in 0..12 {
            run.apply(Operation::Key(n));
            run.apply(Operation::Read);
        }
        Ok(())
    }

    /// A step of every table's snapshot; when all are done, what was saved must restore to what
    /// was there at the beginning.
    fn step(&mut self, budget: usize) -> bool {
        let mut done = true;
        for (i, table) in self.subject.states.tables_mut().iter_mut().enumerate() {
            done &= table.snapshot_step(budget, self.out.entry(i).or_default()).unwrap();
        }
        if let Some(begun) = self.begun.take_if(|_| done) {
            let saved = std::mem::take(&mut self.out);
            self.restored_equals(&saved, begun);
        }
        done
    }

    fn restored_equals(&self, saved: &Saved, mut begun: BTreeMap<String, Naive>) {
        for groups in [0..50, 50..128] {
            let mut part = Subject::new(self.time.clone(), self.ttl, Backend::Heap);
            let keep = |h: u64| groups.contains(&key_group(h, 128));
            for (i, batches) in saved {
                for (_, batch) in batches {
                    part.states.tables_mut()[*i].restore_batch(batch, &keep).unwrap();
                }
            }
            for (key, naive) in &mut begun {
                part.select(key);
                naive.expire(self.now());
                let mut empty = Naive::default();
                let naive = if keep(String::hash(key)) { naive } else { &mut empty };
                // A map's order is that of restoring: compare it sorted.
                let sorted = |m: &mut Vec<(String, u64)>| m.sort();
                let mut expected: Vec<_> = naive.map.iter().map(|m| (m.0.clone(), m.1.0)).collect();
                let mut got: Vec<_> = part.map.iter().collect();
                sorted(&mut expected);
                sorted(&mut got);
                assert_eq!(got, expected);
                naive.map.clear();
                part.map.clear();
                part.assert_is(naive);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn states_are_naive_maps(
        ttl in ttl(),
        operations in prop::collection::vec(operation(), 1..400),
    ) {
        Run::new(ttl, Backend::Heap).all(operations)?;
    }

    /// All expired state goes away without being read.
    #[test]
    fn expiry_leaves_nothing_behind(operations in prop::collection::vec(operation(), 1..200)) {
        let mut run = Run::new(Some(StateTtl::processing(10)), Backend::Heap);
        for operation in operations {
            run.apply(operation);
        }
        run.time.set_processing_ms(run.time.processing_ms() + 10);
        for table in run.subject.states.tables_mut() {
            // The walk under way ends; the next one sees everything.
            for _ in 0..2 * (table.len() + 100) {
                table.expire_step(1);
            }
            prop_assert_eq!(table.len(), 0);
        }
    }
}

#[cfg(feature = "rocksdb")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn states_in_rocksdb_are_naive_maps(
        ttl in ttl(),
        operations in prop::collection::vec(operation(), 1..400),
    ) {
        let root = crate::rocks::tests::root();
        let options = RocksOptions { memory_bytes: 0, background_jobs: 1, concurrent: true };
        let memory = Memory::new(options).unwrap();
        let database = Database::open(&root.path().join("db"), &memory).unwrap();
        Run::new(ttl, Backend::Rocks(database.into())).all(operations)?;
    }
}

#[test]
fn a_name_is_taken_once() {
    let mut states = States::<u64>::default();
    states.list::<u64>("clicks", None).unwrap();
    let error = states.value::<u64>("clicks", None).unwrap_err();
    assert!(error.to_string().contains("\"clicks\" is declared twice"), "{error}");
    assert!(error.to_string().contains("list state"), "{error}");
}

#[test]
fn tables_describe_themselves() {
    let mut states = States::<u64>::default();
    states.value::<i64>("v", Some(StateTtl::event(5))).unwrap();
    states.map::<String, u32>("m", None).unwrap();
    states.list::<bool>("l", None).unwrap();
    let described: Vec<_> = states
        .tables()
        .iter()
        .map(|t| format!("{} {} {} {}", t.name(), t.kind(), t.key_shape(), t.value_shape()))
        .collect();
    assert_eq!(
        described,
        ["v value u64 (i64,i64)", "m map (u64,str) u32", "l list u64 list<bool>"]
    );
    assert!(states.table_mut("m").is_some() && states.table_mut("x").is_none());
}

#[test]
fn a_value_may_have_no_default() {
    let mut states = States::<u64>::default();
    let state = states.value::<String>("text", Some(StateTtl::event(10))).unwrap();
    states.time().set_watermark(0);
    states.time().set_timestamp(0);
    states.key().set(u64::hash(1), 1);
    state.update_or(|| "a".to_owned(), |s| s.push('b'));
    state.update_or(|| unreachable!("it is there"), |s| s.push('c'));
    assert_eq!(state.read(|s| s.cloned()), Some("abc".to_owned()));
    states.time().set_watermark(10);
    state.update_or(|| "new".to_owned(), |s| s.push('!'));
    assert_eq!(state.take(), Some("new!".to_owned()));
    assert_eq!(states.key().owned(), 1);
}
