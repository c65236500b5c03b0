//! Real sockets on loopback: who is let in, who is not, and who never comes.

use super::*;
use crate::handshake::AttemptKey;

fn identity(attempt: u32) -> Identity {
    Identity { job: [1; 16], attempt, build: [2; 32], key: AttemptKey::new([3; 32]) }
}

fn listener() -> Listener {
    Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

fn connect(
    listener: &Listener,
    identity: &Identity,
    local: Range<u32>,
    peers: &[(u32, SocketAddr)],
    timeout_us: Micros,
) -> Result<Vec<Connection>> {
    let pairs =
        local.clone().flat_map(|own| peers.iter().map(move |&(peer, _)| (own, peer))).collect();
    let peers = peers.iter().copied().collect();
    let plan = MeshPlan { identity, local, pairs: &pairs, peers: &peers, timeout_us };
    listener.connect(&plan, &SystemClock::new(), &|| false)
}

#[test]
fn three_workers_meet_while_strangers_knock() {
    let listeners = [listener(), listener(), listener()];
    let addresses = listeners.each_ref().map(Listener::local_addr);
    let ranges = [0..2u32, 2..3, 3..5];
    let strangers: Vec<_> = addresses
        .iter()
        .map(|address| {
            let mut stream = TcpStream::connect(address).unwrap();
            let (_, hello) = Handshake::call(identity(8), 0, 4, [0; 32]);
            send(&mut stream, &hello).unwrap();
            // And one that says nothing at all.
            (stream, TcpStream::connect(address).unwrap())
        })
        .collect();
    let clock = SystemClock::new();
    let found: Vec<Vec<Connection>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|i| {
                let (listener, range) = (&listeners[i], ranges[i].clone());
                let peers: Vec<_> = (0..3)
                    .filter(|&j| j != i)
                    .flat_map(|j| ranges[j].clone().map(move |slot| (slot, addresses[j])))
                    .collect();
                scope.spawn(move || connect(listener, &identity(9), range, &peers, 10_000_000))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap().unwrap()).collect()
    });
    assert!(clock.now() < 4_000_000, "the silent ones did not hold the others up");
    let mut sessions = BTreeMap::new();
    for connection in found.iter().flatten() {
        let Connection { own, peer, session, .. } = *connection;
        sessions.entry((own.min(peer), own.max(peer))).or_insert_with(Vec::new).push(session);
    }
    assert_eq!(sessions.len(), 8, "{sessions:?}");
    assert!(sessions.values().all(|s| matches!(s[..], [a, b] if a == b)), "{sessions:?}");
    for (mut stranger, _) in strangers.into_iter().skip(1) {
        let message = receive(&mut stranger).unwrap();
        let reason = String::from_utf8_lossy(&message).into_owned();
        assert!(reason.contains("attempt 8 of the job, this worker runs attempt 9"), "{reason}");
    }
}

#[test]
fn a_refusal_is_final_and_says_why() {
    let (here, there) = (listener(), listener());
    let address = there.local_addr();
    std::thread::scope(|scope| {
        let (peer, here_at) = ([(0, here.local_addr())], &here);
        let there = &there;
        let waiting = scope.spawn(move || connect(there, &identity(2), 1..2, &peer, 2_000_000));
        let called = connect(here_at, &identity(1), 0..1, &[(1, address)], 20_000_000);
        let reason = called.unwrap_err().to_string();
        assert!(reason.contains("slot 0 calls slot 1 at 127.0.0.1:"), "{reason}");
        assert!(reason.contains("refused by the peer: attempt 1 of the job"), "{reason}");
        // Whom it refused does not matter to the other: it goes on waiting.
        let reason = waiting.join().unwrap().unwrap_err().to_string();
        assert!(reason.contains("were not connected: {(1, 0)}"), "{reason}");
    });
}

#[test]
fn a_peer_that_never_comes_is_named() {
    let gone = listener().local_addr();
    let reason = connect(&listener(), &identity(1), 0..1, &[(1, gone)], 200_000).unwrap_err();
    assert!(reason.to_string().contains("slot 0 calls slot 1"), "{reason}");
    let waiting = connect(&listener(), &identity(1), 1..2, &[(0, gone)], 200_000).unwrap_err();
    assert!(waiting.to_string().contains("the time is over"), "{waiting}");
}
