//! Answers, and their one form of errors (E1).

use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// Of a text that becomes a `detail`.
const DETAIL_BYTES_MAX: usize = 16 << 10;

/// A JSON answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    location: Option<String>,
}

impl Answer {
    pub(super) fn ok(body: impl Serialize) -> Self {
        Self::with(StatusCode::OK, body)
    }

    pub(super) fn with(status: StatusCode, body: impl Serialize) -> Self {
        match serde_json::to_vec(&body) {
            Ok(body) => Answer { status, body, location: None },
            Err(e) => Self::from(&Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
        }
    }

    /// Says where the new thing is.
    pub(super) fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }
}

impl From<&Refusal> for Answer {
    fn from(refusal: &Refusal) -> Self {
        let mut body = Map::new();
        body.insert("detail".into(), refusal.detail.clone().into());
        body.extend(refusal.more.clone());
        let body = serde_json::to_vec(&body).unwrap_or_default();
        Answer { status: refusal.status, body, location: None }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if let Some(Ok(location)) = self.location.map(HeaderValue::try_from) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        refuse(&self)
    }
}

pub(super) fn refuse(refusal: &Refusal) -> Response {
    Answer::from(refusal).into_response()
}

/// Gives errors of the router and of extractors the form of all others; their headers stay.
pub(super) async fn in_form(response: Response) -> Response {
    let status = response.status();
    let json = |v: &HeaderValue| v.as_bytes().starts_with(b"application/json");
    if status.as_u16() < 400 || response.headers().get(CONTENT_TYPE).is_some_and(json) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, DETAIL_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let detail = match (status, text.trim()) {
        (StatusCode::NOT_FOUND, "") => {
            "there is nothing here; GET /openapi.json lists all there is"
        }
        (StatusCode::METHOD_NOT_ALLOWED, "") => {
            "this method is not served here; the header Allow names those that are"
        }
        (_, "") => status.canonical_reason().unwrap_or("refused"),
        (_, text) => text,
    };
    let body = serde_json::to_vec(&serde_json::json!({ "detail": Value::from(detail) }));
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Body::from(body.unwrap_or_default()))
}
