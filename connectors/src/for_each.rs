//! A function for each record, fused with the chain, with a state of its own in each subtask.

use std::marker::PhantomData;
use tidemill_base::{Record, Result, Timestamp};
use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};

/// Calls a function on each record. Nothing is undone when a job restarts: it sees the records
/// that follow the checkpoint again.
pub struct ForEachSink<T, S, I, E, D> {
    init: I,
    each: E,
    done: D,
    types: PhantomData<fn(T) -> S>,
}

impl<T, S, I: Clone, E: Clone, D: Clone> Clone for ForEachSink<T, S, I, E, D> {
    fn clone(&self) -> Self {
        let (init, each, done) = (self.init.clone(), self.each.clone(), self.done.clone());
        ForEachSink { init, each, done, types: PhantomData }
    }
}

impl<T, S, I, E, D> ForEachSink<T, S, I, E, D>
where
    T: Record,
    S: 'static,
    I: Fn(u32) -> S + Clone + Send + 'static,
    E: for<'a> FnMut(&mut S, T::View<'a>, Timestamp) + Clone + Send + 'static,
    D: FnMut(&mut S) + Clone + Send + 'static,
{
    /// `init` makes the state of a subtask, by its index; `each` takes a record and its event
    /// time; `done` is called once a subtask, when no record follows.
    pub fn new(init: I, each: E, done: D) -> Self {
        ForEachSink { init, each, done, types: PhantomData }
    }
}

impl<T, S, I, E, D> Sink<T> for ForEachSink<T, S, I, E, D>
where
    T: Record,
    S: 'static,
    I: Fn(u32) -> S + Clone + Send + 'static,
    E: for<'a> FnMut(&mut S, T::View<'a>, Timestamp) + Clone + Send + 'static,
    D: FnMut(&mut S) + Clone + Send + 'static,
{
    type Writer = ForEachWriter<S, E, D>;

    fn open(&self, cx: &SinkContext) -> Result<Self::Writer> {
        let state = (self.init)(cx.subtask);
        Ok(ForEachWriter { state, each: self.each.clone(), done: self.done.clone() })
    }
    fn name(&self) -> String {
        String::from("for each")
    }
}

/// Writer of a [`ForEachSink`].
pub struct ForEachWriter<S, E, D> {
    state: S,
    each: E,
    done: D,
}

impl<T, S, E, D> SinkWriter<T> for ForEachWriter<S, E, D>
where
    T: Record,
    S: 'static,
    E: for<'a> FnMut(&mut S, T::View<'a>, Timestamp) + 'static,
    D: FnMut(&mut S) + 'static,
{
    #[inline(always)]
    fn write(&mut self, view: T::View<'_>, timestamp: Timestamp) -> Result<()> {
        (self.each)(&mut self.state, view, timestamp);
        Ok(())
    }
    fn end(&mut self) -> Result<()> {
        (self.done)(&mut self.state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sink_context;
    use std::sync::{Arc, Mutex};

    #[test]
    fn each_subtask_folds_on_its_own() {
        let sums = Arc::new(Mutex::new(Vec::new()));
        let out = sums.clone();
        let sink = ForEachSink::<(u64, String), _, _, _, _>::new(
            |subtask| (subtask, 0u64, 0i64),
            |state, (n, word), timestamp| {
                state.1 += n * word.len() as u64;
                state.2 = state.2.max(timestamp);
            },
            move |state| out.lock().unwrap().push(*state),
        );
        for subtask in 0..2u32 {
            let mut writer = sink.open(&sink_context(subtask, 2, None)).unwrap();
            let write = |w: &mut _, n, t| SinkWriter::<(u64, String)>::write(w, (n, "abc"), t);
            write(&mut writer, 1, 5).unwrap();
            write(&mut writer, 10 + u64::from(subtask), 4).unwrap();
            SinkWriter::<(u64, String)>::end(&mut writer).unwrap();
        }
        assert_eq!(*sums.lock().unwrap(), [(0, 33, 5), (1, 36, 5)]);
    }
}
