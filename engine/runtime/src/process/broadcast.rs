//! Process functions over a stream and a broadcast stream.
//!
//! Invariants
//!   B1  Every subtask has its own copy of the map; all get the same updates. A snapshot holds
//!       every copy, and subtask 0's is restored in every subtask.
//!   B2  User code changes the map only for a broadcast record.

use super::context::{ProcessContext, Timer};
use super::function::BroadcastProcess;
use super::host::{Host, host_operator, read_ahead};
use super::part::PartRef;
use super::side::SideOutputs;
use super::store::Store;
use crate::blame::Blame;
use crate::context::{Context, SectionKind};
use crate::operator::Operator;
use crate::stage::Stage;
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Record, Result, Timestamp};
use tidemill_keyed::{Backend, HeapTable, States};

/// The map that broadcast records fill, one copy a subtask.
#[derive(Debug)]
pub struct BroadcastMap<K: Key, V: Record> {
    table: HeapTable<K, V>,
}

impl<K: Key, V: Record> Default for BroadcastMap<K, V> {
    fn default() -> Self {
        BroadcastMap { table: HeapTable::new() }
    }
}

impl<K: Key, V: Record> BroadcastMap<K, V> {
    /// The value of a key.
    pub fn get(&self, key: K::View<'_>) -> Option<&V> {
        self.table.get(K::hash(K::shorten(key)), key)
    }
    /// Sets the value of a key; returns the one before.
    pub fn insert(&mut self, key: K::View<'_>, value: V) -> Option<V> {
        self.table.insert(K::hash(K::shorten(key)), key, value)
    }
    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: K::View<'_>) -> Option<&mut V> {
        self.table.get_mut(K::hash(K::shorten(key)), key)
    }
    /// Removes a key; returns its value.
    pub fn remove(&mut self, key: K::View<'_>) -> Option<V> {
        self.table.remove(K::hash(K::shorten(key)), key)
    }
    /// Whether the key has a value.
    pub fn contains(&self, key: K::View<'_>) -> bool {
        self.get(key).is_some()
    }
    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (K::View<'_>, &V)> {
        self.table.iter()
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.table.len()
    }
    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

/// Keyed states and the broadcast map.
pub struct WithMap<St, MK: Key, V: Record> {
    states: St,
    map: BroadcastMap<MK, V>,
}

impl<K: Key, St: Store<K>, MK: Key, V: Record> Store<K> for WithMap<St, MK, V> {
    fn parts(&mut self) -> Vec<PartRef<'_>> {
        let mut parts = self.states.parts();
        let kind = SectionKind::OperatorState;
        parts.push(PartRef::new(kind, 1, "broadcast", &mut self.map.table));
        parts
    }
    fn set_key(&self, hash: u64, key: K::View<'_>, timestamp: Timestamp) {
        self.states.set_key(hash, key, timestamp);
    }
    fn set_times(&self, watermark: Timestamp, processing_ms: i64) {
        self.states.set_times(watermark, processing_ms);
    }
    fn expire(&mut self, budget: usize) {
        self.states.expire(budget);
    }
    fn backend(&self) -> Backend {
        self.states.backend()
    }
    fn looks_ahead(&mut self, records: usize) -> bool {
        self.states.looks_ahead(records)
    }
    fn want(&mut self, hash: u64, key: K::View<'_>) -> Result<()> {
        self.states.want(hash, key)
    }
    fn fetch(&mut self) -> Result<()> {
        self.states.fetch()
    }
    fn prefetch_index(&self, hash: u64) {
        self.states.prefetch_index(hash);
    }
    fn prefetch_entry(&self, hash: u64) {
        self.states.prefetch_entry(hash);
    }
}

/// User code over a stream `I` (keyed, or with key `()`) and a broadcast stream `B`.
pub trait BroadcastLogic<K: Key, I: Record, B: Record>: 'static {
    /// What it emits.
    type Out: Record;
    /// Keyed states.
    type Store: Store<K>;
    /// Keys of the map.
    type MapKey: Key;
    /// Values of the map.
    type MapValue: Record;
    /// Takes a record.
    fn process(
        &mut self,
        record: I::View<'_>,
        map: &BroadcastMap<Self::MapKey, Self::MapValue>,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    );
    /// Takes a broadcast record.
    fn update(&mut self, update: B::View<'_>, map: &mut BroadcastMap<Self::MapKey, Self::MapValue>);
    /// A timer is due.
    fn on_timer(
        &mut self,
        store: &mut WithMap<Self::Store, Self::MapKey, Self::MapValue>,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    );
}

/// A [`BroadcastProcess`] with its opened states.
pub struct FunctionLogic<K: Key, I: Record, B: Record, P: BroadcastProcess<K, I, B>> {
    function: P,
    state: P::State,
}

impl<K, I, B, P> BroadcastLogic<K, I, B> for FunctionLogic<K, I, B, P>
where
    K: Key,
    I: Record,
    B: Record,
    P: BroadcastProcess<K, I, B>,
{
    type Out = P::Out;
    type Store = States<K>;
    type MapKey = P::MapKey;
    type MapValue = P::MapValue;
    #[inline(always)]
    fn process(
        &mut self,
        record: I::View<'_>,
        map: &BroadcastMap<P::MapKey, P::MapValue>,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) {
        self.function.process(&mut self.state, record, map, cx);
    }
    fn update(&mut self, update: B::View<'_>, map: &mut BroadcastMap<P::MapKey, P::MapValue>) {
        self.function.process_broadcast(update, map);
    }
    fn on_timer(
        &mut self,
        store: &mut WithMap<States<K>, P::MapKey, P::MapValue>,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) {
        self.function.on_timer(&mut self.state, timer, &store.map, cx);
    }
}

/// Closures over a stream without key.
pub struct ClosureLogic<MK, V, O, F, U> {
    process: F,
    update: U,
    map: PhantomData<fn() -> BroadcastMapTypes<MK, V>>,
    out: PhantomData<fn() -> O>,
}

type BroadcastMapTypes<MK, V> = (MK, V);

impl<I, B, MK, V, O, F, U> BroadcastLogic<(), I, B> for ClosureLogic<MK, V, O, F, U>
where
    I: Record,
    B: Record,
    MK: Key,
    V: Record,
    O: Record,
    F: for<'a, 'b, 'c> FnMut(
            I::View<'a>,
            &'b BroadcastMap<MK, V>,
            &'b mut ProcessContext<'c, (), O>,
        ) + 'static,
    U: for<'a, 'b> FnMut(B::View<'a>, &'b mut BroadcastMap<MK, V>) + 'static,
{
    type Out = O;
    type Store = ();
    type MapKey = MK;
    type MapValue = V;
    #[inline(always)]
    fn process(
        &mut self,
        record: I::View<'_>,
        map: &BroadcastMap<MK, V>,
        cx: &mut ProcessContext<'_, (), O>,
    ) {
        (self.process)(record, map, cx);
    }
    fn update(&mut self, update: B::View<'_>, map: &mut BroadcastMap<MK, V>) {
        (self.update)(update, map);
    }
    fn on_timer(
        &mut self,
        _: &mut WithMap<(), MK, V>,
        _: Timer,
        _: &mut ProcessContext<'_, (), O>,
    ) {
    }
}

/// The keyed states and the map of a function.
type StoreOf<K, I, B, L> = WithMap<
    <L as BroadcastLogic<K, I, B>>::Store,
    <L as BroadcastLogic<K, I, B>>::MapKey,
    <L as BroadcastLogic<K, I, B>>::MapValue,
>;

/// The operator: input 0 of `I`, keyed by `F`; input 1 of `B`, broadcast.
pub struct Broadcast<K: Key, I: Record, B: Record, L: BroadcastLogic<K, I, B>, F> {
    host: Host<K, StoreOf<K, I, B, L>>,
    logic: L,
    selector: F,
    inputs: PhantomData<fn(I, B)>,
}

impl<K, I, B, P, F> Broadcast<K, I, B, FunctionLogic<K, I, B, P>, F>
where
    K: Key,
    I: Record,
    B: Record,
    P: BroadcastProcess<K, I, B>,
{
    /// Opens a process function with states and map restored.
    pub fn open(
        context: &Context,
        operator: u64,
        selector: F,
        function: P,
        sides: SideOutputs,
    ) -> Result<Self> {
        let mut states = context.keyed_states::<K>(operator)?;
        let state = function.open(&mut states)?;
        let store = WithMap { states, map: BroadcastMap::default() };
        let host = Host::open(context, operator, store, sides)?;
        let logic = FunctionLogic { function, state };
        Ok(Broadcast { host, logic, selector, inputs: PhantomData })
    }
}

/// Gives every record the key `()`.
pub type NoKey<I> = for<'a> fn(&'a <I as Record>::View<'a>);

impl<I: Record, B: Record, MK: Key, V: Record, O: Record, P, U>
    Broadcast<(), I, B, ClosureLogic<MK, V, O, P, U>, NoKey<I>>
where
    ClosureLogic<MK, V, O, P, U>: BroadcastLogic<(), I, B, Store = (), MapKey = MK, MapValue = V>,
{
    /// Opens closures over a stream without key, with the map restored.
    pub fn open_closures(
        context: &Context,
        operator: u64,
        (process, update): (P, U),
        sides: SideOutputs,
    ) -> Result<Self> {
        let store = WithMap { states: (), map: BroadcastMap::default() };
        let host = Host::open(context, operator, store, sides)?;
        let logic = ClosureLogic { process, update, map: PhantomData, out: PhantomData };
        Ok(Broadcast { host, logic, selector: |_| (), inputs: PhantomData })
    }
}

impl<K, I, B, L, F> Operator for Broadcast<K, I, B, L, F>
where
    K: Key,
    I: Record,
    B: Record,
    L: BroadcastLogic<K, I, B>,
    F: for<'a> FnMut(&'a I::View<'a>) -> K::View<'a> + 'static,
{
    type Out = L::Out;

    #[inline]
    fn records<S: Stage<L::Out>>(
        &mut self,
        input: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        self.host.start_run(batch, range.clone(), input == 0);
        if input == 0 {
            read_ahead!(self.host, I, batch, range, self.selector);
        }
        let end = range.end;
        if input == 0 {
            for i in range {
                let (view, timestamp, hash) = batch.get::<I>(i);
                let view = I::shorten(view);
                let blame = Blame::new(0, view);
                let key = (self.selector)(&view);
                let (store, mut cx) = self.host.enter(hash, key, timestamp, &mut *out);
                self.logic.process(view, &store.map, &mut cx);
                blame.clear();
                if !self.host.room(out) {
                    return Ok(i + 1);
                }
            }
        } else {
            for i in range {
                let (view, _, _) = batch.get::<B>(i);
                let blame = Blame::new(0, view);
                self.logic.update(view, &mut self.host.store_mut().map);
                blame.clear();
            }
        }
        Ok(end)
    }

    host_operator!(L::Out);
}
