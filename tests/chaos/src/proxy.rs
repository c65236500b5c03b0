//! A link between two processes that can be cut, or hang: bytes go through, or stand still, or the
//! connections end.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

#[derive(Default)]
struct State {
    hangs: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    target: Mutex<Option<SocketAddr>>,
    bytes: AtomicU64,
}

/// A port of this machine behind which another one is.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

const LOOK: Duration = Duration::from_millis(10);

impl Proxy {
    /// Listens at a free port of loopback for connections to `target`.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { target: Mutex::new(Some(target)), ..State::default() });
        let shared = state.clone();
        thread::spawn(move || serve(&listener, &shared));
        Ok(Proxy { address, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections; new ones go through.
    pub fn cut(&self) {
        for stream in lock(&self.state.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing goes through, and nobody is told; or again.
    pub fn hang(&self, hangs: bool) {
        self.state.hangs.store(hangs, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: &TcpListener, state: &Arc<State>) {
    for near in listener.incoming().flatten() {
        if state.ended.load(Ordering::Relaxed) {
            return;
        }
        let Some(target) = *lock(&state.target) else { continue };
        let Ok(far) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else { continue };
        let ends = [near.try_clone(), far.try_clone()];
        lock(&state.open).extend(ends.into_iter().flatten());
        if let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) {
            let (there, back) = (state.clone(), state.clone());
            thread::spawn(move || carry(near, far_again, &there));
            thread::spawn(move || carry(far, near_again, &back));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let _ = from.set_read_timeout(Some(LOOK * 20));
    let mut piece = vec![0; 64 << 10];
    loop {
        while state.hangs.load(Ordering::Relaxed) && !state.ended.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
        }
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                while state.hangs.load(Ordering::Relaxed) && !state.ended.load(Ordering::Relaxed) {
                    thread::sleep(LOOK);
                }
                state.bytes.fetch_add(n as u64, Ordering::Relaxed);
                if to.write_all(&piece[..n]).is_err() {
                    break;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if state.ended.load(Ordering::Relaxed) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
