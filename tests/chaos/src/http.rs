//! One request, one answer, of a REST interface on this machine.

use serde_json::Value;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Status and body of an answer.
///
/// # Errors
/// When there is none in time.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    kind: &str,
    body: &[u8],
    patience: Duration,
) -> Result<(u16, Value)> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let bad = || Error::new(ErrorKind::InvalidData, format!("no answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(bad)?;
    // Bodies are JSON and come whole, or in chunks, whose lengths are lines of their own.
    let json = body.find(['{', '[']).map_or("null", |at| &body[at..]);
    let end = json.rfind(['}', ']']).map_or(json.len(), |at| at + 1);
    let value = serde_json::from_str(&json[..end]).unwrap_or(Value::Null);
    Ok((status, value))
}

/// The form that submits a program.
pub fn form(program: &[u8], fields: &[(&str, String)]) -> (String, Vec<u8>) {
    let boundary = "tidemill-chaos-3f9a7c";
    let mut body = Vec::new();
    let mut part = |disposition: &str, content: &[u8]| {
        let head = format!("--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
        body.extend([head.as_bytes(), content, b"\r\n"].concat());
    };
    for (name, value) in fields {
        part(&format!("name=\"{name}\""), value.as_bytes());
    }
    part("name=\"job_file\"; filename=\"job\"", program);
    body.extend(format!("--{boundary}--\r\n").into_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}
