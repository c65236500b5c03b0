//! Credits of channels, against a model that counts them.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use tidemill_base::batch::META;
use tidemill_base::{BUFFER_BYTES, BatchBuilder};

fn sealed(buffer: Buffer) -> Batch {
    let mut builder = BatchBuilder::new(buffer);
    builder.push::<u64>(7, 0, 0).unwrap();
    builder.seal()
}

/// A batch of `n` credits in a dedicated buffer that is larger.
fn large(n: usize) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Buffer::with_bytes((n + 1) * BUFFER_BYTES));
    let text = "x".repeat(n * BUFFER_BYTES - META - 8);
    builder.push::<String>(&text, 0, 0).unwrap();
    builder
}

/// What happens to a channel.
#[derive(Clone, Debug)]
enum Act {
    /// A pooled buffer is written and sent.
    Send,
    /// A dedicated buffer of so many credits is written and sent.
    SendLarge(usize),
    /// A pooled buffer is taken and given back.
    GiveBack,
    /// The next record begins.
    Begin,
    /// A watermark is sent.
    Control,
    /// The consumer takes in what has arrived.
    Drain,
    /// The consumer has read its oldest batches.
    Recycle(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Send),
        2 => (2usize..12).prop_map(Act::SendLarge),
        1 => Just(Act::GiveBack),
        1 => Just(Act::Begin),
        1 => Just(Act::Control),
        3 => Just(Act::Drain),
        3 => (1usize..6).prop_map(Act::Recycle),
    ]
}

proptest! {
    /// H1 to H4: whatever happens, the sender knows the credits in use exactly, nothing is lost,
    /// and no more pooled buffers are kept than there are credits.
    #[test]
    fn credits_are_exact(acts in vec(act(), 0..200), credits in 2usize..10, extra in 2usize..40) {
        let options = ChannelOptions { credits, overdraft: extra };
        let (mut tx, mut rx) = channel(options, None, None);
        let mut begun = credits;
        let (mut in_use, mut sent, mut arrived) = (0, 0u64, VecDeque::new());
        let mut held: VecDeque<Batch> = VecDeque::new();
        let mut got = 0;
        for act in acts {
            match act {
                Act::Send => {
                    let buffer = tx.take_buffer();
                    prop_assert_eq!(buffer.is_some(), in_use < begun + extra);
                    if let Some(buffer) = buffer {
                        in_use += 1;
                        sent += 1;
                        tx.send(Element::Batch(sealed(buffer)));
                    }
                }
                Act::SendLarge(n) => {
                    let builder = large(n);
                    prop_assert_eq!(tidemill_base::batch::credits(builder.bytes_used()), n);
                    let taken = tx.take_credits(builder.bytes_used());
                    prop_assert_eq!(taken, in_use + n <= begun + extra);
                    if taken {
                        in_use += n;
                        sent += 1;
                        tx.send(Element::Batch(builder.seal()));
                    }
                }
                Act::GiveBack => {
                    if let Some(buffer) = tx.take_buffer() {
                        tx.give_back(buffer);
                    }
                }
                Act::Begin => {
                    tx.begin_record();
                    begun = in_use.max(credits);
                }
                Act::Control => tx.send(Element::Watermark(0)),
                Act::Drain => {
                    rx.drain_into(&mut arrived);
                    held.extend(arrived.drain(..).filter_map(|e| match e {
                        Element::Batch(batch) => Some(batch),
                        _ => None,
                    }));
                }
                Act::Recycle(n) => {
                    for batch in held.drain(..n.min(held.len())) {
                        in_use -= batch.credits();
                        got += 1;
                        rx.recycle(batch);
                    }
                }
            }
            let waiting = tx.flush_waiting();
            if in_use < credits {
                prop_assert_eq!(tx.has_credit(), !waiting);
                begun = credits;
            }
            prop_assert_eq!(tx.has_room(), in_use < 2 * credits);
            prop_assert!(tx.free.len() <= credits);
        }
        // Nothing is lost.
        while tx.flush_waiting() || got < sent {
            rx.drain_into(&mut arrived);
            let batches = arrived.drain(..).filter_map(|e| match e {
                Element::Batch(batch) => Some(batch),
                _ => None,
            });
            for batch in held.drain(..).chain(batches).collect::<Vec<_>>() {
                got += 1;
                rx.recycle(batch);
            }
        }
        prop_assert_eq!(got, sent);
        prop_assert!(tx.has_credit());
        tx.collect_returned();
        prop_assert_eq!(tx.in_use, 0);
    }
}
