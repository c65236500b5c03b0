//! Growth, moves and drops of a flat table; `heap/tests.rs` has it against a map.

use super::{DEPTH_MAX, Entry, Flat, PART_SLOTS};
use std::collections::BTreeSet;
use std::rc::Rc;
use tidemill_base::Key;
use tidemill_base::key::KeyHeap;

fn put<V>(flat: &mut Flat<u64, V>, key: u64, value: V) -> u32 {
    let (hash, keys) = (u64::hash(key), KeyHeap::default());
    while flat.is_full(hash) {
        flat.grow(hash, &keys);
    }
    flat.insert(hash, Entry { key, value }, &keys)
}

fn find<V>(flat: &Flat<u64, V>, key: u64) -> Option<u32> {
    Some(flat.find(u64::hash(key), key, &KeyHeap::default())?.id)
}

fn live<V>(flat: &Flat<u64, V>) -> BTreeSet<u32> {
    (0..64 * flat.live().len() as u32).filter(|&id| flat.is_live(id)).collect()
}

#[test]
fn every_entry_is_found_through_all_ways_of_growing() {
    // Beyond the directory's depth partitions take several pages.
    let n = (PART_SLOTS << DEPTH_MAX) as u64 * 3;
    let mut flat = Flat::<u64, u64>::new();
    for key in 0..n {
        put(&mut flat, key, !key);
        assert_eq!(flat.len() as u64, key + 1);
    }
    assert!(flat.pages.iter().any(|p| p.len > PART_SLOTS));
    let found: BTreeSet<u32> = (0..n).map(|key| find(&flat, key).unwrap()).collect();
    assert_eq!(found, live(&flat));
    assert_eq!(found.len() as u64, n);
    for key in 0..n {
        let id = find(&flat, key).unwrap();
        // SAFETY: it was just found.
        let entry = unsafe { flat.get(id) };
        assert_eq!((entry.key, entry.value), (key, !key));
    }
    assert_eq!(find(&flat, n), None);
}

#[test]
fn removing_tells_who_moves_before_it_does() {
    let keys = KeyHeap::default();
    let mut flat = Flat::<u64, u64>::new();
    (0..2_000).for_each(|key| _ = put(&mut flat, key, key));
    let mut moves = 0;
    for key in (0..2_000).filter(|key| key % 3 != 1) {
        let id = find(&flat, key).unwrap();
        let before: Vec<(u64, u32)> =
            (0..2_000).filter_map(|k| Some((k, find(&flat, k)?))).collect();
        let mut told = BTreeSet::new();
        let removed = flat.remove(id, &keys, |flat, moving| {
            // SAFETY: asserted.
            let entry = unsafe { flat.get(moving) };
            assert!(flat.is_live(moving) && entry.key == entry.value);
            told.insert(moving);
        });
        assert_eq!((removed.key, removed.value), (key, key));
        for (k, old) in before.into_iter().filter(|&(k, _)| k != key) {
            let new = find(&flat, k).unwrap();
            assert_eq!(new != old, told.contains(&old), "key {k}");
        }
        moves += told.len();
    }
    assert!(moves > 100, "{moves}");
    assert_eq!(live(&flat).len(), flat.len());
}

#[test]
#[should_panic(expected = "was added under another hash")]
fn an_entry_under_another_hash_cannot_be_removed() {
    let keys = KeyHeap::default();
    let mut flat = Flat::<u64, u64>::new();
    (0..1_000).for_each(|key| _ = put(&mut flat, key, key));
    let wrong = !u64::hash(2_000);
    let id = flat.insert(wrong, Entry { key: 2_000, value: 0 }, &keys);
    flat.remove(id, &keys, |_, _| ());
}

#[test]
fn the_key_that_marks_vacant_places_is_a_key() {
    let keys = KeyHeap::default();
    let mut flat = Flat::<u64, u64>::new();
    assert_eq!(find(&flat, 0), None);
    (1..100).for_each(|key| _ = put(&mut flat, key, key));
    assert_eq!(find(&flat, 0), None);
    let id = put(&mut flat, 0, 7);
    assert_eq!((find(&flat, 0), flat.len()), (Some(id), 100));
    assert_eq!(flat.remove(id, &keys, |_, _| panic!("nothing moves")).value, 7);
    assert_eq!((find(&flat, 0), flat.len()), (None, 99));
}

#[test]
fn values_are_dropped_once() {
    let keys = KeyHeap::default();
    let value = Rc::new(());
    let held = |n: usize| assert_eq!(Rc::strong_count(&value), n + 1);
    let mut flat = Flat::<u64, Rc<()>>::new();
    (0..3_000).for_each(|key| _ = put(&mut flat, key, value.clone()));
    held(3_000);
    for key in 0..500 {
        let id = find(&flat, key).unwrap();
        flat.remove(id, &keys, |_, _| ());
    }
    held(2_500);
    for id in live(&flat).into_iter().take(300) {
        flat.drain(id);
    }
    held(2_200);
    flat.clear();
    held(0);
    while !flat.clear_step(2) {}
    assert!((0..3_000).all(|key| find(&flat, key).is_none()));
    (0..100).for_each(|key| _ = put(&mut flat, key, value.clone()));
    held(100);
    drop(flat);
    held(0);
}

#[test]
fn partitions_of_full_size_do_not_all_grow_at_once() {
    let limits: BTreeSet<usize> = (0..64).map(|page| super::limit(PART_SLOTS, page)).collect();
    assert!(limits.len() >= 12, "{limits:?}");
    assert!(limits.iter().all(|l| (PART_SLOTS / 2..PART_SLOTS / 4 * 3).contains(l)));
    // F4.
    assert!((3..=6).all(|bits| super::limit(1 << bits, 0) < 1 << bits));
}
