//! Damaged bytes: an error, or records that are safe to read and to copy.

use crate::types::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt::Debug;
use tidemill_base::record::Record;
use tidemill_base::{Batch, BatchBuilder, Buffer};

#[derive(Clone, Copy, Debug)]
enum Damage {
    Set(usize, u8),
    Add(usize, i8),
    Flip(usize, u8),
    Cut(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        2 => (any::<usize>(), any::<u8>()).prop_map(|(at, b)| Damage::Set(at, b)),
        6 => (any::<usize>(), -20..20i8).prop_map(|(at, d)| Damage::Add(at, d)),
        4 => (any::<usize>(), 0..8u8).prop_map(|(at, b)| Damage::Flip(at, b)),
        1 => any::<usize>().prop_map(Damage::Cut),
    ]
}

fn encoded<T: Record>(values: &[T]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Buffer::with_bytes(1 << 16));
    for v in values {
        builder.push::<T>(v.view(), 1, 2).unwrap();
    }
    let mut bytes = vec![];
    builder.seal().encode(&mut bytes);
    bytes
}

/// Reads every field of every record; returns whether the damage went unnoticed.
fn survives<T: Record + Debug>(mut bytes: Vec<u8>, damages: &[Damage]) -> bool {
    for &damage in damages {
        let len = bytes.len().max(1);
        match (damage, bytes.len()) {
            (_, 0) => {}
            (Damage::Set(at, b), _) => bytes[at % len] = b,
            (Damage::Add(at, d), _) => bytes[at % len] = bytes[at % len].wrapping_add_signed(d),
            (Damage::Flip(at, b), _) => bytes[at % len] ^= 1 << b,
            (Damage::Cut(at), _) => bytes.truncate(at % len),
        }
    }
    let Ok((batch, used)) = Batch::decode(&bytes) else { return false };
    assert!(used <= bytes.len());
    if batch.check::<T>().is_err() {
        return false;
    }
    let mut copied = BatchBuilder::new(Buffer::with_bytes(1 << 17));
    for i in (0..batch.len()).rev() {
        copied.push_raw(batch.raw(i)).unwrap();
    }
    let copied = copied.seal();
    copied.check::<T>().unwrap();
    for (i, (view, _, _)) in batch.iter::<T>().enumerate() {
        let copy = copied.get::<T>(batch.len() - 1 - i).0;
        assert_eq!(format!("{view:?}"), format!("{copy:?}"));
        let owned = T::from_view(view);
        assert_eq!(format!("{:?}", owned.view()), format!("{view:?}"));
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_batches_are_refused_or_safe(
        orders in vec(order(), 1..3),
        bids in vec(bid(), 1..4),
        events in vec(event(), 1..5),
        damages in vec(damage(), 1..4),
    ) {
        survives::<Order>(encoded(&orders), &damages);
        survives::<Bid>(encoded(&bids), &damages);
        survives::<Event>(encoded(&events), &damages);
        survives::<Tagged<String, 2>>(encoded(&bids), &damages);
    }

    #[test]
    fn noise_is_refused_or_safe(
        mut bytes in vec(any::<u8>(), 0..300),
        count in 0..4u32,
        stride in prop_oneof![Just(0u32), 1..40u32, any::<u32>()],
    ) {
        let meta = if stride > 0 { 16 } else { 24 };
        let data = (bytes.len() as u32).saturating_sub(12 + meta * count);
        if bytes.len() > 12 {
            bytes[..4].copy_from_slice(&count.to_le_bytes());
            bytes[4..8].copy_from_slice(&data.to_le_bytes());
            bytes[8..12].copy_from_slice(&stride.to_le_bytes());
        }
        survives::<Event>(bytes.clone(), &[]);
        survives::<Color>(bytes.clone(), &[]);
        survives::<Marker>(bytes, &[]);
    }
}

#[test]
fn undamaged_batches_are_read() {
    let bytes = encoded(&[Pair(1, "a text longer than eight".into()), Pair(2, String::new())]);
    assert!(survives::<Pair>(bytes, &[]));
}

/// A record may not point into the one before it: copied elsewhere, it would point anywhere.
#[test]
fn a_pointer_out_of_its_record_is_refused() {
    let text = "sixteen and eight bytes.".to_owned();
    let value = (text, u32::from_le_bytes(*b"aaaa"));
    let mut bytes = encoded(&[value.clone(), value]);
    // Record: 24 bytes of text, 8 of string (length u32, offset i32), 4 of number.
    let offset = 12 + 36 + 24 + 4;
    assert_eq!(bytes[offset..offset + 4], (-24i32).to_le_bytes());
    assert!(survives::<(String, u32)>(bytes.clone(), &[]));
    bytes[offset..offset + 4].copy_from_slice(&(-28i32).to_le_bytes());
    assert!(!survives::<(String, u32)>(bytes, &[]));
}
