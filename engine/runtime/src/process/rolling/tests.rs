//! Rolling aggregations against plain maps.

use super::*;
use crate::process::testing::{Act, Row, acts, check, row, runs};
use proptest::prelude::*;
use std::collections::HashMap;

fn key(row: &Row) -> u64 {
    row.0
}

type Op<A> = Rolling<u64, Row, A, for<'a> fn(&'a Row) -> u64>;

fn open<A: Fold<Row> + Clone>(fold: A) -> impl Fn(&Context) -> Op<A> {
    move |cx| Rolling::open(cx, 7, key as for<'a> fn(&'a Row) -> u64, fold.clone()).unwrap()
}

/// Applies `f` to the records of a key so far, for every record.
fn oracle<U: std::fmt::Debug>(acts: &[Act], f: impl Fn(&[Row]) -> U) -> Vec<String> {
    let mut seen: HashMap<u64, Vec<Row>> = HashMap::new();
    let mut out = Vec::new();
    for act in acts {
        let Act::Rows(_, rows) = act else { continue };
        for r in rows {
            let of_key = seen.entry(r.0).or_default();
            of_key.push(*r);
            out.push(row((r.0, f(of_key)), r.2));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sums_are_those_of_the_oracle(acts in acts(1), run in runs()) {
        let expected = oracle(&acts, |rows| rows.iter().map(|r| r.1).sum::<u64>());
        check(&acts, run, None, open(Sum(|r: Row| r.1)), &expected)?;
    }

    #[test]
    fn minima_and_maxima_are_those_of_the_oracle(acts in acts(1), run in runs()) {
        let expected = oracle(&acts, |rows| rows.iter().map(|r| r.1).min().unwrap());
        check(&acts, run, None, open(Best::<_, false>(|r: Row| r.1)), &expected)?;
        let expected = oracle(&acts, |rows| rows.iter().map(|r| r.1).max().unwrap());
        check(&acts, run, None, open(Best::<_, true>(|r: Row| r.1)), &expected)?;
    }

    #[test]
    fn counts_are_those_of_the_oracle(acts in acts(1), run in runs()) {
        let expected = oracle(&acts, |rows| rows.len());
        check(&acts, run, None, open(Count), &expected)?;
    }

    #[test]
    fn reductions_see_the_records_of_a_key_in_order(acts in acts(1), run in runs()) {
        let expected = oracle(&acts, |rows| {
            rows[1..].iter().fold(rows[0], |a, r| (a.0, a.1 * 31 % 1009 + r.1, a.2.max(r.2)))
        });
        let fold = Reduce(|a: &mut Row, r: Row| {
            *a = (a.0, a.1 * 31 % 1009 + r.1, a.2.max(r.2));
        });
        check(&acts, run, None, open(fold), &expected)?;
    }

    #[test]
    fn aggregates_of_any_type_are_those_of_the_oracle(acts in acts(1), run in runs()) {
        let expected = oracle(&acts, |rows| rows.iter().map(|r| r.1.to_string()).collect::<String>());
        let fold = AggregateFn {
            new: Vec::<u64>::new,
            add: |all: &mut Vec<u64>, r: Row| all.push(r.1),
            result: |all: &Vec<u64>| all.iter().map(u64::to_string).collect::<String>(),
        };
        check(&acts, run, None, open(fold), &expected)?;
    }
}

#[test]
fn a_panic_in_user_code_names_the_record() {
    let mut fleet = crate::process::testing::Fleet::open(
        1,
        None,
        0,
        open(Sum(|r: Row| if r.1 == 3 { panic!("three") } else { r.1 })),
    );
    let rows = Act::Rows(0, vec![(1, 1, 0), (1, 3, 0)]);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fleet.act(&rows)));
    assert!(caught.is_err());
    assert_eq!(crate::blame::take_culprit(), Some((0, "(1, 3, 0)".to_string())));
}

#[test]
fn states_of_another_shape_are_declared_as_such() {
    let shape =
        |cx: Context| cx.states.borrow().iter().map(|s| s.shape.clone()).collect::<Vec<_>>();
    let (a, b) = (Context::for_test(), Context::for_test());
    open(Count)(&a);
    open(Sum(|r: Row| r.1 as u32))(&b);
    assert_ne!(shape(a), shape(b));
}
