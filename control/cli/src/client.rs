//! The REST interface, as a client: one HTTP/1.1 request a connection, answers as JSON.
//!
//! Invariants
//!   H1  Every request ends within its time, with an answer or with a failure that names the address.
//!   H2  The token goes to the addresses of the settings and nowhere else: redirects are not followed.
//!   H3  A request is sent once. Of several JobManagers the one that leads is looked for before, so that nothing
//!       is done twice where an answer was lost.

mod address;
mod upload;

pub(crate) use upload::Form;

use std::cell::Cell;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::exit::{self, Failure};
use crate::secrets;
use crate::settings::Settings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What each of several JobManagers may take to say whether it leads.
const ROLE_TIMEOUT: Duration = Duration::from_secs(5);
/// For all but uploads.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Knows where JobManagers are.
#[derive(Debug)]
pub(crate) struct Client {
    /// `host:port` of each; not empty.
    authorities: Vec<String>,
    /// The place of the one that leads, once it is known.
    leader: Cell<Option<usize>>,
    token: Option<HeaderValue>,
}

/// What a JobManager said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

impl Client {
    /// # Errors
    /// An address or a token that cannot be.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let authorities = settings.list("address").into_iter().map(|address| {
            address::authority(&address).map_err(|why| {
                Failure::usage(format!(
                    "{}: address = {address}: {why}",
                    settings.origin("address")
                ))
            })
        });
        let authorities: Vec<String> = authorities.collect::<Result<_, _>>()?;
        let leader = Cell::new((authorities.len() == 1).then_some(0));
        let token = secrets::token(settings)?;
        let token = token.map(|token| HeaderValue::try_from(format!("Bearer {token}"))).transpose();
        let mut token = token.map_err(|_| {
            Failure::usage(
                "the token has characters that no HTTP header may have: use letters and digits",
            )
        })?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Client { authorities, leader, token })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let to = self.leader().await?;
        let sent = self.send(to, Method::GET, path, None, Full::new(Bytes::new()));
        self.good(in_time(to, ANSWER_TIMEOUT, sent).await)
    }

    /// A POST with a JSON body, or none.
    pub(crate) async fn post(&self, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let kind = body.as_ref().map(|_| "application/json");
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let to = self.leader().await?;
        let sent = self.send(to, Method::POST, path, kind, Full::new(body));
        self.good(in_time(to, ANSWER_TIMEOUT, sent).await)
    }

    /// A POST of a form.
    pub(crate) async fn submit(&self, form: Form) -> Result<Value, Failure> {
        let kind = form.content_type();
        let limit = form.time();
        let to = self.leader().await?;
        let sent = self.send(to, Method::POST, "/jobs/submit", Some(&kind), form.into_body());
        self.good(in_time(to, limit, sent).await)
    }

    /// The one to ask: the only one that is known, or of several the first that says that it leads (H3).
    async fn leader(&self) -> Result<&str, Failure> {
        if let Some(known) = self.leader.get() {
            return Ok(&self.authorities[known]);
        }
        let mut seen = Vec::new();
        let mut code = exit::UNREACHABLE;
        for (at, authority) in self.authorities.iter().enumerate() {
            let sent = self.send(authority, Method::GET, "/", None, Full::new(Bytes::new()));
            match in_time(authority, ROLE_TIMEOUT, sent).await {
                Ok(Answer { body, .. }) if body["role"] == "leader" => {
                    self.leader.set(Some(at));
                    return Ok(authority);
                }
                Ok(_) => {
                    code = exit::UNAVAILABLE;
                    seen.push(format!("http://{authority} does not lead"));
                }
                Err(e) => seen.push(e.to_string()),
            }
        }
        Err(Failure::new(code, format!("no JobManager leads: {}", seen.join("; "))))
    }

    /// The answer's body, or what is said in it against the request. Where that may pass, another one of several may
    /// lead by the next request.
    fn good(&self, answer: Result<Answer, Failure>) -> Result<Value, Failure> {
        let result = answer.and_then(good);
        if result.as_ref().is_err_and(Failure::may_pass) && self.authorities.len() > 1 {
            self.leader.set(None);
        }
        result
    }

    async fn send<B>(
        &self,
        authority: &str,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: B,
    ) -> Result<Answer, Failure>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let away = |why: String| {
            Failure::new(
                exit::UNREACHABLE,
                format!(
                    "no answer from http://{authority}{path}: {why}; is a JobManager there? Another one is named by \
                     --address or TIDEMILL_ADDRESS"
                ),
            )
        };
        let connect = timeout(CONNECT_TIMEOUT, TcpStream::connect(authority)).await;
        let stream = connect.map_err(|_| away("it takes too long to connect".into()))?;
        let stream = stream.map_err(|e| away(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|e| away(e.to_string()))?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority);
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(body).map_err(|e| Failure::here(format!("the request: {e}")))?;
        // The connection ends with its sender, below.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|e| away(cause(&e)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| away(e.to_string()))?.to_bytes();
        let body = serde_json::from_slice(&body).map_err(|_| {
            away(format!(
                "it answers {status} and something that is no JSON; is that a JobManager?"
            ))
        })?;
        Ok(Answer { status, body })
    }
}

/// H1.
async fn in_time(
    authority: &str,
    limit: Duration,
    sent: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    let late = |_| {
        let text = format!("no answer from http://{authority} within {limit:?}");
        Failure::new(exit::UNREACHABLE, text)
    };
    timeout(limit, sent).await.map_err(late)?
}

/// An error and what is behind it.
fn cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The answer's body, or what is said in it against the request.
fn good(answer: Answer) -> Result<Value, Failure> {
    if answer.status.is_success() {
        return Ok(answer.body);
    }
    let detail = answer.body["detail"].as_str().unwrap_or("no reason is given").to_owned();
    let mut text = detail;
    // What further fields say.
    for (name, value) in answer.body.as_object().into_iter().flatten() {
        if name != "detail" {
            text.push_str(&format!("; {name}: {value}"));
        }
    }
    if answer.status == StatusCode::UNAUTHORIZED {
        text.push_str("; give the token by security.token_file or TIDEMILL_TOKEN");
    }
    let passes = answer.status == StatusCode::SERVICE_UNAVAILABLE;
    Err(Failure::new(if passes { exit::UNAVAILABLE } else { exit::REFUSED }, text))
}

#[cfg(test)]
mod tests;
