//! The stores that settings name.

use std::path::Path;
use std::sync::Arc;

use tidemill_jobmanager::metadata::{DirArtifacts, EmbeddedMetadata};
use tidemill_jobmanager::{ArtifactStore, MetadataStore, Stores, open_store};
use tidemill_protocol::StoreSettings;

use crate::exit::Failure;
use crate::settings::Settings;

/// Where a setting says that something lies; `folder` of the data directory where it says nothing.
fn place(settings: &Settings, key: &str, data_dir: &Path, folder: &str) -> StoreSettings {
    let text = settings.text_of(key);
    if let Some((bucket, prefix)) = text.and_then(|t| t.strip_prefix("s3://")).map(bucket_of) {
        let text_of = |key| settings.text_of(key).map(str::to_owned);
        return StoreSettings::S3 {
            bucket,
            prefix,
            endpoint: text_of("s3.endpoint"),
            region: text_of("s3.region"),
            path_style: settings.is("s3.path_style"),
        };
    }
    let path = settings.path(key).unwrap_or_else(|| data_dir.join(folder));
    StoreSettings::Dir { path: path.display().to_string() }
}

fn bucket_of(place: &str) -> (String, String) {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix.trim_matches('/');
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    (bucket.to_owned(), prefix)
}

/// Where checkpoints go.
///
/// # Errors
/// The place cannot be used.
pub(super) fn checkpoints(settings: &Settings, data_dir: &Path) -> Result<StoreSettings, Failure> {
    let place = place(settings, "checkpoints.location", data_dir, "checkpoints");
    if let StoreSettings::Dir { path } = &place {
        make(path, "checkpoints.location")?;
    }
    Ok(place)
}

fn make(path: &str, key: &str) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|e| {
        Failure::usage(format!("{key} = {path}: {e}; give a directory that can be written"))
    })
}

/// Opens all of them.
///
/// # Errors
/// One cannot be used.
pub(super) async fn open(settings: &Settings, data_dir: &Path) -> Result<Stores, Failure> {
    Ok(Stores {
        metadata: metadata(settings, data_dir).await?,
        artifacts: artifacts(settings, data_dir)?,
        snapshots: Arc::new(open_store),
    })
}

async fn metadata(settings: &Settings, data_dir: &Path) -> Result<Arc<dyn MetadataStore>, Failure> {
    match settings.text_of("metadata.location").unwrap_or("embedded") {
        "embedded" => Ok(Arc::new(EmbeddedMetadata::open(&data_dir.join("metadata.db"))?)),
        other => Err(Failure::usage(format!(
            "metadata.location = {other}: embedded is wanted, or postgres://USER@HOST:PORT/DATABASE"
        ))),
    }
}

fn artifacts(settings: &Settings, data_dir: &Path) -> Result<Arc<dyn ArtifactStore>, Failure> {
    match place(settings, "artifacts.location", data_dir, "artifacts") {
        StoreSettings::Dir { path } => {
            make(&path, "artifacts.location")?;
            Ok(Arc::new(DirArtifacts::open(Path::new(&path))?))
        }
        #[cfg(feature = "s3")]
        bucket @ StoreSettings::S3 { .. } => {
            use tidemill_jobmanager::metadata::S3Artifacts;
            let kept = S3Artifacts::of_cluster(&bucket);
            let kept = kept.map_err(|e| Failure::usage(format!("artifacts.location: {e}")))?;
            Ok(Arc::new(kept))
        }
        #[cfg(not(feature = "s3"))]
        StoreSettings::S3 { bucket, .. } => Err(Failure::usage(format!(
            "artifacts.location: the bucket {bucket} cannot be used: this binary was built without S3; build \
             it with the feature s3 (cargo build -p tidemill-cli --features s3)"
        ))),
    }
}
