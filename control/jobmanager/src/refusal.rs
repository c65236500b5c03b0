//! Why a request is not served: a status, a text for people, and facts for programs.

use hyper::StatusCode;
use serde_json::{Map, Value};

/// Answered as `{"detail": "...", ...}`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) detail: String,
    pub(crate) more: Map<String, Value>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Refusal { status, detail: detail.into(), more: Map::new() }
    }

    /// With one more field.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub(crate) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// Too few free slots.
    pub(crate) fn no_slots(wanted: u32, free: u32) -> Self {
        Self::unavailable("No available TaskManagers for scheduling")
            .with("slots_wanted", wanted)
            .with("slots_free", free)
    }

    /// Somebody else leads.
    pub(crate) fn not_leader(leader: Option<&str>) -> Self {
        let who =
            leader.map_or("nobody yet".to_owned(), |l| format!("the one with control port {l}"));
        Self::unavailable(format!("this JobManager does not lead; the leader is {who}"))
            .with("leader", leader.map_or(Value::Null, Value::from))
    }
}
