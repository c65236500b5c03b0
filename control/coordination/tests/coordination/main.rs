//! The coordinator: its table, told lives, random lives against a checker of its invariants, liveness;
//! and restart strategies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod checker;
mod lives;
mod matrix;
mod random;
mod restart;
mod world;
