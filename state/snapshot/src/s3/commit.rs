//! The commit point on S3: one conditional put of the manifest, and what to do when nobody says whether it
//! was done.
//!
//! ```text
//!   look --there--> refused (S4)
//!     |  put If-None-Match: *  --200--> committed
//!     |        |  412 / read: ours -> committed, another's -> refused
//!     |        |  "did nothing" (503, 409, 4xx) / try again, or fail
//!     |        |  no answer, 500 / try again: the next put tells, by 200 or 412
//!     v        v
//!   fail    out of time: put an empty manifest in its place, conditionally
//!             200, and refused a second time -> the epoch is given up for ever: fail
//!             412 / read: ours -> committed
//!             no answer, or no conditions here -> in doubt
//! ```
//! Invariants
//!   N1  `Ok` is returned only when the manifest's bytes are in the bucket.
//!   N2  Any error but `InDoubt` is returned only when they are not, and no put of ours can bring them there
//!       later.
//!   N3  An empty manifest is a mark: this epoch was given up. It is no commit, and no epoch to begin.
//!
//! Servers that do not know `If-None-Match` either refuse it (then it is left out) or ignore it. On them two
//! writers that commit the same epoch within the same moment may both succeed; the look before keeps later
//! ones out. A put that nobody answered is in doubt on them.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::bucket::Bucket;
use super::failure::{Failure, Kind, pause};
use crate::error::{Error, Result};
use crate::manifest::MANIFEST_BYTES_MAX;
use crate::store;

/// What lies where a manifest would.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Ours,
    Another,
    GivenUp,
}

/// How a put went.
enum Put {
    Done,
    Exists,
    /// Certainly not done.
    Not(Failure),
    Unknown(Failure),
}

/// Commits (see the top of this module).
pub(super) async fn commit(bucket: Bucket, key: String, bytes: Vec<u8>) -> Result<()> {
    let bytes = Bytes::from(bytes);
    let place = bucket.place(&key);
    refuse_existing(&bucket, &key).await?;
    let until = Instant::now() + bucket.limits().operation;
    let mut unknown = None;
    let mut attempt = 0;
    let last = loop {
        attempt += 1;
        let failure = match put(&bucket, &key, bytes.clone()).await {
            Put::Done => return Ok(()),
            // Our own earlier try, another's, or the mark of one who gave it up.
            Put::Exists => match find(&bucket, &key, &bytes).await {
                Ok(Found::Ours) => return Ok(()),
                Ok(Found::Another) => return Err(store::committed(&place)),
                Ok(Found::GivenUp) => return Err(given_up(&place)),
                Ok(Found::Nothing) => continue,
                Err(failure) => failure,
            },
            Put::Not(failure) if matches!(failure.kind, Kind::Transient { .. }) => failure,
            Put::Not(failure) => break failure,
            Put::Unknown(failure) => unknown.insert(failure).clone(),
        };
        let late = Instant::now() >= until;
        if attempt >= bucket.limits().attempts || late {
            break failure;
        }
        sleep(pause(attempt)).await;
    };
    match unknown {
        None => Err(last.writing()),
        Some(cause) => settle(&bucket, &key, &bytes, cause).await,
    }
}

/// S4, and N3.
pub(super) async fn refuse_existing(bucket: &Bucket, key: &str) -> Result<()> {
    match bucket.head(key).await.map_err(Failure::reading)? {
        None => Ok(()),
        Some(head) if head.bytes == 0 => Err(given_up(&bucket.place(key))),
        Some(_) => Err(store::committed(&bucket.place(key))),
    }
}

fn given_up(place: &str) -> Error {
    let remedy = "continue at an epoch beyond all that exist (Restored::next_epoch)";
    Error::refused(place, "this checkpoint was given up", remedy)
}

async fn put(bucket: &Bucket, key: &str, bytes: Bytes) -> Put {
    let off = &bucket.inner().unconditional;
    let conditional = !off.load(Ordering::Relaxed);
    match bucket.put_once(key, bytes, conditional).await {
        Ok(()) => Put::Done,
        Err(failure) => match failure.kind {
            Kind::Exists => Put::Exists,
            Kind::Unsupported if conditional => {
                tracing::warn!(
                    "{}: the server does not know If-None-Match: nothing but fencing keeps two \
                     writers from committing the same checkpoint",
                    bucket.place("")
                );
                off.store(true, Ordering::Relaxed);
                Put::Not(Failure { kind: Kind::Transient { sent: false }, ..failure })
            }
            Kind::Transient { sent: true } => Put::Unknown(failure),
            _ => Put::Not(failure),
        },
    }
}

async fn find(bucket: &Bucket, key: &str, bytes: &Bytes) -> Result<Found, Failure> {
    let Some(head) = bucket.head(key).await? else { return Ok(Found::Nothing) };
    if head.bytes == 0 {
        return Ok(Found::GivenUp);
    }
    if head.bytes != bytes.len() as u64 || head.bytes > MANIFEST_BYTES_MAX {
        return Ok(Found::Another);
    }
    let found = bucket.get(key, 0, head.bytes).await?;
    Ok(if found == *bytes { Found::Ours } else { Found::Another })
}

/// Out of time with a put that may yet arrive: makes certain, or says that it is not.
async fn settle(bucket: &Bucket, key: &str, bytes: &Bytes, cause: Failure) -> Result<()> {
    let place = bucket.place(key);
    let found = async {
        match find(bucket, key, bytes).await {
            Ok(Found::Nothing) => mark(bucket, key, bytes).await.map(|found| (found, true)),
            found => found.map(|found| (found, false)),
        }
    };
    let late = |_| Err(cause.clone());
    let more = match timeout(bucket.limits().operation, found).await.unwrap_or_else(late) {
        Ok((Found::Ours, _)) => return Ok(()),
        Ok((Found::Another, _)) => return Err(store::committed(&place)),
        Ok((Found::GivenUp, true)) => return Err(cause.writing()),
        Ok((Found::GivenUp, false)) => return Err(given_up(&place)),
        Ok((Found::Nothing, _)) => "the server knows no conditional put".to_owned(),
        Err(failure) => failure.report.seen,
    };
    let seen = format!("{}; and then: {more}", cause.report.seen);
    let remedy = "stop the job and restore: whether it was committed will be seen then".to_owned();
    Err(Error::InDoubt(crate::Report { path: place, seen, remedy }))
}

/// Puts the mark. `Nothing`: the server does not heed conditions, so that nothing is certain.
async fn mark(bucket: &Bucket, key: &str, bytes: &Bytes) -> Result<Found, Failure> {
    if bucket.inner().unconditional.load(Ordering::Relaxed) {
        return Ok(Found::Nothing);
    }
    match put(bucket, key, Bytes::new()).await {
        Put::Exists => return find(bucket, key, bytes).await,
        Put::Not(failure) | Put::Unknown(failure) => return Err(failure),
        Put::Done => {}
    }
    // Refused with the mark in place, ours will be refused as well whenever it arrives.
    match put(bucket, key, Bytes::new()).await {
        Put::Exists => find(bucket, key, bytes).await,
        Put::Done => Ok(Found::Nothing),
        Put::Not(failure) | Put::Unknown(failure) => Err(failure),
    }
}
