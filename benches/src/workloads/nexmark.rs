//! Nexmark's queries over a replay from memory: the generator would be slower than the engine.

mod average;
mod replay;

use super::{HalfTime, Run, Spec, digest, execute};
use crate::definitions::{fnv, row};
use crate::tally::Tally;
use replay::Replay;
use std::time::Duration;
use tidemill::connectors::{AuctionView, BidView, EventView, GeneratorSource, PersonView};
use tidemill::pipe::Pipe;
use tidemill::prelude::*;

const WINDOW: Duration = Duration::from_secs(10);

pub(super) fn run(name: &str, spec: &Spec) -> Result<Run> {
    let (tally, half) = (Tally::default(), HalfTime::default());
    let replay = Replay::new(spec.events, spec.cores, half.clone());
    let env = Env::new(name).parallelism(spec.cores);
    let source = GeneratorSource::with(Some(spec.events), replay).bounded_lateness(0);
    let events = env.add_source(source);
    match name {
        "q0" => {
            events.add_sink(digest::<Event>(&tally, |event| match event {
                EventView::Person(p) => row(&[0, p.id, p.date_time as u64]),
                EventView::Auction(a) => row(&[1, a.id, a.date_time as u64]),
                EventView::Bid(b) => row(&[2, b.auction, b.bidder, b.date_time as u64]),
            }));
        }
        "q1" => {
            bids(events, |b| (b.auction, b.bidder, b.price * 908 / 1000)).add_sink(digest::<(
                u64,
                u64,
                u64,
            )>(
                &tally,
                |(a, b, p)| row(&[a, b, p]),
            ));
        }
        "q2" => {
            bids(events, |b| (b.auction, b.bidder, b.price))
                .filter(|(auction, ..)| auction % 123 == 0)
                .add_sink(digest::<(u64, u64, u64)>(&tally, |(a, _, p)| row(&[a, p])));
        }
        "q3" => q3(events, &tally),
        "q4" => average::q4(events, &tally),
        "q5" => q5(events, &tally),
        "q7" => q7(events, &tally),
        _ => q8(events, &tally),
    }
    execute(&env, spec, tally, &half, None)
}

/// Three integers of each bid.
fn bids<P: Pipe<Out = Event>>(
    events: tidemill::Stream<Event, P>,
    f: impl Fn(BidView<'_>) -> (u64, u64, u64) + Clone + Send + 'static,
) -> tidemill::Stream<(u64, u64, u64), impl Pipe<Out = (u64, u64, u64)>> {
    events.flat_map::<(u64, u64, u64), _>(move |event, emit| {
        if let EventView::Bid(bid) = event {
            emit(f(bid));
        }
    })
}

/// Persons, and auctions, of a stream.
type Branches = (tidemill::SharedStream<Event>,);

fn without_bids<P: Pipe<Out = Event>>(events: tidemill::Stream<Event, P>) -> Branches {
    (events.filter(|event| !matches!(event, EventView::Bid(_))).shared(),)
}

/// Hot items: the auctions with most bids of each window of 10 s, every 2 s.
fn q5<P: Pipe<Out = Event>>(events: tidemill::Stream<Event, P>, tally: &Tally) {
    events
        .flat_map::<u64, _>(|event, emit| {
            if let EventView::Bid(bid) = event {
                emit(bid.auction);
            }
        })
        .key_by::<u64, _>(|auction| *auction)
        .window(Sliding::of(WINDOW, Duration::from_secs(2)))
        .with_window()
        .count()
        .key_by::<i64, _>(|(_, _, end, _)| *end)
        .window(Tumbling::of(Duration::from_secs(2)))
        .aggregate_with(
            || (0u64, Vec::<u64>::new()),
            |best: &mut (u64, Vec<u64>), (auction, _, _, count)| keep_best(best, count, auction),
            |best, other| other.1.iter().for_each(|&a| keep_best(best, other.0, a)),
            |end: i64, _, best| (end, best.0, best.1.clone()),
        )
        .flat_map::<(i64, u64, u64), _>(|(end, count, auctions), emit| {
            auctions.iter().for_each(|auction| emit((end, auction, count)));
        })
        .add_sink(digest::<(i64, u64, u64)>(tally, |(end, a, n)| row(&[end as u64, a, n])));
}

/// Keeps all `T`s with the greatest value.
fn keep_best<T>(best: &mut (u64, Vec<T>), value: u64, item: T) {
    if value > best.0 {
        best.0 = value;
        best.1.clear();
    }
    if value >= best.0 {
        best.1.push(item);
    }
}

/// The bids with the greatest price of each window: of each of 64 groups, then of all.
fn q7<P: Pipe<Out = Event>>(events: tidemill::Stream<Event, P>, tally: &Tally) {
    type Best = (u64, Vec<(u64, u64)>);
    let best_of_group = bids(events, |b| (b.auction, b.bidder, b.price))
        .key_by::<u64, _>(|(_, bidder, _)| bidder & 63)
        .window(Tumbling::of(WINDOW))
        .aggregate_with(
            Best::default,
            |best: &mut Best, (auction, bidder, price)| keep_best(best, price, (auction, bidder)),
            |best, other| other.1.iter().for_each(|&b| keep_best(best, other.0, b)),
            |_: u64, window: Window, best| (window.end, best.0, best.1.clone()),
        );
    best_of_group
        .key_by::<i64, _>(|(end, ..)| *end)
        .window(Tumbling::of(WINDOW))
        .aggregate_with(
            Best::default,
            |best: &mut Best, (_, price, bids)| {
                bids.iter().for_each(|b| keep_best(best, price, b));
            },
            |best, other| other.1.iter().for_each(|&b| keep_best(best, other.0, b)),
            |end: i64, _, best| (end, best.0, best.1.clone()),
        )
        .flat_map::<(i64, u64, u64, u64), _>(|(end, price, bids), emit| {
            bids.iter().for_each(|(auction, bidder)| emit((end, auction, price, bidder)));
        })
        .add_sink(digest::<(i64, u64, u64, u64)>(tally, |(end, a, p, b)| {
            row(&[end as u64, a, p, b])
        }));
}

/// New users who sell: persons and their auctions of the same window.
fn q8<P: Pipe<Out = Event>>(events: tidemill::Stream<Event, P>, tally: &Tally) {
    let (shared,) = without_bids(events);
    let persons = shared.stream().flat_map::<(u64, String), _>(|event, emit| {
        if let EventView::Person(PersonView { id, name, .. }) = event {
            emit((id, name));
        }
    });
    let auctions = shared.stream().flat_map::<(u64, u64), _>(|event, emit| {
        if let EventView::Auction(AuctionView { id, seller, .. }) = event {
            emit((seller, id));
        }
    });
    persons
        .key_by::<u64, _>(|(id, _)| *id)
        .window_join(auctions.key_by::<u64, _>(|(seller, _)| *seller), WINDOW)
        .apply(|_, window, (id, name), (_, auction)| {
            row(&[window.end as u64, id, fnv(name.as_bytes()), auction])
        })
        .add_sink(digest::<u64>(tally, |digest| digest));
}

/// Local items: persons of three states and their auctions of category 10.
fn q3<P: Pipe<Out = Event>>(events: tidemill::Stream<Event, P>, tally: &Tally) {
    let (shared,) = without_bids(events);
    let persons = shared.stream().flat_map::<(u64, String, String, String), _>(|event, emit| {
        if let EventView::Person(PersonView { id, name, city, state, .. }) = event
            && matches!(state, "or" | "id" | "ca")
        {
            emit((id, name, city, state));
        }
    });
    let auctions = shared.stream().flat_map::<(u64, u64), _>(|event, emit| {
        if let EventView::Auction(AuctionView { id, seller, category: 10, .. }) = event {
            emit((seller, id));
        }
    });
    persons
        .key_by::<u64, _>(|(id, ..)| *id)
        .join_all(auctions.key_by::<u64, _>(|(seller, _)| *seller))
        .apply(|_, (_, name, city, state), (_, auction)| {
            let text = |s: &str| fnv(s.as_bytes());
            row(&[text(name), text(city), text(state), auction])
        })
        .add_sink(digest::<u64>(tally, |digest| digest));
}
