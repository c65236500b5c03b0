//! A connection that never makes its caller wait.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

pub(crate) struct Link {
    stream: TcpStream,
}

pub(crate) enum Received {
    Bytes,
    Nothing,
    Closed,
    Broken(io::Error),
}

impl Link {
    /// Begins to connect.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Link> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Link { stream: TcpStream::from(socket) }),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it is connected by now.
    pub(crate) fn is_established(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.stream, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut polled, Some(&now)) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match sockopt::socket_error(&self.stream)? {
            Ok(()) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends up to `max` bytes to `out`.
    pub(crate) fn receive(&mut self, out: &mut Vec<u8>, max: usize) -> Received {
        let have = out.len();
        out.resize(have + max, 0);
        let received = self.stream.read(&mut out[have..]);
        out.truncate(have + received.as_ref().map_or(0, |n| *n));
        match received {
            Ok(0) => Received::Closed,
            Ok(_) => Received::Bytes,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Received::Nothing
            }
            Err(e) => Received::Broken(e),
        }
    }
}
