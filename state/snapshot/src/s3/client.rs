//! The connection to one endpoint: the SDK's client with our times, shared by all stores of the process.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::settings::{S3Credentials, S3Limits, S3Settings};

/// Clients that are kept; each has its connections and its credentials.
const CLIENTS_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    endpoint: Option<String>,
    region: Option<String>,
    path_style: bool,
    credentials: Option<S3Credentials>,
    limits: S3Limits,
}

/// The client for these settings; blocking work aside, cheap.
pub(super) async fn client(settings: &S3Settings) -> Client {
    static CLIENTS: Mutex<Vec<(Key, Client)>> = Mutex::new(Vec::new());
    let lock = || CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let S3Settings { endpoint, region, path_style, credentials, limits, .. } = settings.clone();
    let key = Key { endpoint, region, path_style, credentials, limits };
    if let Some((_, client)) = lock().iter().find(|(known, _)| *known == key) {
        return client.clone();
    }
    // Made twice at once, one of them is used by its maker alone.
    let made = make(&key).await;
    let mut clients = lock();
    if clients.len() >= CLIENTS_MAX {
        clients.remove(0);
    }
    clients.push((key, made.clone()));
    made
}

fn environment(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// The endpoint that the environment names.
pub(super) fn endpoint_of_environment() -> Option<String> {
    environment(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
}

async fn make(key: &Key) -> Client {
    let endpoint = key.endpoint.clone().or_else(endpoint_of_environment);
    let plain = endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
    let http = aws_smithy_http_client::Builder::new();
    let http = match plain {
        true => http.build_http(),
        false => http.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
    };
    let limits = key.limits;
    let times = TimeoutConfig::builder()
        .connect_timeout(limits.connect)
        .read_timeout(limits.attempt)
        .operation_attempt_timeout(limits.attempt)
        .operation_timeout(limits.operation)
        .build();
    let retry = RetryConfig::standard()
        .with_max_attempts(limits.attempts)
        .with_initial_backoff(Duration::from_millis(100))
        .with_max_backoff(Duration::from_secs(10));
    let mut loader = aws_config::from_env()
        .http_client(http)
        .timeout_config(times.clone())
        .retry_config(retry.clone())
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(limits.attempt).build(),
        );
    let region = key.region.clone().or_else(|| environment(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
    // Servers other than Amazon's rarely have regions, and the machine need not be asked for its own.
    let region = region.or_else(|| endpoint.is_some().then(|| "us-east-1".to_owned()));
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(endpoint) = &key.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(S3Credentials { id, secret }) = &key.credentials {
        loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "given"));
    }
    let shared = loader.load().await;
    // Checksums in trailers are not known to many servers; our formats carry their own (format.rs,
    // manifest.rs), which every restore compares.
    let config = Builder::from(&shared)
        .timeout_config(times)
        .retry_config(retry)
        .force_path_style(key.path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}
