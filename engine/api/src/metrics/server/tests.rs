//! The server over real connections on loopback.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;

fn start() -> Server {
    let clock = SystemClock::new();
    let metrics = Arc::new(JobMetrics::new("j", 0));
    Server::start(([127, 0, 0, 1], 0).into(), false, metrics, clock, nobody()).unwrap()
}

/// Takes requests to a job that has ended.
fn nobody() -> Asker {
    Asker::of_nobody()
}

/// Sends the text and returns what comes until the server closes.
fn exchange(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn request(addr: SocketAddr, method: &str, path: &str) -> String {
    exchange(addr, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

#[test]
fn only_two_paths_and_only_reading() {
    let server = start();
    let get = request(server.addr(), "GET", "/metrics");
    assert!(get.starts_with("HTTP/1.1 200 OK\r\n"), "{get}");
    assert!(get.contains("content-type: text/plain; version=0.0.4"), "{get}");
    assert!(get.contains("\ntidemill_job_uptime_seconds{job=\"j\"} "), "{get}");
    let root = request(server.addr(), "GET", "/");
    assert!(root.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(root.split_once("\r\n\r\n").unwrap().1.lines().count(), 1, "{root}");
    for path in ["/metric", "/metrics/", "/../metrics", "/favicon.ico"] {
        let missing = request(server.addr(), "GET", path);
        assert!(missing.starts_with("HTTP/1.1 404 "), "{path}: {missing}");
    }
    let query = request(server.addr(), "GET", "/metrics?name[]=x");
    assert!(query.starts_with("HTTP/1.1 200 OK\r\n"), "{query}");
    for method in ["POST", "DELETE", "PUT"] {
        let refused = request(server.addr(), method, "/metrics");
        assert!(refused.starts_with("HTTP/1.1 405 "), "{method}: {refused}");
        assert!(refused.contains("allow: GET, HEAD\r\n"), "{refused}");
    }
    let head = request(server.addr(), "HEAD", "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn noise_gets_an_error_and_hurts_nobody() {
    let server = start();
    let answer = exchange(server.addr(), "\u{1}\u{2}\u{3} what\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    drop(TcpStream::connect(server.addr()).unwrap());
    assert!(request(server.addr(), "GET", "/").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_scraper_may_keep_its_connection() {
    let server = start();
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let (mut text, mut byte) = (Vec::new(), [0]);
        while !text.ends_with(b"at /metrics\n") {
            stream.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
    }
    // A connection that stays open does not keep the server from ending.
    let addr = server.addr();
    drop(server);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_busy_port_is_refused_with_its_address() {
    let server = start();
    let metrics = Arc::new(JobMetrics::new("j", 0));
    let second = Server::start(server.addr(), false, metrics, SystemClock::new(), nobody());
    let error = second.err().unwrap().to_string();
    assert!(error.contains(&server.addr().to_string()), "{error}");
    assert!(error.contains("in use") && error.contains("--metrics-addr"), "{error}");
}

#[test]
fn other_machines_are_let_in_only_on_request() {
    let metrics = || Arc::new(JobMetrics::new("j", 0));
    for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.7:0", "[::ffff:192.0.2.7]:0"] {
        let refused =
            Server::start(addr.parse().unwrap(), false, metrics(), SystemClock::new(), nobody());
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("--insecure") && error.contains("127.0.0.1"), "{error}");
    }
    // 127.0.0.2 stands for an address that needs no permission; nothing here binds a real one.
    for (addr, insecure) in [("127.0.0.2:0", false), ("127.0.0.1:0", true)] {
        assert!(
            Server::start(addr.parse().unwrap(), insecure, metrics(), SystemClock::new(), nobody())
                .is_ok()
        );
    }
}

#[test]
fn savepoints_are_asked_for_by_post_and_by_this_machine() {
    let server = start();
    for path in ["/savepoint", "/stop"] {
        let get = request(server.addr(), "GET", path);
        assert!(get.starts_with("HTTP/1.1 405 ") && get.contains("allow: POST\r\n"), "{get}");
        let post = request(server.addr(), "POST", path);
        assert!(post.starts_with("HTTP/1.1 503 "), "{post}");
        assert!(post.ends_with("{\"detail\":\"the job has ended\"}\n"), "{post}");
        let page = format!("POST {path} HTTP/1.1\r\nHost: x\r\nOrigin: http://evil\r\n\r\n");
        let page = exchange(server.addr(), &page);
        assert!(page.starts_with("HTTP/1.1 403 ") && page.contains("web page"), "{page}");
    }
}
