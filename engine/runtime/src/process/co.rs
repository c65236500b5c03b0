//! Process functions over two inputs: with the same key, or without key.

use super::context::{ProcessContext, Timer};
use super::function::CoProcess;
use super::host::{Host, host_operator, read_ahead};
use super::plain::PlainContext;
use super::side::SideOutputs;
use super::store::Store as _;
use crate::blame::Blame;
use crate::context::Context;
use crate::operator::{Flow, Operator};
use crate::stage::{Control, Stage};
use std::marker::PhantomData;
use std::ops::Range;
use tidemill_base::{Batch, Key, Record, Result, Timestamp, WATERMARK_MIN};
use tidemill_keyed::States;

struct Logic<K: Key, A: Record, B: Record, P: CoProcess<K, A, B>> {
    function: P,
    state: P::State,
}

impl<K: Key, A: Record, B: Record, P: CoProcess<K, A, B>> Logic<K, A, B, P> {
    fn on_timer(
        &mut self,
        _: &mut States<K>,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) {
        self.function.on_timer(&mut self.state, timer, cx);
    }
}

/// The operator: input 0 of `A`, input 1 of `B`.
pub struct Co<K: Key, A: Record, B: Record, P: CoProcess<K, A, B>, FA, FB> {
    host: Host<K, States<K>>,
    logic: Logic<K, A, B, P>,
    first: FA,
    second: FB,
    inputs: PhantomData<fn(A, B)>,
}

impl<K: Key, A: Record, B: Record, P: CoProcess<K, A, B>, FA, FB> Co<K, A, B, P, FA, FB> {
    /// Opens the function with its states restored; `first` and `second` take the keys.
    pub fn open(
        context: &Context,
        operator: u64,
        (first, second): (FA, FB),
        function: P,
        sides: SideOutputs,
    ) -> Result<Self> {
        let mut states = context.keyed_states::<K>(operator)?;
        let state = function.open(&mut states)?;
        let host = Host::open(context, operator, states, sides)?;
        Ok(Co { host, logic: Logic { function, state }, first, second, inputs: PhantomData })
    }
}

impl<K, A, B, P, FA, FB> Operator for Co<K, A, B, P, FA, FB>
where
    K: Key,
    A: Record,
    B: Record,
    P: CoProcess<K, A, B>,
    FA: for<'a> FnMut(&'a A::View<'a>) -> K::View<'a> + 'static,
    FB: for<'a> FnMut(&'a B::View<'a>) -> K::View<'a> + 'static,
{
    type Out = P::Out;

    #[inline]
    fn records<S: Stage<P::Out>>(
        &mut self,
        input: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        self.host.start_run(batch, range.clone(), true);
        if input == 0 {
            read_ahead!(self.host, A, batch, range, self.first);
        } else {
            read_ahead!(self.host, B, batch, range, self.second);
        }
        let (logic, end) = (&mut self.logic, range.end);
        if input == 0 {
            for i in range {
                let (view, timestamp, hash) = batch.get::<A>(i);
                let view = A::shorten(view);
                let blame = Blame::new(0, view);
                let key = (self.first)(&view);
                let (_, mut cx) = self.host.enter(hash, key, timestamp, &mut *out);
                logic.function.process1(&mut logic.state, view, &mut cx);
                blame.clear();
                if !self.host.room(out) {
                    return Ok(i + 1);
                }
            }
        } else {
            for i in range {
                let (view, timestamp, hash) = batch.get::<B>(i);
                let view = B::shorten(view);
                let blame = Blame::new(0, view);
                let key = (self.second)(&view);
                let (_, mut cx) = self.host.enter(hash, key, timestamp, &mut *out);
                logic.function.process2(&mut logic.state, view, &mut cx);
                blame.clear();
                if !self.host.room(out) {
                    return Ok(i + 1);
                }
            }
        }
        Ok(end)
    }

    host_operator!(P::Out);
}

/// Closures over two inputs without key: stateless.
pub struct CoPlain<A, B, O, FA, FB> {
    first: FA,
    second: FB,
    watermark: Timestamp,
    context: Context,
    sides: SideOutputs,
    types: PhantomData<fn(A, B) -> O>,
}

impl<A, B, O, FA, FB> CoPlain<A, B, O, FA, FB> {
    /// Opens the operator.
    pub fn new(context: &Context, (first, second): (FA, FB), sides: SideOutputs) -> Self {
        let (watermark, types) = (WATERMARK_MIN, PhantomData);
        CoPlain { first, second, watermark, context: context.clone(), sides, types }
    }
}

impl<A, B, O, FA, FB> Operator for CoPlain<A, B, O, FA, FB>
where
    A: Record,
    B: Record,
    O: Record,
    FA: for<'a, 'b, 'c> FnMut(A::View<'a>, &'b mut PlainContext<'c, O>) + 'static,
    FB: for<'a, 'b, 'c> FnMut(B::View<'a>, &'b mut PlainContext<'c, O>) + 'static,
{
    type Out = O;

    #[inline]
    fn records<S: Stage<O>>(
        &mut self,
        input: usize,
        batch: &Batch,
        range: Range<usize>,
        out: &mut S,
    ) -> Result<usize> {
        let end = range.end;
        for i in range {
            let (watermark, context, sides) = (self.watermark, &self.context, &mut self.sides);
            let timestamp = batch.timestamp(i);
            let mut cx = PlainContext { timestamp, watermark, context, sides, out: &mut *out };
            if input == 0 {
                let view = batch.get::<A>(i).0;
                let blame = Blame::new(0, view);
                (self.first)(view, &mut cx);
                blame.clear();
            } else {
                let view = batch.get::<B>(i).0;
                let blame = Blame::new(0, view);
                (self.second)(view, &mut cx);
                blame.clear();
            }
            if !(out.room() && self.sides.room()) {
                return Ok(i + 1);
            }
        }
        Ok(end)
    }

    fn watermark<S: Stage<O>>(&mut self, w: Timestamp, _: &mut S) -> Result<Flow> {
        self.watermark = w;
        Ok(Flow::Done)
    }

    fn side_control(&mut self, control: Control) -> Result<()> {
        self.sides.control(control)
    }

    fn side_end_run(&mut self) {
        self.sides.end_run();
    }

    fn side_settled(&mut self) -> Result<bool> {
        self.sides.settled()
    }

    fn side_writable(&mut self) -> bool {
        self.sides.writable()
    }
}
