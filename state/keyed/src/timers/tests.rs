//! `Timers` against a sorted set.

use super::Timers;
use proptest::prelude::*;
use std::collections::BTreeSet;
use tidemill_base::hash::key_group;
use tidemill_base::{Batch, Key};

type Oracle = BTreeSet<(i64, u64, String)>;

#[derive(Clone, Debug)]
enum Operation {
    Register(i64, u8),
    Delete(i64, u8),
    Pop(i64, usize),
    Begin,
    Step(usize),
    Abort,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let time = -20i64..60;
    prop_oneof![
        20 => (time.clone(), any::<u8>()).prop_map(|(t, k)| Register(t, k % 20)),
        8 => (time.clone(), any::<u8>()).prop_map(|(t, k)| Delete(t, k % 20)),
        3 => (time, 0usize..10).prop_map(|(t, n)| Pop(t, n)),
        1 => Just(Begin),
        3 => (1usize..90).prop_map(Step),
        1 => Just(Abort),
    ]
}

fn key(n: u8) -> (u64, String) {
    let key = "k".repeat(usize::from(n));
    (String::hash(&key), key)
}

#[derive(Default)]
struct Run {
    timers: Timers<String>,
    oracle: Oracle,
    begun: Option<Oracle>,
    out: Vec<(i64, Batch)>,
}

fn collect(out: &[(i64, Batch)]) -> Oracle {
    let mut all = Oracle::new();
    for (_, batch) in out {
        for (((time, key), ()), _, hash) in batch.iter::<((i64, String), ())>() {
            assert_eq!(hash, String::hash(key));
            assert!(all.insert((time, hash, key.to_owned())));
        }
    }
    all
}

impl Run {
    fn step(&mut self, budget: usize) -> bool {
        let done = self.timers.snapshot_step(budget, &mut self.out).unwrap();
        if let Some(begun) = self.begun.take_if(|_| done) {
            assert_eq!(collect(&self.out), begun);
            self.out.clear();
        }
        done
    }

    fn pop(&mut self, now: i64) -> bool {
        let got = self.timers.pop_due(now, |time, hash, key| (time, hash, key.to_owned()));
        let expected = self.oracle.first().filter(|t| t.0 <= now).cloned();
        assert_eq!(got, expected);
        expected.is_some_and(|t| self.oracle.remove(&t))
    }

    fn apply(&mut self, operation: Operation) {
        use Operation::*;
        match operation {
            Register(time, n) => {
                let (hash, key) = key(n);
                let new = self.timers.register(time, hash, &key);
                assert_eq!(new, self.oracle.insert((time, hash, key)));
            }
            Delete(time, n) => {
                let (hash, key) = key(n);
                let found = self.timers.delete(time, hash, &key);
                assert_eq!(found, self.oracle.remove(&(time, hash, key)));
            }
            Pop(now, times) => {
                for _ in 0..times {
                    self.pop(now);
                }
            }
            Begin => {
                while !self.step(100) {}
                self.timers.begin_snapshot(1, 0);
                self.begun = Some(self.oracle.clone());
            }
            Step(budget) => {
                self.step(budget);
            }
            Abort => {
                self.timers.abort_snapshot();
                self.begun = None;
                self.out.clear();
            }
        }
        assert_eq!(self.timers.len(), self.oracle.len());
        assert_eq!(self.timers.next_time(), self.oracle.first().map(|t| t.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn timers_are_a_sorted_set(operations in prop::collection::vec(operation(), 1..400)) {
        let mut run = Run::default();
        for operation in operations {
            run.apply(operation);
        }
        while !run.step(1000) {}
        prop_assert!(run.begun.is_none());

        // Restored at another parallelism, they fire in the same order.
        run.timers.begin_snapshot(2, 0);
        let mut out = Vec::new();
        while !run.timers.snapshot_step(11, &mut out).unwrap() {}
        for groups in [0..99, 99..128] {
            let mut part = Run::default();
            let keep = |h| groups.contains(&key_group(h, 128));
            for (_, batch) in &out {
                part.timers.restore_batch(batch, keep).unwrap();
            }
            part.oracle = run.oracle.iter().filter(|t| keep(t.1)).cloned().collect();
            while part.pop(i64::MAX) {}
            prop_assert!(part.timers.is_empty());
        }
        while run.pop(i64::MAX) {}
        prop_assert!(run.timers.is_empty());
    }
}

#[test]
fn a_callback_may_register_timers_after_a_pop() {
    let mut timers = Timers::<u64>::new();
    timers.register(5, u64::hash(1), 1);
    let mut fired = Vec::new();
    while let Some((time, hash, key)) = timers.pop_due(100, |time, hash, key| (time, hash, key)) {
        fired.push(time);
        if time < 50 {
            timers.register(time + 20, hash, key);
        }
    }
    assert_eq!(fired, [5, 25, 45, 65]);
}
