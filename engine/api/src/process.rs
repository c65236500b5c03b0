//! Process functions and rolling aggregations.

#![expect(clippy::type_complexity, reason = "recipes are typed by all that they are made of")]

use crate::keyed::KeyedStream;
use crate::pipe::{HeadPipe, OperatorFactory, Pipe, Recipe};
use crate::side_output::{SideFactory, SidePipe, Sides};
use crate::stream::Stream;
use std::marker::PhantomData;
use std::ops::AddAssign;
use tidemill_base::{Key, Record, Result};
use tidemill_plan::OperatorKind;
use tidemill_runtime::deploy::Io;
use tidemill_runtime::process::keyed::{FunctionLogic, Keyed, Logic, ValueLogic};
use tidemill_runtime::process::plain::{PlainContext, ProcessStage};
use tidemill_runtime::process::rolling::{AggregateFn, Best, Count, Fold, Reduce, Rolling, Sum};
use tidemill_runtime::process::store::OneValue;
use tidemill_runtime::process::{KeyedProcess, ProcessContext, Timer};
use tidemill_runtime::stage::Stage;
use tidemill_runtime::task::Task;

/// Makes a rolling aggregation.
pub struct RollingFactory<K, I, A, F> {
    fold: A,
    selector: F,
    types: PhantomData<fn() -> (K, I)>,
}

impl<K, I, A: Clone, F: Clone> Clone for RollingFactory<K, I, A, F> {
    fn clone(&self) -> Self {
        let (fold, selector) = (self.fold.clone(), self.selector.clone());
        RollingFactory { fold, selector, types: PhantomData }
    }
}

impl<K, I, A, F> OperatorFactory for RollingFactory<K, I, A, F>
where
    K: Key,
    I: Record,
    A: Fold<I> + Clone + Send,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    type Operator = Rolling<K, I, A, F>;
    fn open(&self, io: &mut Io, operator: u64) -> Result<Self::Operator> {
        Rolling::open(&io.context, operator, self.selector.clone(), self.fold.clone())
    }
}

/// What a rolling aggregation gives.
pub(crate) type RollingStream<K, I, A, F> =
    Stream<(K, <A as Fold<I>>::Out), HeadPipe<RollingFactory<K, I, A, F>>>;

impl<K, I, P, F> KeyedStream<K, I, P, F>
where
    K: Key,
    I: Record,
    P: Pipe<Out = I>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    fn roll<A: Fold<I> + Clone + Send>(self, name: &str, fold: A) -> RollingStream<K, I, A, F> {
        let selector = self.selector.clone();
        let factory = RollingFactory { fold, selector, types: PhantomData };
        self.apply(name, OperatorKind::Reduce, factory)
    }

    /// Merges the records of a key into one: emits (key, merged) for every record.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("longest");
    /// let out = CollectSink::new();
    /// env.from_vec(vec!["to".to_string(), "be".to_string(), "too".to_string()])
    ///     .key_by::<(), _>(|_| ())
    ///     .reduce(|longest, word| {
    ///         if word.len() > longest.len() {
    ///             *longest = word.to_owned();
    ///         }
    ///     })
    ///     .map(|((), longest)| longest.to_owned())
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), ["to", "to", "too"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn reduce<R>(self, reduce: R) -> Stream<(K, I), impl Pipe<Out = (K, I)>>
    where
        R: for<'a, 'b> FnMut(&'b mut I, I::View<'a>) + Clone + Send + 'static,
    {
        self.roll("reduce", Reduce(reduce))
    }

    /// The running sum of a number taken from each record: emits (key, sum) for every record.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("totals");
    /// let out = CollectSink::new();
    /// env.from_vec(vec![(1u64, 10u64), (2, 5), (1, 3)])
    ///     .key_by::<u64, _>(|record| record.0)
    ///     .sum(|record| record.1)
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// let mut sums = out.take();
    /// sums.sort();
    /// assert_eq!(sums, [(1, 10), (1, 13), (2, 5)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn sum<N, V>(self, value: V) -> Stream<(K, N), impl Pipe<Out = (K, N)>>
    where
        N: Record + AddAssign,
        V: for<'a> FnMut(I::View<'a>) -> N + Clone + Send + 'static,
    {
        self.roll("sum", Sum(value))
    }

    /// The smallest value so far: emits (key, minimum) for every record.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("cheapest");
    /// let out = CollectSink::new();
    /// env.from_vec(vec![(1u64, 10u64), (1, 3), (1, 5)])
    ///     .key_by::<u64, _>(|record| record.0)
    ///     .min(|record| record.1)
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), [(1, 10), (1, 3), (1, 3)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn min<N, V>(self, value: V) -> Stream<(K, N), impl Pipe<Out = (K, N)>>
    where
        N: Record + PartialOrd,
        V: for<'a> FnMut(I::View<'a>) -> N + Clone + Send + 'static,
    {
        self.roll("min", Best::<V, false>(value))
    }

    /// The greatest value so far: emits (key, maximum) for every record. See [`KeyedStream::min`].
    pub fn max<N, V>(self, value: V) -> Stream<(K, N), impl Pipe<Out = (K, N)>>
    where
        N: Record + PartialOrd,
        V: for<'a> FnMut(I::View<'a>) -> N + Clone + Send + 'static,
    {
        self.roll("max", Best::<V, true>(value))
    }

    /// The number of records so far: emits (key, count) for every record.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("counts");
    /// let out = CollectSink::new();
    /// env.from_vec(vec!["a".to_string(), "b".to_string(), "a".to_string()])
    ///     .key_by::<String, _>(|word| *word)
    ///     .count()
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// let mut counts = out.take();
    /// counts.sort();
    /// assert_eq!(counts, [("a".to_string(), 1), ("a".to_string(), 2), ("b".to_string(), 1)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn count(self) -> Stream<(K, u64), impl Pipe<Out = (K, u64)>> {
        self.roll("count", Count)
    }

    /// An accumulator of any type: `new` makes it, `add` adds a record, `result` makes what is
    /// emitted with the key, for every record.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("averages");
    /// let out = CollectSink::new();
    /// env.from_vec(vec![(1u64, 10u64), (1, 20)])
    ///     .key_by::<u64, _>(|record| record.0)
    ///     .aggregate(
    ///         || (0u64, 0u64),
    ///         |(sum, count), record| {
    ///             *sum += record.1;
    ///             *count += 1;
    ///         },
    ///         |(sum, count)| *sum as f64 / *count as f64,
    ///     )
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), [(1, 10.0), (1, 15.0)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn aggregate<Acc, Out, N, A, E>(
        self,
        new: N,
        add: A,
        result: E,
    ) -> Stream<(K, Out), impl Pipe<Out = (K, Out)>>
    where
        Acc: Record,
        Out: Record,
        N: FnMut() -> Acc + Clone + Send + 'static,
        A: for<'a, 'b> FnMut(&'b mut Acc, I::View<'a>) + Clone + Send + 'static,
        E: for<'b> FnMut(&'b Acc) -> Out + Clone + Send + 'static,
    {
        self.roll("aggregate", AggregateFn { new, add, result })
    }

    /// Runs a function with states and timers for each key; see [`KeyedProcess`].
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// /// Says hello to a user's first record.
    /// #[derive(Clone)]
    /// struct Greet;
    ///
    /// impl KeyedProcess<String, (String, u64)> for Greet {
    ///     type Out = String;
    ///     type State = ValueState<bool>;
    ///
    ///     fn open(&self, states: &mut States<String>) -> Result<ValueState<bool>> {
    ///         states.value("seen", Some(StateTtl::event(3_600_000)))
    ///     }
    ///     fn process(
    ///         &mut self,
    ///         seen: &mut ValueState<bool>,
    ///         record: (&str, u64),
    ///         cx: &mut ProcessContext<'_, String, String>,
    ///     ) {
    ///         if seen.get().is_none() {
    ///             seen.set(true);
    ///             cx.emit(&format!("hello {}", record.0));
    ///         }
    ///     }
    /// }
    ///
    /// let env = Env::new("greetings");
    /// let out = CollectSink::new();
    /// env.from_vec(vec![("ann".to_string(), 1), ("ann".to_string(), 2)])
    ///     .key_by::<String, _>(|record| record.0)
    ///     .process(Greet)
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), ["hello ann"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn process<Fun: KeyedProcess<K, I>>(
        self,
        function: Fun,
    ) -> Stream<Fun::Out, HeadPipe<ProcessFactory<K, I, Fun, F>>> {
        let (selector, sides) = (self.selector.clone(), Sides::default());
        let factory = ProcessFactory { function, selector, sides, types: PhantomData };
        self.apply("process", OperatorKind::Process, factory)
    }

    /// Runs a closure over at most one value a key: what it leaves in the `Option` is kept, and
    /// a key that is left `None` is forgotten.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("changes");
    /// let out = CollectSink::new();
    /// env.from_vec(vec![(1u64, 20i64), (1, 20), (1, 23)])
    ///     .key_by::<u64, _>(|record| record.0)
    ///     .process_value::<i64, (u64, i64), _>(|record, last, cx| {
    ///         if let Some(last) = last.filter(|&last| last != record.1) {
    ///             cx.emit((cx.key(), record.1 - last));
    ///         }
    ///         *last = Some(record.1);
    ///     })
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), [(1, 3)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn process_value<V, O, Fun>(
        self,
        process: Fun,
    ) -> Stream<O, HeadPipe<ValueFactory<K, I, V, O, Fun, NoTimer<K, V, O>, F>>>
    where
        V: Record,
        O: Record,
        Fun: for<'a, 'b, 'c> FnMut(I::View<'a>, &'b mut Option<V>, &'b mut ProcessContext<'c, K, O>)
            + Clone
            + Send
            + 'static,
    {
        let ignore: NoTimer<K, V, O> = |_, _, _| {};
        self.process_value_with_timer(process, ignore)
    }

    /// Like [`KeyedStream::process_value`], with a closure for the timers that either of the two
    /// registers.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// // Counts a key's records until event time is a second past the first one.
    /// let env = Env::new("bursts");
    /// let out = CollectSink::new();
    /// env.add_source_with(
    ///     CollectionSource::new(vec![(1u64, 100i64), (1, 900), (2, 1500)]),
    ///     event_time(|record: (u64, i64)| record.1),
    /// )
    /// .key_by::<u64, _>(|record| record.0)
    /// .process_value_with_timer::<u64, (u64, u64), _, _>(
    ///     |_, count, cx| {
    ///         if count.is_none() {
    ///             cx.register_event_timer(cx.timestamp() + 1000);
    ///         }
    ///         *count.get_or_insert(0) += 1;
    ///     },
    ///     |_, count, cx| cx.emit((cx.key(), count.take().unwrap_or(0))),
    /// )
    /// .add_sink(out.sink());
    /// env.execute()?;
    /// let mut bursts = out.take();
    /// bursts.sort();
    /// assert_eq!(bursts, [(1, 2), (2, 1)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn process_value_with_timer<V, O, Fun, T>(
        self,
        process: Fun,
        on_timer: T,
    ) -> Stream<O, HeadPipe<ValueFactory<K, I, V, O, Fun, T, F>>>
    where
        V: Record,
        O: Record,
        Fun: for<'a, 'b, 'c> FnMut(I::View<'a>, &'b mut Option<V>, &'b mut ProcessContext<'c, K, O>)
            + Clone
            + Send
            + 'static,
        T: for<'b, 'c> FnMut(Timer, &'b mut Option<V>, &'b mut ProcessContext<'c, K, O>)
            + Clone
            + Send
            + 'static,
    {
        let (selector, sides) = (self.selector.clone(), Sides::default());
        let factory = ValueFactory { process, on_timer, selector, sides, types: PhantomData };
        self.apply("process", OperatorKind::Process, factory)
    }
}

/// A timer closure that does nothing.
pub type NoTimer<K, V, O> =
    for<'b, 'c> fn(Timer, &'b mut Option<V>, &'b mut ProcessContext<'c, K, O>);

/// Makes a keyed process function.
pub struct ProcessFactory<K, I, Fun, F> {
    function: Fun,
    selector: F,
    sides: Sides,
    types: PhantomData<fn() -> (K, I)>,
}

impl<K, I, Fun: Clone, F: Clone> Clone for ProcessFactory<K, I, Fun, F> {
    fn clone(&self) -> Self {
        ProcessFactory {
            function: self.function.clone(),
            selector: self.selector.clone(),
            sides: self.sides.clone(),
            types: PhantomData,
        }
    }
}

impl<K, I, Fun, F> OperatorFactory for ProcessFactory<K, I, Fun, F>
where
    K: Key,
    I: Record,
    Fun: KeyedProcess<K, I>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    type Operator = Keyed<K, I, FunctionLogic<K, I, Fun>, F>;
    fn open(&self, io: &mut Io, operator: u64) -> Result<Self::Operator> {
        let sides = self.sides.open(io)?;
        let (selector, function) = (self.selector.clone(), self.function.clone());
        Keyed::open(&io.context, operator, selector, function, sides)
    }
}

impl<K, I, Fun, F> SideFactory for ProcessFactory<K, I, Fun, F>
where
    Self: OperatorFactory,
{
    fn sides(&mut self) -> &mut Sides {
        &mut self.sides
    }
}

/// Makes a keyed process function of closures over one value.
pub struct ValueFactory<K, I, V, O, Fun, T, F> {
    process: Fun,
    on_timer: T,
    selector: F,
    sides: Sides,
    types: PhantomData<fn() -> (K, I, V, O)>,
}

impl<K, I, V, O, Fun: Clone, T: Clone, F: Clone> Clone for ValueFactory<K, I, V, O, Fun, T, F> {
    fn clone(&self) -> Self {
        ValueFactory {
            process: self.process.clone(),
            on_timer: self.on_timer.clone(),
            selector: self.selector.clone(),
            sides: self.sides.clone(),
            types: PhantomData,
        }
    }
}

impl<K, I, V, O, Fun, T, F> OperatorFactory for ValueFactory<K, I, V, O, Fun, T, F>
where
    K: Key,
    I: Record,
    V: Record,
    O: Record,
    Fun: Clone + Send + 'static,
    T: Clone + Send + 'static,
    ValueLogic<V, O, Fun, T>: Logic<K, I, Out = O, Store = OneValue<K, V>>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    type Operator = Keyed<K, I, ValueLogic<V, O, Fun, T>, F>;
    fn open(&self, io: &mut Io, operator: u64) -> Result<Self::Operator> {
        let sides = self.sides.open(io)?;
        let closures = (self.process.clone(), self.on_timer.clone());
        Keyed::open_value(&io.context, operator, self.selector.clone(), closures, sides)
    }
}

impl<K, I, V, O, Fun, T, F> SideFactory for ValueFactory<K, I, V, O, Fun, T, F>
where
    Self: OperatorFactory,
{
    fn sides(&mut self) -> &mut Sides {
        &mut self.sides
    }
}

/// A chain with an unkeyed process function behind it.
pub struct ProcessPipe<P, O, F> {
    previous: P,
    function: F,
    sides: Sides,
    position: u32,
    types: PhantomData<fn() -> O>,
}

impl<P: Clone, O, F: Clone> Clone for ProcessPipe<P, O, F> {
    fn clone(&self) -> Self {
        ProcessPipe {
            previous: self.previous.clone(),
            function: self.function.clone(),
            sides: self.sides.clone(),
            position: self.position,
            types: PhantomData,
        }
    }
}

impl<T, O, P, F> Pipe for ProcessPipe<P, O, F>
where
    T: Record,
    O: Record,
    P: Pipe<Out = T>,
    F: for<'a, 'b, 'c> FnMut(T::View<'a>, &'b mut PlainContext<'c, O>) + Clone + Send + 'static,
{
    type Out = O;
    type Built = P::Built;

    fn build<S, G>(self, io: &mut Io, tail: G) -> Result<P::Built>
    where
        S: Stage<O>,
        G: FnOnce(&mut Io) -> Result<S>,
    {
        let (position, function, sides) = (self.position, self.function, self.sides);
        self.previous.build(io, move |io| {
            let sides = sides.open(io)?;
            let context = io.context.clone();
            Ok(ProcessStage::<T, O, F, S>::new(position, function, context, sides, tail(io)?))
        })
    }

    fn close(&self, recipe: Recipe<P::Built>) -> Option<Recipe<Box<dyn Task>>> {
        self.previous.close(recipe)
    }
}

impl<P, O, F> SidePipe for ProcessPipe<P, O, F>
where
    Self: Pipe,
{
    fn sides(&mut self) -> &mut Sides {
        &mut self.sides
    }
}

impl<T: Record, P: Pipe<Out = T>> Stream<T, P> {
    /// Runs a stateless function that emits any number of records, also to side outputs. See
    /// [`OutputTag`](crate::OutputTag) for an example.
    pub fn process<O, F>(self, function: F) -> Stream<O, ProcessPipe<P, O, F>>
    where
        O: Record,
        F: for<'a, 'b, 'c> FnMut(T::View<'a>, &'b mut PlainContext<'c, O>) + Clone + Send + 'static,
    {
        let (chain, position) = self.fuse("process", OperatorKind::Process);
        let (previous, sides, types) = (self.pipe, Sides::default(), PhantomData);
        let pipe = ProcessPipe { previous, function, sides, position, types };
        Stream { env: self.env, pipe, chain }
    }
}
