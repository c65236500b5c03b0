//! Two sides that agree, and all the ways not to.

use super::*;
use proptest::prelude::*;

fn identity() -> Identity {
    Identity { job: [1; 16], attempt: 4, build: [2; 32], key: AttemptKey::new([3; 32]) }
}

/// Carries messages to and fro until both are over; what each side came to, and what was on the wire.
fn talk(caller: Identity, to: u32, listener: Identity) -> (Stage, Stage, Vec<Vec<u8>>) {
    let (mut caller, hello) = Handshake::call(caller, 0, to, [5; 32]);
    let mut listener = Handshake::listen(listener, 1..3, [6; 32]);
    let mut wire = vec![hello];
    let (mut a, mut b) = (Stage::Waiting, Stage::Waiting);
    while let Some(message) = wire.last().cloned() {
        let to_listener = wire.len() % 2 == 1;
        let reply = if to_listener { listener.on(&message) } else { caller.on(&message) };
        *(if to_listener { &mut b } else { &mut a }) = reply.state;
        match reply.send {
            Some(send) => wire.push(send),
            None => break,
        }
    }
    (a, b, wire)
}

#[test]
fn peers_of_one_attempt_agree() {
    let (a, b, wire) = talk(identity(), 2, identity());
    let (Stage::Done { session, peer: 2, own: 0 }, Stage::Done { session: other, peer: 0, own: 2 }) =
        (a.clone(), b.clone())
    else {
        panic!("{a:?}, {b:?}");
    };
    assert_eq!(session, other);
    // N2: not even a part of the key.
    assert!(wire.iter().all(|m| !m.windows(4).any(|w| w == [3; 4])));
    assert!(wire.iter().all(|m| m.len() <= MESSAGE_MAX));
    assert_eq!(format!("{:?}", identity().key), "AttemptKey(..)");
}

#[test]
fn n3_both_learn_why_not() {
    let other = |change: fn(&mut Identity)| {
        let mut other = identity();
        change(&mut other);
        other
    };
    let cases = [
        (other(|i| i.job = [9; 16]), 2, "another job"),
        (other(|i| i.attempt = 3), 2, "attempt 3 of the job, this worker runs attempt 4"),
        (other(|i| i.build = [9; 32]), 2, "another build"),
        (other(|i| i.key = AttemptKey::new([9; 32])), 2, "does not know the attempt's key"),
        (identity(), 3, "slot 3 is not here"),
        (identity(), 0, "slot 0 is not here"),
    ];
    for (caller, to, reason) in cases {
        let (a, b, _) = talk(caller, to, identity());
        let (Stage::Refused(a), Stage::Refused(b)) = (a, b) else { panic!("{reason}") };
        assert!(a.to_string().contains(reason), "{a}");
        assert!(b.to_string().contains(reason), "{b}");
        assert_ne!(matches!(a, Refused::ByUs(_)), matches!(b, Refused::ByUs(_)));
    }
}

#[test]
fn another_version_is_named() {
    let (_, mut hello) = Handshake::call(identity(), 0, 2, [5; 32]);
    hello[6] = 77;
    hello.truncate(30);
    let reply = Handshake::listen(identity(), 1..3, [6; 32]).on(&hello);
    let Stage::Refused(refused) = reply.state else { panic!() };
    assert!(refused.to_string().contains("protocol version 77, this worker speaks 1"), "{refused}");
}

#[test]
fn n1_a_recording_proves_nothing() {
    let (.., wire) = talk(identity(), 2, identity());
    // The caller's messages again, to a listener that draws another nonce.
    let mut listener = Handshake::listen(identity(), 1..3, [7; 32]);
    assert_eq!(listener.on(&wire[0]).state, Stage::Waiting);
    assert!(matches!(listener.on(&wire[2]).state, Stage::Refused(Refused::ByUs(_))));
    // The listener's messages again, to a caller that draws another nonce.
    let (mut caller, _) = Handshake::call(identity(), 0, 2, [8; 32]);
    assert!(matches!(caller.on(&wire[1]).state, Stage::Refused(Refused::ByUs(_))));
    // What was refused stays refused.
    assert!(matches!(caller.on(&wire[1]).state, Stage::Refused(Refused::ByUs(_))));
}

proptest! {
    #[test]
    fn n1_changed_messages_are_refused(
        which in 0..4usize,
        at in any::<proptest::sample::Index>(),
        bit in 0..8,
    ) {
        let (mut caller, hello) = Handshake::call(identity(), 0, 2, [5; 32]);
        let mut listener = Handshake::listen(identity(), 1..3, [6; 32]);
        let (mut message, mut done) = (hello, [false; 2]);
        for i in 0..4 {
            if i == which {
                let at = at.index(message.len());
                message[at] ^= 1u8 << bit;
            }
            let side = (i + 1) % 2;
            let reply = if side == 1 { listener.on(&message) } else { caller.on(&message) };
            done[side] = matches!(reply.state, Stage::Done { .. });
            match reply.send {
                Some(send) => message = send,
                None => break,
            }
        }
        // A changed welcome harms the caller only: the listener had its proof.
        prop_assert!(!done[0]);
        prop_assert_eq!(done[1], which == 3);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..150), tag in 0..6u8) {
        let bytes = [&[tag][..], &bytes].concat();
        let listened = Handshake::listen(identity(), 1..3, [6; 32]).on(&bytes);
        let done = matches!(listened.state, Stage::Done { .. });
        prop_assert!(!done);
        let called = Handshake::call(identity(), 0, 2, [5; 32]).0.on(&bytes);
        let done = matches!(called.state, Stage::Done { .. });
        prop_assert!(!done);
    }
}
