//! Whole objects by name, for other things than checkpoints: programs, above all.

use super::bucket::Bucket;
use super::failure::Failure;
use super::reader::Reader;
use super::settings::S3Settings;
use super::upload::Upload;
use crate::error::{Error, Result};
use crate::store::{ObjectReader, ObjectWriter};

/// The objects below a prefix. Blocking, as [`crate::SnapshotStore`] is; with the same connections, times and
/// errors.
#[derive(Clone)]
pub struct S3Objects {
    bucket: Bucket,
}

impl S3Objects {
    /// Connects to nothing yet. Call it from an unpinned thread: the first call of the process starts the
    /// threads for S3.
    ///
    /// # Errors
    /// When settings cannot be.
    pub fn new(settings: &S3Settings) -> Result<Self> {
        Ok(S3Objects { bucket: Bucket::new(settings)? })
    }

    /// Where an object lies, for messages.
    pub fn locate(&self, name: &str) -> String {
        self.bucket.place(name)
    }

    /// Starts an object; it is there when `finish` returned, whole. One of that name is replaced then.
    pub fn begin(&self, name: &str) -> Box<dyn ObjectWriter> {
        Box::new(Upload::new(&self.bucket, name.to_owned()))
    }

    /// Opens an object; `None` where there is none.
    ///
    /// # Errors
    /// By cause.
    pub fn open(&self, name: &str) -> Result<Option<Box<dyn ObjectReader>>> {
        match Reader::open(&self.bucket, name) {
            Ok(reader) => Ok(Some(reader)),
            Err(Error::Missing(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Names and lengths of all objects that begin with `below`.
    ///
    /// # Errors
    /// By cause.
    pub fn list(&self, below: &str) -> Result<Vec<(String, u64)>> {
        let (bucket, below) = (self.bucket.clone(), below.to_owned());
        self.bucket.wait(async move { bucket.list(&below).await })?.map_err(Failure::reading)
    }

    /// Deletes an object. One that does not exist is fine.
    ///
    /// # Errors
    /// By cause.
    pub fn delete(&self, name: &str) -> Result<()> {
        let (bucket, name) = (self.bucket.clone(), name.to_owned());
        let deleted = self.bucket.wait(async move { bucket.delete(&[name]).await })?;
        deleted.map_err(Failure::writing)
    }
}
