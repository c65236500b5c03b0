//! Laws of `Record`: owned, archived, encoded, copied as bytes, all are the same record.

use crate::types::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt::Debug;
use tidemill_base::record::{Record, shape_of};
use tidemill_base::{Batch, BatchBuilder, Buffer};

fn round_trip<T: Record + PartialEq + Debug>(values: &[T]) {
    let mut builder = BatchBuilder::new(Buffer::with_bytes(1 << 20));
    for (i, v) in values.iter().enumerate() {
        builder.push::<T>(T::shorten(v.view()), i as i64, 7).unwrap();
    }
    let batch = builder.seal();
    batch.check::<T>().unwrap();
    let mut bytes = vec![];
    batch.encode(&mut bytes);
    let (decoded, used) = Batch::decode(&bytes).unwrap();
    assert_eq!(used, bytes.len());
    decoded.check::<T>().unwrap();
    let mut copied = BatchBuilder::new(Buffer::with_bytes(1 << 20));
    let mut again = BatchBuilder::new(Buffer::with_bytes(1 << 20));
    for i in (0..values.len()).rev() {
        copied.push_raw(decoded.raw(i)).unwrap();
    }
    for (view, timestamp, hash) in batch.iter::<T>() {
        again.push::<T>(view, timestamp, hash).unwrap();
    }
    let (copied, again) = (copied.seal(), again.seal());
    copied.check::<T>().unwrap();
    for (i, v) in values.iter().enumerate() {
        let archived = batch.get::<T>(i).0;
        assert_eq!(archived, v.view());
        assert_eq!(format!("{archived:?}"), format!("{:?}", v.view()));
        assert_eq!(&T::from_view(archived), v);
        assert_eq!(&T::from_view(v.view()), v);
        assert_eq!(&T::from_view(copied.get::<T>(values.len() - 1 - i).0), v);
    }
    let mut bytes_again = vec![];
    again.encode(&mut bytes_again);
    assert_eq!(bytes, bytes_again, "archiving the view of an archive gives the same bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn structs(bids in vec(bid(), 0..9), pairs in vec(pair(), 0..9), points in vec(point(), 0..9)) {
        round_trip(&bids);
        round_trip(&pairs);
        round_trip(&points);
        round_trip(&vec![Marker; pairs.len()]);
    }

    #[test]
    fn enums(events in vec(event(), 0..9), colors in vec(color(), 0..9)) {
        round_trip(&events);
        round_trip(&colors);
    }

    /// Lists short enough for the stack, and longer ones.
    #[test]
    fn lists(texts in vec(vec(text(), 0..40), 1..4), arrays in vec(pair(), 17)) {
        round_trip(&texts);
        round_trip(&[texts.clone(), texts]);
        round_trip(&[arrays[..16].to_vec(), arrays]);
    }

    #[test]
    fn nested(orders in vec(order(), 0..4)) {
        round_trip(&orders);
    }

    #[test]
    fn generic(pair in pair(), events in vec(event(), 2..5), color in color()) {
        let few = [events[0].clone(), events[1].clone()];
        let (value, paired) = (events[0].clone(), Some((events[1].clone(), 1)));
        round_trip(&[Tagged { value, tags: events, pair: paired, few }]);
        round_trip(&[Tagged { value: 1u8, tags: vec![2], pair: None, few: [1, 2, 3] }]);
        let text = pair.1.clone();
        round_trip(&[Single::Only { text }]);
        round_trip(&[Either::Left(pair), Either::Right { value: color }, Either::Neither]);
    }
}

#[test]
fn shapes_name_the_layout() {
    let bid = "Bid{auction:u64,bidder:u64,price:u64,channel:str,url:str,date_time:i64,extra:str}";
    assert_eq!(shape_of::<Bid>(), bid);
    assert_eq!(shape_of::<Marker>(), "Marker");
    assert_eq!(shape_of::<Pair>(), "Pair(u32,str)");
    assert_eq!(shape_of::<Color>(), "Color{Red|Green|Blue}");
    let point = "Point{x:f64,tag:[u8;3],y:option<(i128,char)>}";
    let event = format!(
        "Event{{Opened|Moved({point},i16)|Named{{name:str,aliases:list<str>}}\
         |Paired(u8,Pair(u32,str),option<Pair(u32,str)>)|Colored(Color{{Red|Green|Blue}})}}"
    );
    assert_eq!(shape_of::<Event>(), event);
    assert_eq!(
        shape_of::<Tagged<u8, 2>>(),
        "Tagged{value:u8,tags:list<u8>,pair:option<(u8,u64)>,few:[u8;2]}"
    );
}

#[test]
fn views_are_plain_values() {
    let pair = Pair(3, "three".into());
    let view = pair.view();
    let copy = view;
    assert_eq!((view.0, copy.1), (3, "three"));
    assert_eq!(format!("{view:?}"), r#"Pair(3, "three")"#);
    assert_eq!(format!("{:?} {:?}", Marker.view(), Color::Blue.view()), "Marker Blue");
    assert_eq!(copy.to_record(), pair);
    assert_eq!(Pair::from(PairView(3, "three")), pair);
    let other = EventView::Paired(1, view, None);
    assert_ne!(other, EventView::Opened);
    assert_eq!(format!("{other:?}"), r#"Paired(1, Pair(3, "three"), None)"#);
    let point: PointView = Point { x: 1.0, tag: [1, 2, 3], y: None }.view();
    assert_eq!(format!("{point:?}"), "Point { x: 1.0, tag: [1, 2, 3], y: None }");
}

/// The longer of two lifetimes shortens by itself where all fields are built-in records.
#[test]
fn views_of_built_in_fields_are_covariant() {
    fn longer<'a>(l: PairView<'a>, r: PairView<'a>) -> PairView<'a> {
        if l.1.len() >= r.1.len() { l } else { r }
    }
    let fixed: PairView<'static> = PairView(1, "static");
    let owned = Pair(2, "owned text".into());
    assert_eq!(longer(fixed, owned.view()).0, 2);
}

#[test]
fn a_view_can_be_written_without_an_owned_value() {
    let mut builder = BatchBuilder::new(Buffer::pooled());
    let view =
        EventView::Paired(9, PairView(1, "long enough to lie outside"), Some(PairView(2, "")));
    builder.push::<Event>(view, 5, 0).unwrap();
    assert_eq!(builder.seal().get::<Event>(0), (view, 5, 0));
}

/// What a value owns beside itself: what its fields own.
#[test]
fn derived_records_count_what_they_own() {
    let name = || String::from("twelve bytes");
    let pair = || Pair(1, name());
    assert_eq!(Marker.owned_bytes() + Event::Opened.owned_bytes() + Color::Red.owned_bytes(), 0);
    assert_eq!(Event::Paired(1, pair(), Some(pair())).owned_bytes(), 24);
    let named = Event::Named { name: name(), aliases: vec![name(), name()] };
    assert_eq!(named.owned_bytes(), 3 * 12 + 2 * size_of::<String>());
}
