//! Tidemill: jobs over streams, as ordinary Rust programs.
//!
//! A job composes [`Stream`]s in an [`Env`] and hands it to [`job::main`]; run plain, the program
//! executes on this machine, with checkpoints and recovery.
//!
//! ```
//! use std::time::Duration;
//! use tidemill::prelude::*;
//!
//! let env = Env::new("Shout");
//! let out = CollectSink::new();
//! env.from_vec(vec!["to be".to_string(), "or not".to_string()])
//!     .map(|line| line.to_uppercase())
//!     .add_sink(out.sink());
//! env.execute()?;
//! assert_eq!(out.take(), ["TO BE", "OR NOT"]);
//! # Ok::<(), tidemill::Error>(())
//! ```
#![forbid(unsafe_code)]

mod broadcast;
mod connect;
pub mod connectors;
mod env;
mod functions;
mod graph;
pub mod job;
mod join;
mod keyed;
mod metrics;
pub mod pipe;
mod process;
mod side_output;
mod strategy;
mod stream;
pub mod text;
mod window;

pub use broadcast::{BroadcastClosures, BroadcastConnected, BroadcastFactory, KeyedBroadcast};
pub use connect::{CoFactory, CoPlainFactory, Connected, KeyedConnected};
pub use env::Env;
pub use functions::{
    Backoff, BroadcastMap, BroadcastProcess, CoProcess, Emit, Key, KeyedProcess, List, ListState,
    MapState, PlainContext, Polled, ProcessContext, Record, ReducingState, RestartStrategy, Sink,
    SinkContext, SinkWriter, Source, SourceContext, SourceReader, StateTtl, States, Timer,
    TimerKind, TtlTime, ValueState,
};
pub use join::{All, InInterval, InWindow, Join, JoinFactory};
pub use keyed::KeyedStream;
pub use process::{NoTimer, ProcessFactory, ProcessPipe, RollingFactory, ValueFactory};
pub use side_output::{OutputTag, SideFactory, SidePipe, Sides};
pub use strategy::{EventTime, NativeTime, SourceTime, WatermarkStrategy, event_time, source_time};
pub use stream::{SharedStream, SinkHandle, Stream};
pub use tidemill_base::{Error, Key, Record, Result, Timestamp};
pub use window::{
    Aggregate, Count, Global, Number, ResultShape, Session, Sliding, Trigger, Tumbling, ValueByKey,
    ValueByWindow, Window, WindowFactory, WindowedStream, Windows,
};

/// What generated code and examples refer to.
#[doc(hidden)]
pub mod __private {
    pub use crate::functions::doc_state;
    pub use tidemill_base as base;
}

/// What a job usually needs.
pub mod prelude {
    pub use crate::connectors::*;
    pub use crate::{Aggregate, Count, Global, Session, Sliding, Trigger, Tumbling, Window};
    pub use crate::{
        BroadcastMap, BroadcastProcess, CoProcess, Env, Error, Key, KeyedProcess, KeyedStream,
        ListState, MapState, OutputTag, PlainContext, ProcessContext, Record, ReducingState,
        Result, StateTtl, States, Stream, Timer, TimerKind, ValueState, event_time, job,
        source_time,
    };
}
