//! Metadata in PostgreSQL: the contract, and what becomes of it when servers, connections and processes
//! stop in the midst. Every test has a real server of its own.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tidemill_jobmanager::MetadataStore;
use tidemill_jobmanager::metadata::{Change, Lead, MetadataError, PostgresMetadata, Term};
use tidemill_postgres_testing::{End, PASSWORD, signal_to};
use tokio::time::{Instant, sleep};

use crate::contract::{self, PATIENCE, Place, elect, job, status};
use crate::proxy::{Break, Proxy};
use crate::rows::{job_id, job_row};
use crate::server::{Server, candidate, free_port};

/// Short, so that tests do not wait; a machine under load must still renew it in time.
const LEASE: Duration = Duration::from_millis(1_500);

struct Database<'s>(&'s Server);

impl Place for Database<'_> {
    type Store = PostgresMetadata;

    const LIVES: u32 = 10;

    async fn candidate(&self) -> PostgresMetadata {
        self.0.candidate(LEASE).await
    }

    async fn abandon(&self, leader: PostgresMetadata) {
        drop(leader);
    }

    /// Who was killed does not resign; that its lease ends is not waited for here.
    async fn reopen(self) -> Self {
        self.0.run("UPDATE tidemill.leadership SET holder = NULL").await;
        self
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap()
}

#[test]
fn contract() {
    let server = runtime().block_on(Server::start());
    contract::run(|| async {
        server.clear().await;
        Database(&server)
    });
}

/// As the recorder does: again until the answer is another one.
async fn written(store: &PostgresMetadata, term: Term, changes: &[Change]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.write(term, changes).await {
            Ok(()) => return,
            Err(MetadataError::Unavailable(_) | MetadataError::InDoubt(_)) => {}
            Err(e) => panic!("{e}"),
        }
        assert!(Instant::now() < deadline, "not written");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn numbers(store: &PostgresMetadata, term: Term) -> Vec<u64> {
    let jobs = store.load(term).await.unwrap();
    jobs[0].statuses.iter().map(|s| s.number).collect()
}

/// A server that ends while a leader writes and another candidate waits: nothing is lost, and the leader
/// stays.
async fn over_an_outage(how: End, outage: Duration) {
    let server = Server::start().await;
    let (leader, other) = (server.candidate(LEASE).await, server.candidate(LEASE).await);
    let term = elect(&leader, "one:1").await;
    written(&leader, term, &[job(1), job(2)]).await;
    let over = AtomicBool::new(false);
    let writing = async {
        let mut number = 0;
        while !over.load(Ordering::SeqCst) {
            written(&leader, term, &[status(1, number), status(2, number)]).await;
            number += 1;
        }
        number
    };
    let leading = async {
        while !over.load(Ordering::SeqCst) {
            if let Ok(lead) = leader.campaign("one:1").await {
                assert_eq!(lead, Lead::Mine { term });
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let waiting = async {
        while !over.load(Ordering::SeqCst) {
            if let Ok(lead) = other.campaign("two:2").await {
                assert_eq!(lead, Lead::Other { address: Some("one:1".into()) });
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let ending = async {
        sleep(Duration::from_millis(300)).await;
        server.end(how);
        sleep(outage).await;
        server.resume().await;
        sleep(LEASE * 2).await;
        over.store(true, Ordering::SeqCst);
    };
    let (written, (), (), ()) = tokio::join!(writing, leading, waiting, ending);
    let jobs = leader.load(term).await.unwrap();
    for job in &jobs {
        let numbers: Vec<_> = job.statuses.iter().map(|s| s.number).collect();
        assert!(numbers.iter().copied().eq(0..written), "{written} of {numbers:?}");
    }
    assert!(written > 10, "{written} writes");
}

#[test]
fn a_server_that_is_killed_loses_nothing() {
    runtime().block_on(over_an_outage(End::Killed, Duration::ZERO));
}

#[test]
fn a_server_away_for_longer_than_the_lease_costs_neither_writes_nor_leadership() {
    runtime().block_on(over_an_outage(End::Fast, Duration::from_secs(3)));
}

#[tokio::test]
async fn a_leader_that_is_silent_is_replaced_and_one_that_is_not_stays() {
    let server = Server::start().await;
    let (leader, other) = (server.candidate(LEASE).await, server.candidate(LEASE).await);
    let term = elect(&leader, "one:1").await;
    written(&leader, term, &[job(1)]).await;
    let end = Instant::now() + LEASE * 2;
    while Instant::now() < end {
        assert_eq!(leader.campaign("one:1").await, Ok(Lead::Mine { term }));
        let lead = other.campaign("two:2").await;
        assert_eq!(lead, Ok(Lead::Other { address: Some("one:1".into()) }));
        sleep(Duration::from_millis(50)).await;
    }
    // Silent for a lease and with nobody elected, it still may write.
    sleep(LEASE + Duration::from_millis(200)).await;
    written(&leader, term, &[status(1, 1)]).await;
    let silent = Instant::now();
    let next = elect(&other, "two:2").await;
    assert!(next > term && silent.elapsed() >= LEASE, "{:?}", silent.elapsed());
    assert_eq!(leader.write(term, &[status(1, 2)]).await, Err(MetadataError::Fenced));
    let lead = leader.campaign("one:1").await;
    assert_eq!(lead, Ok(Lead::Other { address: Some("two:2".into()) }));
    assert_eq!(numbers(&other, next).await, [1]);
}

const URL: &str = "TIDEMILL_TEST_DATABASE";

/// What a stopped process does; not a test where it is not told to be one.
#[test]
fn process_that_leads_until_fenced() {
    let Some(url) = std::env::var(URL).ok() else { return };
    runtime().block_on(async {
        let store = candidate(&url, LEASE).await;
        let term = elect(&store, "child:1").await;
        written(&store, term, &[job(1)]).await;
        println!("leads {term}");
        let mut number = 0;
        loop {
            match store.write(term, &[status(1, number), status(1, number + 1)]).await {
                Ok(()) => println!("wrote {number}"),
                Err(MetadataError::Fenced) => break,
                Err(MetadataError::Unavailable(_) | MetadataError::InDoubt(_)) => continue,
                Err(e) => panic!("{e}"),
            }
            number += 2;
            store.campaign("child:1").await.ok();
        }
        println!("fenced");
    });
}

/// What processes that start together do; not a test where it is not told to be one.
#[test]
fn process_that_connects() {
    let Some(url) = std::env::var(URL).ok() else { return };
    runtime().block_on(async {
        candidate(&url, LEASE).await;
        println!("connected");
    });
}

fn process(what: &str, url: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("postgres::{what}"), "--nocapture"])
        .env(URL, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

#[tokio::test]
async fn a_process_stopped_beyond_its_lease_cannot_write_when_it_goes_on() {
    let server = Server::start().await;
    for round in 1..=2 {
        let (mut child, mut lines) = process("process_that_leads_until_fenced", &server.url());
        let mut written = lines.by_ref().map_while(Result::ok).filter(|l| l.starts_with("wrote"));
        // Stopped at some moment of a write.
        assert!(written.nth(10 * round).is_some(), "it ended by itself");
        signal_to(&child, Signal::STOP);
        let heir = server.candidate(LEASE).await;
        let term = elect(&heir, "heir:1").await;
        let before = numbers(&heir, term).await;
        assert_eq!(before.len() % 2, 0, "half of a write: {before:?}");
        signal_to(&child, Signal::CONT);
        let said: Vec<String> = lines.map_while(Result::ok).collect();
        assert!(child.wait().unwrap().success());
        assert!(said.iter().any(|line| line == "fenced"), "it went on: {said:?}");
        assert_eq!(numbers(&heir, term).await, before, "it changed something");
        heir.write(term, &[Change::ForgetJob(job_id(1))]).await.unwrap();
        heir.resign().await;
    }
}

#[tokio::test]
async fn processes_that_start_together_make_the_tables_once() {
    let server = Server::start().await;
    let processes: Vec<_> =
        (0..3).map(|_| process("process_that_connects", &server.url())).collect();
    let url = server.url();
    let (a, b, c) =
        tokio::join!(candidate(&url, LEASE), candidate(&url, LEASE), candidate(&url, LEASE));
    for (mut child, lines) in processes {
        let said: Vec<String> = lines.map_while(Result::ok).collect();
        assert!(child.wait().unwrap().success(), "{said:?}");
        assert!(said.iter().any(|line| line == "connected"), "{said:?}");
    }
    assert_eq!(server.ask("SELECT version FROM tidemill.migrations").await, ["(1)"]);
    assert_eq!(server.ask("SELECT term FROM tidemill.leadership").await, ["(0)"]);
    let term = elect(&a, "one:1").await;
    for other in [b, c] {
        assert_eq!(other.write(term, &[job(1)]).await, Err(MetadataError::Fenced));
    }
    a.write(term, &[job(1)]).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_ends_the_leadership_of_an_older_version() {
    let server = Server::start().await;
    let store = server.candidate(LEASE).await;
    let term = elect(&store, "one:1").await;
    store.write(term, &[job(1)]).await.unwrap();
    server.run("INSERT INTO tidemill.migrations (version) VALUES (7)").await;
    let error = PostgresMetadata::connect(&server.socket_url()).await.unwrap_err().to_string();
    for part in ["version 7", "knows version 1", "use the version that made them"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(store.write(term, &[job(2)]).await, Err(MetadataError::Fenced));
    assert_eq!(store.campaign("one:1").await, Ok(Lead::Other { address: None }));
    assert_eq!(server.ask("SELECT count(*) FROM tidemill.jobs").await, ["(1)"]);
}

#[tokio::test]
async fn what_is_in_doubt_is_said_to_be_and_nothing_else_is() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let url = format!("postgres://tidemill@127.0.0.1:{}/postgres", proxy.port);
    let store = candidate(&url, Duration::from_secs(60)).await;
    let term = elect(&store, "one:1").await;
    store.write(term, &[job(1)]).await.unwrap();
    for (number, when, there) in
        [(1, Break::AtBegin, false), (2, Break::AtCommit, false), (3, Break::AfterCommit, true)]
    {
        let before = numbers(&store, term).await;
        proxy.break_once(when);
        let answer = store.write(term, &[status(1, number)]).await;
        assert!(!proxy.waits(), "{when:?} did not happen: {answer:?}");
        match when {
            Break::AtBegin => assert!(matches!(answer, Err(MetadataError::Unavailable(_)))),
            _ => assert!(matches!(answer, Err(MetadataError::InDoubt(_))), "{when:?}: {answer:?}"),
        }
        // It connects anew by itself, and is the leader still.
        assert_eq!(store.campaign("one:1").await, Ok(Lead::Mine { term }));
        let now = numbers(&store, term).await;
        assert_eq!(now.contains(&number), there, "{when:?}");
        assert_eq!(now.len(), before.len() + usize::from(there));
        // Once more, until the answer is another one.
        store.write(term, &[status(1, number)]).await.unwrap();
        assert!(numbers(&store, term).await.contains(&number));
    }
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_told_before_the_caller_gives_up() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let url = format!("postgres://tidemill@127.0.0.1:{}/postgres", proxy.port);
    let store = candidate(&url, Duration::from_secs(60)).await;
    let term = elect(&store, "one:1").await;
    store.write(term, &[job(1)]).await.unwrap();
    proxy.break_once(Break::SilentAtCommit);
    let asked = Instant::now();
    let answer = store.write(term, &[status(1, 1)]).await;
    assert!(matches!(answer, Err(MetadataError::InDoubt(_))), "{answer:?}");
    // What the recorder waits.
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // The lock of what was silent is free again.
    assert_eq!(store.campaign("one:1").await, Ok(Lead::Mine { term }));
    written(&store, term, &[status(1, 2)]).await;
    assert_eq!(numbers(&store, term).await, [2]);
}

#[tokio::test]
async fn an_election_whose_answer_is_lost_is_known_the_next_time() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let url = format!("postgres://tidemill@127.0.0.1:{}/postgres", proxy.port);
    let store = candidate(&url, LEASE).await;
    proxy.break_once(Break::AfterCommit);
    let answer = store.campaign("one:1").await;
    assert!(matches!(answer, Err(MetadataError::Unavailable(_))), "{answer:?}");
    assert_eq!(store.campaign("one:1").await, Ok(Lead::Mine { term: 1 }));
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_and_nothing_of_its_write_is_kept() {
    let server = Server::start().await;
    let store = server.candidate(LEASE).await;
    let term = elect(&store, "one:1").await;
    store.write(term, &[job(1)]).await.unwrap();
    let kept = store.load(term).await.unwrap();
    let mut far = job_row(2);
    far.submitted_ms = i64::MAX;
    for wrong in [status(1, u64::MAX), Change::Job(Box::new(far))] {
        let answer = store.write(term, &[job(3), status(1, 1), wrong]).await;
        assert!(matches!(answer, Err(MetadataError::Refused(_))), "{answer:?}");
        assert_eq!(store.load(term).await.unwrap(), kept);
    }
    // A text that PostgreSQL has not is kept as it can be shown.
    let mut row = job_row(1);
    row.cause = Some("a \0 byte".into());
    store.write(term, &[Change::Job(Box::new(row))]).await.unwrap();
    let jobs = store.load(term).await.unwrap();
    assert_eq!(jobs[0].job.cause.as_deref(), Some("a \u{2400} byte"));
}

#[tokio::test]
async fn an_operator_finds_what_there_is_by_sql() {
    let server = Server::start().await;
    let store = server.candidate(LEASE).await;
    let term = elect(&store, "host:6123").await;
    let mut row = job_row(1);
    store.write(term, &[Change::Job(Box::new(row.clone())), status(1, 0)]).await.unwrap();
    row.attempt = 1;
    store.write(term, &[Change::Job(Box::new(row))]).await.unwrap();
    let leader = server.ask("SELECT term, address FROM tidemill.leadership").await;
    assert_eq!(leader, ["(1,host:6123)"]);
    let attempts = "SELECT attempt, term, last_status, parallelism FROM tidemill.attempts \
                    JOIN tidemill.jobs USING (job_id) ORDER BY 1";
    let attempts = attempts.replace("attempt, term", "attempts.attempt, term");
    let attempts = attempts.replace("parallelism", "attempts.parallelism");
    assert_eq!(server.ask(&attempts).await, ["(0,1,SCHEDULING,2)", "(1,1,SCHEDULING,2)"]);
    let job = "SELECT name, status, submitted_at AT TIME ZONE 'UTC' FROM tidemill.jobs";
    let found = server.ask(job).await;
    assert_eq!(found, ["(\"job 1\",SCHEDULING,\"2023-11-14 22:13:20.123\")"]);
    let history = server.ask("SELECT status FROM tidemill.status_history").await;
    assert_eq!(history, ["(RUNNING)"]);
    store.write(term, &[Change::ForgetJob(job_id(1))]).await.unwrap();
    assert_eq!(server.ask("SELECT attempt FROM tidemill.attempts").await, Vec::<String>::new());
}

#[tokio::test]
async fn what_waiting_does_not_help_is_an_error_with_its_remedy() {
    let server = Server::start().await;
    let refused = async |url: &str, password: Option<&str>| {
        let settings = tidemill_jobmanager::metadata::PostgresSettings {
            password: password.map(str::to_owned),
            ..Default::default()
        };
        let error = PostgresMetadata::connect_with(url, settings).await.unwrap_err().to_string();
        assert!(!error.contains(PASSWORD) && !error.contains("wrong"), "{error}");
        error
    };
    let url = server.url();
    for password in [Some("wrong"), None] {
        let error = refused(&url, password).await;
        assert!(error.contains("correct user and password"), "{error}");
        assert!(error.contains(&format!("127.0.0.1:{}", server.port())), "{error}");
    }
    let error = refused(&url.replace("/postgres", "/nowhere"), Some(PASSWORD)).await;
    assert!(error.contains("nowhere") && error.contains("createdb"), "{error}");
    server.run("CREATE ROLE guest LOGIN").await;
    let guest = server.socket_url().replace("user=tidemill", "user=guest");
    let error = refused(&guest, None).await;
    assert!(error.contains("permission denied") && error.contains("CREATE"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let nowhere = format!("postgres://tidemill@127.0.0.1:{}/postgres", free_port());
    let store = candidate(&nowhere, LEASE).await;
    let answer = store.campaign("one:1").await;
    assert!(matches!(answer, Err(MetadataError::Unavailable(_))), "{answer:?}");
    let answer = store.write(1, &[job(1)]).await;
    assert!(matches!(answer, Err(MetadataError::Unavailable(_))), "{answer:?}");
    let server = Server::start().await;
    server.end(End::Fast);
    let store = server.candidate(LEASE).await;
    assert!(store.campaign("one:1").await.is_err());
    server.resume().await;
    let term = elect(&store, "one:1").await;
    store.write(term, &[job(1)]).await.unwrap();
}
