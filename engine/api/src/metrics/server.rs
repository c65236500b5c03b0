//! Serves a job's metrics over HTTP, from a thread of its own that no slot waits for.
//!
//! `GET /metrics` is the text, `GET /` says so, anything else is refused but `POST /savepoint` and
//! `POST /stop` (end with a savepoint), which answer `{"savepoint": "<directory>"}` when it is there,
//! or `{"detail": "<why not>"}`. The same thread samples the subtasks once a second.
//!
//! Invariants
//!   S1  An address that other machines reach is bound only with `--insecure`: there is no token.
//!   S2  At most [`CONNECTIONS_MAX`] connections at a time; a silent one is closed.
//!   S3  Requests that do something are taken on a loopback address only, and never from a web page
//!       (browsers send an `Origin`).

use super::registry::JobMetrics;
use super::text::CONTENT_TYPE;
use crate::job::Asker;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Clock, Error, Result};
use tokio::sync::{Semaphore, oneshot};

#[cfg(test)]
mod tests;

/// Connections served at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;

/// A connection that sends no whole request for as long as this is closed.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A connection is closed after this, however slowly it reads; scrapers open another.
const CONNECTION_MAX: Duration = Duration::from_secs(300);

/// How long the end of the job waits for answers to be read.
const ANSWERS_MAX: Duration = Duration::from_secs(1);

/// Between samples of busy, idle and backpressured time.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// A running server; ends when dropped.
pub(crate) struct Server {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds and serves from now on.
    ///
    /// # Errors
    /// When the address cannot be had, or must not be without `insecure` (S1).
    pub(crate) fn start(
        addr: SocketAddr,
        insecure: bool,
        metrics: Arc<JobMetrics>,
        clock: SystemClock,
        asker: Asker,
    ) -> Result<Server> {
        if !addr.ip().to_canonical().is_loopback() && !insecure {
            return Err(Error::job(format!(
                "--metrics-addr {addr}: other machines can reach this address, and metrics are \
                 served without a password; use 127.0.0.1:{}, or add --insecure to allow it",
                addr.port()
            )));
        }
        let failed = |what: &str, e: std::io::Error| {
            Error::job(format!(
                "--metrics-addr {addr}: {what}: {e}; choose a free address of this machine"
            ))
        };
        let listener = TcpListener::bind(addr).map_err(|e| failed("cannot listen", e))?;
        listener.set_nonblocking(true).map_err(|e| failed("cannot listen", e))?;
        let addr = listener.local_addr().map_err(|e| failed("cannot listen", e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| failed("cannot start the server", e))?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                tokio::spawn(sample(metrics.clone(), clock.clone()));
                let local = addr.ip().to_canonical().is_loopback();
                let asking = Arc::new(AtomicUsize::new(0));
                let service = Service { metrics, clock, asker, local, asking: asking.clone() };
                tokio::spawn(accept(listener, service));
                // An error is the sender's end, which means the same.
                let _ = stopped.await;
                let answered = async {
                    while asking.load(Ordering::Relaxed) > 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                };
                let _ = tokio::time::timeout(ANSWERS_MAX, answered).await;
            });
        };
        let thread = std::thread::Builder::new()
            .name(String::from("metrics"))
            .spawn(serve)
            .map_err(|e| failed("cannot start the server's thread", e))?;
        Ok(Server { addr, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the metrics server ended by a panic");
        }
    }
}

async fn sample(metrics: Arc<JobMetrics>, clock: SystemClock) {
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        metrics.sample(clock.now());
    }
}

async fn accept(listener: TcpListener, service: Service) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!("metrics are not served: {e}"),
    };
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(place) = free.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of file descriptors, or the peer has gone already.
                tracing::debug!("metrics: a connection could not be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let asking = Arc::new(Asking { count: service.asking.clone(), asked: false.into() });
        let (own, its) = (service.clone(), asking.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (service, asking) = (own.clone(), its.clone());
            async move { Ok::<_, Infallible>(service.respond(&request, &asking).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SILENCE_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // What goes wrong on a scraper's connection is the scraper's.
            let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
            asking.end();
            drop(place);
        });
    }
}

/// What requests are answered from.
#[derive(Clone)]
struct Service {
    metrics: Arc<JobMetrics>,
    clock: SystemClock,
    asker: Asker,
    /// S3.
    local: bool,
    /// Connections that have asked for a savepoint and are open.
    asking: Arc<AtomicUsize>,
}

/// Whether a connection has asked for a savepoint.
struct Asking {
    count: Arc<AtomicUsize>,
    asked: AtomicBool,
}

impl Asking {
    fn begin(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn end(&self) {
        if self.asked.swap(false, Ordering::Relaxed) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

impl Service {
    async fn respond(&self, request: &Request<Incoming>, asking: &Asking) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        let reads = method == Method::GET || method == Method::HEAD;
        match path {
            "/metrics" | "/" if !reads => not_allowed("GET, HEAD"),
            "/metrics" => {
                response(StatusCode::OK, CONTENT_TYPE, self.metrics.render(self.clock.now()))
            }
            "/" => {
                let text = "Tidemill job; Prometheus metrics are at /metrics\n";
                response(StatusCode::OK, PLAIN, text.to_owned())
            }
            "/savepoint" | "/stop" if method != Method::POST => not_allowed("POST"),
            "/savepoint" | "/stop" => {
                asking.begin();
                let mut response = self.savepoint(request, path == "/stop").await;
                // Whoever waits for the job's end sees the connection close.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
            _ => {
                let text = "not here; Prometheus metrics are at /metrics\n";
                response(StatusCode::NOT_FOUND, PLAIN, text.to_owned())
            }
        }
    }

    async fn savepoint(&self, request: &Request<Incoming>, stop: bool) -> Response<Full<Bytes>> {
        if !self.local || request.headers().contains_key(ORIGIN) {
            let why = "savepoints are taken by requests from this machine, not from a web page: \
                       give a --metrics-addr on 127.0.0.1, or send SIGUSR1 or SIGUSR2";
            return refused(StatusCode::FORBIDDEN, why);
        }
        let answer = match self.asker.ask(stop) {
            Ok(answer) => answer.await,
            Err(why) => return refused(StatusCode::SERVICE_UNAVAILABLE, &why),
        };
        match answer {
            Ok(Ok(path)) => {
                let body = serde_json::json!({ "savepoint": path.display().to_string() });
                response(StatusCode::OK, JSON, format!("{body}\n"))
            }
            Ok(Err(why)) => refused(StatusCode::CONFLICT, &why),
            Err(_) => refused(StatusCode::CONFLICT, "the job, or this attempt of it, has ended"),
        }
    }
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, format!("only {methods}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn refused(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    response(status, JSON, format!("{}\n", serde_json::json!({ "detail": why })))
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(kind));
    response
}
