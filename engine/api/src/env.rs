//! The environment: where a program composes its job.

use crate::graph::Graph;
use crate::pipe::SourcePipe;
use crate::strategy::{NativeTime, WatermarkStrategy};
use crate::stream::Stream;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tidemill_base::Record;
use tidemill_connectors::CollectionSource;
use tidemill_plan::OperatorKind;
use tidemill_runtime::source::{Native, Source};

/// How a job runs, as the program says it; flags of the command line go before.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) job: String,
    pub(crate) checkpoint_every: Option<Duration>,
    pub(crate) aligned_timeout: Option<Duration>,
    pub(crate) restart: tidemill_coordination::RestartStrategy,
}

/// Composes a job. Clones share the job.
///
/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("double").parallelism(2);
/// let out = CollectSink::new();
/// env.from_vec(vec![1u64, 2, 3]).map(|n| n * 2).add_sink(out.sink());
/// env.execute()?;
/// let mut got = out.take();
/// got.sort();
/// assert_eq!(got, [2, 4, 6]);
/// # Ok::<(), tidemill::Error>(())
/// ```
///
/// The settings; flags of the command line go before the first ones:
///
/// ```
/// use std::time::Duration;
/// use tidemill::RestartStrategy;
/// use tidemill::prelude::*;
///
/// let env = Env::new("settings")
///     .parallelism(2)
///     .checkpoint_every(Duration::from_millis(20))
///     .max_parallelism(64)
///     .aligned_timeout(Some(Duration::from_millis(500)))
///     .max_skew(Some(Duration::from_secs(3_600)))
///     .restart(RestartStrategy::None);
/// let readings = GeneratorSource::new(Some(100), |i| i as i64).rate(1_000.0);
/// env.add_source_with(readings, event_time(|time: i64| time)).add_sink(DiscardSink);
/// # let dir = tempfile::tempdir()?;
/// # let checkpoints = dir.path().to_str().unwrap_or_default();
/// let summary = env.execute_with(&["--checkpoint-dir", checkpoints])?;
/// assert_eq!((summary.outcome, summary.source_records()), ("finished", 100));
/// assert!(summary.checkpoints > 0);
/// for task in &summary.tasks {
///     println!("{} took {} records", task.name, task.records_in);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Env {
    pub(crate) graph: Graph,
    pub(crate) settings: Rc<RefCell<Settings>>,
}

impl Env {
    /// An empty job.
    pub fn new(job: &str) -> Self {
        let settings = Settings {
            job: job.to_owned(),
            checkpoint_every: None,
            aligned_timeout: Some(Duration::from_secs(1)),
            restart: tidemill_coordination::RestartStrategy::default(),
        };
        let graph = Graph::new(job);
        if let Some(parallelism) = crate::job::parallelism_override() {
            graph.with_logical(|g| g.set_parallelism(parallelism));
        }
        Env { graph, settings: Rc::new(RefCell::new(settings)) }
    }

    /// The number of subtasks of each operator that does not say otherwise. Call it before adding
    /// operators.
    #[must_use]
    pub fn parallelism(self, parallelism: u32) -> Self {
        let parallelism = crate::job::parallelism_override().unwrap_or(parallelism);
        self.graph.with_logical(|g| g.set_parallelism(parallelism));
        self
    }

    /// The number of key groups (default 128): the most subtasks that keyed state can ever be
    /// spread over. Fixed for the life of the job's state.
    #[must_use]
    pub fn max_parallelism(self, key_groups: u32) -> Self {
        self.graph.with_logical(|g| g.set_max_parallelism(key_groups));
        self
    }

    /// Takes a checkpoint each `interval`.
    #[must_use]
    pub fn checkpoint_every(self, interval: Duration) -> Self {
        self.settings.borrow_mut().checkpoint_every = Some(interval);
        self
    }

    /// How long tasks align before a checkpoint turns unaligned (default 1 s); zero: at once,
    /// `None`: never.
    #[must_use]
    pub fn aligned_timeout(self, timeout: Option<Duration>) -> Self {
        self.settings.borrow_mut().aligned_timeout = timeout;
        self
    }

    /// How far a source may be ahead, in event time, of the slowest one that its records meet (in a
    /// join, a union, a window); it pauses when it is further. Off by default.
    ///
    /// Backpressure does not bound this: where a fast source (or partition) meets a slow one, the
    /// windows in between pile up. Choose it well above the size of the windows. Every split counts by
    /// itself (a file, say, where the source reads several); idle and ended ones hold nobody back. A
    /// file that is read in several splits by its own times is read one split after the other when this
    /// is on, unless the splits are small.
    #[must_use]
    pub fn max_skew(self, max_skew: Option<Duration>) -> Self {
        self.graph.set_max_skew(max_skew.map(crate::strategy::millis));
        self
    }

    /// What happens after a failure; exponential backoff by default.
    #[must_use]
    pub fn restart(self, strategy: tidemill_coordination::RestartStrategy) -> Self {
        self.settings.borrow_mut().restart = strategy;
        self
    }

    /// A stream from a source, with the source's own timestamps and watermarks.
    pub fn add_source<S: Source>(&self, source: S) -> Stream<S::Item, SourcePipe<S, Native>> {
        self.add_source_with(source, NativeTime)
    }

    /// A stream from a source, with event time by `strategy`.
    pub fn add_source_with<S: Source, W: WatermarkStrategy<S::Item>>(
        &self,
        source: S,
        strategy: W,
    ) -> Stream<S::Item, SourcePipe<S, W::Assigner>> {
        let operator = self.graph.add(&source.name(), OperatorKind::Source, true);
        let pipe = SourcePipe { source, assigner: strategy.assigner(), operator: operator.number };
        Stream { env: self.clone(), pipe, chain: self.graph.begin(operator) }
    }
    /// A stream of the elements of a vector, for tests and first steps.
    pub fn from_vec<T: Record + Clone + Send + Sync>(
        &self,
        elements: Vec<T>,
    ) -> Stream<T, SourcePipe<CollectionSource<T>, Native>> {
        self.add_source(CollectionSource::new(elements))
    }
}
