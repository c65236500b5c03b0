//! Frames of every kind survive the way, and nothing else does.

use super::batch::{Packed, pack};
use super::*;
use proptest::prelude::*;
use tidemill_base::{Barrier, BarrierKind, Batch, BatchBuilder, Buffer, Element, Status};

fn header() -> impl Strategy<Value = Header> {
    let kinds = [Kind::Batch, Kind::Control, Kind::Credit, Kind::Ping, Kind::Goodbye];
    (
        proptest::sample::select(kinds.to_vec()),
        any::<(u32, u64, u32)>(),
        0..PAYLOAD_MAX as u32,
        any::<u32>(),
    )
        .prop_map(|(kind, (channel, sequence, session), length, payload_crc)| Header {
            kind,
            channel,
            sequence,
            session,
            length,
            payload_crc,
        })
}

/// Records as the engine may write them: times near and far, hashed or not, of one size or many, plain or
/// not.
fn batch() -> impl Strategy<Value = Batch> {
    let times = prop_oneof![
        Just((0i64, 1i64)),
        any::<i64>().prop_map(|t| (t / 2, 60_000)),
        any::<i64>().prop_map(|t| (t / 2, 3_000_000_000)),
        Just((i64::MIN / 2, i64::MAX)),
    ];
    let rows = proptest::collection::vec(any::<(u64, u64, u16)>(), 1..400);
    (times, rows, any::<bool>(), 0..3u8, 0..100u64).prop_map(
        |(times, rows, hashed, sizes, born)| {
            let mut builder = BatchBuilder::born_at(Buffer::pooled(), born);
            for (time, hash, size) in rows {
                let time = times.0.wrapping_add((time % times.1 as u64) as i64);
                let text = "t".repeat(if sizes == 1 { 8 } else { usize::from(size) % 60 });
                let hash = if hashed { hash } else { 0 };
                let pushed = match sizes {
                    2 => builder.push::<(u64, u16)>((7, size), time, hash),
                    _ => builder.push::<(u64, String)>((7, &text), time, hash),
                };
                if pushed.is_err() {
                    break;
                }
            }
            builder.seal()
        },
    )
}

fn packed(batch: &Batch) -> Vec<u8> {
    let mut payload = Vec::new();
    pack(batch, 100, &mut payload);
    payload.extend_from_slice(batch.data());
    payload
}

fn encoded(batch: &Batch) -> Vec<u8> {
    let mut out = Vec::new();
    batch.encode(&mut out);
    out
}

fn element() -> impl Strategy<Value = Element> {
    let kind = prop_oneof![
        Just(BarrierKind::Unaligned),
        Just(BarrierKind::Savepoint),
        any::<Option<u64>>().prop_map(|timeout| BarrierKind::Aligned { timeout }),
    ];
    prop_oneof![
        any::<i64>().prop_map(Element::Watermark),
        any::<bool>().prop_map(|idle| Element::Status(if idle {
            Status::Idle
        } else {
            Status::Active
        })),
        (any::<u64>(), 0..1000u64, kind).prop_map(|(epoch, triggered_at, kind)| Element::Barrier(
            Barrier { epoch, triggered_at, kind }
        )),
        Just(()).prop_map(|()| Element::End),
    ]
}

proptest! {
    #[test]
    fn f1_headers_survive_and_damaged_ones_do_not(header in header(), bit in 0..HEADER * 8) {
        let mut bytes = header.encode();
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::decode(&bytes).is_err());
    }

    #[test]
    fn p1_batches_survive(batch in batch()) {
        let payload = packed(&batch);
        let parts = Packed::new(&payload).unwrap();
        prop_assert_eq!(parts.bytes(), batch.bytes_used());
        let other = parts.unpack(Buffer::with_bytes(parts.bytes()), 1_000_000).unwrap();
        prop_assert_eq!(encoded(&other), encoded(&batch));
        // Dated by its age.
        let age = if batch.born_at() == 0 { 0 } else { 1_000_000 - (100 - batch.born_at()) };
        prop_assert_eq!(other.born_at(), age);
    }

    #[test]
    fn p2_damaged_batches_do_no_harm(
        batch in batch(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<Option<proptest::sample::Index>>(),
    ) {
        let mut payload = packed(&batch);
        for (at, value) in damage {
            let at = at.index(payload.len().min(200));
            payload[at] = value;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        if let Ok(parts) = Packed::new(&payload)
            && let Ok(batch) = parts.unpack(Buffer::pooled(), 5)
        {
            // It satisfies C1, or reading it would panic.
            for i in 0..batch.len() {
                prop_assert_eq!(batch.raw(i).hash, batch.hash(i));
            }
            prop_assert_eq!(Batch::decode(&encoded(&batch)).unwrap().0.len(), batch.len());
        }
    }

    #[test]
    fn p2_any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(parts) = Packed::new(&bytes) {
            let _ = parts.unpack(Buffer::pooled(), 5);
        }
        let _ = control::decode(&bytes, 7);
    }

    #[test]
    fn control_elements_survive(element in element(), cut in any::<proptest::sample::Index>()) {
        let mut payload = Vec::new();
        control::encode(&element, 1000, &mut payload);
        let other = control::decode(&payload, 5000).unwrap();
        match (&element, &other) {
            (Element::Barrier(a), Element::Barrier(b)) => {
                // As old there as here.
                prop_assert_eq!(5000 - b.triggered_at, 1000 - a.triggered_at);
                prop_assert_eq!((a.epoch, a.kind), (b.epoch, b.kind));
            }
            (a, b) => prop_assert_eq!(format!("{a:?}"), format!("{b:?}")),
        }
        let cut = cut.index(payload.len());
        prop_assert!(control::decode(&payload[..cut], 0).is_err());
        payload.push(0);
        prop_assert!(control::decode(&payload, 0).is_err());
    }
}

#[test]
fn packed_metadata_is_small_where_it_can_be() {
    let mut builder = BatchBuilder::new(Buffer::pooled());
    while builder.push::<(u64, u64, u64)>((1, 2, 3), builder.len() as i64, 77).is_ok() {}
    let batch = builder.seal();
    let payload = packed(&batch);
    // 24 bytes of record, 8 of hash, 2 of time.
    assert_eq!(payload.len(), batch::HEAD + 34 * batch.len());
}

#[test]
fn f3_an_absurd_length_is_refused() {
    let mut header = Header {
        kind: Kind::Batch,
        channel: 0,
        sequence: 0,
        session: 0,
        length: PAYLOAD_MAX as u32,
        payload_crc: 0,
    };
    assert!(Header::decode(&header.encode()).is_ok());
    header.length += 1;
    assert!(matches!(Header::decode(&header.encode()), Err(Broken::Damaged(_))));
}
