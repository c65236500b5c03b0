//! Side outputs: streams that a function emits to beside its main one.

use crate::env::Env;
use crate::graph::Chain;
use crate::pipe::{BranchPipe, HeadPipe, OperatorFactory, Pipe, Tapping, Taps};
use crate::stream::{SharedStream, Stream};
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tidemill_base::{Record, Result};
use tidemill_runtime::deploy::Io;
use tidemill_runtime::process::side::{SideOutputs, SideTag};

/// Names a side output of records `T`. Clones name the same one: give one to the function that
/// emits, register it on the operator with `.side_output(&tag)`, and read it with
/// [`OutputTag::stream`].
///
/// ```
/// # use tidemill::prelude::*;
/// let env = Env::new("sort out");
/// let (numbers, rest) = (CollectSink::new(), CollectSink::new());
/// let malformed = env.output_tag::<String>("malformed");
/// let tag = malformed.clone();
/// env.from_vec(vec!["1".to_string(), "x".to_string(), "3".to_string()])
///     .process::<u64, _>(move |line, cx| match line.parse() {
///         Ok(number) => cx.emit(number),
///         Err(_) => cx.side(&tag, line),
///     })
///     .side_output(&malformed)
///     .add_sink(numbers.sink());
/// malformed.stream(&env).add_sink(rest.sink());
/// env.execute()?;
/// assert_eq!(numbers.take(), [1, 3]);
/// assert_eq!(rest.take(), ["x"]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct OutputTag<T: Record> {
    inner: Arc<Inner<T>>,
    types: PhantomData<fn() -> T>,
    side: SideTag<T>,
}

struct Inner<T: Record> {
    name: String,
    /// The chain up to the operator that emits to it, and where its readers are hung on.
    owner: Mutex<Option<(Chain, Tapping<T>)>>,
}

impl<T: Record> Clone for OutputTag<T> {
    fn clone(&self) -> Self {
        OutputTag { inner: self.inner.clone(), types: PhantomData, side: self.side }
    }
}

impl<T: Record> fmt::Debug for OutputTag<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutputTag({:?})", self.inner.name)
    }
}

impl<T: Record> AsRef<SideTag<T>> for OutputTag<T> {
    fn as_ref(&self) -> &SideTag<T> {
        &self.side
    }
}

impl<T: Record> OutputTag<T> {
    fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let inner = Inner { name: name.to_owned(), owner: Mutex::default() };
        let side = SideTag::new(NEXT.fetch_add(1, Ordering::Relaxed));
        OutputTag { inner: Arc::new(inner), types: PhantomData, side }
    }

    /// The name, for people.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    fn owner(&self) -> Option<(Chain, Tapping<T>)> {
        self.inner.owner.lock().ok().and_then(|owner| owner.clone())
    }

    /// Says that the last operator of `chain` emits to it: to the readers `taps`, which belong to the
    /// operator's recipe.
    pub(crate) fn register(&self, env: &Env, chain: Chain, taps: &Taps<T>) {
        if self.owner().is_some() {
            env.graph.mistake(format!(
                "side output '{}' is registered on two operators: make one tag for each",
                self.name()
            ));
        }
        if let Ok(mut owner) = self.inner.owner.lock() {
            *owner = Some((chain, taps.tapping()));
        }
    }

    /// The stream of what is emitted to it, fused with the operator that emits. May be read more than
    /// once; call it behind `.side_output(&tag)` (and behind `.parallelism(..)` of that operator).
    pub fn stream(&self, env: &Env) -> Stream<T, BranchPipe<T>> {
        let Some((chain, taps)) = self.owner() else {
            env.graph.mistake(format!(
                "side output '{}' is read but no operator emits to it: register it with \
                 .side_output(&tag) first",
                self.name()
            ));
            return env.nothing();
        };
        SharedStream::new(env.clone(), taps, chain).stream()
    }
}

impl Env {
    /// A new side output of records `T`; see [`OutputTag`].
    pub fn output_tag<T: Record>(&self, name: &str) -> OutputTag<T> {
        OutputTag::new(name)
    }

    /// A stream for a graph that is refused anyway.
    fn nothing<T: Record>(&self) -> Stream<T, BranchPipe<T>> {
        let operator = self.graph.add("nothing", tidemill_plan::OperatorKind::SideOutput, false);
        SharedStream::new(self.clone(), Tapping::default(), self.graph.begin(operator)).stream()
    }
}

type OpenSide = Arc<dyn Fn(&mut Io, &mut SideOutputs) -> Result<()> + Send + Sync>;

/// The side outputs that were registered on an operator, as part of its recipe.
#[derive(Clone, Default)]
pub struct Sides(Vec<OpenSide>);

impl fmt::Debug for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sides({})", self.0.len())
    }
}

impl Sides {
    fn add<T: Record>(&mut self, side: SideTag<T>, taps: Taps<T>) {
        self.0.push(Arc::new(move |io, sides| {
            sides.add(side, taps.build(io)?);
            Ok(())
        }));
    }

    /// Takes the channels of all of them.
    pub(crate) fn open(&self, io: &mut Io) -> Result<SideOutputs> {
        let mut sides = SideOutputs::new();
        self.0.iter().try_for_each(|open| open(io, &mut sides))?;
        Ok(sides)
    }
}

/// A chain whose last operator can have side outputs.
pub trait SidePipe: Pipe {
    /// Its side outputs.
    fn sides(&mut self) -> &mut Sides;
}

/// An operator at the head of a task that can have side outputs.
pub trait SideFactory: OperatorFactory {
    /// Its side outputs.
    fn sides(&mut self) -> &mut Sides;
}

impl<O: SideFactory> SidePipe for HeadPipe<O> {
    fn sides(&mut self) -> &mut Sides {
        self.factory.sides()
    }
}

impl<T: Record, P: SidePipe<Out = T>> Stream<T, P> {
    /// Gives the operator a side output; see [`OutputTag`].
    #[must_use]
    pub fn side_output<U: Record>(mut self, tag: &OutputTag<U>) -> Self {
        let taps = Taps::default();
        tag.register(&self.env, self.chain, &taps);
        self.pipe.sides().add(tag.side, taps);
        self
    }
}
