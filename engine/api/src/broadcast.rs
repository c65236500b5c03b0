//! Broadcast state: a stream of rules that every subtask of another stream's operator knows.

#![expect(clippy::type_complexity, reason = "recipes are typed by all that they are made of")]

use crate::keyed::KeyedStream;
use crate::pipe::{HeadPipe, InputSpec, OperatorFactory, Pipe};
use crate::side_output::{SideFactory, Sides};
use crate::stream::{Stream, head_stream};
use std::marker::PhantomData;
use tidemill_base::{Key, Record, Result};
use tidemill_plan::{OperatorKind, Partitioning};
use tidemill_runtime::deploy::Io;
use tidemill_runtime::process::broadcast::{
    Broadcast, BroadcastLogic, BroadcastMap, ClosureLogic, FunctionLogic, NoKey,
};
use tidemill_runtime::process::{BroadcastProcess, ProcessContext};

/// A keyed stream and a broadcast one.
pub struct KeyedBroadcast<K, I, B, P, Q, F>
where
    I: Record,
    B: Record,
    P: Pipe<Out = I>,
    Q: Pipe<Out = B>,
{
    stream: KeyedStream<K, I, P, F>,
    rules: Stream<B, Q>,
}

/// A stream and a broadcast one.
pub struct BroadcastConnected<I: Record, B: Record, P: Pipe<Out = I>, Q: Pipe<Out = B>> {
    stream: Stream<I, P>,
    rules: Stream<B, Q>,
}

fn broadcast_spec<B: Record>() -> InputSpec {
    InputSpec { broadcast: true, ..InputSpec::of::<B>(false) }
}

impl<K, I, P, F> KeyedStream<K, I, P, F>
where
    K: Key,
    I: Record,
    P: Pipe<Out = I>,
{
    /// This stream and a stream of rules, of which every subtask gets every record: see
    /// [`KeyedBroadcast::process`].
    pub fn connect_broadcast<B, Q>(self, rules: Stream<B, Q>) -> KeyedBroadcast<K, I, B, P, Q, F>
    where
        B: Record,
        Q: Pipe<Out = B>,
    {
        KeyedBroadcast { stream: self, rules }
    }
}

impl<I: Record, P: Pipe<Out = I>> Stream<I, P> {
    /// This stream and a stream of rules, of which every subtask gets every record: see
    /// [`BroadcastConnected::process`].
    pub fn connect_broadcast<B: Record, Q: Pipe<Out = B>>(
        self,
        rules: Stream<B, Q>,
    ) -> BroadcastConnected<I, B, P, Q> {
        BroadcastConnected { stream: self, rules }
    }
}

impl<K, I, B, P, Q, F> KeyedBroadcast<K, I, B, P, Q, F>
where
    K: Key,
    I: Record,
    B: Record,
    P: Pipe<Out = I>,
    Q: Pipe<Out = B>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    /// Runs a function over the keyed stream, with a map that the broadcast records fill.
    ///
    /// Every subtask has a copy of the map and sees the same updates, those of one producer in
    /// their order. Nothing is said about the order between rules and other records, nor between
    /// rules of several producers: make updates that do not depend on it. After a restore every
    /// subtask begins with the copy that subtask 0 had.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// /// Counts the records that exceed their key's limit.
    /// #[derive(Clone)]
    /// struct Exceeding;
    ///
    /// impl BroadcastProcess<u64, (u64, i64), (u64, i64)> for Exceeding {
    ///     type Out = (u64, u64);
    ///     type State = ValueState<u64>;
    ///     type MapKey = u64;
    ///     type MapValue = i64;
    ///
    ///     fn open(&self, states: &mut States<u64>) -> Result<ValueState<u64>> {
    ///         states.value("count", None)
    ///     }
    ///     fn process(
    ///         &mut self,
    ///         count: &mut ValueState<u64>,
    ///         record: (u64, i64),
    ///         limits: &BroadcastMap<u64, i64>,
    ///         cx: &mut ProcessContext<'_, u64, (u64, u64)>,
    ///     ) {
    ///         if limits.get(record.0).is_some_and(|limit| record.1 > *limit) {
    ///             cx.emit((record.0, count.update(|n| { *n += 1; *n })));
    ///         }
    ///     }
    ///     fn process_broadcast(&mut self, limit: (u64, i64), limits: &mut BroadcastMap<u64, i64>) {
    ///         limits.insert(limit.0, limit.1);
    ///     }
    /// }
    ///
    /// let env = Env::new("limits");
    /// let limits = env.from_vec(vec![(1u64, 10i64)]);
    /// env.from_vec(vec![(1u64, 11i64), (2, 12)])
    ///     .key_by::<u64, _>(|record| record.0)
    ///     .connect_broadcast(limits)
    ///     .process(Exceeding)
    ///     .add_sink(DiscardSink);
    /// env.execute()?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn process<Fun: BroadcastProcess<K, I, B>>(
        self,
        function: Fun,
    ) -> Stream<Fun::Out, HeadPipe<BroadcastFactory<K, I, B, Fun, F>>> {
        let env = self.stream.stream.env.clone();
        let head = env.graph.add("broadcast_process", OperatorKind::BroadcastProcess, true);
        let selector = self.stream.selector.clone();
        self.stream.stream.close_keyed::<K, F>(head, 0, self.stream.selector);
        self.rules.close_unkeyed(head, Partitioning::Broadcast, 1);
        let factory =
            BroadcastFactory { function, selector, sides: Sides::default(), types: PhantomData };
        let inputs = vec![InputSpec::of::<I>(true), broadcast_spec::<B>()];
        head_stream(env, head, factory, inputs)
    }
}

impl<I: Record, B: Record, P: Pipe<Out = I>, Q: Pipe<Out = B>> BroadcastConnected<I, B, P, Q> {
    /// Runs closures: `process` over the stream, reading the map; `update` over the broadcast
    /// records, filling it. What [`KeyedBroadcast::process`] says about the map holds here too.
    ///
    /// ```
    /// # use tidemill::prelude::*;
    /// let env = Env::new("blocked");
    /// let blocked = env.from_vec(vec!["mallory".to_string()]);
    /// env.from_vec(vec!["ann".to_string()])
    ///     .connect_broadcast(blocked)
    ///     .process::<String, bool, String, _, _>(
    ///         |user, blocked, cx| {
    ///             if !blocked.contains(user) {
    ///                 cx.emit(user);
    ///             }
    ///         },
    ///         |user, blocked| {
    ///             blocked.insert(user, true);
    ///         },
    ///     )
    ///     .add_sink(DiscardSink);
    /// env.execute()?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    pub fn process<MK, V, O, Fun, U>(
        self,
        process: Fun,
        update: U,
    ) -> Stream<O, HeadPipe<BroadcastClosures<I, B, MK, V, O, Fun, U>>>
    where
        MK: Key,
        V: Record,
        O: Record,
        Fun: for<'a, 'b, 'c> FnMut(
                I::View<'a>,
                &'b BroadcastMap<MK, V>,
                &'b mut ProcessContext<'c, (), O>,
            ) + Clone
            + Send
            + 'static,
        U: for<'a, 'b> FnMut(B::View<'a>, &'b mut BroadcastMap<MK, V>) + Clone + Send + 'static,
    {
        let env = self.stream.env.clone();
        let head = env.graph.add("broadcast_process", OperatorKind::BroadcastProcess, true);
        let own = env.graph.parallelism_of(self.stream.chain.head);
        env.graph.edit(head, |s| s.parallelism = Some(own));
        self.stream.close_unkeyed(head, Partitioning::Forward, 0);
        self.rules.close_unkeyed(head, Partitioning::Broadcast, 1);
        let closures = (process, update);
        let factory = BroadcastClosures { closures, sides: Sides::default(), types: PhantomData };
        head_stream(env, head, factory, vec![InputSpec::of::<I>(false), broadcast_spec::<B>()])
    }
}

/// Makes a keyed function with a broadcast map.
pub struct BroadcastFactory<K, I, B, Fun, F> {
    function: Fun,
    selector: F,
    sides: Sides,
    types: PhantomData<fn() -> (K, I, B)>,
}

impl<K, I, B, Fun: Clone, F: Clone> Clone for BroadcastFactory<K, I, B, Fun, F> {
    fn clone(&self) -> Self {
        BroadcastFactory {
            function: self.function.clone(),
            selector: self.selector.clone(),
            sides: self.sides.clone(),
            types: PhantomData,
        }
    }
}

impl<K, I, B, Fun, F> OperatorFactory for BroadcastFactory<K, I, B, Fun, F>
where
    K: Key,
    I: Record,
    B: Record,
    Fun: BroadcastProcess<K, I, B>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    type Operator = Broadcast<K, I, B, FunctionLogic<K, I, B, Fun>, F>;
    fn open(&self, io: &mut Io, operator: u64) -> Result<Self::Operator> {
        let sides = self.sides.open(io)?;
        let (selector, function) = (self.selector.clone(), self.function.clone());
        Broadcast::open(&io.context, operator, selector, function, sides)
    }
}

impl<K, I, B, Fun, F> SideFactory for BroadcastFactory<K, I, B, Fun, F>
where
    Self: OperatorFactory,
{
    fn sides(&mut self) -> &mut Sides {
        &mut self.sides
    }
}

/// Makes an operator of closures with a broadcast map.
pub struct BroadcastClosures<I, B, MK, V, O, Fun, U> {
    closures: (Fun, U),
    sides: Sides,
    types: PhantomData<fn() -> (I, B, MK, V, O)>,
}

impl<I, B, MK, V, O, Fun: Clone, U: Clone> Clone for BroadcastClosures<I, B, MK, V, O, Fun, U> {
    fn clone(&self) -> Self {
        let (closures, sides) = (self.closures.clone(), self.sides.clone());
        BroadcastClosures { closures, sides, types: PhantomData }
    }
}

impl<I, B, MK, V, O, Fun, U> OperatorFactory for BroadcastClosures<I, B, MK, V, O, Fun, U>
where
    I: Record,
    B: Record,
    MK: Key,
    V: Record,
    O: Record,
    Fun: Clone + Send + 'static,
    U: Clone + Send + 'static,
    ClosureLogic<MK, V, O, Fun, U>:
        BroadcastLogic<(), I, B, Store = (), MapKey = MK, MapValue = V, Out = O>,
{
    type Operator = Broadcast<(), I, B, ClosureLogic<MK, V, O, Fun, U>, NoKey<I>>;
    fn open(&self, io: &mut Io, operator: u64) -> Result<Self::Operator> {
        let sides = self.sides.open(io)?;
        Broadcast::open_closures(&io.context, operator, self.closures.clone(), sides)
    }
}

impl<I, B, MK, V, O, Fun, U> SideFactory for BroadcastClosures<I, B, MK, V, O, Fun, U>
where
    Self: OperatorFactory,
{
    fn sides(&mut self) -> &mut Sides {
        &mut self.sides
    }
}
