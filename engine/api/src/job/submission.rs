//! What a program tells a JobManager about itself.

use super::options::{Options, State};
use crate::env::Env;
use std::hint::black_box;
use tidemill_base::{Error, Result};
use tidemill_coordination::{JobSettings, Submission};
use tidemill_plan::PhysicalPlan;
use tidemill_protocol::StateSettings;

/// By this a JobManager knows a program file without running it (`tidemill_protocol::marker`).
static MARKER: &str = tidemill_protocol::program_marker!(env!("CARGO_PKG_VERSION"));

/// The submission as JSON. Flags go before what the program says.
pub(super) fn json(env: &Env, plan: PhysicalPlan, options: &Options) -> Result<String> {
    let settings = env.settings.borrow();
    let ms = |d: std::time::Duration| d.as_millis() as u64;
    let interval = options.checkpoint_interval.or(settings.checkpoint_every);
    let aligned = options.aligned_timeout.unwrap_or(settings.aligned_timeout);
    let state = match options.state {
        // Where the cluster keeps state by default.
        None => None,
        Some(State::Heap) => Some(StateSettings::Heap),
        Some(State::RocksDb) if cfg!(feature = "rocksdb") => {
            Some(StateSettings::Rocksdb { memory_mib: options.state_memory_mib as u64 })
        }
        Some(State::RocksDb) => {
            return Err(Error::job(
                "--state rocksdb: this build has no RocksDB; build with the feature 'rocksdb'",
            ));
        }
    };
    let submission = Submission {
        stores: tidemill_protocol::store_kinds(),
        protocol: tidemill_protocol::VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings: JobSettings {
            checkpoint_interval_ms: interval.map(ms),
            aligned_timeout_ms: aligned.map(ms),
            restart: settings.restart.clone(),
            state,
        },
        plan,
    };
    // The marker must not be thrown away by the linker.
    if black_box(MARKER).is_empty() {
        return Err(Error::job("this program has no marker"));
    }
    serde_json::to_string(&submission).map_err(|e| Error::job(format!("the plan as JSON: {e}")))
}
