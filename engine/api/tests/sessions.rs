//! What a session window hands to a function that sees its records, when sessions have merged.

use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;
use tidemill::connectors::{CollectSink, CollectionSource};
use tidemill::{Env, Session, event_time};

const GAP_MS: i64 = 10;

/// A session: start, end, and its records in order.
type Open = (i64, i64, Vec<u64>);

/// The records of the sessions that a record joins, the earlier session first, then the record.
fn oracle(records: &[(u64, i64)]) -> Vec<String> {
    let mut sessions: Vec<Open> = Vec::new();
    for (id, at) in records {
        let meets = |s: &Open| s.0 <= at + GAP_MS && *at <= s.1;
        let mut met: Vec<Open> = sessions.extract_if(.., |s| meets(s)).collect();
        met.sort_by_key(|s| s.0);
        let start = met.iter().map(|s| s.0).min().unwrap_or(*at).min(*at);
        let end = met.iter().map(|s| s.1).max().unwrap_or(*at).max(at + GAP_MS);
        let mut ids: Vec<u64> = met.into_iter().flat_map(|s| s.2).collect();
        ids.push(*id);
        sessions.push((start, end, ids));
    }
    let mut rows: Vec<String> =
        sessions.into_iter().map(|(start, end, ids)| format!("{start} {end} {ids:?}")).collect();
    rows.sort();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn merged_sessions_keep_the_order_of_their_parts(times in vec(0i64..150, 1..40)) {
        let records: Vec<(u64, i64)> =
            times.into_iter().enumerate().map(|(i, at)| (i as u64, at)).collect();
        let (env, out) = (Env::new("sessions").parallelism(1), CollectSink::new());
        let time = event_time(|r: (u64, i64)| r.1).out_of_order(Duration::from_secs(10));
        env.add_source_with(CollectionSource::new(records.clone()), time)
            .key_by::<u64, _>(|_| 7)
            .window(Session::gap(Duration::from_millis(GAP_MS as u64)))
            .process::<String, _>(|_, window, records, emit| {
                let ids: Vec<u64> = records.iter().map(|r| r.0).collect();
                emit(&format!("{} {} {ids:?}", window.start, window.end));
            })
            .add_sink(out.sink());
        env.execute().unwrap();
        let mut rows = out.take();
        rows.sort();
        prop_assert_eq!(rows, oracle(&records));
    }
}
