//! The checkpoint store that a deployment names.

use std::sync::Arc;
use tidemill_protocol::{StoreSettings, TaskFailure};
use tidemill_snapshot::{DirStore, SnapshotStore};

/// Opens it.
///
/// # Errors
/// A failure of the attempt.
pub(super) fn open(settings: &StoreSettings) -> Result<Arc<dyn SnapshotStore>, TaskFailure> {
    let cannot =
        |e: String| TaskFailure { message: e, task: None, fatal: false, damaged_epoch: None };
    match settings {
        StoreSettings::Dir { path } => {
            let store =
                DirStore::create(std::path::Path::new(path)).map_err(|e| cannot(e.to_string()))?;
            Ok(Arc::new(store))
        }
        StoreSettings::S3 { bucket, .. } => Err(TaskFailure {
            fatal: true,
            ..cannot(format!(
                "checkpoints go to the bucket '{bucket}', but this program was built without S3; \
                 build it with the feature 's3' of the crate tidemill"
            ))
        }),
    }
}
