//! Process functions over one keyed input.

use super::context::{ProcessContext, Timer};
use super::function::KeyedProcess;
use super::host::{Host, host_operator, read_ahead};
use super::side::SideOutputs;
use super::store::{OneValue, Store};
use crate::blame::Blame;
use crate::context::Context;
use crate::operator::Operator;
use crate::stage::Stage;
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Record, Result};
use tidemill_keyed::States;

/// User code with the store that it works on.
pub trait Logic<K: Key, I: Record>: 'static {
    /// What it emits.
    type Out: Record;
    /// Where its state is.
    type Store: Store<K>;
    /// Takes a record.
    fn process(
        &mut self,
        store: &mut Self::Store,
        record: I::View<'_>,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    );
    /// A timer is due.
    fn on_timer(
        &mut self,
        store: &mut Self::Store,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    );
}

/// A [`KeyedProcess`] with its opened states.
pub struct FunctionLogic<K: Key, I: Record, P: KeyedProcess<K, I>> {
    function: P,
    state: P::State,
}

impl<K: Key, I: Record, P: KeyedProcess<K, I>> Logic<K, I> for FunctionLogic<K, I, P> {
    type Out = P::Out;
    type Store = States<K>;
    #[inline(always)]
    fn process(
        &mut self,
        _: &mut States<K>,
        record: I::View<'_>,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) {
        self.function.process(&mut self.state, record, cx);
    }
    fn on_timer(
        &mut self,
        _: &mut States<K>,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) {
        self.function.on_timer(&mut self.state, timer, cx);
    }
}

/// Closures over at most one value a key.
pub struct ValueLogic<V, O, F, T> {
    process: F,
    on_timer: T,
    types: PhantomData<fn() -> (V, O)>,
}

/// Calls user code with a key's value, and forgets the key if it leaves none.
#[inline(always)]
fn with_value<K: Key, V: Record>(
    store: &mut OneValue<K, V>,
    hash: u64,
    key: K::View<'_>,
    f: impl FnOnce(&mut Option<V>),
) {
    let value = store.table.upsert(hash, K::shorten(key), || None);
    f(value);
    if value.is_none() {
        store.table.remove(hash, key);
    }
}

impl<K, I, V, O, F, T> Logic<K, I> for ValueLogic<V, O, F, T>
where
    K: Key,
    I: Record,
    V: Record,
    O: Record,
    F: for<'a, 'b, 'c> FnMut(I::View<'a>, &'b mut Option<V>, &'b mut ProcessContext<'c, K, O>)
        + 'static,
    T: for<'b, 'c> FnMut(Timer, &'b mut Option<V>, &'b mut ProcessContext<'c, K, O>) + 'static,
{
    type Out = O;
    type Store = OneValue<K, V>;
    #[inline(always)]
    fn process(
        &mut self,
        store: &mut OneValue<K, V>,
        record: I::View<'_>,
        cx: &mut ProcessContext<'_, K, O>,
    ) {
        with_value(store, cx.hash, cx.key, |value| (self.process)(record, value, cx));
    }
    fn on_timer(
        &mut self,
        store: &mut OneValue<K, V>,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, O>,
    ) {
        with_value(store, cx.hash, cx.key, |value| (self.on_timer)(timer, value, cx));
    }
}

/// The operator: input `I`, key `K` taken by `F`, user code `L`.
pub struct Keyed<K: Key, I: Record, L: Logic<K, I>, F> {
    host: Host<K, L::Store>,
    logic: L,
    selector: F,
    input: PhantomData<fn(I)>,
}

impl<K: Key, I: Record, P: KeyedProcess<K, I>, F> Keyed<K, I, FunctionLogic<K, I, P>, F> {
    /// Opens a process function with its states restored.
    pub fn open(
        context: &Context,
        operator: u64,
        selector: F,
        function: P,
        sides: SideOutputs,
    ) -> Result<Self> {
        let mut states = context.keyed_states::<K>(operator)?;
        let state = function.open(&mut states)?;
        let host = Host::open(context, operator, states, sides)?;
        let logic = FunctionLogic { function, state };
        Ok(Keyed { host, logic, selector, input: PhantomData })
    }
}

impl<K: Key, I: Record, V: Record, O: Record, P, T, F> Keyed<K, I, ValueLogic<V, O, P, T>, F>
where
    ValueLogic<V, O, P, T>: Logic<K, I, Store = OneValue<K, V>>,
{
    /// Opens closures over one value with the value restored.
    pub fn open_value(
        context: &Context,
        operator: u64,
        selector: F,
        (process, on_timer): (P, T),
        sides: SideOutputs,
    ) -> Result<Self> {
        let host = Host::open(context, operator, OneValue::open(context, operator)?, sides)?;
        let logic = ValueLogic { process, on_timer, types: PhantomData };
        Ok(Keyed { host, logic, selector, input: PhantomData })
    }
}

impl<K, I, L, F> Operator for Keyed<K, I, L, F>
where
    K: Key,
    I: Record,
    L: Logic<K, I>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + 'static,
{
    type Out = L::Out;

    #[inline]
    fn records<S: Stage<L::Out>>(
        &mut self,
        _: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        self.host.start_run(batch, range.clone(), true);
        read_ahead!(self.host, I, batch, range, self.selector);
        let end = range.end;
        for i in range {
            let (view, timestamp, hash) = batch.get::<I>(i);
            let view = I::shorten(view);
            let blame = Blame::new(0, view);
            let key = (self.selector)(&view);
            let (store, mut cx) = self.host.enter(hash, key, timestamp, &mut *out);
            self.logic.process(store, view, &mut cx);
            blame.clear();
            if !self.host.room(out) {
                return Ok(i + 1);
            }
        }
        Ok(end)
    }

    host_operator!(L::Out);
}
