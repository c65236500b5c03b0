//! Streams cut anywhere, and damaged anywhere.

use super::*;
use crate::frame::{Kind, LINK};
use proptest::prelude::*;

const SESSION: u32 = 0xabcd;

fn frame(sequence: u64, payload: &[u8], session: u32) -> Vec<u8> {
    let header = Header {
        kind: Kind::Goodbye,
        channel: LINK,
        sequence,
        session,
        length: payload.len() as u32,
        payload_crc: crc32fast::hash(payload),
    };
    [&header.encode()[..], payload].concat()
}

/// Sequence numbers and payloads.
type Frames = Vec<(u64, Vec<u8>)>;

/// What comes out, and how it ends.
fn decode(pieces: impl Iterator<Item = Vec<u8>>) -> (Frames, Result<(), Broken>) {
    let (mut decoder, mut out) = (Decoder::new(SESSION), Vec::new());
    for piece in pieces {
        let fed = decoder.feed(&piece, |header, payload| {
            out.push((header.sequence, payload.to_vec()));
            Ok(())
        });
        if fed.is_err() {
            let n = out.len();
            let again = decoder.feed(&frame(9, b"", SESSION), |_, _| {
                out.push((9, Vec::new()));
                Ok(())
            });
            assert_eq!((again, out.len()), (fed.clone(), n), "Y2");
            return (out, fed);
        }
    }
    (out, Ok(()))
}

fn pieces(mut bytes: Vec<u8>, cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    for cut in cuts.iter().cycle().take(1000) {
        if bytes.is_empty() {
            break;
        }
        let rest = bytes.split_off((*cut).min(bytes.len()));
        pieces.push(std::mem::replace(&mut bytes, rest));
    }
    pieces.push(bytes);
    pieces
}

proptest! {
    #[test]
    fn y1_frames_come_whole_however_the_stream_is_cut(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
        cuts in proptest::collection::vec(1..400usize, 1..8),
    ) {
        let frames = (0..).zip(&payloads).flat_map(|(i, p)| frame(i, p, SESSION)).collect();
        let (out, end) = decode(pieces(frames, &cuts).into_iter());
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(out, (0..).zip(payloads).collect::<Vec<_>>());
    }

    #[test]
    fn y2_nothing_damaged_comes_out(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..10),
        cuts in proptest::collection::vec(1..400usize, 1..8),
        at in any::<proptest::sample::Index>(),
        bit in 0..8,
    ) {
        let mut frames: Vec<u8> = (0..).zip(&payloads).flat_map(|(i, p)| frame(i, p, SESSION)).collect();
        let at = at.index(frames.len());
        frames[at] ^= 1u8 << bit;
        let (out, end) = decode(pieces(frames, &cuts).into_iter());
        prop_assert!(end.is_err());
        // Whole frames before the damage, nothing of it or behind it.
        let expected: Vec<_> = (0..).zip(payloads).take(out.len()).collect();
        prop_assert_eq!(&out, &expected);
        prop_assert!(out.iter().map(|(_, p)| HEADER + p.len()).sum::<usize>() <= at);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(std::iter::once(bytes));
    }
}

#[test]
fn frames_of_another_connection_are_foreign() {
    let (out, end) = decode([frame(0, b"a", SESSION), frame(1, b"b", 7)].into_iter());
    assert_eq!(out.len(), 1);
    assert!(matches!(end, Err(Broken::Foreign(_))), "{end:?}");
}
