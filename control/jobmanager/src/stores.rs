//! The stores that a JobManager is given.

use std::sync::Arc;

use tidemill_protocol::StoreSettings;
use tidemill_snapshot::SnapshotStore;

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

/// Opens what this version can ([`tidemill_protocol::open_store`]).
///
/// # Errors
/// For people.
pub fn open_store(settings: &StoreSettings) -> Result<Arc<dyn SnapshotStore>, String> {
    tidemill_protocol::open_store(settings).map_err(|e| e.to_string())
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
