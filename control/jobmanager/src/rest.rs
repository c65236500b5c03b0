//! The REST interface: HTTP/1.1 by hyper, routes by axum. docs/rest.md shows it to users.
//!
//! Invariants
//!   E1  Every error is JSON with a `detail`, whoever makes it: handlers, the router, extractors, hyper (wire.rs).
//!   E2  With a token set, only `GET /` is served without it; comparison takes the same time for any
//!       wrong one.
//!   E3  Without a token, what changes something is not done for web pages (they send an `Origin`).
//!   E4  Connections, headers, bodies and the time of each are bounded; a silent client is given up.

mod answer;
mod body;
mod jobs;
pub(crate) mod openapi;
mod prometheus;
mod submit;
mod upload;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use hyper::header::{AUTHORIZATION, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::config::JobManagerConfig;
use crate::refusal::Refusal;
use crate::service::{Ask, Files, Leadership, Service};
use crate::stores::Stores;
use answer::Answer;
use body::Timed;
use wire::Wire;

/// How long a request waits for the service's queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// When the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// What the header Authorization begins with.
const BEARER: &[u8] = b"Bearer ";

/// What handlers share.
pub(crate) struct App {
    pub(crate) config: Arc<JobManagerConfig>,
    pub(crate) stores: Stores,
    pub(crate) files: Files,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Answers by hundreds of their status.
    answers: [AtomicU64; 6],
}

type Shared = State<Arc<App>>;

impl App {
    pub(crate) fn new(
        config: Arc<JobManagerConfig>,
        stores: Stores,
        files: Files,
        asks: mpsc::Sender<Ask>,
        leadership: watch::Receiver<Leadership>,
    ) -> Arc<Self> {
        Arc::new(App { config, stores, files, asks, leadership, answers: Default::default() })
    }

    /// Asks the service.
    ///
    /// # Errors
    /// What it refuses, and a service that is busy or ends.
    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Ask,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| Refusal::unavailable("the JobManager is busy; try again");
        let ends = || Refusal::unavailable("the JobManager does not lead any more; try again");
        timeout(QUEUE_TIMEOUT, self.asks.send(ask(reply)))
            .await
            .map_err(busy)?
            .map_err(|_| ends())?;
        answer.await.map_err(|_| ends())?
    }

    /// Looks at what the service has in memory.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Service) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.ask(|reply| {
            Ask::Look(Box::new(move |service| {
                // Who asked may be gone.
                let _ = reply.send(look(service));
            }))
        })
        .await
    }

    fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).min(5);
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    /// # Errors
    /// Where this JobManager does not lead.
    fn check_leads(&self) -> Result<(), Refusal> {
        match &*self.leadership.borrow() {
            Leadership::Leading => Ok(()),
            Leadership::Following { leader } => Err(Refusal::not_leader(leader.as_deref())),
        }
    }
}

/// All routes. Whatever is added here is added to openapi.rs and docs/rest.md; a test compares.
fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(health))
        .route("/openapi.json", get(description))
        .route("/metrics", get(prometheus::serve))
        .route("/cluster/metrics", get(jobs::cluster))
        .route("/taskmanagers", get(jobs::task_managers))
        .route("/jobs", get(jobs::list))
        .route("/jobs/submit", post(submit::submit))
        .route("/jobs/{id}", get(jobs::detail))
        .route("/jobs/{id}/status", get(jobs::detail))
        .route("/jobs/{id}/plan", get(jobs::plan))
        .route("/jobs/{id}/metrics", get(jobs::metrics))
        .route("/jobs/{id}/checkpoints", get(jobs::checkpoints))
        .route("/jobs/{id}/exceptions", get(jobs::exceptions))
        .route("/jobs/{id}/logs", get(jobs::logs))
        .route("/jobs/{id}/savepoints/{trigger}", get(jobs::savepoint_status))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/savepoint", post(jobs::savepoint))
        .route("/jobs/{id}/stop", post(jobs::stop))
        .route("/jobs/{id}/rescale", post(jobs::rescale))
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

async fn health(State(app): Shared) -> Answer {
    let role = match &*app.leadership.borrow() {
        Leadership::Leading => "leader",
        Leadership::Following { .. } => "follower",
    };
    Answer::ok(json!({
        "name": "tidemill",
        "version": env!("CARGO_PKG_VERSION"),
        "status": "ok",
        "role": role,
    }))
}

async fn description(State(app): Shared) -> Answer {
    Answer::ok(openapi::document(&app.config.limits))
}

/// Around every request: who may, how long, and that errors are what they should be.
async fn guard(State(app): Shared, request: Request, next: Next) -> Response {
    let limits = &app.config.limits;
    let response = match admit(&app.config, &request) {
        Err(response) => *response,
        Ok(()) => {
            let silence = limits.client_silence;
            let request = request.map(|body| Body::new(Timed::new(body, silence)));
            let late = || {
                let detail = format!("the request took longer than {:?}", limits.request_timeout);
                Refusal::new(StatusCode::REQUEST_TIMEOUT, detail)
            };
            let served = timeout(limits.request_timeout, next.run(request)).await;
            served.unwrap_or_else(|_| answer::refuse(&late()))
        }
    };
    app.count(response.status());
    answer::in_form(response).await
}

/// E2, E3.
fn admit(config: &JobManagerConfig, request: &Request) -> Result<(), Box<Response>> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let Some(token) = &config.token else {
        if !reads && request.headers().contains_key(ORIGIN) {
            let detail =
                "web pages may not do this: the JobManager has no token (security.token_file)";
            return Err(Box::new(answer::refuse(&Refusal::new(StatusCode::FORBIDDEN, detail))));
        }
        return Ok(());
    };
    if request.uri().path() == "/" && reads {
        return Ok(());
    }
    let given = request.headers().get(AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    if let Some((scheme, given)) = given.split_at_checked(BEARER.len())
        && scheme.eq_ignore_ascii_case(BEARER)
        && bool::from(given.trim_ascii().ct_eq(token.trim().as_bytes()))
    {
        return Ok(());
    }
    let detail = "this JobManager wants its token: send Authorization: Bearer TOKEN";
    let mut response = answer::refuse(&Refusal::new(StatusCode::UNAUTHORIZED, detail));
    let scheme = HeaderValue::from_static("Bearer realm=\"tidemill\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    Err(Box::new(response))
}

/// What is wrong with a head that hyper does not take.
fn unreadable(status: StatusCode, error: &hyper::Error) -> String {
    match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            format!(
                "the head of the request has more than {HEAD_BYTES_MAX} bytes, or too many fields"
            )
        }
        StatusCode::URI_TOO_LONG => "the address of the request is too long".into(),
        _ => format!("this is no HTTP that can be read: {error}"),
    }
}

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, app: Arc<App>) {
    let limits = app.config.limits.clone();
    let free = Arc::new(Semaphore::new(limits.rest_connections));
    let service = TowerToHyperService::new(router(app.clone()));
    // The semaphore is never closed.
    while let Ok(place) = free.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                warn!("no REST connection is accepted: {e}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small: nothing waits for more.
        let _ = stream.set_nodelay(true);
        let (service, app) = (service.clone(), app.clone());
        tokio::spawn(async move {
            let mut connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.client_silence)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(Wire::new(stream)), service);
            if let Err(e) = (&mut connection).await {
                debug!("a REST connection ended: {e}");
                let wire = connection.into_parts().io.into_inner();
                if let Some(status) = wire.refused() {
                    app.count(status);
                    if let Err(e) = wire.refuse(status, &unreadable(status, &e)).await {
                        debug!("a refusal was not heard: {e}");
                    }
                }
            }
            drop(place);
        });
    }
}
