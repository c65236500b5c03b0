//! From a keyed stream and its windows to a stream of results.

use super::assigners::Windows;
use super::functions::{
    Aggregate, AggregateFunction, ClosuresFunction, Greatest, Least, Number, Plus, ProcessFunction,
    ReduceFunction, ResultShape, ValueByKey, ValueByWindow, ValueFunction,
};
use crate::keyed::KeyedStream;
use crate::pipe::{OperatorFactory, Pipe, Taps};
use crate::side_output::OutputTag;
use crate::stream::Stream;
use std::marker::PhantomData;
use std::time::Duration;
use tidemill_base::record::List;
use tidemill_base::{Key, Record, Result};
use tidemill_plan::OperatorKind;
use tidemill_runtime::deploy::Io;
use tidemill_runtime::window::{Spec, Trigger, Window, WindowFunction, WindowOperator, millis};

/// Makes the window operator of a subtask.
pub struct WindowFactory<K, T: Record, F, A> {
    spec: Spec,
    selector: F,
    function: A,
    late: Option<Taps<T>>,
    types: PhantomData<fn(T) -> K>,
}

impl<K, T: Record, F: Clone, A: Clone> Clone for WindowFactory<K, T, F, A> {
    fn clone(&self) -> Self {
        WindowFactory {
            spec: self.spec,
            selector: self.selector.clone(),
            function: self.function.clone(),
            late: self.late.clone(),
            types: PhantomData,
        }
    }
}

impl<K, T, F, A> OperatorFactory for WindowFactory<K, T, F, A>
where
    K: Key,
    T: Record,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + Clone + Send + 'static,
    A: WindowFunction<K, T> + Clone + Send,
{
    type Operator = WindowOperator<K, T, F, A>;

    fn open(&self, io: &mut Io, operator_id: u64) -> Result<Self::Operator> {
        let late = self.late.as_ref().map_or(Ok(Vec::new()), |taps| taps.build(io))?;
        let (selector, function) = (self.selector.clone(), self.function.clone());
        WindowOperator::open(&self.spec, selector, function, late, &io.context, operator_id)
    }
}

/// A keyed stream cut into windows. `sum`, `count`, `reduce`, `aggregate`, `process` and the like
/// say what each window emits; its records have the last timestamp of the window.
///
/// ```
/// use std::time::Duration;
/// use tidemill::prelude::*;
///
/// let env = Env::new("windows");
/// let readings = vec![("a".to_string(), 5u64, 1_000i64), ("a".into(), 3, 2_000), ("a".into(), 9, 61_000)];
/// let by_time = event_time(|r: (&str, u64, i64)| r.2);
/// let all = env.add_source_with(CollectionSource::new(readings), by_time).shared();
/// macro_rules! minutes {
///     () => {
///         all.stream()
///             .key_by::<String, _>(|r| r.0)
///             .window(Tumbling::of(Duration::from_secs(60)))
///             .allowed_lateness(Duration::from_secs(5))
///     };
/// }
/// let mut wanted: Vec<Box<dyn Fn()>> = Vec::new();
/// macro_rules! check {
///     ($results:expr, $wanted:expr) => {{
///         let out = CollectSink::new();
///         $results.add_sink(out.sink());
///         wanted.push(Box::new(move || assert_eq!(format!("{:?}", out.take()), $wanted)));
///     }};
/// }
/// check!(minutes!().with_window().sum(|r| r.1), r#"[("a", 0, 60000, 8), ("a", 60000, 120000, 9)]"#);
/// check!(minutes!().min(|r| r.1), r#"[("a", 3), ("a", 9)]"#);
/// check!(minutes!().max(|r| r.1), r#"[("a", 5), ("a", 9)]"#);
/// check!(minutes!().trigger(Trigger::count(2)).count(), r#"[("a", 2)]"#);
/// check!(
///     minutes!().reduce(|so_far, r| so_far.1 *= r.1).map(|(_, r)| r.1),
///     "[15, 9]"
/// );
/// check!(
///     minutes!().aggregate_with(
///         || (0u64, 0u64),
///         |(sum, n), r| (*sum, *n) = (*sum + r.1, *n + 1),
///         |(sum, n), other| (*sum, *n) = (*sum + other.0, *n + other.1),
///         |key, window, (sum, n)| format!("{key} to {}: {}", window.end, sum / n),
///     ),
///     r#"["a to 60000: 4", "a to 120000: 9"]"#
/// );
/// check!(
///     minutes!().process::<u64, _>(|_, _, records, out| {
///         records.iter().filter(|r| r.1 > 3).for_each(|r| out(r.1));
///     }),
///     "[5, 9]"
/// );
/// env.execute()?;
/// wanted.iter().for_each(|check| check());
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct WindowedStream<K, T: Record, P: Pipe<Out = T>, F, O = ValueByKey> {
    keyed: KeyedStream<K, T, P, F>,
    spec: Spec,
    late: Option<OutputTag<T>>,
    shape: PhantomData<O>,
}

impl<K, T, P, F> KeyedStream<K, T, P, F>
where
    K: Key,
    T: Record,
    P: Pipe<Out = T>,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    /// Cuts the stream of each key into windows: [`Tumbling`](crate::Tumbling),
    /// [`Sliding`](crate::Sliding), [`Session`](crate::Session), [`Count`](crate::Count) or
    /// [`Global`](crate::Global).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidemill::prelude::*;
    ///
    /// let env = Env::new("word count");
    /// let out = CollectSink::new();
    /// env.from_vec(vec![("to".to_string(), 1u64), ("be".to_string(), 1), ("to".to_string(), 1)])
    ///     .key_by::<String, _>(|word| word.0)
    ///     .window(Tumbling::of(Duration::from_secs(10)))
    ///     .sum(|(_, n)| n)
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// let mut counts = out.take();
    /// counts.sort();
    /// assert_eq!(counts, [("be".to_string(), 1), ("to".to_string(), 2)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn window(self, windows: impl Into<Windows>) -> WindowedStream<K, T, P, F> {
        let spec = windows.into().spec;
        WindowedStream { keyed: self, spec, late: None, shape: PhantomData }
    }
}

impl<K, T, P, F, O> WindowedStream<K, T, P, F, O>
where
    K: Key,
    T: Record,
    P: Pipe<Out = T>,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + Clone + Send + 'static,
    O: ResultShape,
{
    /// When windows fire; at their end if nothing else is said.
    #[must_use]
    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.spec.trigger = trigger;
        self
    }

    /// Keeps windows for this long after they have fired: a record that comes late but in this
    /// time updates its window, which fires again for its key.
    #[must_use]
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.spec.lateness = millis(lateness);
        self
    }

    /// Sends records that are too late for all their windows to a side output; otherwise they are
    /// dropped and counted.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidemill::prelude::*;
    ///
    /// let env = Env::new("late data");
    /// let (sums, rest) = (CollectSink::new(), CollectSink::new());
    /// let late = env.output_tag::<(String, u64, i64)>("late");
    /// let readings = [3, 5, 700, 8].map(|time| ("s".to_string(), 1u64, time));
    /// env.from_vec(readings.to_vec())
    ///     .assign_timestamps(|reading| reading.2, Duration::ZERO)
    ///     .key_by::<String, _>(|reading| reading.0)
    ///     .window(Tumbling::of(Duration::from_millis(100)))
    ///     .late_output(&late)
    ///     .with_window()
    ///     .sum(|reading| reading.1)
    ///     .add_sink(sums.sink());
    /// late.stream(&env).map(|reading| reading.2).add_sink(rest.sink());
    /// env.execute()?;
    /// let counted: u64 = sums.take().iter().map(|(_, _start, _end, sum)| sum).sum();
    /// assert_eq!(counted as usize + rest.take().len(), 4);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    #[must_use]
    pub fn late_output(mut self, tag: &OutputTag<T>) -> Self {
        self.late = Some(tag.clone());
        self
    }

    /// Results of the shortcuts become `(key, window start, window end, value)`; the times are in
    /// milliseconds.
    #[must_use]
    pub fn with_window(self) -> WindowedStream<K, T, P, F, ValueByWindow> {
        let WindowedStream { keyed, spec, late, .. } = self;
        WindowedStream { keyed, spec, late, shape: PhantomData }
    }

    /// The sum of a number of each record, as `(key, sum)`. Integers wrap around.
    pub fn sum<N, G>(self, value: G) -> Stream<O::Keyed<K, N>, impl Pipe<Out = O::Keyed<K, N>>>
    where
        N: Number,
        G: for<'a> FnMut(T::View<'a>) -> N + Clone + Send + 'static,
    {
        let types = PhantomData::<fn() -> (Plus, N, O)>;
        self.apply("window sum", ValueFunction { value, types })
    }

    /// The least of a value of each record, as `(key, least)`.
    pub fn min<N, G>(self, value: G) -> Stream<O::Keyed<K, N>, impl Pipe<Out = O::Keyed<K, N>>>
    where
        N: Record + Copy + PartialOrd,
        G: for<'a> FnMut(T::View<'a>) -> N + Clone + Send + 'static,
    {
        let types = PhantomData::<fn() -> (Least, N, O)>;
        self.apply("window min", ValueFunction { value, types })
    }

    /// The greatest of a value of each record, as `(key, greatest)`.
    pub fn max<N, G>(self, value: G) -> Stream<O::Keyed<K, N>, impl Pipe<Out = O::Keyed<K, N>>>
    where
        N: Record + Copy + PartialOrd,
        G: for<'a> FnMut(T::View<'a>) -> N + Clone + Send + 'static,
    {
        let types = PhantomData::<fn() -> (Greatest, N, O)>;
        self.apply("window max", ValueFunction { value, types })
    }

    /// The number of records, as `(key, count)`.
    pub fn count(self) -> Stream<O::Keyed<K, u64>, impl Pipe<Out = O::Keyed<K, u64>>> {
        let types = PhantomData::<fn() -> (Plus, u64, O)>;
        let value = |_: T::View<'_>| 1u64;
        self.apply("window count", ValueFunction { value, types })
    }

    /// One record out of all, as `(key, record)`: `reduce(so_far, record)` takes each further
    /// record into the first. It must be associative, because parts of a window are reduced apart.
    pub fn reduce<G>(self, reduce: G) -> Stream<O::Keyed<K, T>, impl Pipe<Out = O::Keyed<K, T>>>
    where
        G: for<'a> FnMut(&mut T, T::View<'a>) + Clone + Send + 'static,
    {
        let types = PhantomData::<fn() -> O>;
        self.apply("window reduce", ReduceFunction { reduce, types })
    }

    /// An aggregate; its `finish` sees key and window.
    pub fn aggregate<G>(self, aggregate: G) -> Stream<G::Out, impl Pipe<Out = G::Out>>
    where
        G: Aggregate<K, T>,
    {
        self.apply("window aggregate", AggregateFunction(aggregate))
    }

    /// An aggregate by closures: `init()`, `add(accumulator, record)`,
    /// `merge(accumulator, other)`, `finish(key, window, accumulator)`.
    pub fn aggregate_with<A, U, I, D, M, G>(
        self,
        init: I,
        add: D,
        merge: M,
        finish: G,
    ) -> Stream<U, impl Pipe<Out = U>>
    where
        A: Record,
        U: Record,
        I: FnMut() -> A + Clone + Send + 'static,
        D: for<'a> FnMut(&mut A, T::View<'a>) + Clone + Send + 'static,
        M: FnMut(&mut A, &A) + Clone + Send + 'static,
        G: for<'a> FnMut(K::View<'a>, Window, &A) -> U + Clone + Send + 'static,
    {
        let types = PhantomData::<fn() -> (A, U)>;
        self.apply("window aggregate", ClosuresFunction { init, add, merge, finish, types })
    }

    /// All records of a window at once: `process(key, window, records, out)` calls `out` for each
    /// result. Keeps the records themselves; prefer an aggregate where one will do. They come in the
    /// order of their arrival; where a record made two sessions one, those of the earlier session
    /// come first, then those of the later one, then the record.
    pub fn process<U, G>(self, process: G) -> Stream<U, impl Pipe<Out = U>>
    where
        U: Record,
        G: for<'a, 'c> FnMut(K::View<'a>, Window, List<'a, T>, &'c mut dyn FnMut(U::View<'_>))
            + Clone
            + Send
            + 'static,
    {
        let types = PhantomData::<fn() -> U>;
        self.apply("window process", ProcessFunction { process, types })
    }

    fn apply<A>(self, name: &str, function: A) -> Stream<A::Out, impl Pipe<Out = A::Out>>
    where
        A: WindowFunction<K, T> + Clone + Send,
    {
        let env = self.keyed.stream.env.clone();
        if let Err(mistake) = self.spec.validate() {
            env.graph.mistake(mistake.to_string());
        }
        let late = self.late.map(|tag| (tag, Taps::default()));
        let factory = WindowFactory {
            spec: self.spec,
            selector: self.keyed.selector.clone(),
            function,
            late: late.as_ref().map(|(_, taps)| taps.clone()),
            types: PhantomData,
        };
        let stream = self.keyed.apply(name, OperatorKind::Window, factory);
        if let Some((tag, taps)) = late {
            tag.register(&env, stream.chain, &taps);
        }
        stream
    }
}
