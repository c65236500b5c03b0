//! The manifest on disk: round trip, checksum, and refusal of contradictions.

use proptest::prelude::*;

use super::*;
use crate::testing;
use crate::{MemoryStore, SnapshotStore};

fn sample() -> Manifest {
    let store: std::sync::Arc<dyn SnapshotStore> = std::sync::Arc::new(MemoryStore::new());
    testing::write(&store, 5, false, &["a.sst", "b.sst"]).unwrap()
}

#[test]
fn round_trip_and_readable() {
    let manifest = sample();
    let bytes = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    // Any JSON tool can read the whole file, envelope included.
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(json["tidemill_checkpoint"], 1);
    assert_eq!(json["manifest"]["job"], "WordCount");
    assert_eq!(json["manifest"]["operators"][0]["states"][0]["fingerprint"], "fffffffffffffffe");
    assert_eq!(json["manifest"]["subtasks"][0]["sections"][0]["kind"], "keyed_state");
    let run = json["manifest"]["subtasks"][0]["sections"][0]["runs"][0].as_str().unwrap();
    assert!(run.starts_with("16+") && run.ends_with("/1"), "{run}");
}

#[test]
fn totals_are_the_sums() {
    let manifest = sample();
    let t = manifest.totals;
    assert_eq!((t.operators, t.subtasks, t.objects, t.shared_files), (3, 6, 2, 2));
    let chunks: usize = testing::content(5).values().map(Vec::len).sum();
    assert_eq!((t.chunks, t.records), (chunks as u64, chunks as u64));
    assert_eq!(t.shared_bytes, 90);
}

#[test]
fn another_version_is_told_from_damage() {
    let text = String::from_utf8(sample().encode().unwrap()).unwrap();
    let body = text.split_once('\n').unwrap().1.strip_suffix("\n}\n").unwrap();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&9u32.to_le_bytes());
    crc.update(body.as_bytes());
    let (crc, bytes) = (crc.finalize(), body.len());
    let other = format!(
        "{{\"tidemill_checkpoint\":9,\"crc32\":\"{crc:08x}\",\"bytes\":{bytes},\"manifest\":\n{body}\n}}\n"
    );
    assert_eq!(Manifest::read(other.as_bytes()), Err(Unreadable::Version(9)));
    let flipped = text.replacen("\"tidemill_checkpoint\":1", "\"tidemill_checkpoint\":9", 1);
    assert!(matches!(Manifest::read(flipped.as_bytes()), Err(Unreadable::Damaged(_))));
}

/// Every rule M1 to M6 has a manifest that breaks it alone.
#[test]
fn contradictions_are_refused() {
    let twice = |list: &mut Vec<SharedFile>| list.push(list[0].clone());
    type Break<'a> = (&'a str, &'a dyn Fn(&mut Manifest));
    let broken: [Break<'_>; 15] = [
        ("operator id", &|m| m.operators[1].id = m.operators[0].id),
        ("operator uid", &|m| m.operators[1].uid = m.operators[0].uid.clone()),
        ("object worker-0.data is listed twice", &|m| m.objects[1].name = object_name(0)),
        ("shared file a.sst is listed twice", &|m| twice(&mut m.shared)),
        ("is listed twice", &|m| m.subtasks.push(m.subtasks[0].clone())),
        ("has 2 of 3", &|m| drop(m.subtasks.remove(0))),
        ("which is not listed", &|m| m.subtasks[0].operator = 77),
        ("with parallelism", &|m| m.subtasks[0].subtask = 77),
        ("which is not listed", &|m| m.subtasks[0].sections[0].object = object_name(5)),
        ("run ", &|m| m.subtasks[0].sections[0].runs[0].offset = u64::MAX),
        ("section of", &|m| m.subtasks[0].sections[0].chunks += 1),
        ("totals say", &|m| m.totals.records += 1),
        ("complete in itself", &|m| m.savepoint = true),
        ("not of the form", &|m| m.objects[0].name = "../../etc/passwd".to_owned()),
        ("shared file name", &|m| m.shared[0].name = "../a.sst".to_owned()),
    ];
    for (want, break_it) in broken {
        let mut manifest = sample();
        break_it(&mut manifest);
        if want != "totals say" {
            manifest.totals = manifest.count();
        }
        let error = manifest.validate().unwrap_err();
        assert!(error.contains(want), "{want}: {error}");
        assert_eq!(manifest.encode(), Err(error));
    }
    let mut zero = sample();
    zero.max_parallelism = 0;
    assert!(zero.validate().unwrap_err().contains("at least 1"));
}

#[test]
fn parts_in_any_order_give_the_same_manifest() {
    let store: std::sync::Arc<dyn SnapshotStore> = std::sync::Arc::new(MemoryStore::new());
    let parts = [0, 1].map(|w| testing::write_part(&store, 5, w, Vec::new()).unwrap());
    let [a, b] = parts;
    let facts = || testing::facts(5, false);
    let one = Manifest::assemble(facts(), [a.clone(), b.clone()]);
    assert_eq!(one, Manifest::assemble(facts(), [b, a]));
}

proptest! {
    /// No change to the bytes goes unnoticed.
    #[test]
    fn damage_is_seen(
        at: prop::sample::Index, bit in 0u8..8, how in 0u8..4, tail: Vec<u8>,
    ) {
        let good = sample().encode().unwrap();
        let mut bytes = good.clone();
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] ^= 1 << bit,
            1 => bytes.truncate(at),
            2 => bytes.extend(tail),
            _ => { bytes.splice(at..at, tail); }
        }
        prop_assume!(bytes != good);
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_no_panic(bytes: Vec<u8>) {
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    #[test]
    fn runs_round_trip(offset: u64, bytes: u64, chunks: u64, junk in "[0-9+/ ]{0,9}") {
        let run = Run { offset, bytes, chunks };
        prop_assert_eq!(Run::try_from(String::from(run)), Ok(run));
        if let Ok(run) = Run::try_from(junk.clone()) {
            // What parses stands for the same numbers.
            let again = Run::try_from(String::from(run)).unwrap();
            prop_assert_eq!(run, again);
        }
    }
}
