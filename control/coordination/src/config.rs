//! What a coordinator is told once.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Epoch, Micros};

/// Whether checkpoints are stored anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// There is a checkpoint store: epochs have data objects and a manifest.
    Durable,
    /// There is none: only the last epoch exists, and it commits the sinks without a manifest.
    None,
}

/// Settings of a [`crate::Coordinator`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// From one periodic checkpoint's start to the next one's; none are taken where absent.
    pub interval_us: Option<Micros>,
    /// From the trigger to the stored manifest, and again from there to the last commit.
    pub timeout_us: Micros,
    /// The least time from the end of one epoch, good or bad, to the start of a periodic one.
    pub min_pause_us: Micros,
    /// How many checkpoints in a row may fail before the job does; savepoints do not count.
    /// `None`: any number.
    pub tolerated_failures: Option<u32>,
    /// How long tasks align a periodic checkpoint before it turns unaligned; `None`: for ever.
    /// Passed through to [`crate::Action::Trigger`]; savepoints and the last epoch always align.
    pub aligned_timeout_ms: Option<u64>,
    /// Whether there is anything to store checkpoints in.
    pub store: Store,
    /// How many writers each close a data object for every epoch; they are numbered from 0.
    pub writers: u32,
    /// The first epoch to trigger: above the restored one, and above any that an earlier attempt used.
    pub first_epoch: Epoch,
}

impl Default for Config {
    /// A store, one writer, no periodic checkpoints; 10 minutes until a checkpoint is given up, 3
    /// failures in a row tolerated, 1 second of alignment.
    fn default() -> Self {
        Self {
            interval_us: None,
            timeout_us: 600_000_000,
            min_pause_us: 0,
            tolerated_failures: Some(3),
            aligned_timeout_ms: Some(1_000),
            store: Store::Durable,
            writers: 1,
            first_epoch: 1,
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// An interval of 0.
    #[error("the checkpoint interval is 0; give it a length, or leave it out for no checkpoints")]
    Interval,
    /// A timeout of 0.
    #[error(
        "the checkpoint timeout is 0, so no checkpoint could succeed; the default is 10 minutes"
    )]
    Timeout,
    /// Periodic checkpoints and nowhere to put them.
    #[error(
        "a checkpoint interval is set but nothing to store checkpoints in; name a checkpoint directory"
    )]
    NowhereToStore,
    /// A store that nobody writes to.
    #[error("checkpoints are to be stored but there are 0 writers; a job has at least one worker")]
    Writers,
    /// Epoch 0.
    #[error("the first epoch is 0; epochs count from 1, and from the restored epoch + 1")]
    FirstEpoch,
}

impl Config {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.interval_us == Some(0) {
            Err(ConfigError::Interval)
        } else if self.timeout_us == 0 {
            Err(ConfigError::Timeout)
        } else if self.interval_us.is_some() && self.store == Store::None {
            Err(ConfigError::NowhereToStore)
        } else if self.writers == 0 && self.store == Store::Durable {
            Err(ConfigError::Writers)
        } else if self.first_epoch == 0 {
            Err(ConfigError::FirstEpoch)
        } else {
            Ok(())
        }
    }
}
