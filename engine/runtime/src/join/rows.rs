//! The records that a side of a join keeps for one key. The first one is kept in place: most keys
//! have no other, and need no memory of their own.

/// Records, each with a time (its timestamp, or its expiry), in the order of arrival.
pub(super) type Rows<T> = (Option<(i64, T)>, Vec<(i64, T)>);

/// No records.
#[inline(always)]
pub(super) fn none<T>() -> Rows<T> {
    (None, Vec::new())
}

/// Adds a record.
#[inline(always)]
pub(super) fn push<T>(rows: &mut Rows<T>, time: i64, record: T) {
    match &mut rows.0 {
        Some(_) => rows.1.push((time, record)),
        first => *first = Some((time, record)),
    }
}

/// The records.
#[inline(always)]
pub(super) fn iter<T>(rows: &Rows<T>) -> impl Iterator<Item = &(i64, T)> {
    rows.0.iter().chain(&rows.1)
}

/// Keeps the records whose time is after `now`, if the first is not.
#[inline(always)]
pub(super) fn retain_after<T>(rows: &mut Rows<T>, now: i64) {
    if rows.0.as_ref().is_some_and(|(time, _)| *time <= now) {
        rows.1.retain(|(time, _)| *time > now);
        rows.0 = (!rows.1.is_empty()).then(|| rows.1.remove(0));
    }
}
