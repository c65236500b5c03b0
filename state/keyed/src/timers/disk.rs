//! Timers in RocksDB, the next ones in memory.
//!
//! ```text
//!   near: in memory, ordered       | far: only in the database, which orders them
//!   ---------------------------- horizon -------------------------------> (time, hash of the key)
//! ```
//! Timers before the horizon are fired from memory. When there are none, the next ones are read and
//! the horizon moves on. Too many of them: the horizon moves back, and those behind it leave memory,
//! some with each new timer. Registering behind the horizon is one write, without a read.
//!
//! Invariants
//!   D1  The timers are those of `near`, and those that the database has at or behind the horizon,
//!       `writes` and `gone` applied. `near` may have some behind the horizon, too.
//!   D2  Before the horizon the database has no others than those of `near` whose `dirty` bit is not
//!       set, `writes` and `gone` applied.
//!   D3  While a flush is under way (R3 of `rocks/table.rs`), the database is given nothing but
//!       timers that were there when it began: new ones stay in `near`, removed ones in `gone`.

mod flush;
#[cfg(test)]
mod tests;

use super::{Due, Timers};
use crate::heap::Cursor;
use crate::rocks::codec::{KEY_HEAD, Scratch, TablePrefix, hash_of, head, namespace_of};
use crate::rocks::database::{Database, WRITE_BYTES};
use crate::rocks::table::{claim, fail, set_bit, take_bit};
use flush::Flush;
use rocksdb::WriteBatch;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use tidemill_base::{Key, Result, Timestamp};

/// Timers that are read at once.
const READ: usize = if cfg!(test) { 3 } else { 128 };

/// Timers in memory, at most (while no flush is under way).
const NEAR_MAX: usize = 1 << 16;

/// Timers in memory, as a share of the databases' memory: one byte of so many is for them.
const NEAR_SHARE: usize = 32;

/// Timers looked at for leaving memory with each new one.
const TRIM: usize = 8;

/// Timers from which the middle is taken.
const SAMPLE: usize = 63;

/// Timers keyed by (time, key). Snapshot records are those of [`Timers`].
pub struct DiskTimers<K: Key> {
    db: Database,
    prefix: TablePrefix,
    near: Timers<K>,
    /// By id in `near`: the database is not known to have the timer.
    dirty: Vec<u64>,
    /// Time and hash. `None`: nothing is behind it.
    horizon: Option<(Timestamp, u64)>,
    /// Keys to be deleted from the database (D3).
    gone: BTreeSet<Vec<u8>>,
    writes: WriteBatch,
    scratch: Scratch,
    key_bytes: Vec<u8>,
    capacity: usize,
    /// Where the walk of those who look for timers behind the horizon stands.
    trimming: Option<Cursor>,
    flush: Option<Flush<K>>,
}

impl<K: Key> DiskTimers<K> {
    /// The timers `name` of a database. Fails if the name is open.
    pub fn open(db: &Database, name: &str) -> Result<Self> {
        let entry = size_of::<((i64, K::Slot), Due)>() + 32;
        let capacity = db.memory().bytes() / NEAR_SHARE / entry;
        let mut timers = DiskTimers {
            db: db.clone(),
            prefix: claim(db, name)?,
            near: Timers::new(),
            dirty: Vec::new(),
            horizon: None,
            gone: BTreeSet::new(),
            writes: WriteBatch::default(),
            scratch: Scratch::new(),
            key_bytes: Vec::new(),
            capacity: capacity.clamp(db.memory().entries_min(), NEAR_MAX),
            trimming: None,
            flush: None,
        };
        timers.horizon = timers.first_from((Timestamp::MIN, 0))?;
        Ok(timers)
    }

    /// Number of timers in memory.
    pub fn near(&self) -> usize {
        self.near.len()
    }

    fn is_near(&self, time: Timestamp, hash: u64) -> bool {
        self.horizon.is_none_or(|horizon| (time, hash) < horizon)
    }

    /// See [`TimerQueue::next_time`](super::TimerQueue::next_time).
    pub fn next_time(&self) -> Option<Timestamp> {
        let near = self.near.next_time();
        let far = self.horizon.map(|h| h.0);
        near.into_iter().chain(far).min()
    }

    /// Adds a timer, if it is not there.
    pub fn register(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) {
        if self.near.find(time, hash, K::shorten(key)).is_some() {
            return;
        }
        if self.is_held() || self.is_near(time, hash) {
            let id = self.near.add(time, hash, key);
            set_bit(&mut self.dirty, id);
        } else {
            self.write(time, hash, key).unwrap_or_else(|e| fail(e));
        }
        self.trim().unwrap_or_else(|e| fail(e));
    }

    /// Removes a timer, if it is there.
    pub fn delete(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) {
        let deleted = match self.near.find(time, hash, K::shorten(key)) {
            Some(id) => self.remove(id),
            None if self.is_near(time, hash) => Ok(()),
            None => self.erase(time, hash, key),
        };
        deleted.unwrap_or_else(|e| fail(e));
    }

    /// See [`Timers::pop_due`].
    pub fn pop_due<R>(
        &mut self,
        now: Timestamp,
        f: impl FnOnce(Timestamp, u64, K::View<'_>) -> R,
    ) -> Result<Option<R>> {
        if !self.bring(now)? {
            return Ok(None);
        }
        let Some(&due) = self.near.order.first().filter(|d| d.time <= now) else {
            return Ok(None);
        };
        let result = f(due.time, due.hash, self.near.table.entry(due.id).0.1);
        self.remove(due.id)?;
        Ok(Some(result))
    }

    /// Brings the earliest timer into memory, if it may be due; false if none is.
    fn bring(&mut self, now: Timestamp) -> Result<bool> {
        loop {
            let first = self.near.order.first().map(|d| (d.time, d.hash));
            match (first, self.horizon) {
                (Some(first), horizon) if horizon.is_none_or(|h| first < h) => {
                    return Ok(first.0 <= now);
                }
                (_, Some(horizon)) if horizon.0 <= now => self.read()?,
                _ => return Ok(false),
            }
        }
    }

    /// See [`TimerQueue::look_ahead`](super::TimerQueue::look_ahead).
    pub fn look_ahead(
        &mut self,
        now: Timestamp,
        max: usize,
        mut f: impl FnMut(u64, K::View<'_>) -> Result<()>,
    ) -> Result<()> {
        if !self.bring(now)? {
            return Ok(());
        }
        // The first ones of a heap: each comes after its parent.
        let order = &self.near.order;
        let mut next = BinaryHeap::from([Reverse((order[0], 0))]);
        for _ in 0..max {
            let Some(Reverse((due, place))) = next.pop() else { break };
            if due.time > now || !self.is_near(due.time, due.hash) {
                break;
            }
            f(due.hash, self.near.table.entry(due.id).0.1)?;
            let first = place * super::ARITY + 1;
            let children = first..(first + super::ARITY).min(order.len());
            next.extend(children.map(|child| Reverse((order[child], child))));
        }
        Ok(())
    }

    /// Reads the timers behind the horizon into memory, and moves it on.
    fn read(&mut self) -> Result<()> {
        let Some((time, hash)) = self.horizon else { return Ok(()) };
        self.hand_over()?;
        let db = self.db.db().clone();
        let mut iter = db.raw_iterator();
        iter.seek(head(self.prefix, time, hash));
        let (mut read, mut last) = (0, None);
        self.horizon = loop {
            let Some(bytes) = iter.key().filter(|k| k.starts_with(&self.prefix)) else {
                iter.status().map_err(|e| self.db.failed("reading", e))?;
                break None;
            };
            let place = (namespace_of(bytes)?, hash_of(bytes)?);
            if read >= READ && last != Some(place) {
                break Some(place);
            }
            (read, last) = (read + 1, Some(place));
            if !self.gone.contains(bytes) {
                let (near, dirty) = (&mut self.near, &mut self.dirty);
                self.scratch.decode::<(i64, K), _>(&bytes[KEY_HEAD..], |(time, key)| match near
                    .find(time, place.1, K::shorten(key))
                {
                    Some(id) => drop(take_bit(dirty, id)),
                    None => drop(near.add(time, place.1, key)),
                })?;
            }
            iter.next();
        };
        Ok(())
    }

    /// Time and hash of the first timer in the database that is not before these.
    fn first_from(&self, (time, hash): (Timestamp, u64)) -> Result<Option<(Timestamp, u64)>> {
        let mut iter = self.db.db().raw_iterator();
        iter.seek(head(self.prefix, time, hash));
        let first = iter.key().filter(|k| k.starts_with(&self.prefix));
        let first = first.map(|key| Ok((namespace_of(key)?, hash_of(key)?))).transpose()?;
        iter.status().map_err(|e| self.db.failed("reading", e))?;
        Ok(first)
    }

    /// Takes a timer out of memory that is not needed any more.
    fn remove(&mut self, id: u32) -> Result<()> {
        let pending = self.takes_pending(id);
        let dirty = take_bit(&mut self.dirty, id);
        let ((time, key), _) = self.near.table.entry(id);
        let place = (time, K::hash(K::shorten(key)));
        // One that was registered without a look at the database may be there, too.
        if pending || !dirty || !self.is_near(place.0, place.1) {
            encode::<K>(self.prefix, place, key, &mut self.scratch, &mut self.key_bytes)?;
            if pending {
                self.writes.put(&self.key_bytes, []);
            }
            self.erase_bytes()?;
        }
        self.near.remove(id);
        Ok(())
    }

    /// Deletes a timer from the database.
    fn erase(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) -> Result<()> {
        let place = (time, hash);
        encode::<K>(self.prefix, place, key, &mut self.scratch, &mut self.key_bytes)?;
        self.erase_bytes()
    }

    fn erase_bytes(&mut self) -> Result<()> {
        if self.is_held() {
            self.gone.insert(self.key_bytes.clone());
            return Ok(());
        }
        self.writes.delete(&self.key_bytes);
        self.written()
    }

    /// Gives a timer to the database.
    fn write(&mut self, time: Timestamp, hash: u64, key: K::View<'_>) -> Result<()> {
        let place = (time, hash);
        encode::<K>(self.prefix, place, key, &mut self.scratch, &mut self.key_bytes)?;
        self.writes.put(&self.key_bytes, []);
        self.written()
    }

    fn written(&mut self) -> Result<()> {
        if self.writes.size_in_bytes() >= WRITE_BYTES { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<()> {
        self.db.write(&mut self.writes)
    }

    /// Keeps what is in memory within its bounds, a bounded step at a time.
    fn trim(&mut self) -> Result<()> {
        if self.is_held() || (self.trimming.is_none() && self.near.len() <= self.capacity) {
            return Ok(());
        }
        let mut cursor = self.trimming.take().unwrap_or_else(|| {
            let middle = self.middle();
            self.horizon = Some(self.horizon.map_or(middle, |horizon| horizon.min(middle)));
            Cursor::default()
        });
        let mut far = [0; TRIM];
        let mut found = 0;
        let done = self.near.table.scan_ids(&mut cursor, TRIM, |id, (time, key), _| {
            if self.horizon.is_some_and(|horizon| (time, K::hash(key)) >= horizon) {
                far[found] = id;
                found += 1;
            }
        });
        for &id in &far[..found] {
            if take_bit(&mut self.dirty, id) {
                self.write_id(id)?;
                self.written()?;
            }
            self.near.remove(id);
        }
        self.trimming = (!done).then_some(cursor);
        Ok(())
    }

    /// A place that about half of the timers in memory are before.
    fn middle(&self) -> (Timestamp, u64) {
        let order = &self.near.order;
        let step = (order.len() / SAMPLE).max(1);
        let mut sample: Vec<_> = order.iter().step_by(step).map(|d| (d.time, d.hash)).collect();
        sample.sort_unstable();
        sample.get(sample.len() / 2).copied().unwrap_or((Timestamp::MAX, u64::MAX))
    }

    /// Appends a timer in memory to the writes.
    fn write_id(&mut self, id: u32) -> Result<()> {
        let ((time, key), _) = self.near.table.entry(id);
        let place = (time, K::hash(K::shorten(key)));
        encode::<K>(self.prefix, place, key, &mut self.scratch, &mut self.key_bytes)?;
        self.writes.put(&self.key_bytes, []);
        Ok(())
    }
}

/// The bytes of a timer's key.
fn encode<K: Key>(
    prefix: TablePrefix,
    (time, hash): (Timestamp, u64),
    key: K::View<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<()> {
    out.clear();
    out.extend_from_slice(&head(prefix, time, hash));
    out.extend_from_slice(scratch.encode::<(i64, K)>((time, key))?);
    Ok(())
}
