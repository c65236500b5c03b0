//! Guards the shape of the workspace: the arrows between crates, and how source files open.
//!
//! The checkers are pure functions over what they are shown, so that their own tests can show them a workspace that
//! is wrong; `tests/workspace.rs` shows them this one.
//!
//! [`graph`] reads `cargo metadata`, [`rules`] judges the crates, [`sources`] judges the files.
#![forbid(unsafe_code)]

pub mod graph;
pub mod rules;
pub mod sources;
