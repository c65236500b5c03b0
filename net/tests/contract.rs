//! The laws of [`Transport`], T1 to T5, against each implementation.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use tidemill_net::packet::Packet;
use tidemill_net::transport::memory::{Faults, MemoryTransport};
use tidemill_net::transport::uring::UringTransport;
use tidemill_net::transport::{Read, Transport};

fn memory(faults: Faults) -> (MemoryTransport, MemoryTransport) {
    let (mut a, mut b) = (MemoryTransport::new(), MemoryTransport::new());
    MemoryTransport::connect(&mut a, &mut b, [faults, faults]);
    (a, b)
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

fn uring() -> (UringTransport, UringTransport) {
    let (a, b) = sockets();
    (UringTransport::new(vec![a]).unwrap(), UringTransport::new(vec![b]).unwrap())
}

/// Bytes that tell their place.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// One end as a test drives it.
struct End<T> {
    transport: T,
    written: Vec<usize>,
    read: Vec<u8>,
    last: Read,
}

impl<T: Transport> End<T> {
    fn new(transport: T) -> Self {
        End { transport, written: Vec::new(), read: Vec::new(), last: Read::Empty }
    }

    fn turn(&mut self) {
        self.transport.turn().unwrap();
        while let Some(packet) = self.transport.written(0) {
            self.written.push(packet.len());
        }
        let read = &mut self.read;
        self.last = self.transport.read(0, &mut |bytes| read.extend_from_slice(bytes));
    }
}

fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000_000 {
        if condition() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("it does not happen");
}

/// T1, T2: packets of many sizes, both ways at once.
fn bytes_arrive<T: Transport>((a, b): (T, T)) {
    let sizes = [1, 31, 32, 4096, 300_000, 7, 1_000_000, 65_536, 3];
    let total: usize = sizes.iter().sum();
    let mut ends = [End::new(a), End::new(b)];
    let mut next = [(0, 0); 2];
    until(|| {
        for (end, (at, from)) in ends.iter_mut().zip(&mut next) {
            if *at < sizes.len() && end.transport.can_write(0) {
                end.transport.write(0, Packet::of_bytes(&pattern(*from, sizes[*at])));
                (*at, *from) = (*at + 1, *from + sizes[*at]);
            }
            end.turn();
        }
        ends.iter().all(|end| end.read.len() == total && end.written.len() == sizes.len())
    });
    for end in &mut ends {
        end.turn();
        assert_eq!(end.written, sizes, "T2");
        assert!(end.read == pattern(0, total), "T1");
        assert_eq!(end.last, Read::Empty);
    }
}

/// T3, T4: what was written is read, then the end, again and again.
fn the_end_comes_last<T: Transport>((a, b): (T, T)) {
    let (mut a, mut b) = (End::new(a), End::new(b));
    a.transport.write(0, Packet::of_bytes(&pattern(0, 100_000)));
    until(|| {
        a.turn();
        b.turn();
        !a.written.is_empty()
    });
    drop(a);
    until(|| {
        b.turn();
        b.last == Read::Closed
    });
    assert!(b.read == pattern(0, 100_000), "T3");
    b.turn();
    assert_eq!(b.last, Read::Closed, "T4");
    // Writing to it does no harm: packets come back, sooner or later.
    for i in 1..=3 {
        b.transport.write(0, Packet::of_bytes(b"nobody reads this"));
        until(|| {
            b.turn();
            b.written.len() == i && b.transport.can_write(0)
        });
    }
}

/// T5: the waker ends a park, before it begins (turns in between or not) or from another thread; so do bytes, and time.
fn parks_end<T: Transport>((a, b): (T, T)) {
    let (mut a, mut b) = (End::new(a), End::new(b));
    for _ in 0..3 {
        a.transport.waker().wake();
        a.transport.park(None).unwrap();
    }
    // Turns between the two do not use it up, whatever ended the park before.
    for turns in 0..=3 {
        a.transport.park(Some(1000)).unwrap();
        a.transport.waker().wake();
        (0..turns).for_each(|_| a.turn());
        a.transport.park(None).unwrap();
    }
    a.transport.park(Some(1000)).unwrap();
    let waker = a.transport.waker();
    let thread = std::thread::Builder::new().spawn(move || {
        std::thread::park_timeout(Duration::from_millis(30));
        waker.wake();
    });
    a.transport.park(None).unwrap();
    thread.unwrap().join().unwrap();
    until(|| {
        b.transport.park(Some(100)).unwrap();
        b.turn();
        if a.transport.can_write(0) && b.read.is_empty() {
            a.transport.write(0, Packet::of_bytes(b"x"));
        }
        a.turn();
        !b.read.is_empty()
    });
}

macro_rules! contract {
    ($($module:ident: $make:expr;)*) => {$(
        mod $module {
            use super::*;
            #[test]
            fn t1_t2_bytes_arrive() {
                bytes_arrive($make);
            }
            #[test]
            fn t3_t4_the_end_comes_last() {
                the_end_comes_last($make);
            }
            #[test]
            fn t5_parks_end() {
                parks_end($make);
            }
        }
    )*};
}

contract! {
    in_memory: memory(Faults::default());
    in_memory_in_small_pieces: memory(Faults { seed: 7, capacity: 5000, chunk: 900, stall_percent: 30, ..Faults::default() });
    over_tcp: uring();
}

#[test]
fn cuts_and_damage_are_what_was_ordered() {
    let (a, b) = memory(Faults { cut_at: Some(1000), flip_at: Some(10), ..Faults::default() });
    let (mut a, mut b) = (End::new(a), End::new(b));
    a.transport.write(0, Packet::of_bytes(&pattern(0, 3000)));
    a.turn();
    b.turn();
    assert_eq!(b.read.len(), 1000);
    let wrong: Vec<usize> = (0..1000).filter(|&i| b.read[i] != pattern(i, 1)[0]).collect();
    assert_eq!(wrong, [10]);
    b.turn();
    assert!(matches!(b.last, Read::Failed(_)), "{:?}", b.last);
}

/// A slot with many connections, dropped while all of them are busy.
#[test]
fn many_connections_end_together() {
    let (left, right): (Vec<_>, Vec<_>) = (0..20).map(|_| sockets()).unzip();
    let mut a = UringTransport::new(left).unwrap();
    let mut b = UringTransport::new(right).unwrap();
    for at in 0..20 {
        a.write(at, Packet::of_bytes(&pattern(at, 8 << 20)));
        b.write(at, Packet::of_bytes(&pattern(at, 1000)));
    }
    let mut got = vec![Vec::new(); 20];
    until(|| {
        a.turn().unwrap();
        b.turn().unwrap();
        for (at, got) in got.iter_mut().enumerate() {
            a.read(at, &mut |bytes| got.extend_from_slice(bytes));
        }
        got.iter().all(|got| got.len() == 1000)
    });
    assert!(got.iter().enumerate().all(|(at, got)| *got == pattern(at, 1000)));
    // Both have reads, and `a` writes, in flight.
    drop(a);
    drop(b);
}
