//! Bodies of requests: they come in time (E4), and small ones are read as JSON.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep};

use crate::refusal::Refusal;

/// The largest JSON body.
const JSON_BYTES_MAX: usize = 64 << 10;

/// A body whose client has to go on sending.
pub(super) struct Timed {
    body: Body,
    silence: Duration,
    deadline: Pin<Box<Sleep>>,
}

/// Says that a client sent nothing more.
#[derive(Debug, thiserror::Error)]
#[error("nothing more of the request's body came for {0:?}")]
pub(super) struct Silent(Duration);

impl Timed {
    pub(super) fn new(body: Body, silence: Duration) -> Self {
        Timed { body, silence, deadline: Box::pin(sleep(silence)) }
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let next = Instant::now() + self.silence;
            self.deadline.as_mut().reset(next);
            return Poll::Ready(frame);
        }
        let silence = self.silence;
        self.deadline.as_mut().poll(cx).map(|()| Some(Err(axum::Error::new(Silent(silence)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why reading a body failed, found among an error's causes.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Refusal {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if let Some(silent) = e.downcast_ref::<Silent>() {
            return Refusal::new(StatusCode::REQUEST_TIMEOUT, silent.to_string());
        }
        if e.is::<LengthLimitError>() {
            let detail = format!("the body has more than {JSON_BYTES_MAX} bytes");
            return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail);
        }
        cause = e.source();
    }
    Refusal::bad(format!("the request's body ended early: {error}"))
}

/// Reads a JSON object; a body that may be missing counts as `{}` where it is empty.
///
/// # Errors
/// 415 for another type, 413, 400 for what is no JSON, 422 for what is not the object wanted.
pub(super) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    optional: bool,
) -> Result<T, Refusal> {
    let bytes = match Limited::new(body, JSON_BYTES_MAX).collect().await {
        Ok(all) => all.to_bytes(),
        Err(e) => return Err(broken(&*e)),
    };
    if optional && bytes.is_empty() {
        return serde_json::from_str("{}").map_err(|e| Refusal::unprocessable(e.to_string()));
    }
    let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let detail = format!("the body's type is '{given}'; send application/json");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Refusal::bad(format!("the body is no JSON: {e}")))?;
    serde_json::from_value(value).map_err(|e| Refusal::unprocessable(format!("the body: {e}")))
}
