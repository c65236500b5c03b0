//! Windows over keyed streams, as a program writes them.

mod apply;
mod assigners;
mod functions;

pub use apply::{WindowFactory, WindowedStream};
pub use assigners::{Count, Global, Session, Sliding, Tumbling, Windows};
pub use functions::{Aggregate, Number, ResultShape, ValueByKey, ValueByWindow};
pub use tidemill_runtime::window::{Trigger, Window};
