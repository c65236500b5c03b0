//! Two streams into one operator.

#![expect(clippy::type_complexity, reason = "recipes are typed by all that they are made of")]

use crate::graph::Operator as Node;
use crate::keyed::KeyedStream;
use crate::pipe::{HeadPipe, InputSpec, OperatorFactory, Pipe};
use crate::side_output::{SideFactory, Sides};
use crate::stream::{Stream, head_stream};
use std::marker::PhantomData;
use tidemill_base::{Key, Record, Result};
use tidemill_plan::{OperatorKind, Partitioning};
use tidemill_runtime::deploy::Io;
use tidemill_runtime::operator::Operator;
use tidemill_runtime::process::CoProcess;
use tidemill_runtime::process::co::{Co, CoPlain};
use tidemill_runtime::process::plain::PlainContext;

/// Two keyed streams, of the same key type.
pub struct KeyedConnected<K, A, B, P, Q, FA, FB>
where
    A: Record,
    B: Record,
    P: Pipe<Out = A>,
    Q: Pipe<Out = B>,
{
    pub(crate) first: KeyedStream<K, A, P, FA>,
    pub(crate) second: KeyedStream<K, B, Q, FB>,
}

impl<K, A, P, FA> KeyedStream<K, A, P, FA>
where
    K: Key,
    A: Record,
    P: Pipe<Out = A>,
{
    /// This stream and another one with the same key as the two inputs of one operator: see
    /// [`KeyedConnected::process`].
    pub fn connect<B, Q, FB>(
        self,
        other: KeyedStream<K, B, Q, FB>,
    ) -> KeyedConnected<K, A, B, P, Q, FA, FB>
    where
        B: Record,
        Q: Pipe<Out = B>,
    {
        KeyedConnected { first: self, second: other }
    }
}

impl<K, A, B, P, Q, FA, FB> KeyedConnected<K, A, B, P, Q, FA, FB>
where
    K: Key,
    A: Record,
    B: Record,
    P: Pipe<Out = A>,
    Q: Pipe<Out = B>,
    FA: for<'a> FnMut(&'a A::View<'a>) -> K::View<'a> + Clone + Send + 'static,
    FB: for<'a> FnMut(&'a B::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    /// Closes both chains with keyed edges into the operator that `factory` makes.
    pub(crate) fn apply<O: OperatorFactory>(
        self,
        name: &str,
        kind: OperatorKind,
        factory: O,
    ) -> Stream<<O::Operator as Operator>::Out, HeadPipe<O>> {
        let env = self.first.stream.env.clone();
        let head = env.graph.add(name, kind, true);
        self.first.stream.close_keyed::<K, FA>(head, 0, self.first.selector);
        self.second.stream.close_keyed::<K, FB>(head, 1, self.second.selector);
        head_stream(env, head, factory, vec![InputSpec::of::<A>(true), InputSpec::of::<B>(true)])
    }

    /// Runs a function over both streams, with shared states and timers for each key.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// /// Emits payments whose order is known, whichever comes first.
    /// #[derive(Clone)]
    /// struct Match;
    ///
    /// impl CoProcess<u64, u64, (u64, u64)> for Match {
    ///     type Out = (u64, u64);
    ///     type State = (ValueState<bool>, ValueState<u64>);
    ///
    ///     fn open(&self, states: &mut States<u64>) -> Result<Self::State> {
    ///         Ok((states.value("ordered", None)?, states.value("paid", None)?))
    ///     }
    ///     fn process1(
    ///         &mut self,
    ///         (ordered, paid): &mut Self::State,
    ///         order: u64,
    ///         cx: &mut ProcessContext<'_, u64, (u64, u64)>,
    ///     ) {
    ///         match paid.take() {
    ///             Some(amount) => cx.emit((order, amount)),
    ///             None => ordered.set(true),
    ///         }
    ///     }
    ///     fn process2(
    ///         &mut self,
    ///         (ordered, paid): &mut Self::State,
    ///         payment: (u64, u64),
    ///         cx: &mut ProcessContext<'_, u64, (u64, u64)>,
    ///     ) {
    ///         match ordered.take() {
    ///             Some(_) => cx.emit(payment),
    ///             None => paid.set(payment.1),
    ///         }
    ///     }
    /// }
    ///
    /// let env = Env::new("payments");
    /// let out = CollectSink::new();
    /// let orders = env.from_vec(vec![1u64, 2]);
    /// let payments = env.from_vec(vec![(2u64, 30u64), (3, 10)]);
    /// orders
    ///     .key_by::<u64, _>(|order| *order)
    ///     .connect(payments.key_by::<u64, _>(|payment| payment.0))
    ///     .process(Match)
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// assert_eq!(out.take(), [(2, 30)]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn process<Fun: CoProcess<K, A, B>>(
        self,
        function: Fun,
    ) -> Stream<Fun::Out, HeadPipe<CoFactory<K, A, B, Fun, FA, FB>>> {
        let selectors = (self.first.selector.clone(), self.second.selector.clone());
        let factory =
            CoFactory { function, selectors, sides: Sides::default(), types: PhantomData };
        self.apply("co_process", OperatorKind::CoProcess, factory)
    }
}

/// Makes a keyed function over two inputs.
pub struct CoFactory<K, A, B, Fun, FA, FB> {
    function: Fun,
    selectors: (FA, FB),
    sides: Sides,
    types: PhantomData<fn() -> (K, A, B)>,
}

impl<K, A, B, Fun: Clone, FA: Clone, FB: Clone> Clone for CoFactory<K, A, B, Fun, FA, FB> {
    fn clone(&self) -> Self {
        CoFactory {
            function: self.function.clone(),
            selectors: self.selectors.clone(),
            sides: self.sides.clone(),
            types: PhantomData,
        }
    }
}

impl<K, A, B, Fun, FA, FB> OperatorFactory for CoFactory<K, A, B, Fun, FA, FB>
where
    K: Key,
    A: Record,
    B: Record,
    Fun: CoProcess<K, A, B>,
    FA: for<'a> FnMut(&'a A::View<'a>) -> K::View<'a> + Clone + Send + 'static,
    FB: for<'a> FnMut(&'a B::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    type Operator = Co<K, A, B, Fun, FA, FB>;
    fn open(&self, io: &mut Io, operator: u64) -> Result<Self::Operator> {
        let sides = self.sides.open(io)?;
        Co::open(&io.context, operator, self.selectors.clone(), self.function.clone(), sides)
    }
}

impl<K, A, B, Fun, FA, FB> SideFactory for CoFactory<K, A, B, Fun, FA, FB>
where
    Self: OperatorFactory,
{
    fn sides(&mut self) -> &mut Sides {
        &mut self.sides
    }
}

/// Two streams without key.
pub struct Connected<A: Record, B: Record, P: Pipe<Out = A>, Q: Pipe<Out = B>> {
    first: Stream<A, P>,
    second: Stream<B, Q>,
}

impl<A: Record, P: Pipe<Out = A>> Stream<A, P> {
    /// This stream and another one, of another type, as the two inputs of one operator.
    pub fn connect<B: Record, Q: Pipe<Out = B>>(
        self,
        other: Stream<B, Q>,
    ) -> Connected<A, B, P, Q> {
        Connected { first: self, second: other }
    }
}

/// Closes a chain into input `input` of `head`: subtask to subtask if it has as many, else dealt
/// out evenly.
fn close_plain<T: Record, P: Pipe<Out = T>>(stream: Stream<T, P>, head: Node, input: usize) {
    let graph = stream.env.graph.clone();
    let equal = graph.parallelism_of(stream.chain.head) == graph.parallelism_of(head);
    let how = if equal { Partitioning::Forward } else { Partitioning::Rebalance };
    stream.close_unkeyed(head, how, input);
}

impl<A: Record, B: Record, P: Pipe<Out = A>, Q: Pipe<Out = B>> Connected<A, B, P, Q> {
    /// Runs a stateless closure over each of the streams; both emit to one.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("both");
    /// let out = CollectSink::new();
    /// let words = env.from_vec(vec!["seven".to_string()]);
    /// env.from_vec(vec![3u64])
    ///     .connect(words)
    ///     .process::<String, _, _>(
    ///         |number, cx| cx.emit(&number.to_string()),
    ///         |word, cx| cx.emit(word),
    ///     )
    ///     .add_sink(out.sink());
    /// env.execute()?;
    /// let mut all = out.take();
    /// all.sort();
    /// assert_eq!(all, ["3", "seven"]);
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn process<O, FA, FB>(
        self,
        first: FA,
        second: FB,
    ) -> Stream<O, HeadPipe<CoPlainFactory<A, B, O, FA, FB>>>
    where
        O: Record,
        FA: for<'a, 'b, 'c> FnMut(A::View<'a>, &'b mut PlainContext<'c, O>)
            + Clone
            + Send
            + 'static,
        FB: for<'a, 'b, 'c> FnMut(B::View<'a>, &'b mut PlainContext<'c, O>)
            + Clone
            + Send
            + 'static,
    {
        let env = self.first.env.clone();
        let head = env.graph.add("co_process", OperatorKind::CoProcess, false);
        let own = env.graph.parallelism_of(self.first.chain.head);
        env.graph.edit(head, |s| s.parallelism = Some(own));
        close_plain(self.first, head, 0);
        close_plain(self.second, head, 1);
        let closures = (first, second);
        let factory = CoPlainFactory { closures, sides: Sides::default(), types: PhantomData };
        let inputs = vec![InputSpec::of::<A>(false), InputSpec::of::<B>(false)];
        head_stream(env, head, factory, inputs)
    }
}

/// Makes an operator of closures over two inputs.
pub struct CoPlainFactory<A, B, O, FA, FB> {
    closures: (FA, FB),
    sides: Sides,
    types: PhantomData<fn(A, B) -> O>,
}

impl<A, B, O, FA: Clone, FB: Clone> Clone for CoPlainFactory<A, B, O, FA, FB> {
    fn clone(&self) -> Self {
        let (closures, sides) = (self.closures.clone(), self.sides.clone());
        CoPlainFactory { closures, sides, types: PhantomData }
    }
}

impl<A, B, O, FA, FB> OperatorFactory for CoPlainFactory<A, B, O, FA, FB>
where
    A: Record,
    B: Record,
    O: Record,
    FA: for<'a, 'b, 'c> FnMut(A::View<'a>, &'b mut PlainContext<'c, O>) + Clone + Send + 'static,
    FB: for<'a, 'b, 'c> FnMut(B::View<'a>, &'b mut PlainContext<'c, O>) + Clone + Send + 'static,
{
    type Operator = CoPlain<A, B, O, FA, FB>;
    fn open(&self, io: &mut Io, _: u64) -> Result<Self::Operator> {
        let sides = self.sides.open(io)?;
        Ok(CoPlain::new(&io.context, self.closures.clone(), sides))
    }
}

impl<A, B, O, FA, FB> SideFactory for CoPlainFactory<A, B, O, FA, FB>
where
    Self: OperatorFactory,
{
    fn sides(&mut self) -> &mut Sides {
        &mut self.sides
    }
}
