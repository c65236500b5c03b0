//! What a running job measures, in Prometheus' text format, and the HTTP server that hands it out.
//!
//! - [`registry`]: what there is to tell of a job and its subtasks
//! - [`sampler`]: milliseconds per second, from two samples
//! - [`text`]: the exposition format
//! - [`server`]: `GET /metrics`
//!
//! Subtasks count on their own cores (`tidemill_base::metrics`); nothing here is on their way.

mod registry;
mod sampler;
mod server;
mod text;

pub(crate) use registry::JobMetrics;
pub(crate) use server::Server;
