//! The multipart body of a submission, streamed to a file that nobody keeps unless it is accepted.
//!
//! Invariants
//!   V1  A file that is refused, or cut short, is gone when the answer is sent.
//!   V2  A client's file name is not looked at: the file is called by its hash.

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tempfile::NamedTempFile;
use tidemill_protocol::ArtifactHash;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{App, body};
use crate::arguments;
use crate::program::Inspector;
use crate::refusal::Refusal;

/// A field beside the program.
const FIELD_BYTES_MAX: usize = 128 << 10;
/// What surrounds the program in the body.
const AROUND_BYTES: u64 = 1 << 20;
/// Where the client still sends what is refused: it gets its answer when it is done, or then.
const DRAIN: Duration = Duration::from_secs(10);

/// A submission's fields.
#[derive(Default)]
pub(super) struct Form {
    pub(super) program: Option<Upload>,
    pub(super) args: Vec<String>,
    pub(super) parallelism: Option<u32>,
    pub(super) savepoint: Option<String>,
    pub(super) allow_dropped_state: bool,
}

/// A program on this machine, removed when dropped (V1).
pub(super) struct Upload {
    pub(super) file: NamedTempFile,
    pub(super) hash: ArtifactHash,
}

fn too_large(limit: u64) -> Refusal {
    let detail = format!("the program has more than {limit} bytes (jobmanager.artifact_limit)");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail).with("limit_bytes", limit)
}

fn damaged(error: &MultipartError) -> Refusal {
    match body::broken(error) {
        silent if silent.status == StatusCode::REQUEST_TIMEOUT => silent,
        _ => Refusal::bad(format!(
            "the multipart body is damaged or ended early: {}",
            error.body_text()
        )),
    }
}

/// Reads a whole submission.
///
/// # Errors
/// What is wrong with it, by the first thing that is.
pub(super) async fn read(app: &App, mut request: Request) -> Result<Form, Refusal> {
    check_head(&request, app.config.limits.artifact_bytes)?;
    DefaultBodyLimit::disable().apply(&mut request);
    let multipart = Multipart::from_request(request, &()).await;
    let mut multipart = multipart.map_err(|e| Refusal::bad(e.body_text()))?;
    let read = fields(app, &mut multipart).await;
    if read.is_err() {
        // The client hears the answer only if it is not cut off while it sends.
        let drain = async { while let Ok(Some(_)) = multipart.next_field().await {} };
        let _ = timeout(DRAIN, drain).await;
    }
    read
}

fn check_head(request: &Request, limit: u64) -> Result<(), Refusal> {
    let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let given = header(CONTENT_TYPE);
    let essence = given.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("multipart/form-data") {
        let detail = format!(
            "the body's type is '{given}'; send multipart/form-data with the field job_file"
        );
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    if header(CONTENT_LENGTH).parse::<u64>().is_ok_and(|n| n > limit.saturating_add(AROUND_BYTES)) {
        return Err(too_large(limit));
    }
    Ok(())
}

async fn fields(app: &App, multipart: &mut Multipart) -> Result<Form, Refusal> {
    let mut form = Form::default();
    let mut seen = Vec::new();
    while let Some(field) = multipart.next_field().await.map_err(|e| damaged(&e))? {
        let name = field.name().unwrap_or("").to_owned();
        if seen.contains(&name) {
            return Err(Refusal::bad(format!("the field {} comes twice", shown(&name))));
        }
        match name.as_str() {
            "job_file" => form.program = Some(program(app, field).await?),
            "args" => {
                form.args = arguments::parse(&text(field).await?).map_err(Refusal::unprocessable)?
            }
            "parallelism" => form.parallelism = parallelism(&text(field).await?)?,
            "savepoint" => form.savepoint = Some(text(field).await?).filter(|t| !t.is_empty()),
            "allow_dropped_state" => form.allow_dropped_state = switch(&text(field).await?)?,
            _ => {
                let known = "job_file, args, parallelism, savepoint, allow_dropped_state";
                let detail = format!("the field {} is not known; there are {known}", shown(&name));
                return Err(Refusal::bad(detail));
            }
        }
        seen.push(name);
    }
    Ok(form)
}

fn shown(name: &str) -> String {
    let short: String = name.chars().take(80).collect();
    format!("'{}'", short.escape_debug())
}

fn parallelism(text: &str) -> Result<Option<u32>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let number = text.parse().ok();
    let wrong =
        || Refusal::unprocessable(format!("parallelism is {}; give a whole number", shown(text)));
    number.map(Some).ok_or_else(wrong)
}

fn switch(text: &str) -> Result<bool, Refusal> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        _ => {
            let detail = format!("allow_dropped_state is {}; give true or false", shown(text));
            Err(Refusal::unprocessable(detail))
        }
    }
}

async fn text(mut field: Field<'_>) -> Result<String, Refusal> {
    let name = shown(field.name().unwrap_or(""));
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|e| damaged(&e))? {
        if bytes.len() + piece.len() > FIELD_BYTES_MAX {
            let detail = format!("the field {name} has more than {FIELD_BYTES_MAX} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        bytes.extend_from_slice(&piece);
    }
    let text = String::from_utf8(bytes);
    let text =
        text.map_err(|_| Refusal::unprocessable(format!("the field {name} is no UTF-8 text")))?;
    Ok(text.trim().to_owned())
}

async fn program(app: &App, mut field: Field<'_>) -> Result<Upload, Refusal> {
    let limit = app.config.limits.artifact_bytes;
    let cannot = |e: std::io::Error| {
        tracing::error!("an upload cannot be stored in {}: {e}", app.config.data_dir.display());
        Refusal::unavailable(format!("the upload cannot be stored: {e}"))
    };
    let file = NamedTempFile::with_prefix_in("upload-", app.config.data_dir.join("uploads"));
    let file = file.map_err(cannot)?;
    let mut out = tokio::fs::File::from_std(file.reopen().map_err(cannot)?);
    let (mut hash, mut inspector, mut bytes) = (Sha256::new(), Inspector::default(), 0u64);
    while let Some(piece) = field.chunk().await.map_err(|e| damaged(&e))? {
        bytes += piece.len() as u64;
        if bytes > limit {
            return Err(too_large(limit));
        }
        inspector.push(&piece);
        inspector.check_head().map_err(|e| Refusal::unprocessable(e.to_string()))?;
        hash.update(&piece);
        out.write_all(&piece).await.map_err(cannot)?;
    }
    out.flush().await.map_err(cannot)?;
    inspector.finish().map_err(|e| Refusal::unprocessable(e.to_string()))?;
    Ok(Upload { file, hash: ArtifactHash::from_bytes(hash.finalize().into()) })
}
