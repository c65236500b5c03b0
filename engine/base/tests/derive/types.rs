//! Records of every kind, and generators of their values.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidemill_macros::{Key, Record};

/// The record of most benchmarks.
#[derive(Record, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) struct Bid {
    /// Which auction.
    pub auction: u64,
    pub bidder: u64,
    pub price: u64,
    pub channel: String,
    pub url: String,
    pub date_time: i64,
    pub extra: String,
}

#[derive(Record, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) struct Marker;

#[derive(Record, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) struct Pair(pub u32, pub String);

/// Nothing borrows: `PointView` has no lifetime.
#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) struct Point {
    pub x: f64,
    pub tag: [u8; 3],
    pub y: Option<(i128, char)>,
}

#[derive(Record, Key, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[record(crate = tidemill_base)]
pub(crate) enum Color {
    Red,
    Green,
    Blue,
}

#[derive(Record, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) enum Event {
    Opened,
    Moved(Point, i16),
    Named { name: String, aliases: Vec<String> },
    Paired(u8, Pair, Option<Pair>),
    Colored(Color),
}

#[derive(Record, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) struct Order {
    pub id: u64,
    pub bids: Vec<Bid>,
    pub buyer: Option<Pair>,
    pub events: Vec<Event>,
    pub last: Event,
    pub marker: Marker,
    pub r#type: (i8, bool, std::option::Option<std::string::String>),
    pub grid: [Pair; 2],
}

/// The bound that the derive adds need not be written.
#[derive(Record, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) struct Tagged<T, const N: usize> {
    pub value: T,
    pub tags: Vec<T>,
    pub pair: Option<(T, u64)>,
    pub few: [T; N],
}

#[derive(Record, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) enum Either<A: Clone, B> {
    Left(A),
    Right { value: B },
    Neither,
}

/// Its view has a single variant: no arm is unreachable.
#[derive(Record, Clone, Debug, PartialEq)]
#[record(crate = tidemill_base)]
pub(crate) enum Single {
    Only { text: String },
}

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof!["", "[a-zß]{0,9}", "[a-z/]{9,40}"]
}

pub(crate) fn bid() -> impl Strategy<Value = Bid> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<i64>());
    (numbers, text(), text(), text()).prop_map(
        |((auction, bidder, price, date_time), channel, url, extra)| Bid {
            auction,
            bidder,
            price,
            channel,
            url,
            date_time,
            extra,
        },
    )
}

pub(crate) fn pair() -> impl Strategy<Value = Pair> {
    (any::<u32>(), text()).prop_map(|(n, s)| Pair(n, s))
}

pub(crate) fn point() -> impl Strategy<Value = Point> {
    (-1e9..1e9f64, any::<[u8; 3]>(), option::of((any::<i128>(), any::<char>())))
        .prop_map(|(x, tag, y)| Point { x, tag, y })
}

pub(crate) fn color() -> impl Strategy<Value = Color> {
    prop_oneof![Just(Color::Red), Just(Color::Green), Just(Color::Blue)]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Opened),
        (point(), any::<i16>()).prop_map(|(p, n)| Event::Moved(p, n)),
        (text(), vec(text(), 0..4)).prop_map(|(name, aliases)| Event::Named { name, aliases }),
        (any::<u8>(), pair(), option::of(pair())).prop_map(|(n, p, q)| Event::Paired(n, p, q)),
        color().prop_map(Event::Colored),
    ]
}

pub(crate) fn order() -> impl Strategy<Value = Order> {
    let lists = (vec(bid(), 0..3), vec(event(), 0..4));
    let typed = (any::<i8>(), any::<bool>(), option::of(text()));
    (any::<u64>(), lists, option::of(pair()), event(), typed, [pair(), pair()]).prop_map(
        |(id, (bids, events), buyer, last, r#type, grid)| Order {
            id,
            bids,
            buyer,
            events,
            last,
            marker: Marker,
            r#type,
            grid,
        },
    )
}
