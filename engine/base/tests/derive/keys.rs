//! Laws of `Key`, and the rules of the hash that may never change.

use crate::types::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::HashMap;
use tidemill_base::hash::{combine, hash_bytes, hash_u64};
use tidemill_base::key::{Key as _, KeyHeap};
use tidemill_base::record::Record as _;
use tidemill_macros::{Key, Record};

#[derive(Record, Key, Clone, Debug, PartialEq, Eq, Hash)]
#[record(crate = tidemill_base)]
struct Place {
    zip: u32,
    city: String,
    color: Color,
    owner: (String, i64),
}

#[derive(Record, Key, Clone, Debug, PartialEq, Eq, Hash)]
#[record(crate = tidemill_base)]
struct UserId(u64);

#[derive(Record, Key, Clone, Debug, PartialEq, Eq, Hash)]
#[record(crate = tidemill_base)]
struct Nobody;

#[derive(Record, Key, Clone, Debug, PartialEq, Eq, Hash)]
#[record(crate = tidemill_base)]
struct Both<A, B> {
    a: A,
    b: B,
}

fn place() -> impl Strategy<Value = Place> {
    ("[a-z]{0,40}", 0..4u32, color(), ("[a-z]{10,15}", -1..1i64))
        .prop_map(|(city, zip, color, owner)| Place { zip, city, color, owner })
}

#[test]
fn the_hash_is_part_of_the_checkpoint_format_and_never_changes() {
    assert_eq!(UserId::hash(UserId(7).view()), hash_u64(7));
    assert_eq!(Nobody::hash(Nobody.view()), hash_u64(0));
    assert_eq!(Color::hash(ColorView::Red), hash_u64(0));
    assert_eq!(Color::hash(ColorView::Blue), hash_u64(2));
    let owner = <(String, i64)>::hash(("o", -1));
    let expected = combine(combine(combine(hash_u64(9), hash_bytes(b"city")), hash_u64(1)), owner);
    let place = PlaceView { zip: 9, city: "city", color: ColorView::Green, owner: ("o", -1) };
    assert_eq!(Place::hash(place), expected);
    let both = Both { a: 1u8, b: "b".to_owned() };
    assert_eq!(Both::hash(both.view()), combine(hash_u64(1), hash_bytes(b"b")));
}

proptest! {
    /// Stored keys against the keys themselves, through churn.
    #[test]
    fn stored_keys_are_the_keys(
        keys in vec(place(), 1..40),
        steps in vec((any::<prop::sample::Index>(), any::<bool>()), 1..200),
    ) {
        let mut heap = KeyHeap::default();
        let mut stored = HashMap::new();
        for (index, insert) in steps {
            let key = index.get(&keys);
            if insert {
                stored.entry(key.clone()).or_insert_with(|| Place::store(key.view(), &mut heap));
            } else if let Some(slot) = stored.remove(key) {
                Place::free(&slot, &mut heap);
            }
            for (other, slot) in &stored {
                prop_assert_eq!(&Place::from_view(Place::load(slot, &heap)), other);
                prop_assert_eq!(Place::matches(slot, key.view(), &heap), key == other);
            }
        }
    }
}

#[test]
fn churn_does_not_grow_the_heap() {
    let mut heap = KeyHeap::default();
    let key = |i: usize| format!("{i:0width$}", width = 13 + i % 90);
    let mut slots: Vec<_> = (0..100).map(|i| String::store(&key(i), &mut heap)).collect();
    let bytes = heap.bytes();
    for i in 100..10_000 {
        let slot = &mut slots[i % 90];
        String::free(slot, &mut heap);
        *slot = String::store(&key(i % 90 + 90 * (i / 90)), &mut heap);
        assert_eq!(String::load(slot, &heap), key(i));
    }
    assert_eq!(heap.bytes(), bytes);
}

#[test]
fn small_keys_are_stored_whole() {
    let mut heap = KeyHeap::default();
    for color in [Color::Red, Color::Green, Color::Blue] {
        let slot = Color::store(color.view(), &mut heap);
        assert_eq!(Color::load(&slot, &heap), color.view());
        for other in [Color::Red, Color::Green, Color::Blue] {
            assert_eq!(Color::matches(&slot, other.view(), &heap), color == other);
        }
    }
    let slot = UserId::store(UserId(3).view(), &mut heap);
    assert_eq!(UserId::load(&slot, &heap).to_record(), UserId(3));
    Nobody::store(Nobody.view(), &mut heap);
    assert!(Nobody::matches(&(), Nobody.view(), &heap));
    assert_eq!(heap.bytes(), 0);
}
