//! From what names a checkpoint store to the store: one place for JobManager, workers and embedded jobs, so that
//! all mean the same.
//!
//! A bucket is named `s3://bucket/prefix`. How it is reached stands in the settings or in the environment, by the
//! names that AWS gave them; see `docs/adr/0013-s3.md`.

use crate::StoreSettings;
use std::path::Path;
use std::sync::Arc;
use tidemill_snapshot::{DirStore, SnapshotStore};

/// What begins the name of a bucket.
const SCHEME: &str = "s3://";

/// Why a checkpoint store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's word.
    #[error(transparent)]
    Snapshot(#[from] tidemill_snapshot::Error),
    /// It is in a bucket.
    #[error(
        "the bucket '{bucket}' cannot be opened: this program was built without S3; build it with the feature \
         's3' (of a job, that of the crate tidemill: cargo build --features tidemill/s3)"
    )]
    NoS3 {
        /// Its name.
        bucket: String,
    },
    /// A setting that cannot be.
    #[error("{0}")]
    Setting(String),
}

/// The kinds of stores that this program opens, as [`StoreSettings::kind`] names them.
pub fn store_kinds() -> Vec<String> {
    let kinds: &[&str] = if cfg!(feature = "s3") { &["dir", "s3"] } else { &["dir"] };
    kinds.iter().map(|kind| (*kind).to_owned()).collect()
}

impl StoreSettings {
    /// `dir` or `s3`.
    pub fn kind(&self) -> &'static str {
        match self {
            StoreSettings::Dir { .. } => "dir",
            StoreSettings::S3 { .. } => "s3",
        }
    }

    /// Reads `s3://bucket` or `s3://bucket/prefix`; `None` for anything else. Everything else of the bucket is the
    /// environment's to say.
    pub fn bucket(text: &str) -> Option<Self> {
        let (bucket, prefix) = match text.strip_prefix(SCHEME)?.split_once('/') {
            Some((bucket, prefix)) => (bucket, prefix.trim_matches('/')),
            None => (&text[SCHEME.len()..], ""),
        };
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let bucket = bucket.to_owned();
        // What the variable should say instead is told when the bucket is opened.
        let path_style = path_style(path_style_variable().unwrap_or(None), None);
        let (endpoint, region) = (None, None);
        (!bucket.is_empty()).then_some(StoreSettings::S3 {
            bucket,
            prefix,
            endpoint,
            region,
            path_style,
        })
    }
}

/// Whether a bucket stands in the path, not in the host name. The one rule, for clusters and embedded jobs: as it is
/// given (`s3.path_style`, `TIDEMILL_S3_PATH_STYLE`); where it is not, if a server is named (`s3.endpoint`,
/// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`), because most others than Amazon's want it.
pub fn path_style(given: Option<bool>, endpoint: Option<&str>) -> bool {
    let set = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
    given.unwrap_or_else(|| {
        endpoint.is_some() || set("AWS_ENDPOINT_URL_S3") || set("AWS_ENDPOINT_URL")
    })
}

const PATH_STYLE: &str = "TIDEMILL_S3_PATH_STYLE";

fn path_style_variable() -> Result<Option<bool>, StoreError> {
    read_path_style(std::env::var(PATH_STYLE).ok().as_deref())
}

fn read_path_style(text: Option<&str>) -> Result<Option<bool>, StoreError> {
    match text.unwrap_or("") {
        "" => Ok(None),
        "true" | "1" => Ok(Some(true)),
        "false" | "0" => Ok(Some(false)),
        other => Err(StoreError::Setting(format!("{PATH_STYLE}={other}: give true or false"))),
    }
}

/// Opens the store that the settings name; blocking. A directory is made if it does not exist; a bucket must be
/// there, and is looked into. Call it from an unpinned thread.
///
/// # Errors
/// When it cannot be used.
pub fn open_store(settings: &StoreSettings) -> Result<Arc<dyn SnapshotStore>, StoreError> {
    match settings {
        StoreSettings::Dir { path } => Ok(Arc::new(DirStore::create(Path::new(path))?)),
        StoreSettings::S3 { .. } => open_bucket(settings, false),
    }
}

/// The same for a store that a checkpoint is to be found in: a directory is not made.
///
/// # Errors
/// When it is not there, or cannot be used.
pub fn find_store(settings: &StoreSettings) -> Result<Arc<dyn SnapshotStore>, StoreError> {
    match settings {
        StoreSettings::Dir { path } => Ok(Arc::new(DirStore::existing(path)?)),
        StoreSettings::S3 { .. } => open_bucket(settings, false),
    }
}

/// The same for a store that checkpoints will go to: makes sure that something can be stored.
///
/// # Errors
/// When it cannot be used, or not written.
pub fn create_store(settings: &StoreSettings) -> Result<Arc<dyn SnapshotStore>, StoreError> {
    match settings {
        StoreSettings::Dir { .. } => open_store(settings),
        StoreSettings::S3 { .. } => open_bucket(settings, true),
    }
}

#[cfg(not(feature = "s3"))]
fn open_bucket(settings: &StoreSettings, _: bool) -> Result<Arc<dyn SnapshotStore>, StoreError> {
    let bucket = match settings {
        StoreSettings::S3 { bucket, .. } => bucket.clone(),
        StoreSettings::Dir { path } => path.clone(),
    };
    Err(StoreError::NoS3 { bucket })
}

#[cfg(feature = "s3")]
fn open_bucket(
    settings: &StoreSettings,
    write: bool,
) -> Result<Arc<dyn SnapshotStore>, StoreError> {
    use tidemill_snapshot::S3Store;
    let settings = s3_settings(settings)?;
    let store = if write { S3Store::create(&settings) } else { S3Store::open(&settings) };
    Ok(Arc::new(store?))
}

/// A bucket's settings for the crate that opens it.
///
/// # Errors
/// For a directory, and for times in the environment that cannot be.
#[cfg(feature = "s3")]
pub fn s3_settings(settings: &StoreSettings) -> Result<tidemill_snapshot::S3Settings, StoreError> {
    use tidemill_snapshot::S3Settings;
    let StoreSettings::S3 { bucket, prefix, endpoint, region, path_style } = settings else {
        return Err(StoreError::Setting("a directory is no bucket".into()));
    };
    path_style_variable()?;
    Ok(S3Settings {
        endpoint: endpoint.clone(),
        region: region.clone(),
        path_style: *path_style,
        limits: limits(std::env::var("TIDEMILL_S3_TIMEOUT").ok().as_deref())?,
        ..S3Settings::new(bucket, prefix)
    })
}

/// `TIDEMILL_S3_TIMEOUT`: seconds of a request with all its tries.
#[cfg(feature = "s3")]
fn limits(timeout: Option<&str>) -> Result<tidemill_snapshot::S3Limits, StoreError> {
    use tidemill_snapshot::S3Limits;
    let Some(text) = timeout.filter(|text| !text.is_empty()) else {
        return Ok(S3Limits::default());
    };
    let seconds = text.parse::<f64>().ok().filter(|s| (0.1..=3_600.0).contains(s));
    let seconds = seconds.ok_or_else(|| {
        StoreError::Setting(format!("TIDEMILL_S3_TIMEOUT={text}: give seconds from 0.1 to 3600"))
    })?;
    Ok(S3Limits::within(std::time::Duration::from_secs_f64(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Option<(String, String)> {
        match StoreSettings::bucket(text)? {
            StoreSettings::S3 { bucket, prefix, .. } => Some((bucket, prefix)),
            StoreSettings::Dir { .. } => None,
        }
    }

    #[test]
    fn buckets_are_named_with_or_without_a_prefix() {
        let named = |bucket: &str, prefix: &str| Some((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(place("s3://b"), named("b", ""));
        assert_eq!(place("s3://b/"), named("b", ""));
        assert_eq!(place("s3://b/x/y"), named("b", "x/y/"));
        assert_eq!(place("s3://b/x/y/"), named("b", "x/y/"));
        assert_eq!((place("s3://"), place("/s3://b"), place("dir")), (None, None, None));
    }

    #[test]
    fn buckets_stand_in_the_path_where_it_is_said_or_a_server_is_named() {
        let said = |text| read_path_style(text).unwrap();
        assert_eq!([said(None), said(Some(""))], [None, None]);
        assert_eq!([said(Some("true")), said(Some("1"))], [Some(true); 2]);
        assert_eq!([said(Some("false")), said(Some("0"))], [Some(false); 2]);
        let wrong = read_path_style(Some("yes")).unwrap_err().to_string();
        assert!(wrong.contains("TIDEMILL_S3_PATH_STYLE=yes"), "{wrong}");
        let server = Some("http://minio:9000");
        assert!(path_style(None, server) && path_style(Some(true), None));
        assert!(!path_style(Some(false), server) && !path_style(Some(false), None));
    }

    #[cfg(not(feature = "s3"))]
    #[test]
    fn without_the_feature_a_bucket_is_refused_with_the_remedy() {
        let settings = StoreSettings::bucket("s3://b/x").unwrap();
        assert_eq!((settings.kind(), store_kinds()), ("s3", vec!["dir".to_owned()]));
        let Err(error) = open_store(&settings) else { panic!("it opened") };
        for part in ["'b'", "feature 's3'", "tidemill/s3"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[cfg(feature = "s3")]
    #[test]
    fn times_of_the_environment_are_checked() {
        assert_eq!(store_kinds(), ["dir", "s3"]);
        assert_eq!(limits(None).unwrap(), tidemill_snapshot::S3Limits::default());
        assert_eq!(limits(Some("1.5")).unwrap().operation.as_millis(), 1_500);
        assert_eq!(limits(Some("1.5")).unwrap().attempt.as_millis(), 500);
        for wrong in ["0", "-1", "soon", "1e9", "NaN"] {
            let error = limits(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("TIDEMILL_S3_TIMEOUT") && error.contains(wrong), "{error}");
        }
    }
}
