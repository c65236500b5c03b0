//! The stores that a JobManager is given.

use std::path::Path;
use std::sync::Arc;

use tidemill_protocol::StoreSettings;
use tidemill_snapshot::{DirStore, SnapshotStore};

use crate::metadata::{ArtifactStore, MetadataStore};

/// Opens checkpoint stores; blocking.
pub type SnapshotOpener =
    Arc<dyn Fn(&StoreSettings) -> Result<Arc<dyn SnapshotStore>, String> + Send + Sync>;

/// Where everything is kept.
#[derive(Clone)]
pub struct Stores {
    /// Jobs and their histories; elects the leader.
    pub metadata: Arc<dyn MetadataStore>,
    /// Program files.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// Checkpoints.
    pub snapshots: SnapshotOpener,
}

/// Opens directories; a bucket is refused.
///
/// # Errors
/// For people.
pub fn open_directory(settings: &StoreSettings) -> Result<Arc<dyn SnapshotStore>, String> {
    match settings {
        StoreSettings::Dir { path } => match DirStore::create(Path::new(path)) {
            Ok(store) => Ok(Arc::new(store)),
            Err(e) => Err(e.to_string()),
        },
        StoreSettings::S3 { bucket, .. } => Err(format!(
            "checkpoints go to the bucket '{bucket}', but this JobManager was built without S3"
        )),
    }
}

/// The part of a store that is one job's.
pub(crate) fn of_job(base: &StoreSettings, job: &str) -> StoreSettings {
    match base.clone() {
        StoreSettings::Dir { path } => {
            StoreSettings::Dir { path: format!("{}/{job}", path.trim_end_matches('/')) }
        }
        StoreSettings::S3 { bucket, prefix, endpoint, region, path_style } => {
            let prefix = format!("{prefix}{job}/");
            StoreSettings::S3 { bucket, prefix, endpoint, region, path_style }
        }
    }
}
