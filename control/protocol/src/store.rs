//! From a store's settings to the store: one place for JobManager and workers, so that both mean the
//! same.

use crate::StoreSettings;
use std::path::Path;
use std::sync::Arc;
use tidemill_snapshot::{DirStore, SnapshotStore};

/// Why a checkpoint store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's word.
    #[error(transparent)]
    Snapshot(#[from] tidemill_snapshot::Error),
    /// It is in a bucket.
    #[error(
        "checkpoints are to go to the bucket '{bucket}', but this version has no S3 yet; give a directory that \
         all hosts share"
    )]
    NoS3 {
        /// Its name.
        bucket: String,
    },
}

/// Opens the store that the settings name; blocking. A directory is made if it does not exist.
///
/// # Errors
/// When it cannot be used.
pub fn open_store(settings: &StoreSettings) -> Result<Arc<dyn SnapshotStore>, StoreError> {
    match settings {
        StoreSettings::Dir { path } => Ok(Arc::new(DirStore::create(Path::new(path))?)),
        StoreSettings::S3 { bucket, .. } => Err(StoreError::NoS3 { bucket: bucket.clone() }),
    }
}
