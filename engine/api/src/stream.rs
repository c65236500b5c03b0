//! Streams: what operators are applied to.

use crate::env::Env;
use crate::graph::{Chain, Operator};
use crate::keyed::KeyedStream;
use crate::pipe::{
    BranchPipe, FilterPipe, FlatMapPipe, HeadPipe, InputSpec, InspectPipe, MapPipe,
    OperatorFactory, Pipe, ReadFactory, ReadPipe, Recipe, Tapping, Taps, TimestampsPipe,
};
use std::marker::PhantomData;
use std::time::Duration;
use tidemill_base::{Key, Record, Result, Timestamp};
use tidemill_plan::{OperatorKind, Partitioning};
use tidemill_runtime::deploy::Io;
use tidemill_runtime::operator;
use tidemill_runtime::output::{
    BroadcastRouter, EdgeWriter, ForwardRouter, HashRouter, RebalanceRouter, Router,
};
use tidemill_runtime::sink::{Sink, SinkStage};
use tidemill_runtime::stage::{Stage, Tee};

/// A stream of records `T`. Operators applied to it are fused with it until an exchange
/// (`key_by`, `rebalance`, ...); `P` is the chain so far, which nobody needs to name:
/// functions can take and return `Stream<T, impl Pipe<Out = T>>`.
///
/// ```
/// use std::time::Duration;
/// use tidemill::pipe::Pipe;
/// use tidemill::prelude::*;
///
/// /// Functions take and return streams.
/// fn large<P: Pipe<Out = u64>>(numbers: Stream<u64, P>) -> Stream<u64, impl Pipe<Out = u64>> {
///     numbers.filter(|n| n > 10).name("large")
/// }
///
/// let env = Env::new("streams").parallelism(2);
/// let out = CollectSink::new();
/// let numbers = env.from_vec(vec![5u64, 20]).uid("numbers");
/// let others = env.from_vec(vec![30u64]).inspect(|number, _event_time| assert_eq!(number, 30));
/// large(numbers.union(others))
///     .map_owned(|n| n + 1)
///     .assign_timestamps(|n| n as i64, Duration::ZERO)
///     .rebalance()
///     .parallelism(3)
///     .map(|n| n)
///     .forward()
///     .broadcast() // to both subtasks
///     .add_sink(out.sink())
///     .name("result")
///     .uid("result");
/// env.execute()?;
/// let mut got = out.take();
/// got.sort();
/// assert_eq!(got, [21, 21, 31, 31]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct Stream<T: Record, P: Pipe<Out = T>> {
    pub(crate) env: Env,
    pub(crate) pipe: P,
    pub(crate) chain: Chain,
}

impl<T: Record, P: Pipe<Out = T>> Stream<T, P> {
    pub(crate) fn last(&self) -> Operator {
        self.chain.last
    }

    /// Adds a fused operator to the graph; returns the longer chain and the operator's place.
    pub(crate) fn fuse(&self, name: &str, kind: OperatorKind) -> (Chain, u32) {
        self.env.graph.fuse(self.chain, name, kind)
    }

    /// Names the last operator, for people.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.env.graph.edit(self.last(), |s| s.name = name.to_owned());
        self
    }

    /// Gives the last operator a stable id. State in checkpoints belongs to this id: an operator
    /// with one may be renamed and moved.
    #[must_use]
    pub fn uid(self, uid: &str) -> Self {
        self.env.graph.edit(self.last(), |s| s.uid = Some(uid.to_owned()));
        self
    }

    /// Sets the number of subtasks of this chain; the job's parallelism otherwise. Must be called
    /// on the head of the chain (a source, or the first operator after an exchange).
    #[must_use]
    pub fn parallelism(self, parallelism: u32) -> Self {
        if self.chain.head != self.chain.last {
            self.env.graph.mistake(format!(
                "parallelism({parallelism}) is set behind a fused operator: set it on the head of \
                 the chain, or call rebalance() first"
            ));
        }
        self.env.graph.edit(self.last(), |s| s.parallelism = Some(parallelism));
        self
    }

    /// One record in, one out. The function sees the record in place, as a view.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("lengths");
    /// let out = CollectSink::new();
    /// env.from_vec(vec!["a".to_string(), "abc".to_string()])
    ///     .map(|line| line.len() as u64)
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), vec![1, 3]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn map<U, F>(self, function: F) -> Stream<U, MapPipe<P, U, F>>
    where
        U: Record,
        F: for<'a> FnMut(T::View<'a>) -> U + Clone + Send + 'static,
    {
        let (chain, position) = self.fuse("map", OperatorKind::Map);
        let pipe = MapPipe { previous: self.pipe, function, position, types: PhantomData };
        Stream { env: self.env, pipe, chain }
    }

    /// Like [`Stream::map`], with an owned record.
    pub fn map_owned<U, F>(self, mut function: F) -> Stream<U, impl Pipe<Out = U>>
    where
        U: Record,
        F: FnMut(T) -> U + Clone + Send + 'static,
    {
        self.map(move |view| function(T::from_view(view)))
    }

    /// Keeps the records for which the function says true.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("even");
    /// let out = CollectSink::new();
    /// env.from_vec(vec![1u64, 2, 3, 4]).filter(|n| n % 2 == 0).add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), vec![2, 4]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn filter<F>(self, function: F) -> Stream<T, FilterPipe<P, F>>
    where
        F: for<'a> FnMut(T::View<'a>) -> bool + Clone + Send + 'static,
    {
        let (chain, position) = self.fuse("filter", OperatorKind::Filter);
        let pipe = FilterPipe { previous: self.pipe, function, position, types: PhantomData };
        Stream { env: self.env, pipe, chain }
    }

    /// Any number of records out, emitted as views: nothing is allocated.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("words");
    /// let out = CollectSink::<String>::new();
    /// env.from_vec(vec!["to be".to_string()])
    ///     .flat_map::<String, _>(|line, emit| line.split(' ').for_each(|word| emit(word)))
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), ["to", "be"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn flat_map<U, F>(self, function: F) -> Stream<U, FlatMapPipe<P, U, F>>
    where
        U: Record,
        F: for<'a, 'c> FnMut(T::View<'a>, &'c mut dyn FnMut(U::View<'_>)) + Clone + Send + 'static,
    {
        let (chain, position) = self.fuse("flat_map", OperatorKind::FlatMap);
        let pipe = FlatMapPipe { previous: self.pipe, function, position, types: PhantomData };
        Stream { env: self.env, pipe, chain }
    }

    /// Looks at each record and its timestamp.
    pub fn inspect<F>(self, function: F) -> Stream<T, InspectPipe<P, F>>
    where
        F: for<'a> FnMut(T::View<'a>, Timestamp) + Clone + Send + 'static,
    {
        let (chain, position) = self.fuse("inspect", OperatorKind::Map);
        let pipe = InspectPipe { previous: self.pipe, function, position, types: PhantomData };
        Stream { env: self.env, pipe, chain }
    }

    /// Assigns event timestamps anew, with watermarks `lateness` behind the greatest one. Prefer
    /// [`Env::add_source_with`], which keeps a watermark for each split.
    pub fn assign_timestamps<F>(
        self,
        function: F,
        lateness: Duration,
    ) -> Stream<T, TimestampsPipe<P, F>>
    where
        F: for<'a> FnMut(T::View<'a>) -> Timestamp + Clone + Send + 'static,
    {
        let (chain, position) = self.fuse("timestamps", OperatorKind::Timestamps);
        let lateness = lateness.as_millis() as i64;
        let pipe = TimestampsPipe { previous: self.pipe, function, lateness, position };
        Stream { env: self.env, pipe, chain }
    }

    /// Partitions the stream by key: records of one key meet in one subtask.
    ///
    /// The selector borrows from the record: `.key_by::<String, _>(|word| word.0)`.
    pub fn key_by<K, F>(self, selector: F) -> KeyedStream<K, T, P, F>
    where
        K: Key,
        F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + Clone + Send + 'static,
    {
        KeyedStream { stream: self, selector, key: PhantomData }
    }

    /// Deals records out evenly to the subtasks of what follows.
    pub fn rebalance(self) -> Stream<T, ReadPipe<T>> {
        self.read_through("rebalance", Partitioning::Rebalance)
    }

    /// Sends every record to every subtask of what follows.
    pub fn broadcast(self) -> Stream<T, ReadPipe<T>> {
        self.read_through("broadcast", Partitioning::Broadcast)
    }

    /// Ends the chain: what follows is a task of its own, subtask to subtask.
    pub fn forward(self) -> Stream<T, ReadPipe<T>> {
        self.read_through("forward", Partitioning::Forward)
    }

    /// This stream and another of the same type as one.
    pub fn union<Q: Pipe<Out = T>>(self, other: Stream<T, Q>) -> Stream<T, ReadPipe<T>> {
        let env = self.env.clone();
        let head = env.graph.add("union", OperatorKind::Union, false);
        let equal =
            env.graph.parallelism_of(self.chain.head) == env.graph.parallelism_of(other.chain.head);
        let own = env.graph.parallelism_of(self.chain.head);
        env.graph.edit(head, |s| s.parallelism = Some(own));
        let second = if equal { Partitioning::Forward } else { Partitioning::Rebalance };
        self.close_unkeyed(head, Partitioning::Forward, 0);
        other.close_unkeyed(head, second, 0);
        Self::reader(env, head)
    }

    /// A stream that several operators read: each [`SharedStream::stream`] sees every record. They
    /// are fused with this chain: records are handed to each of them, without a copy.
    pub fn shared(self) -> SharedStream<T> {
        let (env, branches, chain) = (self.env.clone(), Taps::default(), self.chain);
        let taps = branches.tapping();
        self.close(move |io| Ok(Tee::new(branches.build(io)?)));
        SharedStream { env, taps, chain }
    }

    /// Ends the stream in a sink.
    pub fn add_sink<K: Sink<T>>(self, sink: K) -> SinkHandle {
        let (chain, position) = self.fuse(&sink.name(), OperatorKind::Sink);
        let operator = chain.last;
        let env = self.env.clone();
        env.graph.edit(operator, |s| s.stateful = true);
        let number = operator.number;
        Stream { env: self.env, pipe: self.pipe, chain }.close(move |io| {
            let id = io.operator_id(number)?;
            SinkStage::<T, K::Writer>::open(&sink, &io.context, id, position)
        });
        SinkHandle { env, operator }
    }

    fn read_through(self, name: &str, partitioning: Partitioning) -> Stream<T, ReadPipe<T>> {
        let env = self.env.clone();
        let head = env.graph.add(name, OperatorKind::Union, false);
        if partitioning == Partitioning::Forward {
            let own = env.graph.parallelism_of(self.chain.head);
            env.graph.edit(head, |s| s.parallelism = Some(own));
        }
        self.close_unkeyed(head, partitioning, 0);
        Self::reader(env, head)
    }

    fn reader(env: Env, head: Operator) -> Stream<T, ReadPipe<T>> {
        let inputs = vec![InputSpec::of::<T>(false)];
        let pipe = HeadPipe { factory: ReadFactory::default(), operator: head.number, inputs };
        Stream { chain: env.graph.begin(head), env, pipe }
    }

    /// Closes the chain with an unkeyed edge into input `input` of `head`.
    pub(crate) fn close_unkeyed(self, head: Operator, partitioning: Partitioning, input: usize) {
        let edge = self.env.graph.connect(self.last(), head, partitioning, input);
        match partitioning {
            Partitioning::Forward => self.close_edge(edge, |_, _| ForwardRouter),
            Partitioning::Broadcast => self.close_edge(edge, |_, _| BroadcastRouter),
            _ => self
                .close_edge(edge, |lanes, io| RebalanceRouter::new(lanes, io.context.info.subtask)),
        }
    }

    /// Closes the chain with a keyed edge into input `input` of `head`.
    pub(crate) fn close_keyed<K, F>(self, head: Operator, input: usize, selector: F)
    where
        K: Key,
        F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + Clone + Send + 'static,
    {
        let edge = self.env.graph.connect(self.last(), head, Partitioning::Hash, input);
        self.close_edge(edge, move |lanes, io| {
            HashRouter::<K, F>::new(selector.clone(), lanes, io.context.info.max_parallelism)
        });
    }

    fn close_edge<R: Router<T>>(
        self,
        edge: usize,
        router: impl Fn(u32, &Io) -> R + Clone + Send + 'static,
    ) {
        self.close(move |io| {
            let outlet = io.take_output(edge)?;
            let router = router(outlet.channels.len() as u32, io);
            Ok(EdgeWriter::new(outlet, router, io.context.clone()))
        });
    }

    fn close<S, F>(self, tail: F)
    where
        S: Stage<T>,
        F: FnOnce(&mut Io) -> Result<S> + Clone + Send + 'static,
    {
        let task = self.pipe.close(Recipe::new(self.pipe.clone(), tail));
        self.env.graph.close(self.chain, task.map(Recipe::into_factory));
    }
}

/// Starts a stream at an operator that reads the channels into `head`.
pub(crate) fn head_stream<O: OperatorFactory>(
    env: Env,
    head: Operator,
    factory: O,
    inputs: Vec<InputSpec>,
) -> Stream<<O::Operator as operator::Operator>::Out, HeadPipe<O>> {
    let pipe = HeadPipe { factory, operator: head.number, inputs };
    Stream { chain: env.graph.begin(head), env, pipe }
}

/// A stream with any number of readers.
///
/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("both");
/// let (words, lengths) = (CollectSink::new(), CollectSink::new());
/// let shared = env.from_vec(vec!["to".to_string(), "be".to_string()]).shared();
/// shared.stream().add_sink(words.sink());
/// shared.stream().map(|word| word.len() as u64).add_sink(lengths.sink());
/// env.execute()?;
/// assert_eq!((words.take().len(), lengths.take()), (2, vec![2, 2]));
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct SharedStream<T: Record> {
    env: Env,
    taps: Tapping<T>,
    /// The chain up to what is shared.
    chain: Chain,
}

impl<T: Record> SharedStream<T> {
    pub(crate) fn new(env: Env, taps: Tapping<T>, chain: Chain) -> Self {
        SharedStream { env, taps, chain }
    }

    /// Another reader of the whole stream.
    pub fn stream(&self) -> Stream<T, BranchPipe<T>> {
        let chain = self.env.graph.branch(self.chain, "read");
        let pipe = BranchPipe { taps: self.taps.clone() };
        Stream { env: self.env.clone(), pipe, chain }
    }
}

/// A sink in the graph.
///
/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("sink");
/// env.from_vec(vec![1u64]).add_sink(DiscardSink).name("nowhere").uid("sink");
/// env.execute()?;
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct SinkHandle {
    env: Env,
    operator: Operator,
}

impl SinkHandle {
    /// Names the sink, for people.
    pub fn name(self, name: &str) -> Self {
        self.env.graph.edit(self.operator, |s| s.name = name.to_owned());
        self
    }
    /// Gives the sink a stable id: what it has prepared but not committed belongs to this id.
    pub fn uid(self, uid: &str) -> Self {
        self.env.graph.edit(self.operator, |s| s.uid = Some(uid.to_owned()));
        self
    }
}
