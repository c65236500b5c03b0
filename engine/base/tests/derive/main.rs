//! The derives of `tidemill-macros` against the laws of `Record` and `Key`.
//!
//! `forbid` shows that the generated `unsafe` does not need the user's leave.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod damage;
mod keys;
mod layout;
mod round_trip;
mod types;
