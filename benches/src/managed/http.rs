//! The client of a benchmark: one request a connection, JSON out.

use super::broken;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tidemill::Result;

const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a request; the answer's body.
///
/// # Errors
/// A broken connection, or a status that is no success.
pub(super) fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: Option<(&str, &[u8])>,
) -> Result<Value> {
    let failed = |e: std::io::Error| broken(format!("{method} {path}: {e}"));
    let mut stream = TcpStream::connect(to).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    let (kind, bytes) = body.unwrap_or_default();
    if !kind.is_empty() {
        head += &format!("Content-Type: {kind}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", bytes.len());
    stream.write_all(head.as_bytes()).map_err(failed)?;
    stream.write_all(bytes).map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        return Err(broken(format!("{method} {path}: {status} {body}")));
    }
    serde_json::from_str(body).map_err(|e| broken(format!("{method} {path}: {e}: {body}")))
}

/// The content type and body of a form; `job_file` is the program.
pub(super) fn form(program: &[u8], fields: &[(&str, String)]) -> (String, Vec<u8>) {
    let boundary = "tidemill-benchmark-7f3a9c21";
    let mut body = Vec::with_capacity(program.len() + 1024);
    let mut part = |disposition: &str, value: &[u8]| {
        let head =
            format!("--{boundary}\r\nContent-Disposition: form-data; name={disposition}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    };
    part("\"job_file\"; filename=\"job\"", program);
    for (name, value) in fields {
        part(&format!("\"{name}\""), value.as_bytes());
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}
