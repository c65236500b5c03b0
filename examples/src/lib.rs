//! Jobs to read and to run; each is a program of its own beside this folder. The code in README.md
//! and in docs/first_job.md is compiled here, as doc tests.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/first_job.md")]
mod first_job {}
