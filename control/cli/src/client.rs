//! The REST interface, as a client: one HTTP/1.1 request a connection, answers as JSON.
//!
//! Invariants
//!   H1  Every request ends within its time, with an answer or with a failure that names the address.
//!   H2  The token goes to the address of the settings and nowhere else: redirects are not followed.

mod upload;

pub(crate) use upload::Form;

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::exit::{self, Failure};
use crate::secrets;
use crate::settings::Settings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For all but uploads.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Knows where a JobManager is.
#[derive(Debug)]
pub(crate) struct Client {
    /// `host:port`.
    authority: String,
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
        let address = settings.text_of("address").unwrap_or_default();
        let authority = authority(address).map_err(|why| {
            Failure::usage(format!("{}: address = {address}: {why}", settings.origin("address")))
        })?;
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
        Ok(Client { authority, token })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let sent = self.send(Method::GET, path, None, Full::new(Bytes::new()));
        good(self.in_time(ANSWER_TIMEOUT, sent).await?)
    }

    /// A POST with a JSON body, or none.
    pub(crate) async fn post(&self, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let kind = body.as_ref().map(|_| "application/json");
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let sent = self.send(Method::POST, path, kind, Full::new(body));
        good(self.in_time(ANSWER_TIMEOUT, sent).await?)
    }

    /// A POST of a form.
    pub(crate) async fn submit(&self, form: Form) -> Result<Value, Failure> {
        let kind = form.content_type();
        let limit = form.time();
        let sent = self.send(Method::POST, "/jobs/submit", Some(&kind), form.into_body());
        good(self.in_time(limit, sent).await?)
    }

    /// H1.
    async fn in_time(
        &self,
        limit: Duration,
        sent: impl Future<Output = Result<Answer, Failure>>,
    ) -> Result<Answer, Failure> {
        let late = |_| {
            let text = format!("no answer from http://{} within {limit:?}", self.authority);
            Failure::new(exit::UNREACHABLE, text)
        };
        timeout(limit, sent).await.map_err(late)?
    }

    async fn send<B>(
        &self,
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
                    "no answer from http://{}{path}: {why}; is a JobManager there? Another one is named by --address \
                     or TIDEMILL_ADDRESS",
                    self.authority
                ),
            )
        };
        let connect = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await;
        let stream = connect.map_err(|_| away("it takes too long to connect".into()))?;
        let stream = stream.map_err(|e| away(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|e| away(e.to_string()))?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
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

/// `host:port` of an address.
fn authority(address: &str) -> Result<String, String> {
    let example = "write http://HOST:PORT, e.g. http://127.0.0.1:8081";
    if address.starts_with("https://") {
        return Err(format!("TLS is not spoken; put a tunnel before it, and {example}"));
    }
    let uri: Uri = address.parse().map_err(|e| format!("{e}; {example}"))?;
    let path = uri.path_and_query().map_or("", |p| p.as_str());
    if uri.scheme_str().is_some_and(|s| s != "http") || !matches!(path, "" | "/") {
        return Err(example.into());
    }
    let authority = uri.authority().ok_or(example)?;
    match authority.port_u16() {
        _ if authority.as_str().contains('@') => Err(format!("no user belongs there; {example}")),
        Some(_) => Ok(authority.to_string()),
        None => Ok(format!("{}:8081", authority.host())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let same = |text: &str| authority(text).expect("good");
        assert_eq!(same("http://localhost:8081"), "localhost:8081");
        assert_eq!(same("http://localhost:8081/"), "localhost:8081");
        assert_eq!(same("jm:9000"), "jm:9000");
        assert_eq!(same("http://jm"), "jm:8081");
        assert_eq!(same("http://[::1]:80"), "[::1]:80");
        for wrong in ["https://a:1", "ftp://a:1", "http://a:1/path", "http://u:p@a:1", "", "a b"] {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn refusals_say_all_that_the_answer_says() {
        let body = serde_json::json!({"detail": "No slots", "slots_wanted": 8});
        let answer = Answer { status: StatusCode::SERVICE_UNAVAILABLE, body };
        let text = good(answer).expect_err("refused").to_string();
        assert_eq!(text, "No slots; slots_wanted: 8");
    }
}
