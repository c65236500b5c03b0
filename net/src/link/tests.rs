//! Two links against each other, and one against what no link sends.

use super::*;
use crate::frame::{HEADER, Header, Kind, LINK};
use proptest::prelude::*;
use tidemill_base::{BatchBuilder, Buffer, Status};

/// What a slot has behind a link: pools, rings, consumers.
#[derive(Default)]
struct Ends {
    arrived: Vec<Vec<Element>>,
    in_use: Vec<u64>,
    released: Vec<usize>,
}

impl Port for Ends {
    fn buffer(&mut self, at: usize, bytes: usize) -> Option<Buffer> {
        self.in_use[at] += tidemill_base::batch::credits(bytes) as u64;
        Some(Buffer::with_bytes(bytes))
    }
    fn deliver(&mut self, at: usize, element: Element) {
        self.arrived[at].push(element);
    }
    fn release(&mut self, at: usize, _: Batch) {
        self.released[at] += 1;
    }
}

fn ends(n: usize) -> Ends {
    Ends { arrived: (0..n).map(|_| Vec::new()).collect(), in_use: vec![0; n], released: vec![0; n] }
}

const SESSION: u32 = 99;

/// Channels 10, 11, .. from left to right with `credits` each.
fn pair(n: u32, credits: usize) -> (Link, Link) {
    let channels: Vec<u32> = (10..10 + n).collect();
    let receives: Vec<_> = channels.iter().map(|&c| (c, credits)).collect();
    let options = LinkOptions::default();
    (Link::new(SESSION, &channels, &[], options, 0), Link::new(SESSION, &[], &receives, options, 0))
}

fn batch(value: u64) -> Element {
    let mut builder = BatchBuilder::new(Buffer::pooled());
    assert!(builder.push::<u64>(value, value as i64, value).is_ok());
    Element::Batch(builder.seal())
}

fn barrier(epoch: u64, triggered_at: u64, kind: BarrierKind) -> Element {
    Element::Barrier(Barrier { epoch, triggered_at, kind })
}

/// The bytes of the next packet, which is then back at its link.
fn bytes(link: &mut Link, now: u64, ends: &mut Ends) -> Vec<u8> {
    let Some(packet) = link.fill(now) else { return Vec::new() };
    let bytes: Vec<u8> = packet.slices().flatten().copied().collect();
    assert_eq!(bytes.len(), packet.len());
    link.written(packet, |at, batch| ends.release(at, batch));
    bytes
}

/// Everything that both sides have to say now, until they fall silent.
fn exchange(left: &mut Link, right: &mut Link, a: &mut Ends, b: &mut Ends, now: u64) {
    loop {
        for at in 0..b.in_use.len() {
            right.set_in_use(at, b.in_use[at]);
        }
        let (to_right, to_left) = (bytes(left, now, a), bytes(right, now, b));
        if to_right.is_empty() && to_left.is_empty() {
            return;
        }
        left.receive(&to_left, now, a).unwrap();
        right.receive(&to_right, now, b).unwrap();
    }
}

fn batches(elements: &[Element]) -> usize {
    elements.iter().filter(|e| matches!(e, Element::Batch(_))).count()
}

#[test]
fn l2_batches_wait_for_credit_and_controls_only_for_them() {
    let ((mut left, mut right), mut a, mut b) = (pair(2, 3), ends(2), ends(2));
    for i in 0..5 {
        left.queue(0, batch(i));
    }
    left.queue(0, Element::Watermark(7));
    left.queue(1, Element::Watermark(9));
    exchange(&mut left, &mut right, &mut a, &mut b, 0);
    assert_eq!((b.arrived[0].len(), b.arrived[1].len()), (3, 1));
    assert_eq!((a.released[0], left.withheld(0)), (3, 0));
    b.in_use[0] = 0;
    exchange(&mut left, &mut right, &mut a, &mut b, 0);
    assert!(matches!(b.arrived[0][..], [.., Element::Batch(_), Element::Watermark(7)]));
}

#[test]
fn l3_a_due_barrier_pushes_the_batches_before_it_through() {
    let ((mut left, mut right), mut a, mut b) = (pair(1, 2), ends(1), ends(1));
    for i in 0..4 {
        left.queue(0, batch(i));
    }
    left.queue(0, barrier(1, 500, BarrierKind::Aligned { timeout: Some(1000) }));
    left.queue(0, batch(4));
    exchange(&mut left, &mut right, &mut a, &mut b, 1499);
    assert_eq!(b.arrived[0].len(), 2);
    assert_eq!(left.deadline(), Some(1500));
    exchange(&mut left, &mut right, &mut a, &mut b, 1500);
    assert_eq!(b.arrived[0].len(), 5, "the barrier and all before it, nothing behind it");
    assert!(matches!(b.arrived[0][4], Element::Barrier(Barrier { epoch: 1, .. })));
    assert_eq!((a.released[0], left.withheld(0)), (2, 2));
    // The producer gets its buffers only as the consumer reads.
    b.in_use[0] = 3;
    exchange(&mut left, &mut right, &mut a, &mut b, 1500);
    assert_eq!((a.released[0], left.withheld(0)), (3, 1));
    b.in_use[0] = 1;
    exchange(&mut left, &mut right, &mut a, &mut b, 1500);
    assert_eq!((a.released[0], left.withheld(0), b.arrived[0].len()), (5, 0, 6));
}

#[test]
fn l3_epoch_after_epoch_takes_no_more_memory() {
    let ((mut left, mut right), mut a, mut b) = (pair(1, 2), ends(1), ends(1));
    let pool = 4;
    let mut out = 0;
    for epoch in 1..50 {
        // A producer with a pool of four writes whatever it has a buffer for.
        while out - a.released[0] < pool {
            left.queue(0, batch(epoch));
            out += 1;
        }
        left.queue(0, barrier(epoch, 0, BarrierKind::Unaligned));
        exchange(&mut left, &mut right, &mut a, &mut b, epoch);
        assert!(b.in_use[0] <= 2 + pool as u64, "{} in use", b.in_use[0]);
    }
    let barriers = b.arrived[0].len() - batches(&b.arrived[0]);
    assert_eq!((barriers, batches(&b.arrived[0])), (49, 6));
}

#[test]
fn l4_channels_take_turns() {
    let ((mut left, mut right), mut a, mut b) = (pair(3, 1000), ends(3), ends(3));
    exchange(&mut left, &mut right, &mut a, &mut b, 0);
    let full = |value: u64| {
        let mut builder = BatchBuilder::new(Buffer::pooled());
        while builder.push::<[u64; 32]>([value; 32], 0, 0).is_ok() {}
        Element::Batch(builder.seal())
    };
    for i in 0..100 {
        left.queue(0, full(i));
    }
    left.queue(2, full(0));
    let first = bytes(&mut left, 0, &mut a);
    right.receive(&first, 0, &mut b).unwrap();
    assert_eq!(b.arrived[2].len(), 1, "one batch did not wait for a hundred others");
    assert!(first.len() >= PACKET_BYTES && first.len() < PACKET_BYTES + 40_000);
}

#[test]
fn l1_ends_end() {
    let ((mut left, mut right), mut a, mut b) = (pair(1, 2), ends(1), ends(1));
    left.queue(0, batch(1));
    left.queue(0, Element::Status(Status::Idle));
    left.queue(0, Element::End);
    assert!(!left.is_done() && left.closed().is_err());
    exchange(&mut left, &mut right, &mut a, &mut b, 0);
    assert!(left.is_done() && right.is_done());
    assert_eq!((left.closed(), right.closed()), (Ok(()), Ok(())));
}

#[test]
fn a_goodbye_and_a_silence_end_the_link() {
    let (mut left, mut right) = pair(1, 2);
    let (mut a, mut b) = (ends(1), ends(1));
    left.say_goodbye("the slot has failed");
    let said = bytes(&mut left, 0, &mut a);
    let end = right.receive(&said, 0, &mut b);
    assert_eq!(end, Err(Broken::Goodbye("the slot has failed".into())));

    let options = LinkOptions { ping_us: Some(100) };
    let mut left = Link::new(1, &[10], &[], options, 0);
    let mut right = Link::new(1, &[], &[(10, 2)], options, 0);
    for now in (0..5000).step_by(50) {
        let (to_right, to_left) = (bytes(&mut left, now, &mut a), bytes(&mut right, now, &mut b));
        left.receive(&to_left, now, &mut a).unwrap();
        right.receive(&to_right, now, &mut b).unwrap();
        assert_eq!((left.watch(now), right.watch(now)), (Ok(()), Ok(())));
    }
    assert!(left.watch(5900).is_ok());
    assert!(matches!(left.watch(6000), Err(Broken::Silent(_))));
}

/// A frame by hand.
fn frame(kind: Kind, channel: u32, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind,
        channel,
        sequence,
        session: SESSION,
        length: payload.len() as u32,
        payload_crc: crc32fast::hash(payload),
    };
    [&header.encode()[..], payload].concat()
}

#[test]
fn l5_what_no_link_sends_is_refused() {
    let watermark = |w: i64| [&[1u8][..], &w.to_le_bytes()].concat();
    let barrier = |epoch: u64| [&[3u8][..], &epoch.to_le_bytes(), &[0; 8], &[2], &[0; 8]].concat();
    let control = |sequence, payload: &[u8]| frame(Kind::Control, 10, sequence, payload);
    let wrong: [(&str, Vec<Vec<u8>>); 10] = [
        ("replayed", vec![control(0, &watermark(1)), control(0, &watermark(1))]),
        ("left out", vec![control(1, &watermark(1))]),
        ("unknown channel", vec![frame(Kind::Control, 11, 0, &watermark(1))]),
        ("batch of the link", vec![frame(Kind::Batch, LINK, 0, &[])]),
        ("credit of a channel", vec![frame(Kind::Credit, 10, 0, &[])]),
        ("odd credit", vec![frame(Kind::Credit, LINK, 0, &[1; 7])]),
        ("credit for nothing", vec![frame(Kind::Credit, LINK, 0, &[1; 8])]),
        ("retreating", vec![control(0, &watermark(5)), control(1, &watermark(4))]),
        ("old epoch", vec![control(0, &barrier(5)), control(1, &barrier(5))]),
        ("after the end", vec![control(0, &[4]), control(1, &watermark(5))]),
    ];
    for (what, frames) in wrong {
        let ((_, mut right), mut b) = (pair(1, 2), ends(1));
        let good = frames.len() - 1;
        let end = right.receive(&frames.concat(), 0, &mut b);
        assert!(end.is_err(), "{what}");
        assert_eq!(b.arrived[0].len(), good, "{what}: nothing of it is delivered");
    }
}

proptest! {
    /// Whatever is queued when, however credit comes back and the stream is cut: L1 and L2.
    #[test]
    fn l1_channels_arrive_in_order(
        steps in proptest::collection::vec((0..3usize, 0..6u8, 1..2000usize, any::<bool>()), 1..200),
    ) {
        let ((mut left, mut right), mut a, mut b) = (pair(3, 2), ends(3), ends(3));
        let (mut sent, mut epochs) = (vec![Vec::new(); 3], [0; 3]);
        let mut stream = VecDeque::new();
        let mut next = 0;
        for (now, (at, what, take, read)) in (1..).zip(steps) {
            next += 1;
            match what {
                0..=3 => {
                    left.queue(at, batch(next));
                    sent[at].push(next);
                }
                4 => left.queue(at, Element::Watermark(next as i64)),
                _ => {
                    epochs[at] += 1;
                    left.queue(at, barrier(epochs[at], now, BarrierKind::Unaligned));
                }
            }
            stream.extend(bytes(&mut left, now, &mut a));
            let piece: Vec<u8> = stream.drain(..take.min(stream.len())).collect();
            right.receive(&piece, now, &mut b).unwrap();
            if read {
                b.in_use[at] = 0;
            }
            right.set_in_use(at, b.in_use[at]);
            let grants = bytes(&mut right, now, &mut b);
            left.receive(&grants, now, &mut a).unwrap();
        }
        let rest: Vec<u8> = stream.drain(..).collect();
        right.receive(&rest, 1000, &mut b).unwrap();
        for _ in 0..200 {
            b.in_use.fill(0);
            exchange(&mut left, &mut right, &mut a, &mut b, 1000);
        }
        for (at, sent) in sent.iter().enumerate() {
            let values: Vec<u64> = b.arrived[at].iter().filter_map(|e| match e {
                Element::Batch(batch) => Some(batch.get::<u64>(0).0),
                _ => None,
            }).collect();
            prop_assert_eq!(&values, sent);
            prop_assert_eq!(a.released[at], sent.len());
        }
    }

    /// Bits that flip on the way end the link; what was delivered is a prefix of what was sent.
    #[test]
    fn l5_damage_ends_the_link(at in any::<proptest::sample::Index>(), bit in 0..8) {
        let ((mut left, mut right), mut a, mut b) = (pair(1, 8), ends(1), ends(1));
        exchange(&mut left, &mut right, &mut a, &mut b, 0);
        for i in 0..5 {
            left.queue(0, batch(i));
        }
        let mut stream = bytes(&mut left, 0, &mut a);
        let at = at.index(stream.len());
        stream[at] ^= 1u8 << bit;
        prop_assert!(right.receive(&stream, 0, &mut b).is_err());
        for (i, element) in b.arrived[0].iter().enumerate() {
            let Element::Batch(batch) = element else { panic!("{element:?}") };
            prop_assert_eq!(batch.get::<u64>(0).0, i as u64);
        }
        prop_assert!(b.arrived[0].len() * HEADER <= at);
    }
}
