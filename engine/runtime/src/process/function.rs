//! What users implement: functions over keyed records with states and timers.

use super::broadcast::BroadcastMap;
use super::context::{ProcessContext, Timer};
use tidemill_base::{Key, Record, Result};
use tidemill_keyed::States;

/// A function over the records `I` of a stream keyed by `K`, with state and timers for each key.
///
/// Laws: cloned for each subtask, opened on the subtask's core. What it remembers it keeps in its
/// states: its own fields are not in checkpoints.
pub trait KeyedProcess<K: Key, I: Record>: Clone + Send + 'static {
    /// What it emits.
    type Out: Record;
    /// Its state handles.
    type State: 'static;

    /// Declares the states: `states.value("count", None)`, `list`, `map`, `reducing`.
    fn open(&self, states: &mut States<K>) -> Result<Self::State>;

    /// Takes a record. The handles read and write the state of the record's key.
    fn process(
        &mut self,
        state: &mut Self::State,
        record: I::View<'_>,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    );

    /// A timer that the function registered is due. The handles are bound to the timer's key.
    fn on_timer(
        &mut self,
        _state: &mut Self::State,
        _timer: Timer,
        _cx: &mut ProcessContext<'_, K, Self::Out>,
    ) {
    }
}

/// A function over two streams keyed by `K`, with shared state and timers for each key.
///
/// Laws: as for [`KeyedProcess`]. The order between the two inputs is not defined.
pub trait CoProcess<K: Key, A: Record, B: Record>: Clone + Send + 'static {
    /// What it emits.
    type Out: Record;
    /// Its state handles.
    type State: 'static;

    /// Declares the states.
    fn open(&self, states: &mut States<K>) -> Result<Self::State>;

    /// Takes a record of the first stream.
    fn process1(
        &mut self,
        state: &mut Self::State,
        record: A::View<'_>,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    );

    /// Takes a record of the second stream.
    fn process2(
        &mut self,
        state: &mut Self::State,
        record: B::View<'_>,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    );

    /// A timer that the function registered is due.
    fn on_timer(
        &mut self,
        _state: &mut Self::State,
        _timer: Timer,
        _cx: &mut ProcessContext<'_, K, Self::Out>,
    ) {
    }
}

/// A function over a keyed stream of `I` and a broadcast stream of `B`, whose records every
/// subtask gets and keeps in a map.
///
/// Laws: as for [`KeyedProcess`]. `process_broadcast` must change the map by the update alone:
/// every subtask gets the same updates of one producer in the same order, and updates of several
/// producers in any order. A restored job starts with the map that subtask 0 had.
pub trait BroadcastProcess<K: Key, I: Record, B: Record>: Clone + Send + 'static {
    /// What it emits.
    type Out: Record;
    /// Its state handles, for the keyed stream.
    type State: 'static;
    /// Keys of the broadcast map.
    type MapKey: Key;
    /// Values of the broadcast map.
    type MapValue: Record;

    /// Declares the states of the keyed stream.
    fn open(&self, states: &mut States<K>) -> Result<Self::State>;

    /// Takes a record of the keyed stream; the map is read-only here.
    fn process(
        &mut self,
        state: &mut Self::State,
        record: I::View<'_>,
        map: &BroadcastMap<Self::MapKey, Self::MapValue>,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    );

    /// Takes a broadcast record, in every subtask.
    fn process_broadcast(
        &mut self,
        update: B::View<'_>,
        map: &mut BroadcastMap<Self::MapKey, Self::MapValue>,
    );

    /// A timer that the function registered is due.
    fn on_timer(
        &mut self,
        _state: &mut Self::State,
        _timer: Timer,
        _map: &BroadcastMap<Self::MapKey, Self::MapValue>,
        _cx: &mut ProcessContext<'_, K, Self::Out>,
    ) {
    }
}
