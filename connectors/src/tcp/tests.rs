//! Lines over real connections on loopback.

use super::*;
use crate::testing::*;
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};

struct Harness {
    listener: TcpListener,
    reader: TcpLinesReader,
    out: Out<String>,
    cx: SourceContext,
}

fn harness(configure: impl FnOnce(TcpLinesSource) -> TcpLinesSource) -> Harness {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = TcpLinesSource::connect(listener.local_addr().unwrap().to_string());
    let cx = source_context(0, 2, None);
    let reader = configure(source).open(&cx).unwrap();
    Harness { listener, reader, out: Out::new(), cx }
}

impl Harness {
    fn accept(&mut self) -> TcpStream {
        while !matches!(self.reader.state, State::Open(_)) {
            self.out.now += 1000;
            self.out.poll(&mut self.reader, 10).unwrap();
        }
        self.listener.accept().unwrap().0
    }
    /// Polls until there are `n` lines, or something other than waiting happens.
    fn until(&mut self, n: usize) -> Result<Polled> {
        loop {
            let polled = self.out.poll(&mut self.reader, 2)?;
            if self.out.records.len() >= n || polled == Polled::End {
                return Ok(polled);
            }
        }
    }
}

#[test]
fn lines_until_the_server_closes() {
    let mut h = harness(|s| s);
    let mut server = h.accept();
    server.write_all(b"one\r\ntwo\nthr").unwrap();
    h.until(2).unwrap();
    let idle = loop {
        let polled = h.out.poll(&mut h.reader, 10).unwrap();
        if polled != Polled::More {
            break polled;
        }
    };
    assert_eq!(idle, Polled::Idle { until: None });
    server.write_all(b"ee\n\nlast").unwrap();
    server.shutdown(Shutdown::Both).unwrap();
    assert_eq!(h.until(usize::MAX).unwrap(), Polled::End);
    assert_eq!(h.out.values(), ["one", "two", "three", "", "last"]);
    assert_eq!(h.out.ended, [0]);
    assert!(h.reader.snapshot().unwrap().is_empty());
}

#[test]
fn many_lines_come_in_bounded_polls() {
    let mut h = harness(|s| s);
    let mut server = h.accept();
    let text: String = (0..50_000).map(|i| format!("line {i}\n")).collect();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let writer = std::thread::Builder::new()
        .spawn(move || server.write_all(text.as_bytes()).map(|()| drop(server)))
        .unwrap();
    assert_eq!(h.until(usize::MAX).unwrap(), Polled::End);
    writer.join().unwrap().unwrap();
    assert!(h.out.values() == lines);
}

#[test]
fn other_subtasks_end_at_once() {
    let source = TcpLinesSource::connect("127.0.0.1:9");
    let mut reader = source.open(&source_context(1, 2, None)).unwrap();
    assert_eq!(Out::new().poll(&mut reader, 1).unwrap(), Polled::End);
}

#[test]
fn reconnects_after_a_while() {
    let policy = OnDisconnect::Reconnect { attempts: 2, delay_ms: 500 };
    let mut h = harness(|s| s.on_disconnect(policy));
    h.accept().write_all(b"a\n").unwrap();
    h.until(1).unwrap();
    let now = h.out.now;
    let waiting = loop {
        match h.out.poll(&mut h.reader, 10).unwrap() {
            Polled::Idle { until: Some(until) } => break until,
            _ => continue,
        }
    };
    assert_eq!(waiting, now + 500_000);
    h.out.now = waiting;
    h.accept().write_all(b"b\n").unwrap();
    h.until(2).unwrap();
    assert_eq!(h.out.values(), ["a", "b"]);
}

#[test]
fn a_server_that_is_not_there_fails_the_attempt() {
    for (policy, failures) in
        [(OnDisconnect::End, 1), (OnDisconnect::Reconnect { attempts: 2, delay_ms: 1 }, 3)]
    {
        let mut h = harness(|s| s.on_disconnect(policy));
        drop(std::mem::replace(&mut h.listener, TcpListener::bind("127.0.0.1:0").unwrap()));
        let error = loop {
            h.out.now += 1000;
            if let Err(error) = h.out.poll(&mut h.reader, 1) {
                break error;
            }
        };
        assert_eq!(error.severity(), tidemill_base::Severity::FailAttempt);
        let text = error.to_string();
        assert!(
            text.contains("refused") && text.contains(&format!("{failures} failures")),
            "{text}"
        );
    }
}

#[test]
fn bad_bytes_and_bad_addresses() {
    let mut h = harness(|s| s);
    h.accept().write_all(b"ok\nb\xffd\n").unwrap();
    let error = h.until(9).unwrap_err().to_string();
    assert!(error.contains("line 2, column 2: invalid UTF-8"), "{error}");
    let mut h = harness(|s| s.on_error(OnError::Skip));
    h.accept().write_all(b"ok\nb\xffd\nyes\n").unwrap();
    h.until(2).unwrap();
    assert_eq!(h.out.values(), ["ok", "yes"]);
    assert_eq!(h.cx.context.metrics.malformed_skipped.get(), 1);
    let error = TcpLinesSource::connect("nonsense").open(&h.cx).err().unwrap();
    assert!(error.to_string().contains("write host:port"), "{error}");
}
