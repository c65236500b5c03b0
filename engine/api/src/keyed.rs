//! Keyed streams.

use crate::pipe::{HeadPipe, InputSpec, OperatorFactory, Pipe};
use crate::stream::{Stream, head_stream};
use std::marker::PhantomData;
use tidemill_base::{Key, Record};
use tidemill_plan::OperatorKind;
use tidemill_runtime::operator::Operator;

/// A stream partitioned by key, as `key_by` makes it; windows, reductions and process functions
/// are applied to it.
///
/// ```
/// use tidemill::prelude::*;
///
/// let env = Env::new("by length");
/// let out = CollectSink::new();
/// env.from_vec(vec!["to".to_string(), "be".to_string(), "not".to_string()])
///     .key_by::<u64, _>(|word| word.len() as u64)
///     .max(|word| word.as_bytes()[0])
///     .add_sink(out.sink());
/// env.execute()?;
/// let mut greatest = out.take();
/// greatest.sort();
/// assert_eq!(greatest, [(2, b't'), (2, b't'), (3, b'n')]);
/// # Ok::<(), tidemill::Error>(())
/// ```
pub struct KeyedStream<K, T: Record, P: Pipe<Out = T>, F> {
    pub(crate) stream: Stream<T, P>,
    pub(crate) selector: F,
    pub(crate) key: PhantomData<fn() -> K>,
}

impl<K, T, P, F> KeyedStream<K, T, P, F>
where
    K: Key,
    T: Record,
    P: Pipe<Out = T>,
    F: for<'a> FnMut(&'a T::View<'a>) -> K::View<'a> + Clone + Send + 'static,
{
    /// Closes the chain with a keyed edge and starts a task at the operator that `factory` makes.
    pub(crate) fn apply<O: OperatorFactory>(
        self,
        name: &str,
        kind: OperatorKind,
        factory: O,
    ) -> Stream<<O::Operator as Operator>::Out, HeadPipe<O>> {
        let env = self.stream.env.clone();
        let head = env.graph.add(name, kind, true);
        self.stream.close_keyed::<K, F>(head, 0, self.selector);
        head_stream(env, head, factory, vec![InputSpec::of::<T>(true)])
    }
}
