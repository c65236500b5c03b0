//! The records that a side of a join keeps for one key in one slice. The first one is kept in place: most keys
//! have no other, and need no memory of their own.

/// Records, each with its timestamp, in the order of arrival.
pub(super) type Rows<T> = (Option<(i64, T)>, Vec<(i64, T)>);

/// No records.
#[inline(always)]
pub(super) fn none<T>() -> Rows<T> {
    (None, Vec::new())
}

/// Adds a record.
#[inline(always)]
pub(super) fn push<T>(rows: &mut Rows<T>, timestamp: i64, record: T) {
    match &mut rows.0 {
        Some(_) => rows.1.push((timestamp, record)),
        first => *first = Some((timestamp, record)),
    }
}

/// The records.
#[inline(always)]
pub(super) fn iter<T>(rows: &Rows<T>) -> impl Iterator<Item = &(i64, T)> {
    rows.0.iter().chain(&rows.1)
}
