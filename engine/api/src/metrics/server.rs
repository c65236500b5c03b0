//! Serves a job's metrics over HTTP, from a thread of its own that no slot waits for.
//!
//! `GET /metrics` is the text, `GET /` says so, anything else is refused. The same thread samples
//! the subtasks once a second.
//!
//! Invariants
//!   S1  An address that other machines reach is bound only with `--insecure`: there is no token.
//!   S2  At most [`CONNECTIONS_MAX`] connections at a time; a silent one is closed.

use super::registry::JobMetrics;
use super::text::CONTENT_TYPE;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
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
                tokio::spawn(accept(listener, metrics, clock));
                // An error is the sender's end, which means the same.
                let _ = stopped.await;
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

async fn accept(listener: TcpListener, metrics: Arc<JobMetrics>, clock: SystemClock) {
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
        let (metrics, clock) = (metrics.clone(), clock.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let response = respond(request.method(), request.uri().path(), &metrics, &clock);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SILENCE_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // What goes wrong on a scraper's connection is the scraper's.
            let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
            drop(place);
        });
    }
}

fn respond(
    method: &Method,
    path: &str,
    metrics: &JobMetrics,
    clock: &dyn Clock,
) -> Response<Full<Bytes>> {
    let (status, kind, body) = match path {
        "/metrics" | "/" if method != Method::GET && method != Method::HEAD => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=utf-8",
            String::from("only GET\n"),
        ),
        "/metrics" => (StatusCode::OK, CONTENT_TYPE, metrics.render(clock.now())),
        "/" => (
            StatusCode::OK,
            "text/plain; charset=utf-8",
            String::from("Tidemill job; Prometheus metrics are at /metrics\n"),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            String::from("not here; Prometheus metrics are at /metrics\n"),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
