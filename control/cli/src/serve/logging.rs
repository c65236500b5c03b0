//! What servers say goes to standard error, one line a fact.

use std::io::IsTerminal;

use tracing::warn;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;
use crate::settings::Settings;

/// Installs the subscriber, and says what is odd about the settings.
///
/// # Errors
/// A filter that cannot be read.
pub(super) fn install(settings: &Settings) -> Result<(), Failure> {
    let text = settings.text_of("log").unwrap_or("info");
    let filter = EnvFilter::builder().parse(text).map_err(|e| {
        let origin = settings.origin("log");
        Failure::usage(format!(
            "{origin}: log = {text}: {e}; e.g. info, or info,tidemill_jobmanager=debug"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    settings.warnings.iter().for_each(|text| warn!("{text}"));
    Ok(())
}
