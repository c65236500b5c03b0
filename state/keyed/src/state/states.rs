//! The states of one operator's subtask, by name.

use super::list::ListTable;
#[cfg(feature = "rocksdb")]
use super::map::DiskMap;
use super::map::MapTable;
use super::ttl::Lifetime;
use super::value::ValueTable;
use super::{ListState, MapState, ReducingState, StateKind, StateTable, StateTtl, ValueState};
use crate::current::{CurrentKey, StateTime};
use crate::table::{Backend, Table};
use std::rc::Rc;
use tidemill_base::{Error, Key, Record, Result};

/// Makes states and keeps their tables. All share one current key and one time, which the
/// operator sets before it calls user code.
pub struct States<K: Key> {
    key: CurrentKey<K>,
    time: StateTime,
    backend: Backend,
    /// Names of tables in the backend begin with this.
    scope: String,
    tables: Vec<Box<dyn StateTable>>,
    /// Which of them are read ahead.
    ahead: Vec<bool>,
}

impl<K: Key> Default for States<K> {
    fn default() -> Self {
        Self::new(CurrentKey::new(), StateTime::new())
    }
}

impl<K: Key> States<K> {
    /// No states yet.
    pub fn new(key: CurrentKey<K>, time: StateTime) -> Self {
        Self::with_backend(key, time, Backend::Heap, "")
    }

    /// No states yet; they will be kept in `backend`, under names that begin with `scope` (unique
    /// among those who share a database).
    pub fn with_backend(
        key: CurrentKey<K>,
        time: StateTime,
        backend: Backend,
        scope: &str,
    ) -> Self {
        States {
            key,
            time,
            backend,
            scope: scope.to_owned(),
            tables: Vec::new(),
            ahead: Vec::new(),
        }
    }

    fn table<S: Record>(&self, name: &str) -> Result<Table<K, S>> {
        self.backend.table(&format!("{}{name}", self.scope))
    }

    /// Where the states are.
    #[doc(hidden)]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Whether states may have to be read.
    #[doc(hidden)]
    pub fn is_on_disk(&self) -> bool {
        !matches!(self.backend, Backend::Heap)
    }

    /// Records are to come, this many; whether any state is to be read for all of them.
    #[doc(hidden)]
    pub fn look_ahead(&mut self, records: usize) -> bool {
        self.ahead.clear();
        self.ahead.extend(self.tables.iter_mut().map(|t| t.looks_ahead(records)));
        self.ahead.contains(&true)
    }

    /// Takes note that the current key's states are needed soon, those that
    /// [`States::look_ahead`] found worth it.
    #[doc(hidden)]
    pub fn want_current(&mut self) -> Result<()> {
        let tables = self.tables.iter_mut().zip(&self.ahead);
        tables.filter(|(_, ahead)| **ahead).try_for_each(|(table, _)| table.want())
    }

    /// The key that the handles are bound to.
    pub fn key(&self) -> &CurrentKey<K> {
        &self.key
    }

    /// The time that TTLs are measured by.
    pub fn time(&self) -> &StateTime {
        &self.time
    }

    /// The tables, in the order of making.
    pub fn tables(&self) -> &[Box<dyn StateTable>] {
        &self.tables
    }

    /// The tables, for snapshots and expiry.
    pub fn tables_mut(&mut self) -> &mut [Box<dyn StateTable>] {
        &mut self.tables
    }

    /// The table of a name, for restoring.
    pub fn table_mut(&mut self, name: &str) -> Option<&mut Box<dyn StateTable>> {
        self.tables.iter_mut().find(|t| t.name() == name)
    }

    fn free(&self, name: &str) -> Result<()> {
        match self.tables.iter().find(|t| t.name() == name) {
            Some(other) => Err(Error::job(format!(
                "state {name:?} is declared twice in one operator (first as {} state): \
                 give each its own name",
                other.kind()
            ))),
            None => Ok(()),
        }
    }

    fn life(&self, ttl: StateTtl) -> Lifetime {
        Lifetime { ttl, time: self.time.clone() }
    }

    fn value_of<V: Record>(
        &mut self,
        name: &str,
        kind: StateKind,
        ttl: Option<StateTtl>,
    ) -> Result<ValueState<V>> {
        self.free(name)?;
        let (state, table) = match ttl {
            None => ValueTable::<K, V, V>::make(name, kind, &self.key, (), self.table(name)?),
            Some(ttl) => {
                let table = self.table(name)?;
                ValueTable::<K, V, (i64, V)>::make(name, kind, &self.key, self.life(ttl), table)
            }
        };
        self.tables.push(table);
        Ok(state)
    }

    /// A value for each key. Fails if the name is taken.
    pub fn value<V: Record>(&mut self, name: &str, ttl: Option<StateTtl>) -> Result<ValueState<V>> {
        self.value_of(name, StateKind::Value, ttl)
    }

    /// A value for each key that `reduce` merges new values into. Fails if the name is taken.
    pub fn reducing<V: Record>(
        &mut self,
        name: &str,
        ttl: Option<StateTtl>,
        reduce: impl Fn(&mut V, V) + 'static,
    ) -> Result<ReducingState<V>> {
        let value = self.value_of(name, StateKind::Reducing, ttl)?;
        Ok(ReducingState::new(value, Rc::new(reduce)))
    }

    /// A list for each key. Fails if the name is taken.
    pub fn list<V: Record>(&mut self, name: &str, ttl: Option<StateTtl>) -> Result<ListState<V>> {
        self.free(name)?;
        let (state, table) = match ttl {
            None => ListTable::<K, V, V>::make(name, &self.key, (), self.table(name)?),
            Some(ttl) => {
                let table = self.table(name)?;
                ListTable::<K, V, (i64, V)>::make(name, &self.key, self.life(ttl), table)
            }
        };
        self.tables.push(table);
        Ok(state)
    }

    /// A map for each key. Fails if the name is taken.
    pub fn map<MK: Key, V: Record>(
        &mut self,
        name: &str,
        ttl: Option<StateTtl>,
    ) -> Result<MapState<MK, V>> {
        self.free(name)?;
        let (state, table) = match (&self.backend, ttl) {
            (Backend::Heap, None) => MapTable::<K, MK, V, V>::make(name, &self.key, ()),
            (Backend::Heap, Some(ttl)) => {
                MapTable::<K, MK, V, (i64, V)>::make(name, &self.key, self.life(ttl))
            }
            #[cfg(feature = "rocksdb")]
            (Backend::Rocks(database), ttl) => {
                let table = format!("{}{name}", self.scope);
                let place = (database.get()?, table.as_str());
                match ttl {
                    None => DiskMap::<K, MK, V, V>::make(name, &self.key, (), place)?,
                    Some(ttl) => {
                        let life = self.life(ttl);
                        DiskMap::<K, MK, V, (i64, V)>::make(name, &self.key, life, place)?
                    }
                }
            }
        };
        self.tables.push(table);
        Ok(state)
    }
}
