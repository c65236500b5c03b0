//! Clusters of real processes: `tidemill local`, or `jobmanager` and `taskmanager`, a job that writes files exactly
//! once, and processes that are killed at it. Whatever happens, the files hold what the text says.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::disallowed_methods, reason = "real processes need real time")]

mod failures;
mod idle;
mod life;
mod process;
mod program;
mod settings;
mod words;
