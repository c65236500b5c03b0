//! Q4: the average price that auctions of each category were sold at.

use crate::definitions::row;
use crate::tally::Tally;
use crate::workloads::digest;
use tidemill::connectors::{AuctionView, EventView};
use tidemill::pipe::Pipe;
use tidemill::prelude::*;

/// The winning bid of each auction, when it expires: the greatest price of the bids that came
/// while it was open.
#[derive(Clone)]
struct WinningBid;

/// Auction, category, begin, end.
type Open = (u64, u64, i64, i64);

struct State {
    open: ValueState<(u64, i64, i64)>,
    /// Bids that came before their auction: price and time.
    early: ListState<(u64, i64)>,
    best: ValueState<u64>,
}

impl CoProcess<u64, Open, (u64, u64, i64)> for WinningBid {
    type Out = (u64, u64);
    type State = State;

    fn open(&self, states: &mut States<u64>) -> Result<State> {
        Ok(State {
            open: states.value("open", None)?,
            early: states.list("early", None)?,
            best: states.value("best", None)?,
        })
    }

    fn process1(
        &mut self,
        state: &mut State,
        (_, category, begin, end): Open,
        cx: &mut ProcessContext<'_, u64, (u64, u64)>,
    ) {
        state.open.set((category, begin, end));
        state.early.for_each(|&(price, time)| raise(state, price, time, begin, end));
        state.early.clear();
        cx.register_event_timer(end);
    }

    fn process2(
        &mut self,
        state: &mut State,
        (_, price, time): (u64, u64, i64),
        _: &mut ProcessContext<'_, u64, (u64, u64)>,
    ) {
        match state.open.get() {
            Some((_, begin, end)) => raise(state, price, time, begin, end),
            None => state.early.add((price, time)),
        }
    }

    fn on_timer(
        &mut self,
        state: &mut State,
        _: Timer,
        cx: &mut ProcessContext<'_, u64, (u64, u64)>,
    ) {
        if let (Some((category, ..)), Some(price)) = (state.open.get(), state.best.take()) {
            cx.emit((category, price));
        }
    }
}

fn raise(state: &State, price: u64, time: i64, begin: i64, end: i64) {
    if (begin..=end).contains(&time) {
        state.best.update(|best| *best = price.max(*best));
    }
}

pub(super) fn q4<P: Pipe<Out = Event>>(events: tidemill::Stream<Event, P>, tally: &Tally) {
    let shared = events.filter(|event| !matches!(event, EventView::Person(_))).shared();
    let auctions = shared.stream().flat_map::<Open, _>(|event, emit| {
        if let EventView::Auction(AuctionView { id, category, date_time, expires, .. }) = event {
            emit((id, category, date_time, expires));
        }
    });
    let bids = shared.stream().flat_map::<(u64, u64, i64), _>(|event, emit| {
        if let EventView::Bid(bid) = event {
            emit((bid.auction, bid.price, bid.date_time));
        }
    });
    auctions
        .key_by::<u64, _>(|auction| auction.0)
        .connect(bids.key_by::<u64, _>(|bid| bid.0))
        .process(WinningBid)
        .key_by::<u64, _>(|(category, _)| *category)
        .aggregate(
            || (0u64, 0u64, 0u64),
            |(count, sum, last): &mut (u64, u64, u64), (_, price)| {
                (*count, *sum, *last) = (*count + 1, *sum + price, price);
            },
            |(count, sum, last)| (sum / (*count).max(1), *last),
        )
        // The order of the averages depends on timing, the winning bids do not.
        .add_sink(digest::<(u64, (u64, u64))>(tally, |(category, (_, last))| {
            row(&[category, last])
        }));
}
