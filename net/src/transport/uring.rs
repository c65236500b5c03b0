//! TCP connections driven by a ring of the slot's own: one system call submits and completes the reads
//! and writes of all connections, and the only sleep of a slot with connections is this ring's.
//!
//! Who owns what the kernel touches:
//! - *received bytes*: `Inbox::staging`, a boxed slice that is neither moved nor freed while a read is in
//!   flight; `Inbox::state` says so, and bytes are lent only while none is.
//! - *sent bytes*: a `Box<Outgoing>` holds the packet (and so the scratch and the batches' buffers), the
//!   `iovec`s that point into it, and the `msghdr` that points to those. Nothing in it changes while the write is in
//!   flight.
//! - *the bell's word*: a box of its own, likewise.
//!
//! Invariants
//!   U1  Memory that an operation in flight may touch is owned by this struct, at a fixed address, and is
//!       not touched by anyone else; `flying` counts those operations.
//!   U2  Drop ends every operation and waits for its completion; should one not come, the memory is leaked
//!       rather than freed.
//!   U3  At most one read and one write of a connection, and one read of the bell, are in flight.
//!   U4  The ring is used by the thread that made it.

use super::{Read, Transport};
use crate::packet::Packet;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::{Wake, Waker};
use tidemill_base::{Error, Micros, Result};

/// Bytes that one read may bring.
const STAGING: usize = 256 << 10;

/// ... of all connections together; with many of them each has less, but at least [`STAGING_MIN`].
const STAGING_ALL: usize = 4 << 20;
const STAGING_MIN: usize = 64 << 10;

/// Parts of one vectored write.
const IOVECS_MAX: usize = 1024;

/// Tags of operations; a connection's number stands above.
const READ: u64 = 0;
const WRITE: u64 = 1;
const BELL: u64 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Inbox {
    /// No read is in flight, and nothing is there.
    Idle,
    /// The kernel may write to the staging memory.
    Flying,
    /// So many bytes are there.
    Full(usize),
    /// Nothing more comes.
    Ended(Read),
}

struct Outgoing {
    packet: Packet,
    done: usize,
    iovecs: Vec<libc::iovec>,
    header: libc::msghdr,
}

struct Connection {
    stream: TcpStream,
    staging: Box<[u8]>,
    inbox: Inbox,
    outgoing: Option<Box<Outgoing>>,
    /// The write is with the kernel.
    writing: bool,
    sent: VecDeque<Packet>,
    /// Why nothing can be written any more.
    broken: Option<String>,
}

/// What ends a park: an event counter that the ring reads.
struct Bell(File);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // It only fails when the counter is about to overflow: then it is readable anyway.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }
}

/// The TCP connections of one slot.
pub struct UringTransport {
    ring: IoUring,
    connections: Vec<Connection>,
    bell: Arc<Bell>,
    word: Box<u64>,
    listening: bool,
    /// The bell has rung, and no park has ended for it yet (T5).
    rung: bool,
    flying: usize,
}

impl UringTransport {
    /// A ring with these connections. To be called on the thread that will use it (U4).
    ///
    /// # Errors
    /// When the kernel refuses the ring.
    pub fn new(streams: Vec<TcpStream>) -> Result<Self> {
        let ring = build(2 * streams.len() as u32 + 2).map_err(|e| {
            Error::job(format!(
                "io_uring for the connections of a slot is refused: {e}; raise the limit on locked \
                 memory (ulimit -l), and look whether the kernel (5.11 or newer) and a container's \
                 seccomp profile allow io_uring_setup, io_uring_enter and io_uring_register"
            ))
        })?;
        let size = (STAGING_ALL / streams.len().max(1)).clamp(STAGING_MIN, STAGING);
        let connections = streams.into_iter().map(|stream| Connection {
            stream,
            staging: vec![0; size].into_boxed_slice(),
            inbox: Inbox::Idle,
            outgoing: None,
            writing: false,
            sent: VecDeque::new(),
            broken: None,
        });
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let bell = rustix::event::eventfd(0, flags)
            .map_err(|e| Error::attempt(format!("no event counter for a slot: {e}")))?;
        Ok(UringTransport {
            ring,
            connections: connections.collect(),
            bell: Arc::new(Bell(File::from(bell))),
            word: Box::new(0),
            listening: false,
            rung: false,
            flying: 0,
        })
    }

    /// Puts an operation into the submission queue, which has a place for each there may be (U3).
    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: U1: the callers pass entries whose memory this struct owns and leaves alone until
        // their completion.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        debug_assert!(pushed.is_ok(), "U3 bounds the operations in flight");
        self.flying += usize::from(pushed.is_ok());
    }

    /// Asks for what is not in flight yet.
    fn prepare(&mut self) {
        for at in 0..self.connections.len() {
            let connection = &mut self.connections[at];
            let fd = Fd(connection.stream.as_raw_fd());
            let tag = (at as u64) << 2;
            if connection.inbox == Inbox::Idle {
                connection.inbox = Inbox::Flying;
                let (memory, len) = (connection.staging.as_mut_ptr(), connection.staging.len());
                let read = opcode::Recv::new(fd, memory, len as u32).build().user_data(tag | READ);
                self.push(read);
            }
            let connection = &mut self.connections[at];
            if !connection.writing
                && let Some(outgoing) = &mut connection.outgoing
            {
                connection.writing = true;
                let header = outgoing.aim();
                let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32;
                let write = opcode::SendMsg::new(fd, header).flags(flags).build();
                self.push(write.user_data(tag | WRITE));
            }
        }
    }

    fn listen(&mut self) {
        if !self.listening {
            self.listening = true;
            let fd = Fd(self.bell.0.as_raw_fd());
            let word: *mut u64 = &mut *self.word;
            self.push(opcode::Read::new(fd, word.cast(), 8).build().user_data(BELL));
        }
    }

    /// One system call: submits, and lets the kernel complete what it can.
    fn enter(&mut self) -> Result<()> {
        let waiting = self.ring.submission().len();
        // SAFETY: no argument is passed but counts and a flag; the entries are those of `push`.
        let entered = unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(waiting as u32, 0, GETEVENTS, None)
        };
        self.outcome(entered)
    }

    fn outcome(&mut self, result: std::io::Result<usize>) -> Result<()> {
        match result.map_err(|e| (e.raw_os_error(), e)) {
            Ok(_) => {}
            Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
            Err((_, e)) => {
                return Err(Error::attempt(format!("io_uring of a slot's connections fails: {e}")));
            }
        }
        self.reap();
        Ok(())
    }

    /// Takes in completions.
    fn reap(&mut self) {
        let done: Vec<(u64, i32)> =
            self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (tag, result) in done {
            self.flying -= 1;
            match tag & 3 {
                READ => self.connections[(tag >> 2) as usize].has_read(result),
                WRITE => self.connections[(tag >> 2) as usize].has_written(result),
                _ => (self.listening, self.rung) = (false, true),
            }
        }
    }

    /// Whether a system call would bring anything: something to submit, or work that the kernel has
    /// put off until this thread asks.
    fn due(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }
}

const GETEVENTS: u32 = 1;

/// A ring of the best kind that the kernel has.
fn build(entries: u32) -> std::io::Result<IoUring> {
    let entries = entries.next_power_of_two();
    let deferred = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(2 * entries)
        .build(entries);
    match deferred {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => IoUring::builder().build(entries),
        other => other,
    }
}

impl Outgoing {
    /// Points header and vectors at what is left to send.
    fn aim(&mut self) -> *const libc::msghdr {
        self.iovecs.clear();
        for slice in self.packet.io_slices(self.done, IOVECS_MAX) {
            let base = slice.as_ptr().cast_mut().cast();
            self.iovecs.push(libc::iovec { iov_base: base, iov_len: slice.len() });
        }
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len();
        &self.header
    }
}

impl Connection {
    fn has_read(&mut self, result: i32) {
        self.inbox = match result {
            0 => Inbox::Ended(Read::Closed),
            n if n > 0 => Inbox::Full(n as usize),
            e if matches!(-e, libc::EAGAIN | libc::EINTR) => Inbox::Idle,
            e => Inbox::Ended(Read::Failed(describe(-e))),
        };
    }

    fn has_written(&mut self, result: i32) {
        self.writing = false;
        let Some(outgoing) = &mut self.outgoing else { return };
        match result {
            n if n >= 0 => outgoing.done += n as usize,
            e if matches!(-e, libc::EAGAIN | libc::EINTR) => {}
            e => self.broken = Some(describe(-e)),
        }
        if (outgoing.done == outgoing.packet.len() || self.broken.is_some())
            && let Some(outgoing) = self.outgoing.take()
        {
            self.sent.push_back(outgoing.packet);
        }
    }
}

fn describe(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

impl Transport for UringTransport {
    fn connections(&self) -> usize {
        self.connections.len()
    }

    fn can_write(&self, at: usize) -> bool {
        self.connections[at].outgoing.is_none()
    }

    fn write(&mut self, at: usize, packet: Packet) {
        let connection = &mut self.connections[at];
        if connection.broken.is_some() || packet.is_empty() {
            connection.sent.push_back(packet);
            return;
        }
        // SAFETY: all zeros is a `msghdr` without name, control data and vectors.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        connection.outgoing =
            Some(Box::new(Outgoing { packet, done: 0, iovecs: Vec::new(), header }));
    }

    fn written(&mut self, at: usize) -> Option<Packet> {
        self.connections[at].sent.pop_front()
    }

    fn read(&mut self, at: usize, take: &mut dyn FnMut(&[u8])) -> Read {
        let connection = &mut self.connections[at];
        match &connection.inbox {
            Inbox::Full(n) => {
                take(&connection.staging[..*n]);
                connection.inbox = Inbox::Idle;
                Read::Some
            }
            Inbox::Ended(read) => read.clone(),
            Inbox::Idle | Inbox::Flying => Read::Empty,
        }
    }

    fn turn(&mut self) -> Result<()> {
        self.prepare();
        if self.due() {
            return self.enter();
        }
        self.reap();
        Ok(())
    }

    fn waker(&self) -> Waker {
        Waker::from(self.bell.clone())
    }

    fn park(&mut self, most: Option<Micros>) -> Result<()> {
        self.prepare();
        self.listen();
        if std::mem::take(&mut self.rung) {
            // T5: a turn since the last park has taken the ring in. Whoever rang may have done so for something
            // that was looked at before that turn, and does not ring again.
            return self.enter();
        }
        let waited = match most {
            None => self.ring.submit_and_wait(1),
            Some(most) => {
                let time =
                    Timespec::new().sec(most / 1_000_000).nsec((most % 1_000_000) as u32 * 1000);
                let args = SubmitArgs::new().timespec(&time);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        let outcome = self.outcome(waited);
        self.rung = false;
        outcome
    }
}

impl Drop for UringTransport {
    fn drop(&mut self) {
        for connection in &self.connections {
            // A socket that is gone already needs no end.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        let _ = (&self.bell.0).write(&1u64.to_ne_bytes());
        // What is queued but not submitted is submitted by this, and completes likewise.
        for _ in 0..50 {
            if self.flying == 0 {
                return;
            }
            let time = Timespec::new().nsec(20_000_000);
            let args = SubmitArgs::new().timespec(&time);
            let waited = self.ring.submitter().submit_with_args(1, &args);
            if self.outcome(waited).is_err() {
                break;
            }
        }
        if self.flying > 0 {
            tracing::error!("{} operations do not end; their memory is leaked", self.flying);
            std::mem::forget(std::mem::take(&mut self.connections));
            std::mem::forget(std::mem::take(&mut self.word));
        }
    }
}
