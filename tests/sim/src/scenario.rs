//! Everything that a seed decides before the first step.

use crate::jobs::Kind;
use crate::rng::Rng;
use crate::source::{Event, Input, Pace};
use std::sync::Arc;
use tidemill_base::Micros;
use tidemill_runtime::channel::ChannelOptions;
use tidemill_snapshot::Faults;

/// How tasks align on barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// They wait for ever.
    Aligned,
    /// They do not wait.
    Unaligned,
    /// They wait this many milliseconds.
    Timeout(u64),
}

impl Alignment {
    /// As the coordinator is told.
    pub fn timeout_ms(self) -> Option<u64> {
        match self {
            Alignment::Aligned => None,
            Alignment::Unaligned => Some(0),
            Alignment::Timeout(ms) => Some(ms),
        }
    }
}

/// Where keyed state is. Without the feature `rocksdb` always on the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In memory.
    Heap,
    /// In RocksDB, checkpoints hold entries.
    Entries,
    /// In RocksDB, checkpoints hold its files.
    Files,
}

/// One life of the job: from a start or restore to its end or crash.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Number of subtasks of each operator.
    pub parallelism: u32,
    /// Alignment of its checkpoints.
    pub alignment: Alignment,
    /// How long a checkpoint may take.
    pub timeout_us: Micros,
    /// How many may fail in a row.
    pub tolerated_failures: Option<u32>,
    /// Crash so many iterations of the scheduler after so many complete checkpoints.
    pub crash: Option<(u64, u64)>,
    /// Operations of the checkpoint store that fail.
    pub faults: Faults,
    /// Iteration at which a savepoint is asked for, and whether the job stops with it.
    pub savepoint: Option<(u64, bool)>,
    /// Where keyed state is.
    pub state: State,
}

/// The job in two worker processes, connected in memory.
#[derive(Clone, Copy, Debug)]
pub struct Wires {
    /// Which slot is the first of the second process.
    pub split: u32,
    /// How the connections deliver.
    pub faults: tidemill_net::transport::memory::Faults,
    /// How likely, in percent, connections break in a life that is not the last.
    pub cuts: u64,
}

impl Wires {
    /// Not drawn from the scenario's chances: those that a seed had before stay what they were.
    fn new(seed: u64) -> Option<Self> {
        let rng = &mut Rng::new(seed ^ 0x7769_7265);
        let faults = tidemill_net::transport::memory::Faults {
            seed: rng.draw(),
            capacity: rng.pick(&[1_000, 5_000, 100_000, 1 << 20]),
            chunk: rng.pick(&[0, 700, 5_000, 100_000]),
            stall_percent: rng.pick(&[0, 0, 30, 70]),
            cut_at: None,
            flip_at: None,
        };
        let wires = Wires { split: rng.below(100) as u32, faults, cuts: rng.pick(&[0, 0, 50]) };
        rng.percent(40).then_some(wires)
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// The job.
    pub kind: Kind,
    /// What its sources read.
    pub inputs: Vec<Arc<Input>>,
    /// How fast.
    pub pace: Pace,
    /// Buffers of each channel.
    pub channel: ChannelOptions,
    /// From one checkpoint to the next; `None`: only the last one is taken.
    pub interval_us: Option<Micros>,
    /// Checkpoints that are kept.
    pub keep: usize,
    /// Jobs that may wait for the snapshot writer.
    pub writer_queue: usize,
    /// Whether slots sleep until something wakes them, as in production; any may be stepped at
    /// any time otherwise.
    pub strict: bool,
    /// The longest time that passes between two steps.
    pub step_us: Micros,
    /// A split without records is idle after so many milliseconds; `None`: never.
    pub idle_after_ms: Option<u64>,
    /// How likely, in percent, the newest checkpoint is damaged between two lives. Only one that no
    /// sink has committed: going back behind what is visible is not exactly once.
    pub damage: u64,
    /// How far a source may be ahead of the slowest, in milliseconds of event time.
    pub max_skew_ms: Option<u64>,
    /// Where the job is split over two processes.
    pub wires: Option<Wires>,
    /// The lives; the last one ends by itself.
    pub lives: Vec<Life>,
}

impl Scenario {
    /// What `seed` stands for.
    pub fn new(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let kind = Kind::draw(rng, seed);
        let mut scenario = Self::of(seed, kind, rng);
        if rng.percent(25) {
            scenario.press(rng);
        }
        scenario.keep_on_disk(&mut Rng::new(seed ^ 0x6469_736b));
        scenario
    }

    /// In some lives of some runs, state is on disk. Chance of its own: the rest of a scenario is
    /// the same with and without.
    fn keep_on_disk(&mut self, rng: &mut Rng) {
        if self.kind.keeps_tables() && rng.percent(50) {
            for life in &mut self.lives {
                let state = rng.pick(&[State::Heap, State::Entries, State::Files, State::Files]);
                life.state = state;
            }
        }
    }

    /// Much data, few buffers, and barriers that do not wait: tasks are in the middle of a batch
    /// or of a firing when they overtake.
    fn press(&mut self, rng: &mut Rng) {
        self.kind = Kind::draw(rng, self.seed);
        let padding = rng.pick(&[300, 600]);
        let large = |_| Arc::new(input(self.kind, padding, &[400], rng));
        self.inputs = (0..self.kind.sources()).map(large).collect();
        self.pace = Pace { records: 64, pauses: 0, pause_us: 0 };
        self.channel = ChannelOptions { credits: 2, overdraft: 200 };
        self.interval_us = Some(self.step_us * rng.pick(&[50, 100, 200]));
        self.strict = false;
        let parallelism = self.lives[0].parallelism;
        for life in &mut self.lives {
            life.alignment = Alignment::Unaligned;
            if !self.kind.rescales() {
                life.parallelism = parallelism;
            }
        }
    }

    /// What `seed` stands for, with a given job.
    pub fn with_kind(seed: u64, kind: Kind) -> Self {
        Self::of(seed, kind, &mut Rng::new(seed ^ 0x6b69_6e64))
    }

    fn of(seed: u64, kind: Kind, rng: &mut Rng) -> Self {
        let padded = rng.pick(&[0, 300, 1_000, 1_000, 9_000]);
        let idle_after_ms = rng.pick(&[None, None, Some(1), Some(10)]);
        let silent = |rng: &mut Rng| if idle_after_ms.is_some() { rng.index(3) } else { 0 };
        let inputs = (0..kind.sources())
            .map(|_| {
                let mut input = input(kind, padded, &[10, 60, 150, 400], rng);
                input.silent = silent(rng);
                input.splits.extend((0..input.silent).map(|_| Vec::new()));
                Arc::new(input)
            })
            .collect();
        let step_us = rng.pick(&[2, 20, 100, 400]);
        let pace = Pace {
            records: rng.pick(&[1, 4, 16, 64]),
            pauses: rng.pick(&[0, 10, 50, 90]),
            pause_us: rng.pick(&[0, 500, 3_000, 20_000]).min(200 * step_us),
        };
        let fixed = rng.between(1, 4) as u32;
        let rescales = kind.rescales() && rng.percent(70);
        let crashes = rng.pick(&[0, 1, 2, 3, 4, 6]);
        let lives = (0..=crashes)
            .map(|i| {
                let parallelism = if rescales { rng.between(1, 4) as u32 } else { fixed };
                life(parallelism, i == crashes, step_us, rng)
            })
            .collect();
        Scenario {
            seed,
            kind,
            inputs,
            pace,
            channel: ChannelOptions {
                credits: rng.pick(&[2, 2, 2, 3, 8]),
                overdraft: rng.pick(&[64, 200]),
            },
            interval_us: (!rng.percent(8)).then(|| step_us * rng.pick(&[30, 100, 300, 2_000])),
            keep: rng.pick(&[1, 2, 4]),
            writer_queue: rng.pick(&[16, 64]),
            strict: rng.percent(35),
            step_us,
            idle_after_ms,
            damage: rng.pick(&[0, 0, 50, 100]),
            max_skew_ms: rng.pick(&[None, None, Some(0), Some(50), Some(500)]),
            wires: Wires::new(seed),
            lives,
        }
    }
}

/// A timeout that no checkpoint may meet.
pub const PATIENT_US: Micros = 600_000_000;

fn life(parallelism: u32, last: bool, step_us: Micros, rng: &mut Rng) -> Life {
    let alignment = match rng.below(4) {
        0 => Alignment::Aligned,
        1 => Alignment::Timeout(rng.between(1, 8)),
        _ => Alignment::Unaligned,
    };
    let far = rng.pick(&[50, 200, 1_000, 6_000]);
    let operations = rng.pick(&[10, 100, 1_000]);
    let operation = rng.below(operations);
    let faults = match rng.below(6) {
        0 | 1 => Faults::Once(operation),
        2 if !last => Faults::From(operation),
        3 if !last => Faults::FromAfterEffect(operation),
        _ => Faults::None,
    };
    Life {
        parallelism,
        alignment,
        timeout_us: if last {
            PATIENT_US
        } else {
            rng.pick(&[100 * step_us, 600 * step_us, PATIENT_US])
        },
        tolerated_failures: rng.pick(&[None, Some(3)]),
        crash: (!last).then(|| (rng.pick(&[0, 1, 1, 1, 1, 2, 3, 6]), rng.below(far))),
        faults,
        savepoint: rng.percent(20).then(|| (rng.below(3_000), !last && rng.percent(50))),
        state: State::Heap,
    }
}

/// Records in random splits, with event times that are out of order by at most
/// [`crate::jobs::DISORDER_MS`].
fn input(kind: Kind, padding: u64, sizes: &[u64], rng: &mut Rng) -> Input {
    let splits = rng.between(1, 6);
    let keys = rng.pick(&[1, 3, 20, 200]).max(kind.keys_min());
    let records = rng.pick(sizes);
    let mut counts = std::collections::BTreeMap::new();
    let splits = (0..splits).map(|split| {
        let mut at = rng.below(50) as i64;
        let n = rng.between(0, records);
        (0..n)
            .map(|_| {
                at += rng.below(20) as i64;
                if rng.percent(3) {
                    at += 300;
                }
                let key = kind.key(split, rng.below(keys));
                let count = counts.entry((split, key)).or_insert(0);
                *count += 1;
                let late = if kind == Kind::Late && rng.percent(15) { rng.below(400) } else { 0 };
                let jitter = (rng.below(crate::jobs::DISORDER_MS as u64) + late) as i64;
                let pad = if padding > 0 { rng.below(padding) as usize } else { 0 };
                // Now and then one that is larger than a buffer.
                let pad = if padding > 5_000 && rng.percent(2) { 40_000 } else { pad };
                Event {
                    split,
                    key,
                    seq: *count - 1,
                    value: rng.below(1_000),
                    at: at - jitter,
                    padding: "x".repeat(pad),
                }
            })
            .collect()
    });
    Input { splits: splits.collect(), silent: 0 }
}
