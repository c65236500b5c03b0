//! Reads an object by ranges, ahead of who reads on.
//!
//! Invariants
//!   R1  At most [`WINDOWS_MAX`] windows of `read_ahead_bytes` are held.
//!   R2  No lock is held while a request is under way.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::bucket::Bucket;
use super::failure::Failure;
use crate::error::{Error, Result};
use crate::store::{self, ObjectReader};

/// Several slots read an object at different places.
const WINDOWS_MAX: usize = 4;
/// The first piece that is read at a new place.
const WINDOW_BYTES_MIN: usize = 256 << 10;

pub(super) struct Reader {
    bucket: Bucket,
    key: String,
    path: String,
    bytes: u64,
    windows: Mutex<VecDeque<Window>>,
}

/// A piece of the object that was read.
#[derive(Clone)]
struct Window {
    start: u64,
    content: Bytes,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.content.len() as u64
    }

    fn piece(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.content.get(at..at.checked_add(length)?)
    }
}

impl Reader {
    /// Opens an object.
    pub(super) fn open(bucket: &Bucket, key: &str) -> Result<Box<dyn ObjectReader>> {
        let path = bucket.place(key);
        let (of, name) = (bucket.clone(), key.to_owned());
        let head = bucket.wait(async move { of.head(&name).await })?.map_err(Failure::reading)?;
        let head = head.ok_or_else(|| Error::missing(&path, "does not exist"))?;
        let (bucket, key, bytes) = (bucket.clone(), key.to_owned(), head.bytes);
        Ok(Box::new(Reader { bucket, key, path, bytes, windows: Mutex::default() }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, offset: u64, buf: &mut [u8]) -> bool {
        let windows = self.lock();
        let piece = windows.iter().find_map(|window| window.piece(offset, buf.len()));
        piece.map(|piece| buf.copy_from_slice(piece)).is_some()
    }

    /// How much to read at a place, and the window that it goes on from: who reads on gets twice as much.
    fn ahead(&self, offset: u64, length: usize) -> usize {
        let most = self.bucket.limits().read_ahead_bytes;
        let mut windows = self.lock();
        let near = |w: &Window| (w.start..=w.end() + w.content.len() as u64).contains(&offset);
        let wanted = match windows.iter().position(near) {
            Some(at) => windows.remove(at).map_or(0, |w| w.content.len().saturating_mul(2)),
            None => WINDOW_BYTES_MIN,
        };
        wanted.min(most).max(length)
    }

    fn fetch(&self, offset: u64, length: u64) -> Result<Bytes> {
        let (bucket, key) = (self.bucket.clone(), self.key.clone());
        let got = self.bucket.wait(async move { bucket.get(&key, offset, length).await })?;
        let got = got.map_err(Failure::reading)?;
        if got.len() as u64 == length {
            return Ok(got);
        }
        let seen = format!("{} of {length} bytes at {offset}: it was replaced", got.len());
        Err(Error::damaged(&self.path, seen))
    }
}

impl ObjectReader for Reader {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return Err(store::beyond(self, offset, buf.len()));
        }
        let (mut offset, mut buf) = (offset, buf);
        while !buf.is_empty() {
            // What is longer than any window comes in pieces of a part's length.
            let piece = buf.len().min(self.bucket.limits().part_bytes);
            let (now, later) = buf.split_at_mut(piece);
            if !self.known(offset, now) {
                let length = (self.ahead(offset, piece) as u64).min(self.bytes - offset);
                let content = self.fetch(offset, length)?;
                now.copy_from_slice(&content[..piece]);
                if content.len() <= self.bucket.limits().read_ahead_bytes {
                    let mut windows = self.lock();
                    windows.push_back(Window { start: offset, content });
                    if windows.len() > WINDOWS_MAX {
                        windows.pop_front();
                    }
                }
            }
            offset += piece as u64;
            buf = later;
        }
        Ok(())
    }
}
