//! Races that the simulation meets only once in thousands of seeds.

use super::*;
use crate::channel::{ChannelOptions, ChannelSender, channel};
use tidemill_base::{BarrierKind, BatchBuilder, Buffer};

fn barrier(epoch: u64, kind: BarrierKind) -> Barrier {
    Barrier { epoch, triggered_at: 0, kind }
}

fn gate(ordered: bool) -> (Gate, ChannelSender, ChannelSender) {
    let (a, mut a_rx) = channel(ChannelOptions::default(), None, None);
    let (b, b_rx) = channel(ChannelOptions::default(), None, None);
    if ordered {
        a_rx.keep_order();
    }
    (Gate::new(vec![(0, a_rx), (0, b_rx)], 0, Vec::new()), a, b)
}

fn next(gate: &mut Gate) -> Delivery {
    gate.poll_control(0).unwrap_or_else(|| gate.poll(0))
}

fn batch() -> Element {
    let mut builder = BatchBuilder::new(Buffer::with_bytes(256));
    builder.push::<u64>(7, 0, 0).unwrap();
    Element::Batch(builder.seal())
}

#[test]
fn an_aborted_epoch_is_not_snapshotted_though_it_was_decided() {
    for aborted in [false, true] {
        let (mut gate, mut a, mut b) = gate(false);
        a.send(Element::Watermark(3));
        a.send(Element::Barrier(barrier(1, BarrierKind::Aligned { timeout: None })));
        b.send(Element::Watermark(1));
        assert!(matches!(next(&mut gate), Delivery::Watermark(1)));
        // The end moves the watermark, which is delivered first, and completes the epoch.
        b.send(Element::End);
        a.send(Element::End);
        let mut seen = Vec::new();
        let mut deliver = |gate: &mut Gate| {
            let delivery = next(gate);
            seen.push(format!("{delivery:?}").split('(').next().unwrap().to_owned());
        };
        deliver(&mut gate);
        if aborted {
            gate.abort(1);
        }
        (0..4).for_each(|_| deliver(&mut gate));
        assert_eq!(seen.iter().any(|s| s == "Snapshot"), !aborted, "{seen:?}");
        assert!(seen.iter().any(|s| s == "End"), "{seen:?}");
    }
}

#[test]
fn barriers_overtake_unless_a_channel_is_ordered() {
    for ordered in [false, true] {
        let (mut gate, mut a, _b) = gate(ordered);
        a.send(batch());
        a.send(Element::Barrier(barrier(1, BarrierKind::Unaligned)));
        let first = next(&mut gate);
        assert_eq!(matches!(first, Delivery::Batch { .. }), ordered, "{first:?}");
        assert_eq!(matches!(first, Delivery::Snapshot(_)), !ordered, "{first:?}");
    }
}

#[test]
fn a_queued_barrier_has_a_deadline() {
    let (mut gate, mut a, _b) = gate(false);
    a.send(batch());
    a.send(batch());
    a.send(Element::Barrier(barrier(1, BarrierKind::Aligned { timeout: Some(50) })));
    assert!(matches!(next(&mut gate), Delivery::Batch { .. }));
    assert_eq!(gate.deadline(), Some(50));
    assert!(matches!(gate.poll_control(50), Some(Delivery::Snapshot(_))));
    gate.abort(1);
    assert_eq!(gate.deadline(), None);
}
