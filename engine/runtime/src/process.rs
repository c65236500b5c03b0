//! Keyed operators that run user functions: rolling aggregations, process functions over one and
//! two inputs, broadcast state.
//!
//! - [`part`]: the states of an operator, on their way into snapshots and out of them
//! - [`rolling`]: every record in gives (key, running value) out
//! - [`context`]: what a process function can do beside looking at its record
//! - [`function`]: the traits that users implement
//! - [`host`]: keys, timers and states, the same for all process operators
//! - [`keyed`], [`co`], [`broadcast`]: the operators
//! - [`plain`]: process functions without key, fused into their chain
//! - [`side`]: side outputs

pub mod broadcast;
pub mod co;
pub mod context;
pub mod function;
pub mod host;
pub mod keyed;
pub mod part;
pub mod plain;
pub mod rolling;
pub mod side;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use context::{ProcessContext, Timer, TimerKind};
pub use function::{BroadcastProcess, CoProcess, KeyedProcess};
