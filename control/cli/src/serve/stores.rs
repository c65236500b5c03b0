//! The stores that settings name.

use std::path::Path;
use std::sync::Arc;

use tidemill_jobmanager::metadata::{DirArtifacts, EmbeddedMetadata};
use tidemill_jobmanager::{ArtifactStore, MetadataStore, Stores, open_store};
use tidemill_protocol::{StoreSettings, path_style};

use crate::exit::Failure;
use crate::settings::Settings;

/// Where a setting says that something lies; `folder` of the data directory where it says nothing.
fn place(settings: &Settings, key: &str, data_dir: &Path, folder: &str) -> StoreSettings {
    let named = settings.text_of(key).and_then(StoreSettings::bucket);
    if let Some(StoreSettings::S3 { bucket, prefix, .. }) = named {
        let text_of = |key| settings.text_of(key).map(str::to_owned);
        let endpoint = text_of("s3.endpoint");
        let given = settings.is_given("s3.path_style").then(|| settings.is("s3.path_style"));
        let path_style = path_style(given, endpoint.as_deref());
        let region = text_of("s3.region");
        return StoreSettings::S3 { bucket, prefix, endpoint, region, path_style };
    }
    let path = settings.path(key).unwrap_or_else(|| data_dir.join(folder));
    StoreSettings::Dir { path: path.display().to_string() }
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
        artifacts: artifacts(settings, data_dir).await?,
        snapshots: Arc::new(open_store),
    })
}

async fn metadata(settings: &Settings, data_dir: &Path) -> Result<Arc<dyn MetadataStore>, Failure> {
    match settings.text_of("metadata.location").unwrap_or("embedded") {
        "embedded" => Ok(Arc::new(EmbeddedMetadata::open(&data_dir.join("metadata.db"))?)),
        url if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            in_postgres(url, settings).await
        }
        other => Err(Failure::usage(format!(
            "metadata.location = {other}: embedded is wanted, or postgres://USER@HOST:PORT/DATABASE"
        ))),
    }
}

#[cfg(feature = "postgres")]
async fn in_postgres(url: &str, settings: &Settings) -> Result<Arc<dyn MetadataStore>, Failure> {
    use tidemill_jobmanager::metadata::{PostgresMetadata, PostgresSettings};
    let password = settings.path("metadata.password_file").map(|path| {
        crate::secrets::read(&path)
            .map_err(|e| Failure::usage(format!("metadata.password_file {}: {e}", path.display())))
    });
    let more = PostgresSettings { password: password.transpose()?, ..PostgresSettings::default() };
    Ok(Arc::new(PostgresMetadata::connect_with(url, more).await?))
}

#[cfg(not(feature = "postgres"))]
async fn in_postgres(_: &str, _: &Settings) -> Result<Arc<dyn MetadataStore>, Failure> {
    Err(Failure::usage(
        "metadata.location: this binary was built without PostgreSQL: build it with the feature postgres \
         (cargo build -p tidemill-cli --features postgres), or use embedded",
    ))
}

async fn artifacts(
    settings: &Settings,
    data_dir: &Path,
) -> Result<Arc<dyn ArtifactStore>, Failure> {
    match place(settings, "artifacts.location", data_dir, "artifacts") {
        StoreSettings::Dir { path } => {
            make(&path, "artifacts.location")?;
            Ok(Arc::new(DirArtifacts::open(Path::new(&path))?))
        }
        bucket => in_bucket(bucket).await,
    }
}

#[cfg(feature = "s3")]
async fn in_bucket(place: StoreSettings) -> Result<Arc<dyn ArtifactStore>, Failure> {
    use tidemill_jobmanager::metadata::S3Artifacts;
    let opened = tokio::task::spawn_blocking(move || S3Artifacts::of_cluster(&place)).await;
    let wrong = |why: String| Failure::usage(format!("artifacts.location: {why}"));
    let opened = opened.map_err(|e| wrong(e.to_string()))?.map_err(|e| wrong(e.to_string()))?;
    Ok(Arc::new(opened))
}

#[cfg(not(feature = "s3"))]
async fn in_bucket(_: StoreSettings) -> Result<Arc<dyn ArtifactStore>, Failure> {
    Err(Failure::usage(
        "artifacts.location: this binary was built without S3: build it with the feature s3 \
         (cargo build -p tidemill-cli --features s3), or give a directory",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Given;

    #[test]
    fn buckets_stand_in_the_path_where_it_is_said_or_a_server_is_named() {
        let style = |flags: &[(&str, &str)]| {
            let flag = |(key, value): &(&str, &str)| {
                ((*key).to_owned(), (*value).to_owned(), "--set".to_owned())
            };
            let flags = flags.iter().chain(&[("checkpoints.location", "s3://b/p")]).map(flag);
            let given = Given { flags: flags.collect(), ..Given::default() };
            let settings = Settings::load(&given).expect("settings");
            match checkpoints(&settings, Path::new("/nonexistent")).expect("a place") {
                StoreSettings::S3 { path_style, .. } => path_style,
                other => panic!("{other:?}"),
            }
        };
        let server = ("s3.endpoint", "http://minio:9000");
        assert!(style(&[server]) && style(&[("s3.path_style", "true")]));
        assert!(!style(&[server, ("s3.path_style", "false")]));
        assert!(!style(&[("s3.path_style", "false")]));
    }
}
