//! Process operators against naive oracles: states, TTL, timers, two inputs, broadcast.

use super::broadcast::{Broadcast, BroadcastMap, FunctionLogic};
use super::co::Co;
use super::context::{ProcessContext, Timer, TimerKind};
use super::function::{BroadcastProcess, CoProcess, KeyedProcess};
use super::keyed::Keyed;
use super::side::{SideOutputs, SideTag};
use super::testing::{Act, Collect, Fleet, NONE, NaiveTimers, Row, acts, check, row, runs};
use crate::context::Context;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tidemill_base::{Result, Timestamp, WATERMARK_MAX};
use tidemill_keyed::{ListState, MapState, ReducingState, StateTtl, States, ValueState};

type Selector = for<'a> fn(&'a Row) -> u64;

fn key(row: &Row) -> u64 {
    row.0
}

const KEY: Selector = key;
const TTL: i64 = 25;

/// What it emits: key, what, number, text.
type Out = (u64, String, i64, String);

/// Uses everything: all kinds of state, TTL, both kinds of timers, deletion, renewal.
#[derive(Clone)]
struct Everything;

struct Handles {
    sum: ValueState<u64>,
    list: ListState<u64>,
    map: MapState<u64, u64>,
    reduced: ReducingState<u64>,
    fading: ValueState<u64>,
}

impl KeyedProcess<u64, Row> for Everything {
    type Out = Out;
    type State = Handles;

    fn open(&self, states: &mut States<u64>) -> Result<Handles> {
        Ok(Handles {
            sum: states.value("sum", None)?,
            list: states.list("list", None)?,
            map: states.map("map", None)?,
            reduced: states.reducing("reduced", None, |a, b| *a = *a * 7 % 101 + b)?,
            fading: states.value("fading", Some(StateTtl::event(TTL)))?,
        })
    }

    fn process(&mut self, s: &mut Handles, r: Row, cx: &mut ProcessContext<'_, u64, Out>) {
        s.sum.update(|sum| *sum += r.1);
        s.list.add(r.1);
        s.map.update(r.1 % 3, |n| *n += 1);
        s.reduced.add(r.1);
        let fading = s.fading.get();
        s.fading.set(r.1);
        cx.register_event_timer(r.2 + (r.1 % 20) as i64);
        cx.register_processing_timer(cx.processing_time() + (r.1 % 10) as i64);
        if r.1.is_multiple_of(7) {
            cx.delete_event_timer(r.2 + 5);
            cx.delete_processing_timer(cx.processing_time() + 3);
        }
        let text = format!("{:?} {:?} {:?}", fading, s.reduced.get(), cx.timestamp());
        cx.emit((cx.key(), "record", s.sum.get().unwrap_or(0) as i64, &text));
    }

    fn on_timer(&mut self, s: &mut Handles, timer: Timer, cx: &mut ProcessContext<'_, u64, Out>) {
        let mut map: Vec<_> = s.map.iter().collect();
        map.sort();
        let list: Vec<u64> = s.list.iter().collect();
        let text = format!("{:?} {list:?} {map:?} {:?}", timer.kind, cx.watermark());
        cx.emit_at((cx.key(), "timer", timer.time, &text), timer.time);
        match timer.kind {
            TimerKind::Event if timer.time % 4 == 0 && !cx.at_end() => {
                s.list.clear();
                cx.register_event_timer(timer.time + 3);
            }
            TimerKind::Processing => s.map.remove(timer.time as u64 % 3).map_or((), drop),
            TimerKind::Event => {}
        }
    }
}

#[derive(Default)]
struct Naive {
    sum: u64,
    list: Vec<u64>,
    map: BTreeMap<u64, u64>,
    reduced: Option<u64>,
    fading: Option<(i64, u64)>,
}

struct Oracle {
    keys: BTreeMap<u64, Naive>,
    event: NaiveTimers,
    processing: NaiveTimers,
    /// As TTL sees it: not the last one.
    fading_at: Timestamp,
    watermark: Timestamp,
    wall: i64,
    out: Vec<String>,
}

impl Oracle {
    fn run(acts: &[Act]) -> Vec<String> {
        let mut o = Oracle {
            keys: BTreeMap::new(),
            event: NaiveTimers::default(),
            processing: NaiveTimers::default(),
            fading_at: NONE,
            watermark: NONE,
            wall: 0,
            out: Vec::new(),
        };
        for act in acts {
            match act {
                Act::Rows(_, rows) => rows.iter().for_each(|r| o.record(r)),
                Act::Watermark(w) => {
                    o.watermark = *w;
                    o.fading_at = if *w == WATERMARK_MAX { o.fading_at } else { *w };
                    while let Some((time, key)) = o.event.pop(*w) {
                        o.timer(time, key, TimerKind::Event);
                    }
                }
                Act::Tick(ms) => {
                    o.wall = *ms;
                    while let Some((time, key)) = o.processing.pop(*ms) {
                        o.timer(time, key, TimerKind::Processing);
                    }
                }
            }
        }
        o.out
    }

    fn record(&mut self, r: &Row) {
        let n = self.keys.entry(r.0).or_default();
        n.sum += r.1;
        n.list.push(r.1);
        *n.map.entry(r.1 % 3).or_default() += 1;
        n.reduced = Some(n.reduced.map_or(r.1, |a| a * 7 % 101 + r.1));
        let alive = n.fading.filter(|f| f.0 > self.fading_at);
        let fading = alive.map(|f| f.1);
        // A record out of order does not shorten life.
        let expiry = r.2.max(self.fading_at) + TTL;
        n.fading = Some((alive.map_or(expiry, |f| f.0.max(expiry)), r.1));
        self.event.register(r.2 + (r.1 % 20) as i64, r.0);
        self.processing.register(self.wall + (r.1 % 10) as i64, r.0);
        if r.1.is_multiple_of(7) {
            self.event.delete(r.2 + 5, r.0);
            self.processing.delete(self.wall + 3, r.0);
        }
        let text = format!("{:?} {:?} {:?}", fading, n.reduced, r.2);
        self.out.push(row((r.0, "record", n.sum as i64, &text), r.2));
    }

    fn timer(&mut self, time: i64, key: u64, kind: TimerKind) {
        let n = self.keys.entry(key).or_default();
        let map: Vec<_> = n.map.iter().map(|(k, v)| (*k, *v)).collect();
        let text = format!("{kind:?} {:?} {map:?} {:?}", n.list, self.watermark);
        self.out.push(row((key, "timer", time, &text), time));
        match kind {
            TimerKind::Event if time % 4 == 0 && self.watermark != WATERMARK_MAX => {
                n.list.clear();
                self.event.register(time + 3, key);
            }
            TimerKind::Processing => drop(n.map.remove(&(time as u64 % 3))),
            TimerKind::Event => {}
        }
    }
}

fn open_everything(
    cx: &Context,
) -> Keyed<u64, Row, super::keyed::FunctionLogic<u64, Row, Everything>, Selector> {
    Keyed::open(cx, 7, KEY, Everything, SideOutputs::new()).unwrap()
}

/// Two inputs over one state.
#[derive(Clone)]
struct Balance;

impl CoProcess<u64, Row, Row> for Balance {
    type Out = (u64, i64, i64);
    type State = ValueState<i64>;
    fn open(&self, states: &mut States<u64>) -> Result<ValueState<i64>> {
        states.value("balance", None)
    }
    fn process1(
        &mut self,
        balance: &mut ValueState<i64>,
        r: Row,
        cx: &mut ProcessContext<'_, u64, (u64, i64, i64)>,
    ) {
        cx.register_event_timer(r.2 + 10);
        balance.update(|b| *b += r.1 as i64);
        cx.emit((r.0, 1, balance.get().unwrap_or(0)));
    }
    fn process2(
        &mut self,
        balance: &mut ValueState<i64>,
        r: Row,
        cx: &mut ProcessContext<'_, u64, (u64, i64, i64)>,
    ) {
        cx.delete_event_timer(r.2);
        balance.update(|b| *b -= 2 * r.1 as i64);
        cx.emit((r.0, 2, balance.get().unwrap_or(0)));
    }
    fn on_timer(
        &mut self,
        balance: &mut ValueState<i64>,
        timer: Timer,
        cx: &mut ProcessContext<'_, u64, (u64, i64, i64)>,
    ) {
        assert_eq!(timer.time, cx.timestamp());
        cx.emit((cx.key(), 3, balance.take().unwrap_or(0)));
    }
}

fn balance_oracle(acts: &[Act]) -> Vec<String> {
    let (mut balances, mut timers) = (BTreeMap::<u64, i64>::new(), NaiveTimers::default());
    let mut out = Vec::new();
    for act in acts {
        match act {
            Act::Tick(_) => {}
            Act::Watermark(w) => {
                while let Some((time, key)) = timers.pop(*w) {
                    out.push(row((key, 3, balances.remove(&key).unwrap_or(0)), time));
                }
            }
            Act::Rows(input, rows) => {
                for r in rows {
                    let balance = balances.entry(r.0).or_default();
                    if *input == 0 {
                        timers.register(r.2 + 10, r.0);
                        *balance += r.1 as i64;
                    } else {
                        timers.delete(r.2, r.0);
                        *balance -= 2 * r.1 as i64;
                    }
                    out.push(row((r.0, input + 1, *balance), r.2));
                }
            }
        }
    }
    out
}

/// Counts records above their key's limit; odd limits remove the rule.
#[derive(Clone)]
struct Limits;

impl BroadcastProcess<u64, Row, Row> for Limits {
    type Out = (u64, u64, u64);
    type State = ValueState<u64>;
    type MapKey = u64;
    type MapValue = u64;
    fn open(&self, states: &mut States<u64>) -> Result<ValueState<u64>> {
        states.value("count", None)
    }
    fn process(
        &mut self,
        count: &mut ValueState<u64>,
        r: Row,
        limits: &BroadcastMap<u64, u64>,
        cx: &mut ProcessContext<'_, u64, (u64, u64, u64)>,
    ) {
        if limits.get(r.0).is_some_and(|limit| r.1 > *limit) {
            count.update(|n| *n += 1);
            cx.emit((r.0, count.get().unwrap_or(0), limits.len() as u64));
        }
    }
    fn process_broadcast(&mut self, limit: Row, limits: &mut BroadcastMap<u64, u64>) {
        if limit.1 % 2 == 1 {
            limits.remove(limit.0);
        } else {
            limits.insert(limit.0, limit.1);
        }
    }
}

fn limits_oracle(acts: &[Act]) -> Vec<String> {
    let (mut limits, mut counts) = (BTreeMap::new(), BTreeMap::<u64, u64>::new());
    let mut out = Vec::new();
    for act in acts {
        let Act::Rows(input, rows) = act else { continue };
        for r in rows {
            if *input == 1 && r.1 % 2 == 1 {
                limits.remove(&r.0);
            } else if *input == 1 {
                limits.insert(r.0, r.1);
            } else if limits.get(&r.0).is_some_and(|limit| r.1 > *limit) {
                *counts.entry(r.0).or_default() += 1;
                out.push(row((r.0, counts[&r.0], limits.len()), r.2));
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_function_with_every_state_and_timer(acts in acts(1), run in runs()) {
        check(&acts, run, None, open_everything, &Oracle::run(&acts))?;
    }

    #[test]
    fn two_inputs_share_state_and_timers(acts in acts(2), run in runs()) {
        let open = |cx: &Context| {
            Co::<u64, Row, Row, _, _, _>::open(cx, 7, (KEY, KEY), Balance, SideOutputs::new())
                .unwrap()
        };
        check(&acts, run, None, open, &balance_oracle(&acts))?;
    }

    #[test]
    fn every_subtask_knows_the_rules(acts in acts(2), run in runs()) {
        let open = |cx: &Context| -> Broadcast<_, _, _, FunctionLogic<u64, Row, Row, Limits>, _> {
            Broadcast::<u64, Row, Row, _, _>::open(cx, 7, KEY, Limits, SideOutputs::new()).unwrap()
        };
        check(&acts, run, Some(1), open, &limits_oracle(&acts))?;
    }

    #[test]
    fn a_value_left_none_is_forgotten(acts in acts(1), run in runs()) {
        let mut values = BTreeMap::<u64, u64>::new();
        let mut timers = NaiveTimers::default();
        let mut expected = Vec::new();
        for act in &acts {
            match act {
                Act::Tick(_) => {}
                Act::Watermark(w) => while let Some((time, key)) = timers.pop(*w) {
                    expected.push(row((key, values.remove(&key)), time));
                },
                Act::Rows(_, rows) => for r in rows {
                    if r.1 % 5 == 0 {
                        values.remove(&r.0);
                        timers.register(r.2 + 7, r.0);
                    } else {
                        *values.entry(r.0).or_default() += r.1;
                    }
                    expected.push(row((r.0, values.get(&r.0)), r.2));
                },
            }
        }
        let process = |r: Row, value: &mut Option<u64>, cx: &mut ProcessContext<'_, u64, (u64, Option<u64>)>| {
            if r.1.is_multiple_of(5) {
                *value = None;
                cx.register_event_timer(r.2 + 7);
            } else {
                *value.get_or_insert(0) += r.1;
            }
            cx.emit((r.0, *value));
        };
        let on_timer = |_: Timer, value: &mut Option<u64>, cx: &mut ProcessContext<'_, u64, (u64, Option<u64>)>| {
            cx.emit((cx.key(), value.take()));
        };
        let open = |cx: &Context| {
            Keyed::<u64, Row, super::keyed::ValueLogic<u64, (u64, Option<u64>), _, _>, _>::open_value(
                cx, 7, KEY, (process, on_timer), SideOutputs::new(),
            ).unwrap()
        };
        check(&acts, run, None, open, &expected)?;
    }
}

struct Tag(SideTag<u64>);

impl AsRef<SideTag<u64>> for Tag {
    fn as_ref(&self) -> &SideTag<u64> {
        &self.0
    }
}

fn with_side(sides: bool) -> (Vec<String>, Vec<String>, Context) {
    let rows: std::rc::Rc<std::cell::RefCell<Vec<String>>> = Default::default();
    let to_side = rows.clone();
    let context = std::cell::RefCell::new(None);
    let mut fleet = Fleet::open(1, None, 0, |cx| {
        let mut outputs = SideOutputs::new();
        if sides {
            outputs.add(SideTag::<u64>::new(4), vec![Box::new(Collect::new(&to_side))]);
        }
        *context.borrow_mut() = Some(cx.clone());
        let process = |r: Row, _: &mut Option<u64>, cx: &mut ProcessContext<'_, u64, u64>| {
            if r.1 > 10 { cx.side(&Tag(SideTag::new(4)), r.1) } else { cx.emit(r.1) }
        };
        let none = |_: Timer, _: &mut Option<u64>, _: &mut ProcessContext<'_, u64, u64>| {};
        Keyed::<u64, Row, super::keyed::ValueLogic<u64, u64, _, _>, _>::open_value(
            cx,
            7,
            KEY,
            (process, none),
            outputs,
        )
        .unwrap()
    });
    let act = Act::Rows(0, vec![(1, 5, 0), (1, 50, 1)]);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fleet.act(&act)));
    let main = fleet.rows.borrow().clone();
    let side = rows.borrow().clone();
    (main, side, context.into_inner().unwrap())
}

#[test]
fn side_outputs_get_what_is_sent_to_them() {
    let (main, side, _) = with_side(true);
    assert_eq!((main, side), (vec![row(5, 0)], vec![row(50, 1)]));
}

#[test]
fn emitting_to_an_output_that_is_not_there_fails_the_job() {
    // The fleet looked at the failure and panicked with it: the message is gone, the row too.
    let (main, side, _) = with_side(false);
    assert_eq!((main, side), (vec![row(5, 0)], vec![]));
    let failure = crate::context::Failure::default();
    super::context::missing_side(&failure, 4);
    assert!(failure.check().unwrap_err().to_string().contains("side output 4"));
}

#[test]
fn many_due_timers_fire_in_bounded_steps_and_in_order() {
    use crate::operator::{Flow, Operator};
    let cx = Context::for_test();
    let mut operator = open_everything(&cx);
    let rows = std::rc::Rc::default();
    let mut out = Collect::new(&rows);
    let records: Vec<Row> = (0..600).map(|i| (i, 1, (i as i64 * 37) % 600 * 4 + 2)).collect();
    let batch = super::testing::batch(records.iter());
    operator.records(0, &batch, 0..600, &mut out).unwrap();
    rows.borrow_mut().clear();
    let mut steps = 1;
    let mut flow = operator.watermark(10_000, &mut out).unwrap();
    while flow == Flow::More {
        assert!(rows.borrow().len() <= steps * super::host::FIRE_TIMERS);
        flow = operator.resume(&mut out).unwrap();
        steps += 1;
    }
    assert_eq!(steps, 600 / super::host::FIRE_TIMERS + 1);
    let times: Vec<i64> = rows
        .borrow()
        .iter()
        .map(|r: &String| r.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(times.len(), 600);
    assert!(times.is_sorted());
}
