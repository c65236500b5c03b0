//! Chains as types: a pipe is a recipe for the stages from a head up to here. Building it with a
//! tail gives one monomorphized task; or, where it begins at a branch, what the chain that it hangs
//! on pushes to.
//!
//! ```text
//!   source -> map -+- Tee -> branch: filter -> key_by, an edge        one task
//!                  |      -> branch: map -> sink
//! ```
//!
//! Law: `build` may be called on any number of clones, on any thread; each gives an independent
//! task.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tidemill_base::{Batch, Record, Result, Timestamp};
use tidemill_runtime::context::{SectionId, SectionKind, SubtaskInfo};
use tidemill_runtime::deploy::{Build, Io};
use tidemill_runtime::gate::Gate;
use tidemill_runtime::operator::{Operator, PassThrough};
use tidemill_runtime::output::{heir, keyed_heir};
use tidemill_runtime::source::{Assigner, Source, SourceTask, open_context};
use tidemill_runtime::stage::{
    Collector, FilterStage, FlatMapStage, InspectStage, MapStage, Stage, Timestamps,
};
use tidemill_runtime::task::{OperatorTask, Task};

/// A recipe for a chain.
pub trait Pipe: Clone + Send + 'static {
    /// What comes out of it.
    type Out: Record;
    /// What is built: a task, or a branch of one.
    type Built: 'static;

    /// Builds it; `tail` makes the stages behind.
    fn build<S, F>(self, io: &mut Io, tail: F) -> Result<Self::Built>
    where
        S: Stage<Self::Out>,
        F: FnOnce(&mut Io) -> Result<S>;

    /// The chain is closed: a branch takes the recipe to what it hangs on, a task gives its own back.
    fn close(&self, recipe: Recipe<Self::Built>) -> Option<Recipe<Box<dyn Task>>>;
}

/// Builds one chain, on its core.
type BuildChain<B> = Box<dyn FnOnce(&mut Io) -> Result<B> + Send>;

/// How a closed chain is built, any number of times.
pub struct Recipe<B>(Box<dyn Fn() -> BuildChain<B> + Send>);

impl<B> fmt::Debug for Recipe<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recipe")
    }
}

impl<B: 'static> Recipe<B> {
    /// The recipe of `pipe` with `tail` behind it.
    pub(crate) fn new<P, S, F>(pipe: P, tail: F) -> Self
    where
        P: Pipe<Built = B>,
        S: Stage<P::Out>,
        F: FnOnce(&mut Io) -> Result<S> + Clone + Send + 'static,
    {
        Recipe(Box::new(move || {
            let (pipe, tail) = (pipe.clone(), tail.clone());
            Box::new(move |io| pipe.build(io, tail))
        }))
    }
}

impl Recipe<Box<dyn Task>> {
    /// What a deployment builds subtasks by.
    pub(crate) fn into_factory(self) -> Box<dyn Fn() -> Build> {
        Box::new(move || {
            let build = (self.0)();
            Box::new(move |mut io| {
                let task = build(&mut io)?;
                io.all_taken()?;
                Ok(task)
            })
        })
    }
}

type Branches<T> = Mutex<Vec<Recipe<Collector<T>>>>;

/// The branches that hang on an operator: readers of a shared stream, or of a side output. Filled
/// while the program composes, built with the task.
///
/// Law: only the recipe of that operator holds it; what the program and the branches hold is a
/// [`Tapping`]. What they close over goes when the job does, as what any other stream does.
#[derive(Debug)]
pub(crate) struct Taps<T: Record>(Arc<Branches<T>>);

impl<T: Record> Default for Taps<T> {
    fn default() -> Self {
        Taps(Arc::default())
    }
}

impl<T: Record> Clone for Taps<T> {
    fn clone(&self) -> Self {
        Taps(self.0.clone())
    }
}

impl<T: Record> Taps<T> {
    /// Where branches are hung on.
    pub(crate) fn tapping(&self) -> Tapping<T> {
        Tapping(Arc::downgrade(&self.0))
    }

    /// Builds all of them.
    pub(crate) fn build(&self, io: &mut Io) -> Result<Vec<Collector<T>>> {
        let recipes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let builds: Vec<_> = recipes.iter().map(|recipe| (recipe.0)()).collect();
        drop(recipes);
        builds.into_iter().map(|build| build(io)).collect()
    }
}

/// Where branches are hung on an operator, as long as its recipe is there.
#[derive(Debug)]
pub(crate) struct Tapping<T: Record>(Weak<Branches<T>>);

impl<T: Record> Default for Tapping<T> {
    fn default() -> Self {
        Tapping(Weak::new())
    }
}

impl<T: Record> Clone for Tapping<T> {
    fn clone(&self) -> Self {
        Tapping(self.0.clone())
    }
}

/// A chain that hangs on an operator of another chain.
pub struct BranchPipe<T: Record> {
    pub(crate) taps: Tapping<T>,
}

impl<T: Record> Clone for BranchPipe<T> {
    fn clone(&self) -> Self {
        BranchPipe { taps: self.taps.clone() }
    }
}

impl<T: Record> Pipe for BranchPipe<T> {
    type Out = T;
    type Built = Collector<T>;

    fn build<S, F>(self, io: &mut Io, tail: F) -> Result<Collector<T>>
    where
        S: Stage<T>,
        F: FnOnce(&mut Io) -> Result<S>,
    {
        Ok(Box::new(tail(io)?))
    }

    fn close(&self, recipe: Recipe<Collector<T>>) -> Option<Recipe<Box<dyn Task>>> {
        // Without the recipe that it belongs to there is an open chain, and no job (G4 of graph.rs).
        if let Some(taps) = self.taps.0.upgrade() {
            taps.lock().unwrap_or_else(PoisonError::into_inner).push(recipe);
        }
        None
    }
}

/// A chain that begins with a source.
#[derive(Clone)]
pub struct SourcePipe<Src, A> {
    pub(crate) source: Src,
    pub(crate) assigner: A,
    pub(crate) operator: usize,
}

impl<Src: Source, A: Assigner<Src::Item>> Pipe for SourcePipe<Src, A> {
    type Out = Src::Item;
    type Built = Box<dyn Task>;

    fn build<S, F>(self, io: &mut Io, tail: F) -> Result<Box<dyn Task>>
    where
        S: Stage<Src::Item>,
        F: FnOnce(&mut Io) -> Result<S>,
    {
        let id = io.operator_id(self.operator)?;
        let cx = open_context(&io.context, id, &self.source.name());
        let reader = self.source.open(&cx)?;
        let chain = tail(io)?;
        Ok(Box::new(SourceTask::new(reader, self.assigner, chain, io.context.clone(), id)))
    }

    fn close(&self, recipe: Recipe<Box<dyn Task>>) -> Option<Recipe<Box<dyn Task>>> {
        Some(recipe)
    }
}

/// Makes the operator at the head of a task, on its core.
pub trait OperatorFactory: Clone + Send + 'static {
    /// The operator.
    type Operator: Operator;

    /// Builds it, with its state restored.
    fn open(&self, io: &mut Io, operator_id: u64) -> Result<Self::Operator>;
}

/// What an input of a head carries, to restore its channel state.
#[derive(Clone, Copy)]
pub struct InputSpec {
    /// Whether records go by key.
    pub keyed: bool,
    /// Whether every subtask gets every record.
    pub broadcast: bool,
    /// Validates restored bytes as records of the input's type.
    pub check: fn(&Batch) -> Result<()>,
    /// The shape of its records.
    pub shape: fn() -> String,
}

impl InputSpec {
    /// For an input of records `T`.
    pub fn of<T: Record>(keyed: bool) -> Self {
        InputSpec {
            keyed,
            broadcast: false,
            check: |batch| batch.check::<T>(),
            shape: tidemill_base::record::shape_of::<T>,
        }
    }
}

/// A chain that begins with an operator that reads channels.
#[derive(Clone)]
pub struct HeadPipe<O> {
    pub(crate) factory: O,
    pub(crate) operator: usize,
    pub(crate) inputs: Vec<InputSpec>,
}

impl<O: OperatorFactory> Pipe for HeadPipe<O> {
    type Out = <O::Operator as Operator>::Out;
    type Built = Box<dyn Task>;

    fn build<S, F>(self, io: &mut Io, tail: F) -> Result<Box<dyn Task>>
    where
        S: Stage<Self::Out>,
        F: FnOnce(&mut Io) -> Result<S>,
    {
        let id = io.operator_id(self.operator)?;
        let operator = self.factory.open(io, id)?;
        let restored = restored_channels(io, id, &self.inputs)?;
        let chain = tail(io)?;
        let epoch = io.context.restored.as_ref().map_or(0, |r| r.epoch);
        let gate = Gate::new(std::mem::take(&mut io.inputs), epoch, restored);
        Ok(Box::new(OperatorTask::new(gate, operator, chain, io.context.clone(), id)))
    }

    fn close(&self, recipe: Recipe<Box<dyn Task>>) -> Option<Recipe<Box<dyn Task>>> {
        Some(recipe)
    }
}

/// The in-flight batches of the restored checkpoint that belong to this subtask: on keyed inputs
/// each record goes to its key's owner, elsewhere a subtask inherits whole old subtasks.
fn restored_channels(io: &Io, operator: u64, inputs: &[InputSpec]) -> Result<Vec<(usize, Batch)>> {
    let mut out = Vec::new();
    for (input, spec) in inputs.iter().enumerate() {
        let section = SectionId { operator, kind: SectionKind::ChannelState, state: input as u16 };
        let entries = io.context.declare(section, &format!("input {input}"), (spec.shape)());
        for (old, payload) in entries {
            let (batch, _) = Batch::decode(payload)?;
            (spec.check)(&batch)?;
            if let Some(batch) = inherited(batch, *old, spec, &io.context.info)? {
                out.push((input, batch));
            }
        }
    }
    Ok(out)
}

fn inherited(
    batch: Batch,
    old: u32,
    spec: &InputSpec,
    info: &SubtaskInfo,
) -> Result<Option<Batch>> {
    if !spec.keyed {
        // Every subtask starts with subtask 0's copy of a broadcast state, so with its batches.
        let mine =
            if spec.broadcast { old == 0 } else { heir(old, info.parallelism) == info.subtask };
        return Ok(mine.then_some(batch));
    }
    let mine = |i: &usize| {
        keyed_heir(batch.hash(*i), info.parallelism, info.max_parallelism) == info.subtask
    };
    batch.select((0..batch.len()).filter(mine))
}

/// Reads a channel as it is.
pub struct ReadFactory<T>(PhantomData<fn() -> T>);

impl<T> Default for ReadFactory<T> {
    fn default() -> Self {
        ReadFactory(PhantomData)
    }
}

impl<T> Clone for ReadFactory<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T: Record> OperatorFactory for ReadFactory<T> {
    type Operator = PassThrough<T>;
    fn open(&self, _: &mut Io, _: u64) -> Result<PassThrough<T>> {
        Ok(PassThrough::default())
    }
}

/// A chain that begins with a plain channel.
pub type ReadPipe<T> = HeadPipe<ReadFactory<T>>;

macro_rules! stage_pipe {
    ($(#[$doc:meta])* $pipe:ident<$t:ident, [$($u:ident)?], $f:ident> => $stage:ident -> $out:ty;
     $($bound:tt)*) => {
        $(#[$doc])*
        pub struct $pipe<P, $($u,)? F> {
            pub(crate) previous: P,
            pub(crate) function: F,
            /// Place of the operator in its chain.
            pub(crate) position: u32,
            pub(crate) types: PhantomData<fn() -> ($($u,)?)>,
        }

        impl<P: Clone, $($u,)? F: Clone> Clone for $pipe<P, $($u,)? F> {
            fn clone(&self) -> Self {
                $pipe {
                    previous: self.previous.clone(),
                    function: self.function.clone(),
                    position: self.position,
                    types: PhantomData,
                }
            }
        }

        impl<$t, P, $($u,)? $f> Pipe for $pipe<P, $($u,)? $f>
        where
            $t: Record,
            P: Pipe<Out = $t>,
            $($u: Record,)?
            $($bound)*
        {
            type Out = $out;
            type Built = P::Built;

            fn build<S, G>(self, io: &mut Io, tail: G) -> Result<P::Built>
            where
                S: Stage<$out>,
                G: FnOnce(&mut Io) -> Result<S>,
            {
                let (operator, function) = (self.position, self.function);
                self.previous.build(io, move |io| {
                    Ok($stage::new(operator, function, tail(io)?))
                })
            }

            fn close(&self, recipe: Recipe<P::Built>) -> Option<Recipe<Box<dyn Task>>> {
                self.previous.close(recipe)
            }
        }
    };
}

stage_pipe! {
    /// A chain with `map` behind it.
    MapPipe<T, [U], F> => MapStage -> U;
    F: for<'a> FnMut(T::View<'a>) -> U + Clone + Send + 'static,
}
stage_pipe! {
    /// A chain with `filter` behind it.
    FilterPipe<T, [], F> => FilterStage -> T;
    F: for<'a> FnMut(T::View<'a>) -> bool + Clone + Send + 'static,
}
stage_pipe! {
    /// A chain with `flat_map` behind it.
    FlatMapPipe<T, [U], F> => FlatMapStage -> U;
    F: for<'a, 'c> FnMut(T::View<'a>, &'c mut dyn FnMut(U::View<'_>)) + Clone + Send + 'static,
}
stage_pipe! {
    /// A chain with `inspect` behind it.
    InspectPipe<T, [], F> => InspectStage -> T;
    F: for<'a> FnMut(T::View<'a>, Timestamp) + Clone + Send + 'static,
}

/// A chain with new timestamps and watermarks behind it.
#[derive(Clone)]
pub struct TimestampsPipe<P, F> {
    pub(crate) previous: P,
    pub(crate) function: F,
    pub(crate) lateness: i64,
    pub(crate) position: u32,
}

impl<T, P, F> Pipe for TimestampsPipe<P, F>
where
    T: Record,
    P: Pipe<Out = T>,
    F: for<'a> FnMut(T::View<'a>) -> Timestamp + Clone + Send + 'static,
{
    type Out = T;
    type Built = P::Built;

    fn build<S, G>(self, io: &mut Io, tail: G) -> Result<P::Built>
    where
        S: Stage<T>,
        G: FnOnce(&mut Io) -> Result<S>,
    {
        let (operator, function, lateness) = (self.position, self.function, self.lateness);
        self.previous.build(io, move |io| {
            let context = io.context.clone();
            Ok(Timestamps::new(operator, function, lateness, context, tail(io)?))
        })
    }

    fn close(&self, recipe: Recipe<P::Built>) -> Option<Recipe<Box<dyn Task>>> {
        self.previous.close(recipe)
    }
}
