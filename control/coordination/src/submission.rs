//! What a program says of itself when it is asked for its plan: everything that a JobManager needs to
//! run it without knowing its code.

use serde::{Deserialize, Serialize};
use tidemill_plan::PhysicalPlan;
use tidemill_protocol::StateSettings;

use crate::RestartStrategy;

/// A job as its program describes it; printed as JSON by `PROGRAM plan --format submission`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Version of the control protocol that the program speaks.
    pub protocol: u32,
    /// Version of the crate `tidemill` that it was built with.
    pub version: String,
    /// How it wants to be run.
    pub settings: JobSettings,
    /// The kinds of checkpoint stores that it opens (`tidemill_protocol::store_kinds`): what its workers find in
    /// another one they could neither write nor read.
    #[serde(default = "directories")]
    pub stores: Vec<String>,
    /// Its tasks and edges, at the parallelism asked for.
    pub plan: PhysicalPlan,
}

/// What programs open that do not say.
fn directories() -> Vec<String> {
    vec!["dir".into()]
}

/// How a job wants to be run. What is absent is the cluster's to decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSettings {
    /// From one checkpoint's start to the next one's.
    pub checkpoint_interval_ms: Option<u64>,
    /// Alignment after which a checkpoint turns unaligned; `None`: never.
    pub aligned_timeout_ms: Option<u64>,
    /// What happens after a failure.
    pub restart: RestartStrategy,
    /// Where its keyed state lives.
    #[serde(default)]
    pub state: Option<StateSettings>,
}

impl Submission {
    /// Reads what a program printed.
    ///
    /// # Errors
    /// What is wrong with it, for the user.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text)
            .map_err(|e| format!("the program's plan cannot be read: {e}; is it a Tidemill job?"))
    }
}
