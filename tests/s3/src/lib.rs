//! A real S3 server for tests (`s3s` with its file system), on a free loopback port, that fails as it is told to.
//!
//! ```text
//!   client --HTTP, SigV4--> faults --(what passes)--> files --> s3s-fs --> a temporary directory
//! ```
//! It checks signatures, ranges, part sizes and conditional writes. What s3s-fs lacks stands in `files`.
//!
//! Empty without the feature `server`.
#![forbid(unsafe_code)]

#[cfg(feature = "server")]
mod fault;
#[cfg(feature = "server")]
mod files;
#[cfg(feature = "server")]
mod server;

#[cfg(feature = "server")]
pub use fault::{Fault, Seen};
#[cfg(feature = "server")]
pub use server::{ACCESS_KEY, BUCKET, SECRET_KEY, Server};
