//! SIGTERM and SIGINT (B1).

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::exit::{self, Failure};

/// Resolves when the process is to end; clones do at the same time.
#[derive(Clone, Debug)]
pub(super) struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Until the process is to end.
    pub(super) async fn wait(mut self) {
        // An error is the sender's end, which means the same.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

/// Handles both from now on.
///
/// # Errors
/// The system refuses.
pub(super) fn install() -> Result<Shutdown, Failure> {
    let cannot = |e| Failure::here(format!("signals cannot be handled: {e}"));
    let mut term = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut int = signal(SignalKind::interrupt()).map_err(cannot)?;
    let (ask, asked) = watch::channel(false);
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" }
        };
        info!("{}: ending; a second signal ends at once", next().await);
        ask.send_replace(true);
        next().await;
        std::process::exit(exit::INTERRUPTED.into());
    });
    Ok(Shutdown(asked))
}
