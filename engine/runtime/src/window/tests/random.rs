//! Random scripts on every kind of window.

use super::driver::{Driver, name};
use super::oracle::Oracle;
use crate::context::Restored;
use crate::process::testing::Disk;
use crate::window::{Aligned, Assigner, Domain, Spec, Trigger};
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;
use tidemill_base::clock::ManualClock;
use tidemill_base::{WATERMARK_MAX, WATERMARK_MIN};

const KEYS: u8 = 9;

#[derive(Clone, Debug)]
enum Event {
    /// Keys, and timestamps from the greatest watermark.
    Records(Vec<(u8, i64)>),
    /// The greatest watermark advances by this, in the subtasks whose bit is set.
    Watermark(u8, u32),
    /// The clock advances by so many milliseconds.
    Pass(u64),
    /// A step of the running snapshot.
    SnapshotStep,
    /// The running snapshot is aborted and begins anew later.
    Abort,
}

/// Events, then a snapshot with further events beside it, then a crash and a restore.
#[derive(Clone, Debug)]
struct Round {
    before: Vec<Event>,
    beside: Vec<Event>,
    parallelism: u32,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => vec((0..KEYS, -45..45i64), 1..12).prop_map(Event::Records),
        4 => (0..30u8, prop_oneof![Just(u32::MAX), any::<u32>()])
            .prop_map(|(by, mask)| Event::Watermark(by, mask)),
        2 => (0..25u64).prop_map(Event::Pass),
        2 => Just(Event::SnapshotStep),
        1 => Just(Event::Abort),
    ]
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let round = (vec(event(), 0..14), vec(event(), 0..8), 1..5u32)
        .prop_map(|(before, beside, parallelism)| Round { before, beside, parallelism });
    vec(round, 1..4)
}

fn aligned() -> impl Strategy<Value = Assigner> {
    (1..40i64, 1..40i64, -50..50i64, any::<bool>()).prop_map(|(size, slide, offset, tumbling)| {
        let slide = if tumbling { size } else { slide };
        Assigner::Aligned(Aligned { size, slide, offset })
    })
}

fn assigner() -> impl Strategy<Value = Assigner> {
    prop_oneof![
        aligned(),
        (1..25i64).prop_map(|gap| Assigner::Session { gap }),
        Just(Assigner::Global),
    ]
}

fn domain() -> impl Strategy<Value = Domain> {
    prop_oneof![3 => Just(Domain::EventTime), 1 => Just(Domain::ProcessingTime)]
}

fn trigger() -> impl Strategy<Value = Trigger> {
    let parts = (any::<bool>(), 0..5u64, 0..20u64, 0..20u64, any::<bool>());
    parts.prop_map(|(at_end, count, every, wall, purging)| {
        let mut t = if at_end { Trigger::at_end() } else { Trigger::count(count.max(1)) };
        if count > 0 {
            t = t.or_count(count);
        }
        if every > 2 {
            t = t.or_every(Duration::from_millis(every));
        }
        if wall > 5 {
            t = t.or_every_processing_time(Duration::from_millis(wall));
        }
        if purging { t.purging() } else { t }
    })
}

fn lateness() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 1..60i64]
}

/// Runs the operator and the oracle side by side.
struct Pair {
    driver: Driver,
    oracle: Oracle,
    clock: ManualClock,
    watermark: i64,
    wall: u64,
    next_id: u64,
    side_output: bool,
    dropped: u64,
}

impl Pair {
    fn new(spec: Spec, side_output: bool, disk: Disk) -> Self {
        let clock = ManualClock::new();
        Pair {
            driver: Driver::new(&spec, 1, &clock, None, side_output, disk),
            oracle: Oracle::new(spec, (0..KEYS).map(name)),
            clock,
            watermark: 0,
            wall: 0,
            next_id: 0,
            side_output,
            dropped: 0,
        }
    }

    fn keys_of(&self, mask: u32) -> Vec<String> {
        let mine = |key: &String| mask >> self.driver.owner(key) & 1 == 1;
        (0..KEYS).map(name).filter(mine).collect()
    }

    fn watermark(&mut self, spec: &Spec, to: i64, mask: u32) {
        self.driver.watermark(to, mask);
        if spec.domain == Domain::EventTime || to == WATERMARK_MAX {
            for key in self.keys_of(mask) {
                self.oracle.advance(&key, to);
            }
        }
    }

    fn run(&mut self, spec: &Spec, event: &Event, epoch: &mut Option<u64>) {
        match event {
            Event::Records(records) => {
                let mut batch = Vec::new();
                for (key, offset) in records {
                    batch.push((name(*key), self.next_id, self.watermark + offset));
                    self.next_id += 1;
                }
                self.driver.records(&batch);
                for (key, id, timestamp) in &batch {
                    self.oracle.record(key, *id, *timestamp);
                }
            }
            Event::Watermark(by, mask) => {
                self.watermark += i64::from(*by);
                self.watermark(spec, self.watermark, *mask);
            }
            Event::Pass(ms) => {
                self.wall += ms;
                self.driver.pass(*ms);
                self.oracle.pass(self.wall as i64);
            }
            Event::SnapshotStep => self.driver.snapshot_step(),
            Event::Abort => {
                if epoch.take().is_some() {
                    self.driver.abort_snapshot();
                }
            }
        }
        self.compare(event);
    }

    fn compare(&mut self, event: &Event) {
        let (got, wanted) = (self.driver.take_outputs(), self.oracle.take_outputs());
        assert_eq!(got, wanted, "outputs after {event:?}");
        let wanted = self.oracle.take_late();
        if self.side_output {
            assert_eq!(self.driver.take_late(), wanted, "late after {event:?}");
        } else {
            self.dropped += wanted.len() as u64;
            assert_eq!(self.driver.dropped(), self.dropped, "dropped after {event:?}");
        }
    }
}

fn check(spec: Spec, rounds: &[Round], side_output: bool) -> Result<(), TestCaseError> {
    check_on(spec, rounds, side_output, |_| Disk::default())
}

/// `disk` says where the state of a round is.
fn check_on(
    spec: Spec,
    rounds: &[Round],
    side_output: bool,
    disk: impl Fn(usize) -> Disk,
) -> Result<(), TestCaseError> {
    if spec.validate().is_err() {
        return Err(TestCaseError::reject("windows that are refused"));
    }
    let mut pair = Pair::new(spec, side_output, disk(0));
    let mut next_epoch = 1;
    for (number, round) in rounds.iter().enumerate() {
        for event in &round.before {
            pair.run(&spec, event, &mut None);
        }
        let mut epoch = None;
        let mut saved = None;
        for event in std::iter::once(&Event::SnapshotStep).chain(&round.beside) {
            if epoch.is_none() {
                pair.driver.begin_snapshot(next_epoch);
                saved = Some((pair.oracle.clone(), pair.watermark));
                epoch = Some(next_epoch);
                next_epoch += 1;
            }
            pair.run(&spec, event, &mut epoch);
        }
        if epoch.is_none() {
            continue;
        }
        let restored: Restored = pair.driver.snapshot_rest();
        (pair.oracle, pair.watermark) = saved.unwrap();
        pair.oracle.pass_silently(pair.wall as i64);
        let (clock, parallelism) = (pair.clock.clone(), round.parallelism);
        let disk = disk(number + 1);
        pair.driver = Driver::new(&spec, parallelism, &clock, Some(restored), side_output, disk);
        pair.dropped = 0;
        // The clock has gone on: what is due fires at the first tick.
        pair.run(&spec, &Event::Pass(0), &mut None);
    }
    pair.watermark(&spec, WATERMARK_MAX, u32::MAX);
    pair.compare(&Event::Watermark(0, 0));
    assert!(pair.watermark > WATERMARK_MIN);
    Ok(())
}

/// 600 cases, or as many as PROPTEST_CASES says.
fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let cases = asked.unwrap_or(600);
    // Windows that are refused come at a rate: their number grows with that of the cases.
    let max_global_rejects = 4 * cases;
    ProptestConfig { cases, max_global_rejects, failure_persistence: None, ..Default::default() }
}

/// One in some thousand random cases: a key whose time is ahead of its subtask's (restored from one
/// that had seen more) gets a record for a window that has ended, within the lateness. The subtask's
/// watermark comes to where the key's has been: nothing fires before it goes on.
#[test]
fn time_that_a_key_has_seen_fires_nothing_again() {
    let aligned = Aligned { size: 11, slide: 1, offset: 0 };
    let trigger = Trigger::count(2).or_every(Duration::from_millis(3));
    let domain = Domain::EventTime;
    let spec = Spec { assigner: Assigner::Aligned(aligned), domain, trigger, lateness: 1 };
    let round = |before, parallelism| Round { before, beside: vec![], parallelism };
    for key in 0..KEYS {
        for mask in [1, 2, 4, 8, 15] {
            let rounds = [
                round(vec![], 4),
                round(vec![Event::Watermark(0, mask)], 1),
                round(
                    vec![
                        Event::Records(vec![(key, -1)]),
                        Event::Watermark(0, u32::MAX),
                        Event::Watermark(1, u32::MAX),
                    ],
                    1,
                ),
            ];
            check(spec, &rounds, false).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn windows_by_slice(
        assigner in aligned(), domain in domain(), lateness in lateness(),
        rounds in rounds(), side in any::<bool>(),
    ) {
        let lateness = if domain == Domain::ProcessingTime { 0 } else { lateness };
        check(Spec { assigner, domain, trigger: Trigger::at_end(), lateness }, &rounds, side)?;
    }

    #[test]
    fn windows_with_triggers(
        assigner in assigner(), domain in domain(), trigger in trigger(), lateness in lateness(),
        rounds in rounds(), side in any::<bool>(),
    ) {
        let timeless = domain == Domain::ProcessingTime || assigner == Assigner::Global;
        let lateness = if timeless { 0 } else { lateness };
        check(Spec { assigner, domain, trigger, lateness }, &rounds, side)?;
    }

    #[test]
    fn sessions(
        gap in 1..25i64, lateness in lateness(), rounds in rounds(), side in any::<bool>(),
    ) {
        let assigner = Assigner::Session { gap };
        check(Spec { lateness, ..Spec::new(assigner) }, &rounds, side)?;
    }

    #[test]
    fn windows_by_count(size in 1..9u64, slide in 1..9u64, rounds in rounds()) {
        check(Spec::new(Assigner::Count { size, slide }), &rounds, false)?;
    }
}

/// The same in RocksDB: fewer cases, each opens databases.
#[cfg(feature = "rocksdb")]
mod in_rocksdb {
    use super::*;

    fn config() -> ProptestConfig {
        ProptestConfig { cases: 40, ..super::config() }
    }

    /// All sequences of places.
    fn places(first: usize) -> impl Fn(usize) -> Disk {
        move |round| Disk::number(first / 3usize.pow(round as u32))
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn windows_by_slice(
            assigner in aligned(), domain in domain(), lateness in lateness(),
            rounds in rounds(), side in any::<bool>(), first in 0..81usize,
        ) {
            let lateness = if domain == Domain::ProcessingTime { 0 } else { lateness };
            let spec = Spec { assigner, domain, trigger: Trigger::at_end(), lateness };
            check_on(spec, &rounds, side, places(first))?;
        }

        #[test]
        fn windows_with_triggers(
            assigner in assigner(), domain in domain(), trigger in trigger(),
            lateness in lateness(), rounds in rounds(), side in any::<bool>(), first in 0..81usize,
        ) {
            let timeless = domain == Domain::ProcessingTime || assigner == Assigner::Global;
            let lateness = if timeless { 0 } else { lateness };
            let spec = Spec { assigner, domain, trigger, lateness };
            check_on(spec, &rounds, side, places(first))?;
        }

        #[test]
        fn sessions(
            gap in 1..25i64, lateness in lateness(), rounds in rounds(), side in any::<bool>(),
            first in 0..81usize,
        ) {
            let spec = Spec { lateness, ..Spec::new(Assigner::Session { gap }) };
            check_on(spec, &rounds, side, places(first))?;
        }

        #[test]
        fn windows_by_count(
            size in 1..9u64, slide in 1..9u64, rounds in rounds(), first in 0..81usize,
        ) {
            check_on(Spec::new(Assigner::Count { size, slide }), &rounds, false, places(first))?;
        }
    }
}
