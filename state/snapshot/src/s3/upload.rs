//! One object on its way up: small ones by one request, large ones in parts.
//!
//! ```text
//!   Filling --a part is full--> Parts --finish / the rest, complete--> visible
//!      | finish / put --------------------------------------------> visible
//!      +---- dropped, or failed: the upload is given up at the server ----> nothing
//! ```
//! Invariants
//!   M1  At most `parts_in_flight` parts are on their way, and one is being filled.
//!   M2  The object becomes visible by one request, the put or the completion.
//!   M3  A completion whose outcome was not told is looked up: the object carries this upload's nonce, or
//!       it is not there and the upload is given up.
//!   M4  Dropping an unfinished upload waits for nothing.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_s3::types::CompletedPart;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::bucket::Bucket;
use super::failure::Failure;
use crate::error::{Error, Result};
use crate::store::ObjectWriter;

/// After so many parts the next ones are twice as long: 10,000, which is S3's limit, hold 480 GiB then.
const PARTS_OF_A_LENGTH: usize = 2_000;
const PARTS_MAX: usize = 10_000;

pub(super) struct Upload {
    bucket: Bucket,
    key: String,
    nonce: String,
    part: Vec<u8>,
    /// Once a first part was full.
    id: Option<String>,
    flying: VecDeque<JoinHandle<Result<CompletedPart, Failure>>>,
    parts: Vec<CompletedPart>,
    started: usize,
    bytes: u64,
}

/// No other upload has it.
fn nonce() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}-{}-{n}", RandomState::new().hash_one(n), std::process::id())
}

impl Upload {
    pub(super) fn new(bucket: &Bucket, key: String) -> Self {
        Upload {
            bucket: bucket.clone(),
            key,
            nonce: nonce(),
            part: Vec::new(),
            id: None,
            flying: VecDeque::new(),
            parts: Vec::new(),
            started: 0,
            bytes: 0,
        }
    }

    fn part_bytes(&self) -> usize {
        self.bucket.limits().part_bytes << (self.started / PARTS_OF_A_LENGTH)
    }

    /// Takes bytes; waits while too many parts are on their way.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        while self.part.len() + bytes.len() > self.part_bytes() {
            let (now, later) = bytes.split_at(self.part_bytes() - self.part.len());
            self.part.extend_from_slice(now);
            bytes = later;
            self.send()?;
        }
        self.part.extend_from_slice(bytes);
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if self.started == PARTS_MAX {
            let seen = format!("more than {} bytes", self.bytes - self.part.len() as u64);
            let remedy = "spread the state over more workers: S3 takes 10,000 parts an object";
            return Err(Error::fail_checkpoint(self.bucket.place(&self.key), seen, remedy));
        }
        let id = self.open()?;
        // A part that failed is reported before more is sent; M1.
        while self.flying.len() >= self.bucket.limits().parts_in_flight
            || self.flying.front().is_some_and(JoinHandle::is_finished)
        {
            self.land()?;
        }
        self.started += 1;
        let bytes = Bytes::from(std::mem::take(&mut self.part));
        let (bucket, key, number) = (self.bucket.clone(), self.key.clone(), self.started as i32);
        let flying = async move { bucket.part(&key, &id, number, bytes).await };
        self.flying.push_back(self.bucket.spawn(flying));
        Ok(())
    }

    fn open(&mut self) -> Result<String> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let (bucket, key, nonce) = (self.bucket.clone(), self.key.clone(), self.nonce.clone());
        let created = self.bucket.wait(async move { bucket.create(&key, &nonce).await })?;
        let id = created.map_err(Failure::writing)?;
        self.id = Some(id.clone());
        Ok(id)
    }

    /// Waits for the part that was sent first.
    fn land(&mut self) -> Result<()> {
        let Some(part) = self.flying.pop_front() else { return Ok(()) };
        let landed = self.bucket.wait(part)?.map_err(|e| {
            let seen = format!("a part's task ended: {e}");
            Error::fail_checkpoint(self.bucket.place(&self.key), seen, "report this as a defect")
        })?;
        self.parts.push(landed.map_err(Failure::writing)?);
        Ok(())
    }

    /// Makes the object visible; returns its length.
    pub(super) fn end(mut self) -> Result<u64> {
        let (bucket, key) = (self.bucket.clone(), self.key.clone());
        if self.id.is_none() {
            let (bytes, nonce) = (Bytes::from(std::mem::take(&mut self.part)), self.nonce.clone());
            let put = self.bucket.wait(async move { bucket.put(&key, bytes, &nonce).await })?;
            return put.map(|()| self.bytes).map_err(Failure::writing);
        }
        if !self.part.is_empty() {
            self.send()?;
        }
        while !self.flying.is_empty() {
            self.land()?;
        }
        let (id, parts) = (self.open()?, std::mem::take(&mut self.parts));
        let (nonce, bytes) = (self.nonce.clone(), self.bytes);
        self.bucket
            .wait(async move {
                let Err(failure) = bucket.complete(&key, &id, parts).await else { return Ok(()) };
                // M3: it may have been tried twice, and the second time there was no upload any more.
                match bucket.head(&key).await {
                    Ok(Some(head)) if head.nonce == Some(nonce) && head.bytes == bytes => Ok(()),
                    _ => Err(failure),
                }
            })?
            .map_err(Failure::writing)?;
        self.id = None;
        Ok(bytes)
    }
}

impl ObjectWriter for Upload {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.push(bytes)
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        self.end()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let (bucket, key) = (self.bucket.clone(), std::mem::take(&mut self.key));
        let flying = std::mem::take(&mut self.flying);
        // M4. Should it fail, `remove_temporary` finds the upload, or the bucket's own rule does.
        self.bucket.spawn(async move {
            for part in flying {
                part.abort();
                let _ = part.await;
            }
            if let Err(failure) = bucket.abort(&key, &id).await {
                let report = failure.report;
                tracing::debug!("{}: an upload was not given up: {}", report.path, report.seen);
            }
        });
    }
}
