//! W1: map and filter, nothing else: the fused chain.

use super::{HalfTime, Run, Spec, digest, execute};
use crate::definitions::mix;
use crate::tally::Tally;
use tidemill::connectors::GeneratorSource;
use tidemill::prelude::*;

/// A bid of four integers.
#[derive(Clone, Debug, Record)]
pub(super) struct Bid {
    auction: u64,
    bidder: u64,
    price: u64,
    time: u64,
}

pub(super) fn w1(spec: &Spec) -> Result<Run> {
    let (tally, half) = (Tally::default(), HalfTime::default());
    let env = Env::new("w1").parallelism(spec.cores);
    let bids = GeneratorSource::with_timestamps(Some(spec.events), |i| {
        let r = mix(i);
        let time = i / 10;
        let bid = Bid { auction: r & 0xffff, bidder: (r >> 16) & 0xffff, price: r >> 40, time };
        (bid, time as i64)
    });
    env.add_source(bids.bounded_lateness(0))
        .map(|b| Bid {
            auction: b.auction,
            bidder: b.bidder,
            price: b.price * 908 / 1000,
            time: b.time,
        })
        .filter(|b| b.auction & 1 == 0)
        .add_sink(digest::<Bid>(&tally, |b| b.auction ^ b.bidder ^ b.price ^ b.time));
    execute(&env, spec, tally, &half, None)
}
