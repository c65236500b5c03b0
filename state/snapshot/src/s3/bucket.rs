//! A bucket's objects: each call of S3 that is used, within its time.
//!
//! Invariants
//!   L1  Every call ends within `S3Limits::operation`, whatever the server does.
//!   L2  What is tried again is idempotent; [`Bucket::put_once`] alone is tried once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::failure::{Call, Failure, Kind, pause};
use super::settings::{S3Limits, S3Settings};
use super::{client, runtime};
use crate::error::{Error, Result};

const HEAD: Call = Call("HeadObject", "s3:GetObject and s3:ListBucket");
const GET: Call = Call("GetObject", "s3:GetObject");
const PUT: Call = Call("PutObject", "s3:PutObject");
const CREATE: Call = Call("CreateMultipartUpload", "s3:PutObject");
const PART: Call = Call("UploadPart", "s3:PutObject");
const COMPLETE: Call = Call("CompleteMultipartUpload", "s3:PutObject");
const ABORT: Call = Call("AbortMultipartUpload", "s3:AbortMultipartUpload");
const LIST: Call = Call("ListObjectsV2", "s3:ListBucket");
const UPLOADS: Call = Call("ListMultipartUploads", "s3:ListBucketMultipartUploads");
const DELETE: Call = Call("DeleteObjects", "s3:DeleteObject");

/// Metadata by which an upload knows its object again.
const NONCE: &str = "tidemill-upload";

/// What is known of an object without reading it.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) bytes: u64,
    pub(super) nonce: Option<String>,
}

/// A bucket; keys are without the prefix.
#[derive(Clone)]
pub(super) struct Bucket(Arc<Inner>);

pub(super) struct Inner {
    client: Client,
    settings: S3Settings,
    runtime: Handle,
    /// The server refused `If-None-Match`.
    pub(super) unconditional: AtomicBool,
    /// Calls of `remove_temporary`.
    pub(super) sweeps: AtomicU64,
}

type Done<T> = Result<T, Failure>;

impl Bucket {
    /// Connects to nothing yet.
    pub(super) fn new(settings: &S3Settings) -> Result<Self> {
        settings.check()?;
        let runtime = runtime::handle()?;
        let of = settings.clone();
        let client = runtime::wait(&runtime, async move { client::client(&of).await })?;
        let unconditional = AtomicBool::new(false);
        let sweeps = AtomicU64::new(0);
        let settings = settings.clone();
        Ok(Bucket(Arc::new(Inner { client, settings, runtime, unconditional, sweeps })))
    }

    pub(super) fn limits(&self) -> &S3Limits {
        &self.0.settings.limits
    }

    pub(super) fn place(&self, key: &str) -> String {
        self.0.settings.place(key)
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Waits for what is to be done.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        runtime::wait(&self.0.runtime, future)
    }

    /// Lets it be done.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.0.runtime.spawn(future)
    }

    fn name(&self) -> &str {
        &self.0.settings.bucket
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.0.settings.prefix)
    }

    /// L1, should the SDK's own times not hold.
    async fn within<T>(
        &self,
        call: Call,
        key: &str,
        future: impl Future<Output = Done<T>>,
    ) -> Done<T> {
        let late = |_| Err(Failure::late(call, &self.place(key)));
        timeout(self.limits().operation, future).await.unwrap_or_else(late)
    }

    /// Looks for an object.
    pub(super) async fn head(&self, key: &str) -> Done<Option<Head>> {
        let (name, full) = (self.name(), self.key(key));
        let asked = async {
            let sent = self.0.client.head_object().bucket(name).key(full).send().await;
            match sent.map_err(|e| Failure::of(HEAD, &self.place(key), &e)) {
                Ok(said) => Ok(Some(Head {
                    bytes: said.content_length().unwrap_or(0).max(0) as u64,
                    nonce: said.metadata().and_then(|all| all.get(NONCE)).cloned(),
                })),
                Err(failure) if failure.kind == Kind::Missing => Ok(None),
                Err(failure) => Err(failure),
            }
        };
        self.within(HEAD, key, asked).await
    }

    /// `length` bytes from `offset`; fewer where the object ends before.
    pub(super) async fn get(&self, key: &str, offset: u64, length: u64) -> Done<Bytes> {
        let until = Instant::now() + self.limits().operation;
        let (mut attempt, mut last) = (0, None);
        loop {
            attempt += 1;
            match timeout_at(until, self.get_once(key, offset, length)).await {
                Err(_) => return Err(last.unwrap_or_else(|| Failure::late(GET, &self.place(key)))),
                // The SDK has tried again what failed before the body.
                Ok(Err((failure, true)))
                    if attempt < self.limits().attempts
                        && Instant::now() + pause(attempt) < until =>
                {
                    tracing::debug!("{}: {}; trying again", self.place(key), failure.report.seen);
                    last = Some(failure);
                    sleep(pause(attempt)).await;
                }
                Ok(result) => return result.map_err(|(failure, _)| failure),
            }
        }
    }

    /// The error says whether it was the body's.
    async fn get_once(
        &self,
        key: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, (Failure, bool)> {
        let place = self.place(key);
        let last = offset.saturating_add(length).saturating_sub(1);
        let request = self.0.client.get_object().bucket(self.name()).key(self.key(key));
        let sent = request.range(format!("bytes={offset}-{last}")).send().await;
        let said = sent.map_err(|e| (Failure::of(GET, &place, &e), false))?;
        match timeout(self.limits().attempt, said.body.collect()).await {
            Err(_) => Err((Failure::late(GET, &place), true)),
            Ok(Err(e)) => Err((Failure::cut(GET, &place, &e.to_string()), true)),
            Ok(Ok(body)) => Ok(body.into_bytes()),
        }
    }

    /// The whole of a small object; `None` where there is none, an error beyond `most` bytes.
    pub(super) async fn read(&self, key: &str, most: u64) -> Result<Option<Bytes>> {
        let Some(head) = self.head(key).await.map_err(Failure::reading)? else { return Ok(None) };
        if head.bytes > most {
            let seen = format!("{} bytes, at most {most} are expected", head.bytes);
            return Err(Error::damaged(self.place(key), seen));
        }
        // A range of nothing cannot be asked for.
        if head.bytes == 0 {
            return Ok(Some(Bytes::new()));
        }
        match self.get(key, 0, head.bytes).await {
            Ok(bytes) if bytes.len() as u64 == head.bytes => Ok(Some(bytes)),
            Ok(bytes) => {
                let seen = format!("{} bytes came of {}", bytes.len(), head.bytes);
                Err(Error::damaged(self.place(key), seen))
            }
            Err(failure) if failure.kind == Kind::Missing => Ok(None),
            Err(failure) => Err(failure.reading()),
        }
    }

    /// Stores an object, whether there is one or not.
    pub(super) async fn put(&self, key: &str, bytes: Bytes, nonce: &str) -> Done<()> {
        let request = self.0.client.put_object().bucket(self.name()).key(self.key(key));
        let request = request.metadata(NONCE, nonce).body(ByteStream::from(bytes));
        let asked = async {
            let sent = request.send().await;
            sent.map(|_| ()).map_err(|e| Failure::of(PUT, &self.place(key), &e))
        };
        self.within(PUT, key, asked).await
    }

    /// Stores an object where there is none, by one try.
    pub(super) async fn put_once(&self, key: &str, bytes: Bytes, conditional: bool) -> Done<()> {
        let mut request = self.0.client.put_object().bucket(self.name()).key(self.key(key));
        if conditional {
            request = request.if_none_match("*");
        }
        let once = aws_sdk_s3::config::Config::builder().retry_config(RetryConfig::disabled());
        let asked = async {
            let sent = request.body(ByteStream::from(bytes)).customize().config_override(once);
            let sent = sent.send().await;
            sent.map(|_| ()).map_err(|e| Failure::of(PUT, &self.place(key), &e))
        };
        self.within(PUT, key, asked).await
    }

    /// Opens a multipart upload; returns its id.
    pub(super) async fn create(&self, key: &str, nonce: &str) -> Done<String> {
        let request = self.0.client.create_multipart_upload().bucket(self.name());
        let request = request.key(self.key(key)).metadata(NONCE, nonce);
        let asked = async {
            let sent = request.send().await;
            let said = sent.map_err(|e| Failure::of(CREATE, &self.place(key), &e))?;
            let without = || Failure::cut(CREATE, &self.place(key), "it names no upload");
            said.upload_id().map(str::to_owned).ok_or_else(without)
        };
        self.within(CREATE, key, asked).await
    }

    pub(super) async fn part(
        &self,
        key: &str,
        id: &str,
        number: i32,
        bytes: Bytes,
    ) -> Done<CompletedPart> {
        let request = self.0.client.upload_part().bucket(self.name()).key(self.key(key));
        let request = request.upload_id(id).part_number(number).body(ByteStream::from(bytes));
        let asked = async {
            let sent = request.send().await;
            let said = sent.map_err(|e| Failure::of(PART, &self.place(key), &e))?;
            let part = CompletedPart::builder().part_number(number);
            Ok(part.set_e_tag(said.e_tag().map(str::to_owned)).build())
        };
        self.within(PART, key, asked).await
    }

    pub(super) async fn complete(
        &self,
        key: &str,
        id: &str,
        parts: Vec<CompletedPart>,
    ) -> Done<()> {
        let request = self.0.client.complete_multipart_upload().bucket(self.name());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = request.key(self.key(key)).upload_id(id).multipart_upload(parts);
        let asked = async {
            let sent = request.send().await;
            sent.map(|_| ()).map_err(|e| Failure::of(COMPLETE, &self.place(key), &e))
        };
        self.within(COMPLETE, key, asked).await
    }

    /// Gives an upload up. One that does not exist is fine.
    pub(super) async fn abort(&self, key: &str, id: &str) -> Done<()> {
        let request = self.0.client.abort_multipart_upload().bucket(self.name());
        let request = request.key(self.key(key)).upload_id(id);
        let asked = async {
            match request.send().await.map_err(|e| Failure::of(ABORT, &self.place(key), &e)) {
                Err(failure) if failure.kind != Kind::Missing => Err(failure),
                _ => Ok(()),
            }
        };
        self.within(ABORT, key, asked).await
    }

    /// A page of the objects below a prefix, in the order of their names, and the token of the next.
    pub(super) async fn page(
        &self,
        below: &str,
        after: Option<String>,
        most: i32,
    ) -> Done<(Vec<(String, u64)>, Option<String>)> {
        let full = self.key(below);
        let request = self.0.client.list_objects_v2().bucket(self.name()).prefix(&full);
        let request = request.max_keys(most).set_continuation_token(after);
        let asked = async {
            let sent = request.send().await;
            let said = sent.map_err(|e| Failure::of(LIST, &self.place(below), &e))?;
            let own = self.0.settings.prefix.len();
            let named = said.contents().iter().filter_map(|object| {
                let name = object.key()?.get(own..)?.to_owned();
                Some((name, object.size().unwrap_or(0).max(0) as u64))
            });
            let more = said.is_truncated().unwrap_or(false);
            Ok((
                named.collect(),
                said.next_continuation_token().filter(|_| more).map(str::to_owned),
            ))
        };
        self.within(LIST, below, asked).await
    }

    /// Names and sizes of all objects below a prefix.
    pub(super) async fn list(&self, below: &str) -> Done<Vec<(String, u64)>> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (mut page, next) = self.page(below, after, self.limits().page_keys).await?;
            all.append(&mut page);
            after = next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Keys and ids of the multipart uploads below a prefix.
    pub(super) async fn uploads(&self, below: &str) -> Done<Vec<(String, String)>> {
        let (mut all, mut key, mut id) = (Vec::new(), None, None);
        loop {
            let request = self.0.client.list_multipart_uploads().bucket(self.name());
            let request = request.prefix(self.key(below)).max_uploads(self.limits().page_keys);
            let request = request.set_key_marker(key).set_upload_id_marker(id);
            let asked = async {
                let sent = request.send().await;
                sent.map_err(|e| Failure::of(UPLOADS, &self.place(below), &e))
            };
            let said = self.within(UPLOADS, below, asked).await?;
            let own = self.0.settings.prefix.len();
            all.extend(said.uploads().iter().filter_map(|upload| {
                Some((upload.key()?.get(own..)?.to_owned(), upload.upload_id()?.to_owned()))
            }));
            key = said
                .next_key_marker()
                .filter(|_| said.is_truncated() == Some(true))
                .map(str::to_owned);
            id = said.next_upload_id_marker().map(str::to_owned);
            if key.is_none() {
                return Ok(all);
            }
        }
    }

    /// Deletes objects; those that do not exist are fine.
    pub(super) async fn delete(&self, keys: &[String]) -> Done<()> {
        for batch in keys.chunks(self.limits().page_keys as usize) {
            match self.delete_batch(batch).await {
                Err(failure) if failure.kind == Kind::Unsupported => {
                    self.delete_each(batch).await?
                }
                result => result?,
            }
        }
        Ok(())
    }

    async fn delete_batch(&self, keys: &[String]) -> Done<()> {
        let [first, others @ ..] = keys else { return Ok(()) };
        // One alone is asked for in the way that every server knows.
        if others.is_empty() {
            return self.delete_each(keys).await;
        }
        let place = self.place(first);
        let named = keys.iter().map(|key| ObjectIdentifier::builder().key(self.key(key)).build());
        let broken =
            |e: aws_sdk_s3::error::BuildError| Failure::cut(DELETE, &place, &e.to_string());
        let named = named.collect::<Result<Vec<_>, _>>().map_err(broken)?;
        let delete = Delete::builder().set_objects(Some(named)).quiet(true);
        let delete = delete.build().map_err(broken)?;
        let request = self.0.client.delete_objects().bucket(self.name()).delete(delete);
        let asked = async {
            let sent = request.send().await;
            let said = sent.map_err(|e| Failure::of(DELETE, &place, &e))?;
            let failed = said.errors().iter().find(|e| e.code() != Some("NoSuchKey"));
            let Some(failed) = failed else { return Ok(()) };
            let key = failed.key().unwrap_or_default();
            let name = key.strip_prefix(&*self.0.settings.prefix).unwrap_or(key);
            Err(Failure::refused_one(DELETE, &self.place(name), failed.code(), failed.message()))
        };
        self.within(DELETE, first, asked).await
    }

    async fn delete_each(&self, keys: &[String]) -> Done<()> {
        for key in keys {
            let request = self.0.client.delete_object().bucket(self.name()).key(self.key(key));
            let call = Call("DeleteObject", DELETE.1);
            let asked = async {
                match request.send().await.map_err(|e| Failure::of(call, &self.place(key), &e)) {
                    Err(failure) if failure.kind != Kind::Missing => Err(failure),
                    _ => Ok(()),
                }
            };
            self.within(call, key, asked).await?;
        }
        Ok(())
    }
}
