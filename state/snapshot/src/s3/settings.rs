//! What a bucket is, how it is reached, and the bounds of everything that is done with it.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};

/// The least that S3 takes as a part, but for an upload's last one.
pub const PART_BYTES_MIN: usize = 5 << 20;

/// A bucket, and the names in it that begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct S3Settings {
    /// The bucket's name.
    pub bucket: String,
    /// What all names begin with; ends with `/` unless empty.
    pub prefix: String,
    /// Another endpoint than the region's, e.g. `http://127.0.0.1:9000`; `None`: what
    /// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile says.
    pub endpoint: Option<String>,
    /// The region; `None`: what `AWS_REGION` or the profile says.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub path_style: bool,
    /// `None`: the usual chain of environment, profile, web identity, container and instance.
    pub credentials: Option<S3Credentials>,
    /// Bounds and times.
    pub limits: S3Limits,
}

/// An access key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct S3Credentials {
    /// Its id.
    pub id: String,
    /// Its secret; never shown.
    pub secret: String,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Bounds and times of what is done with a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct S3Limits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Of one try of a request, its body and the answer's head included.
    pub attempt: Duration,
    /// Of a request with all its tries: every call of the store ends within a small multiple.
    pub operation: Duration,
    /// Tries of a request, if its time lasts so long: a server that asks to be spared is asked again with pauses
    /// that grow to 10 seconds.
    pub attempts: u32,
    /// Of a part: what is larger goes up in parts. Doubles after each 2,000 parts.
    pub part_bytes: usize,
    /// Parts of one object on their way at once. With the one that is being filled they bound its memory.
    pub parts_in_flight: usize,
    /// Names asked for at once when listing, at most 1,000; deletes go in batches of as many.
    pub page_keys: i32,
    /// The longest piece that is read ahead; an open object holds four at most.
    pub read_ahead_bytes: usize,
}

impl Default for S3Limits {
    fn default() -> Self {
        S3Limits {
            connect: Duration::from_secs(3),
            attempt: Duration::from_secs(20),
            operation: Duration::from_secs(60),
            attempts: 12,
            part_bytes: 8 << 20,
            parts_in_flight: 4,
            page_keys: 1_000,
            read_ahead_bytes: 2 << 20,
        }
    }
}

impl S3Limits {
    /// The defaults, with another time for a request: a third of it for a try.
    pub fn within(operation: Duration) -> Self {
        let limits = S3Limits::default();
        let attempt = operation / 3;
        S3Limits { operation, attempt, connect: limits.connect.min(attempt), ..limits }
    }
}

impl S3Settings {
    /// Defaults for a bucket: everything else from the environment.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        let mut prefix = prefix.into();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        S3Settings {
            bucket: bucket.into(),
            prefix,
            endpoint: None,
            region: None,
            path_style: false,
            credentials: None,
            limits: S3Limits::default(),
        }
    }

    /// `s3://bucket/prefix` and what follows.
    pub(crate) fn place(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |seen: String, remedy: &str| Err(Error::refused(self.place(""), seen, remedy));
        if self.bucket.is_empty() || self.bucket.contains('/') {
            let seen = format!("'{}' is no bucket's name", self.bucket);
            return refuse(seen, "name it as in s3://bucket/prefix");
        }
        if self.prefix.starts_with('/') || !(self.prefix.is_empty() || self.prefix.ends_with('/')) {
            let seen =
                format!("the prefix '{}' does not end with '/', or begins with it", self.prefix);
            return refuse(seen, "give it as in 'jobs/one/'");
        }
        if let Some(endpoint) = &self.endpoint
            && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
        {
            let seen = format!("the endpoint '{endpoint}' does not say http:// or https://");
            return refuse(seen, "give it as in 'https://storage.example:9000'");
        }
        let limits = &self.limits;
        if limits.part_bytes < PART_BYTES_MIN || limits.parts_in_flight == 0 {
            let (bytes, n) = (limits.part_bytes, limits.parts_in_flight);
            let seen =
                format!("{n} parts of {bytes} bytes cannot be: S3 wants {PART_BYTES_MIN} or more");
            return refuse(seen, "raise part_bytes and parts_in_flight");
        }
        if !(1..=1_000).contains(&limits.page_keys) || limits.attempts == 0 {
            let seen = format!("{} names a page, {} tries", limits.page_keys, limits.attempts);
            return refuse(seen, "give 1 to 1,000 names and at least one try");
        }
        if limits.operation.is_zero() || limits.attempt.is_zero() || limits.connect.is_zero() {
            return refuse("a time of 0".to_owned(), "give each a length");
        }
        Ok(())
    }
}
