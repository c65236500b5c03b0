//! The archives are those of rkyv's own derive, byte for byte.

use crate::types::*;
use proptest::prelude::*;
use rkyv::rancor::Error;
use tidemill_base::Buffer;
use tidemill_base::record::{Encoder, Record};
use tidemill_macros::Record;

/// The same types with rkyv's derive.
mod plain {
    use rkyv::{Archive, Serialize};

    #[derive(Archive, Serialize)]
    pub(crate) struct Pair(pub(crate) u32, pub(crate) String);

    #[derive(Archive, Serialize)]
    pub(crate) struct Point {
        pub(crate) x: f64,
        pub(crate) tag: [u8; 3],
        pub(crate) y: Option<(i128, char)>,
    }

    #[derive(Archive, Serialize)]
    pub(crate) enum Color {
        Red,
        Green,
        Blue,
    }

    #[derive(Archive, Serialize)]
    pub(crate) enum Event {
        Opened,
        Moved(Point, i16),
        Named { name: String, aliases: Vec<String> },
        Paired(u8, Pair, Option<Pair>),
        Colored(Color),
    }

    #[derive(Archive, Serialize)]
    pub(crate) struct Mixed {
        pub(crate) small: u8,
        pub(crate) last: Event,
        pub(crate) buyer: Option<Pair>,
        pub(crate) events: Vec<Event>,
        pub(crate) wide: u128,
    }
}

#[derive(Record)]
#[record(crate = tidemill_base)]
struct Mixed {
    small: u8,
    last: Event,
    buyer: Option<Pair>,
    events: Vec<Event>,
    wide: u128,
}

fn plain_pair(pair: Pair) -> plain::Pair {
    plain::Pair(pair.0, pair.1)
}

fn plain_event(event: Event) -> plain::Event {
    match event {
        Event::Opened => plain::Event::Opened,
        Event::Moved(Point { x, tag, y }, n) => plain::Event::Moved(plain::Point { x, tag, y }, n),
        Event::Named { name, aliases } => plain::Event::Named { name, aliases },
        Event::Paired(n, p, q) => plain::Event::Paired(n, plain_pair(p), q.map(plain_pair)),
        Event::Colored(Color::Red) => plain::Event::Colored(plain::Color::Red),
        Event::Colored(Color::Green) => plain::Event::Colored(plain::Color::Green),
        Event::Colored(Color::Blue) => plain::Event::Colored(plain::Color::Blue),
    }
}

fn encoded<T: Record>(value: &T) -> Vec<u8> {
    let mut buffer = Buffer::pooled();
    buffer.bytes_mut().fill(0xAA);
    let mut encoder = Encoder::new(buffer.bytes_mut(), 0);
    encoder.encode::<T>(value.view()).unwrap();
    let end = encoder.position();
    buffer.bytes()[..end].to_vec()
}

proptest! {
    #[test]
    fn a_struct_and_an_enum_have_rkyvs_bytes(
        last in event(),
        buyer in proptest::option::of(pair()),
        events in proptest::collection::vec(event(), 0..5),
        small: u8,
        wide: u128,
    ) {
        let ours = encoded(&last);
        let theirs = rkyv::to_bytes::<Error>(&plain_event(last.clone())).unwrap();
        prop_assert_eq!(&ours[..], &theirs[..]);
        let theirs = plain::Mixed {
            small,
            last: plain_event(last.clone()),
            buyer: buyer.clone().map(plain_pair),
            events: events.iter().cloned().map(plain_event).collect(),
            wide,
        };
        let theirs = rkyv::to_bytes::<Error>(&theirs).unwrap();
        let ours = encoded(&Mixed { small, last, buyer, events, wide });
        prop_assert_eq!(&ours[..], &theirs[..]);
    }
}

/// rkyv reads what we wrote.
#[test]
fn rkyv_accesses_our_archives() {
    let mut aligned = rkyv::util::AlignedVec::<16>::new();
    let pair = Pair(7, "a text longer than eight".into());
    aligned.extend_from_slice(&encoded(&pair));
    let archived = rkyv::access::<ArchivedPair, Error>(&aligned).unwrap();
    assert_eq!((archived.0.to_native(), archived.1.as_str()), (7, pair.1.as_str()));
    assert_eq!(Pair::view_archived(archived), pair.view());
}
