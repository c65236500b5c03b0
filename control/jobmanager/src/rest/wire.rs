//! A REST connection below hyper: gives what hyper refuses by itself the form of all other errors (E1).
//!
//! hyper answers a head that it cannot read (400, 414, 431) before any handler sees a request, without a body, and has
//! no place to ask for one. So the bytes that it writes are looked at: that answer, and no other of this interface,
//! has one of these statuses and no content. It is held back, and [`Wire::refuse`] sends what should be there.
//!
//! Invariants
//!   F1  Everything but that answer goes through as it is.
//!   F2  That answer is the last that hyper writes: nothing follows it, so that nothing is reordered.
//!   F3  Closing after a refusal reads on for a while, bounded in bytes and time: what is unread when a socket is closed
//!       makes the kernel throw away what was answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// F3.
const LINGER_BYTES: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(2);
/// What an answer may take to be sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Wire {
    stream: TcpStream,
    refused: Option<StatusCode>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Wire { stream, refused: None }
    }

    /// What hyper refused, if it did.
    pub(super) fn refused(&self) -> Option<StatusCode> {
        self.refused
    }

    /// Says why, and closes.
    pub(super) async fn refuse(mut self, status: StatusCode, detail: &str) -> io::Result<()> {
        let body = json!({ "detail": detail }).to_string();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let sent = async {
            self.stream.write_all(answer.as_bytes()).await?;
            self.stream.shutdown().await
        };
        timeout(SEND_TIMEOUT, sent).await??;
        let mut left = LINGER_BYTES;
        let mut piece = vec![0; 16 << 10];
        let rest = async {
            while left > 0 {
                match self.stream.read(&mut piece).await {
                    Ok(n) if n > 0 => left = left.saturating_sub(n),
                    _ => return,
                }
            }
        };
        // Who sends on is not listened to for ever.
        let _ = timeout(LINGER, rest).await;
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

/// Without vectored writes: an answer is in one piece then.
impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match bare_refusal(bytes) {
            Some((0, status)) => {
                self.refused = Some(status);
                Poll::Ready(Ok(bytes.len()))
            }
            Some((at, _)) => Pin::new(&mut self.stream).poll_write(cx, &bytes[..at]),
            None => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            // The answer is still to be sent.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where an answer of hyper's own begins that ends these bytes, and its status.
fn bare_refusal(bytes: &[u8]) -> Option<(usize, StatusCode)> {
    const END: &[u8] = b"\r\n\r\n";
    const START: &[u8] = b"HTTP/1.";
    // hyper's own is about a hundred bytes long.
    const LONGEST: usize = 512;
    let head = bytes.strip_suffix(END)?;
    let from = head.len().saturating_sub(LONGEST);
    let at = from + head[from..].windows(START.len()).rposition(|w| w == START)?;
    let mut lines = std::str::from_utf8(&head[at..]).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let refuses = [
        StatusCode::BAD_REQUEST,
        StatusCode::URI_TOO_LONG,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    ];
    let (mut empty, mut closes) = (false, false);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", "0") => empty = true,
            ("connection", "close") => closes = true,
            ("date", _) => {}
            _ => return None,
        }
    }
    (refuses.contains(&status) && empty && closes).then_some((at, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyper_s_own_refusals_are_known_from_answers() {
        let own = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                   content-length: 0\r\ndate: Sun, 29 Nov 2026 00:00:00 GMT\r\n\r\n";
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        assert_eq!(bare_refusal(own.as_bytes()), Some((0, status)));
        let behind = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{{}}{own}");
        let at = behind.len() - own.len();
        assert_eq!(bare_refusal(behind.as_bytes()), Some((at, status)));
        for other in [
            "",
            "\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            &own[..own.len() - 1],
        ] {
            assert_eq!(bare_refusal(other.as_bytes()), None, "{other:?}");
        }
    }
}
