//! Getting to lead, and what is read first then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::event::Done;
use crate::metadata::{JobRecord, MetadataError, MetadataStore, Term};

/// Between two candidacies.
const EVERY: Duration = Duration::from_millis(500);
/// A store that does not answer by then is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Stands for election, for ever. A store that is away changes nothing: every write carries the term.
pub(super) async fn campaign(
    store: Arc<dyn MetadataStore>,
    address: String,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut known = None;
    let mut away = false;
    while !done.is_closed() {
        match timeout(ANSWER_TIMEOUT, store.campaign(&address)).await {
            Ok(Ok(lead)) => {
                away = false;
                // Also what is not new where this one leads: a fenced leader hears that it leads again.
                if known.as_ref() != Some(&lead)
                    || matches!(lead, crate::metadata::Lead::Mine { .. })
                {
                    let _ = done.send(Done::Elected(lead.clone()));
                }
                known = Some(lead);
            }
            Ok(Err(e)) if !std::mem::replace(&mut away, true) => warn!("no election: {e}"),
            Err(_) if !std::mem::replace(&mut away, true) => {
                warn!("no election: the metadata store does not answer");
            }
            _ => {}
        }
        sleep(EVERY).await;
    }
}

/// Reads what an earlier leader left, as often as it takes.
///
/// # Errors
/// Where trying again does not help.
pub(super) async fn load(
    store: &dyn MetadataStore,
    term: Term,
) -> Result<Vec<JobRecord>, MetadataError> {
    let mut away = false;
    loop {
        match timeout(ANSWER_TIMEOUT, store.load(term)).await {
            Ok(Err(e @ (MetadataError::Unavailable(_) | MetadataError::InDoubt(_)))) => {
                if !std::mem::replace(&mut away, true) {
                    warn!("{e}; trying on");
                }
            }
            Ok(result) => return result,
            Err(_) => warn!("the metadata store does not answer; trying on"),
        }
        sleep(EVERY).await;
    }
}
