//! Joins against nested loops.

use super::history::HistoryJoin;
use super::matching::{Interval, Windows};
use super::pair::{Both, PairFn};
use super::sliced::SlicedJoin;
use crate::context::Context;
use crate::process::testing::{Act, Fleet, NONE, Row, acts, check, row, runs};
use crate::window::Window;
use proptest::prelude::*;
use tidemill_keyed::StateTtl;

type Selector = for<'a> fn(&'a Row) -> u64;

fn key(row: &Row) -> u64 {
    row.0
}

const KEYS: (Selector, Selector) = (key, key);

/// Calls `f(left, right, watermark, arriving timestamp, out)` for each pair of one key, when its
/// second record arrives, among records that are not late.
fn oracle(
    acts: &[Act],
    late: impl Fn(&Row, i64) -> bool,
    mut f: impl FnMut(&Row, &Row, i64, i64, &mut Vec<String>),
) -> (Vec<String>, u64) {
    let (mut sides, mut watermark) = ([Vec::<Row>::new(), Vec::new()], NONE);
    let (mut out, mut dropped) = (Vec::new(), 0);
    for act in acts {
        match act {
            Act::Watermark(w) => watermark = watermark.max(*w),
            Act::Tick(_) => {}
            Act::Rows(input, rows) => {
                for r in rows {
                    if late(r, watermark) {
                        dropped += 1;
                        continue;
                    }
                    for other in sides[1 - input].iter().filter(|o| o.0 == r.0) {
                        let (l, r2) = if *input == 0 { (r, other) } else { (other, r) };
                        f(l, r2, watermark, r.2, &mut out);
                    }
                    sides[*input].push(*r);
                }
            }
        }
    }
    (out, dropped)
}

fn windows_of(t: i64, size: i64, slide: i64) -> impl Iterator<Item = i64> {
    let last = t.div_euclid(slide) * slide;
    (0..).map(move |i| last - i * slide).take_while(move |s| s + size > t)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn window_joins_meet_in_every_common_window(
        acts in acts(2), run in runs(), size in 1i64..50, slide in 1i64..50, tumbling: bool,
    ) {
        let slide = if tumbling { size } else { slide };
        let closed = |r: &Row, w| windows_of(r.2, size, slide).next().is_none_or(|s| s + size <= w);
        let (expected, _) = oracle(&acts, closed, |l, r, watermark, _, out| {
            for start in windows_of(l.2, size, slide) {
                let window = Window { start, end: start + size };
                let both = windows_of(r.2, size, slide).any(|s| s == start);
                if both && window.end > watermark {
                    out.push(row((l.0, window.end, l.1, r.1), window.end - 1));
                }
            }
        });
        let open = |cx: &Context| {
            let pairing = PairFn(|key: u64, window: Window, l: Row, r: Row| (key, window.end, l.1, r.1));
            let windows = Windows::new(size, slide).unwrap();
            SlicedJoin::<u64, Row, Row, _, _, _, _>::open(cx, 7, KEYS, windows, pairing).unwrap()
        };
        check(&acts, run, None, open, &expected)?;
    }

    #[test]
    fn interval_joins_meet_within_their_bounds(
        acts in acts(2), run in runs(), lower in -40i64..40, length in 0i64..40,
    ) {
        let upper = lower + length;
        let (expected, dropped) = oracle(&acts, |r, w| r.2 < w, |l, r, _, _, out| {
            if (l.2 + lower..=l.2 + upper).contains(&r.2) {
                out.push(row((*l, *r), l.2.max(r.2)));
            }
        });
        let open = |cx: &Context| {
            SlicedJoin::<u64, Row, Row, _, _, _, _>::open(
                cx, 7, KEYS, Interval::new(lower, upper).unwrap(), Both,
            ).unwrap()
        };
        check(&acts, run, None, open, &expected)?;
        let mut fleet = Fleet::open(2, None, 0, open);
        acts.iter().for_each(|a| fleet.act(a));
        prop_assert_eq!(fleet.late_dropped(), dropped);
    }

    #[test]
    fn joins_of_all_history_emit_every_pair_once(acts in acts(2), run in runs()) {
        let (expected, _) = oracle(&acts, |_, _| false, |l, r, _, at, out| {
            out.push(row((*l, *r), at));
        });
        let open = |cx: &Context| {
            HistoryJoin::<u64, Row, Row, _, _, _>::open(cx, 7, KEYS, None, Both).unwrap()
        };
        check(&acts, run, None, open, &expected)?;
    }

    #[test]
    fn expired_records_meet_nothing(
        acts in acts(2), run in runs(), ttl in 1i64..60, by_clock: bool,
    ) {
        // Each record with its expiry, by the watermark or the clock at its arrival.
        let (mut sides, mut watermark) = ([Vec::<(Row, i64)>::new(), Vec::new()], NONE);
        let (mut expected, mut clock) = (Vec::new(), 0);
        for act in &acts {
            match act {
                Act::Watermark(i64::MAX) => {}
                Act::Tick(ms) => clock = *ms,
                Act::Watermark(w) => watermark = watermark.max(*w),
                Act::Rows(input, rows) => for r in rows {
                    let now = if by_clock { clock } else { watermark };
                    for (o, expiry) in &sides[1 - input] {
                        if o.0 == r.0 && *expiry > now {
                            let pair = if *input == 0 { (*r, *o) } else { (*o, *r) };
                            expected.push(row(pair, r.2));
                        }
                    }
                    let from = if by_clock { clock } else { r.2.max(watermark) };
                    sides[*input].push((*r, from + ttl));
                },
            }
        }
        let open = |cx: &Context| {
            let ttl = if by_clock { StateTtl::processing(ttl) } else { StateTtl::event(ttl) };
            HistoryJoin::<u64, Row, Row, _, _, _>::open(cx, 7, KEYS, Some(ttl), Both).unwrap()
        };
        check(&acts, run, None, open, &expected)?;
    }
}

#[test]
fn the_watermark_drops_what_can_meet_nothing_any_more() {
    let open = |cx: &Context| {
        SlicedJoin::<u64, Row, Row, _, _, _, _>::open(
            cx,
            7,
            KEYS,
            Interval::new(0, 2_000).unwrap(),
            Both,
        )
        .unwrap()
    };
    let cx = Context::for_test();
    let mut join = open(&cx);
    let rows = std::rc::Rc::default();
    let mut out = crate::process::testing::Collect::new(&rows);
    use crate::operator::Operator;
    for t in 0..100 {
        let batch = crate::process::testing::batch([(t as u64, 0, t * 1_000)].iter());
        join.records((t % 2) as usize, &batch, 0..1, &mut out).unwrap();
        join.watermark(t * 1_000, &mut out).unwrap();
        assert!(join.keys_kept() <= 6, "{} at {t}", join.keys_kept());
    }
}

#[test]
fn bad_bounds_are_refused_by_name() {
    assert!(Windows::new(0, 1).unwrap_err().to_string().contains("0 ms every 1 ms"));
    assert!(Interval::new(5, 4).unwrap_err().to_string().contains("from 5 ms to 4 ms"));
}
