//! Windows against a naive oracle: random out-of-order records, all kinds and triggers, late
//! data, snapshots at random points beside processing, restored at other parallelisms with
//! subtasks that had seen different watermarks.

mod driver;
mod oracle;
mod random;
mod volume;
