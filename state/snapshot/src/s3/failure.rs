//! What a server, or the way to it, said: which error that is, and the remedy.
//!
//! Invariants
//!   K1  `Transient { sent }`: `sent` is false only when the server said itself that it did nothing.
//!   K2  Every message names bucket, key, the call and what was said.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::error::{Error, Report};

/// A failed request.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) report: Report,
}

/// What it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such object.
    Missing,
    /// A condition was not met: the object is there.
    Exists,
    /// The server does not know the call, or a header of it.
    Unsupported,
    /// The permission is missing.
    Denied,
    /// It may work later. Whether what was asked for may have been done all the same.
    Transient { sent: bool },
    /// It will not work until something is changed.
    Permanent,
}

/// A call of S3, and the permission that it needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call(pub(super) &'static str, pub(super) &'static str);

impl Failure {
    fn new(kind: Kind, place: &str, seen: String, remedy: impl Into<String>) -> Self {
        let report = Report { path: place.to_owned(), seen, remedy: remedy.into() };
        Failure { kind, report }
    }

    /// By the SDK's error.
    pub(super) fn of<E>(call: Call, place: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ServiceError(said) => answered(call, place, said.raw(), said.err()),
            SdkError::TimeoutError(_) => Self::late(call, place),
            SdkError::DispatchFailure(failed) if failed.is_timeout() => Self::late(call, place),
            SdkError::ResponseError(said) => {
                let status = said.raw().status().as_u16();
                let seen =
                    format!("{}: the answer ({status}) was cut short: {}", call.0, chain(error));
                Self::new(Kind::Transient { sent: true }, place, seen, AGAIN)
            }
            _ => unanswered(call, place, error),
        }
    }

    /// No answer in time.
    pub(super) fn late(call: Call, place: &str) -> Self {
        let seen = format!("{}: the server did not answer in time", call.0);
        let remedy = "check that the server is well and reachable; a slow one gets more time by \
                      TIDEMILL_S3_TIMEOUT";
        Self::new(Kind::Transient { sent: true }, place, seen, remedy)
    }

    /// The answer's body ended too early, or not in time.
    pub(super) fn cut(call: Call, place: &str, why: &str) -> Self {
        let seen = format!("{}: the answer's body was cut short: {why}", call.0);
        Self::new(Kind::Transient { sent: true }, place, seen, AGAIN)
    }

    /// One of several was not done.
    pub(super) fn refused_one(
        call: Call,
        place: &str,
        code: Option<&str>,
        message: Option<&str>,
    ) -> Self {
        let (code, message) = (code.unwrap_or("no code"), message.unwrap_or_default());
        let status = match code {
            "AccessDenied" => 403,
            "SlowDown" | "ServiceUnavailable" => 503,
            "InternalError" => 500,
            _ => 400,
        };
        let (kind, remedy) = judge(call, status, code, None);
        Self::new(kind, place, format!("{}: {code} ({message})", call.0), remedy)
    }

    /// As the store's error, of a call that changes nothing.
    pub(super) fn reading(self) -> Error {
        match self.kind {
            Kind::Missing => Error::Missing(self.report),
            Kind::Transient { .. } => Error::Retry(self.report),
            _ => Error::Refused(self.report),
        }
    }

    /// As the store's error, of a call that stores or deletes.
    pub(super) fn writing(self) -> Error {
        match self.kind {
            Kind::Transient { .. } => Error::Retry(self.report),
            _ => Error::FailCheckpoint(self.report),
        }
    }
}

const AGAIN: &str = "this looks transient: the next attempt may succeed";

/// How long to wait before a further try; the SDK does the same for what it tries again itself.
pub(super) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(100 << attempt.min(5))
}

fn answered<E: ProvideErrorMetadata>(
    call: Call,
    place: &str,
    raw: &HttpResponse,
    error: &E,
) -> Failure {
    let status = raw.status().as_u16();
    let code = error.code().unwrap_or_default();
    let mut seen = format!("{}: the server answered {status}", call.0);
    if !code.is_empty() {
        let _ = write!(seen, " {code}");
    }
    if let Some(message) = error.message().filter(|m| !m.is_empty()) {
        let _ = write!(seen, " ({message})");
    }
    let (kind, remedy) = judge(call, status, code, raw.headers().get("x-amz-bucket-region"));
    Failure::new(kind, place, seen, remedy)
}

fn judge(call: Call, status: u16, code: &str, region: Option<&str>) -> (Kind, String) {
    let permanent = |remedy: &str| (Kind::Permanent, remedy.to_owned());
    match (status, code) {
        (_, "NoSuchBucket") => permanent("create the bucket, or correct its name or the endpoint"),
        (_, "ExpiredToken" | "TokenRefreshRequired") => {
            permanent("the credentials have expired: renew them")
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken") => permanent(
            "the server does not accept the credentials: check AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, or the profile or role that they come from",
        ),
        (_, "RequestTimeTooSkewed") => permanent("set this machine's clock"),
        (
            _,
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException",
        )
        | (301 | 307, _) => {
            let is = region.map_or_else(
                || "set AWS_REGION to the bucket's region".to_owned(),
                |region| format!("the bucket lies in {region}: set AWS_REGION to that"),
            );
            (Kind::Permanent, is)
        }
        (_, "EntityTooLarge") => permanent("the object is larger than the server takes"),
        (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage") | (507, _) => {
            permanent("free space in the bucket, or keep fewer checkpoints")
        }
        (403, _) | (_, "AccessDenied") => {
            let remedy = format!(
                "allow {} on it to these credentials (the bucket's policy, or their role's)",
                call.1
            );
            (Kind::Denied, remedy)
        }
        (401, _) => permanent("give credentials: the server wants a signature"),
        (404, _) => (Kind::Missing, "check the name".to_owned()),
        (412, _) => (Kind::Exists, "it is there already".to_owned()),
        (501 | 405, _) => (Kind::Unsupported, "the server cannot do this: use another".to_owned()),
        // These the server, or what stands before it, says instead of doing it.
        (409 | 429 | 503, _) => (Kind::Transient { sent: false }, AGAIN.to_owned()),
        (408 | 500.., _) => (Kind::Transient { sent: true }, AGAIN.to_owned()),
        _ => permanent("the server refuses this: see what it said"),
    }
}

fn unanswered<E: StdError + 'static>(
    call: Call,
    place: &str,
    error: &SdkError<E, HttpResponse>,
) -> Failure {
    let said = chain(error);
    let seen = format!("{}: {said}", call.0);
    // The SDK's types for this are not public; its words are.
    if ["credential", "identity"].iter().any(|word| said.to_lowercase().contains(word)) {
        let remedy = "give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile \
                      (AWS_PROFILE), or a role of this machine or container";
        return Failure::new(Kind::Permanent, place, seen, remedy);
    }
    if said.to_lowercase().contains("certificate") {
        let remedy = "the server's certificate is not trusted: install its authority \
                      (ca-certificates, or SSL_CERT_FILE)";
        return Failure::new(Kind::Permanent, place, seen, remedy);
    }
    if matches!(error, SdkError::ConstructionFailure(_)) {
        let remedy = "check bucket, region (AWS_REGION) and endpoint (AWS_ENDPOINT_URL_S3)";
        return Failure::new(Kind::Permanent, place, seen, remedy);
    }
    let remedy = "check that the endpoint (AWS_ENDPOINT_URL_S3) is right and reachable";
    Failure::new(Kind::Transient { sent: true }, place, seen, remedy)
}

/// An error and what it was caused by, in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        next = cause.source();
    }
    text
}
