//! Graphs in, plans out: errors, ids, renderings, and properties of random graphs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod errors;
mod golden;
mod graphs;
mod properties;
mod uids;
