//! Refusals, and which of several JobManagers is asked: against servers that play them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;
use crate::settings::Given;

#[test]
fn refusals_say_all_that_the_answer_says() {
    let body = serde_json::json!({"detail": "No slots", "slots_wanted": 8});
    let answer = Answer { status: StatusCode::SERVICE_UNAVAILABLE, body };
    let text = good(answer).expect_err("refused").to_string();
    assert_eq!(text, "No slots; slots_wanted: 8");
}

/// What a JobManager of these tests is.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Leader,
    Follower,
    /// Takes requests and says nothing.
    Hangs,
}

/// Serves from a thread of its own until the process ends.
struct Manager {
    address: String,
    role: Arc<Mutex<Role>>,
    /// The first line of each request.
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn start(role: Role) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let (role, heard) = (Arc::new(Mutex::new(role)), Arc::new(Mutex::new(Vec::new())));
        let (plays, lines) = (role.clone(), heard.clone());
        #[expect(clippy::disallowed_methods, reason = "a server beside the test")]
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                let role = *plays.lock().expect("whole");
                match answer(stream, role) {
                    Ok(line) => lines.lock().expect("whole").push(line),
                    Err(stream) => held.push(stream),
                }
            }
        });
        Manager { address, role, heard }
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().expect("whole"))
    }

    fn becomes(&self, role: Role) {
        *self.role.lock().expect("whole") = role;
    }
}

fn answer(mut stream: TcpStream, role: Role) -> Result<String, TcpStream> {
    if role == Role::Hangs {
        return Err(stream);
    }
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or("").to_owned();
    let (status, body) = match (line.starts_with("GET / "), role) {
        (true, Role::Leader) => ("200 OK", r#"{"role":"leader"}"#),
        (true, _) => ("200 OK", r#"{"role":"follower"}"#),
        (false, Role::Leader) => ("200 OK", r#"{"good":true}"#),
        (false, _) => ("503 Service Unavailable", r#"{"detail":"it does not lead"}"#),
    };
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    Ok(line)
}

fn client(addresses: &[&str]) -> Client {
    let given = Given {
        flags: vec![("address".into(), addresses.join(","), "--address".into())],
        ..Given::default()
    };
    Client::new(&Settings::load(&given).expect("settings")).expect("a client")
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

#[test]
fn of_several_the_one_that_leads_is_asked() {
    let (away, hangs) = (nobody(), Manager::start(Role::Hangs));
    let (first, second) = (Manager::start(Role::Follower), Manager::start(Role::Leader));
    let client = client(&[&away, &first.address, &hangs.address, &second.address]);
    let answer = run(client.post("/jobs/1/cancel", None)).expect("the leader answers");
    assert_eq!(answer["good"], true);
    assert_eq!(first.heard(), ["GET / HTTP/1.1"], "only asked whether it leads");
    assert_eq!(second.heard(), ["GET / HTTP/1.1", "POST /jobs/1/cancel HTTP/1.1"]);
    run(client.get("/jobs")).expect("the leader is known");
    assert_eq!((first.heard(), second.heard()), (vec![], vec!["GET /jobs HTTP/1.1".into()]));

    // Another one leads: the request that finds out fails once, the next one goes there.
    first.becomes(Role::Leader);
    second.becomes(Role::Follower);
    let refused = run(client.get("/jobs")).expect_err("it does not lead any more");
    assert!(refused.may_pass(), "{refused}");
    run(client.get("/jobs")).expect("the new leader");
    assert_eq!(first.heard(), ["GET / HTTP/1.1", "GET /jobs HTTP/1.1"]);
}

#[test]
fn where_none_leads_each_is_named() {
    let (away, follower) = (nobody(), Manager::start(Role::Follower));
    let text = |addresses: &[&str]| {
        let failure = run(client(addresses).get("/jobs")).expect_err("none leads");
        assert!(failure.may_pass(), "{failure}");
        failure.to_string()
    };
    let said = text(&[&away, &follower.address]);
    assert!(said.contains(&format!("{}/: ", away)), "{said}");
    assert!(said.contains(&format!("{} does not lead", follower.address)), "{said}");
    // A single one is asked at once, and speaks for itself.
    assert_eq!(text(&[&follower.address]), "it does not lead");
    assert_eq!(follower.heard(), ["GET / HTTP/1.1", "GET /jobs HTTP/1.1"]);
}
