//! Records to bytes and back.

use crate::snapshot::ENTRY_BYTES_MAX;
use tidemill_base::rkyv::rancor;
use tidemill_base::{Buffer, Error, Record, Result, rkyv};

/// Bytes before the archive of a key: table, namespace, hash.
pub(crate) const KEY_HEAD: usize = 24;

/// Bytes before the hash.
const PREFIX: usize = 16;

/// The bytes that open each key of a table.
pub(crate) type TablePrefix = [u8; 8];

/// What stands before the archive of a key.
#[inline]
pub(crate) fn head(table: TablePrefix, namespace: i64, hash: u64) -> [u8; KEY_HEAD] {
    let mut bytes = [0; KEY_HEAD];
    bytes[..8].copy_from_slice(&table);
    bytes[8..PREFIX].copy_from_slice(&(namespace as u64 ^ 1 << 63).to_be_bytes());
    bytes[PREFIX..].copy_from_slice(&hash.to_be_bytes());
    bytes
}

/// Behind all bytes that a key of a table's namespace, up to this hash, can begin with.
pub(crate) fn behind(table: TablePrefix, namespace: i64, hash: u64) -> Vec<u8> {
    let mut bytes = head(table, namespace, hash).to_vec();
    while let Some(last) = bytes.pop() {
        if last < u8::MAX {
            bytes.push(last + 1);
            break;
        }
    }
    bytes
}

fn word(key: &[u8], at: usize) -> Result<u64> {
    match key.get(at..at + 8).and_then(|b| b.try_into().ok()) {
        Some(bytes) => Ok(u64::from_be_bytes(bytes)),
        None => Err(Error::attempt(format!("damaged state: a key of {} bytes", key.len()))),
    }
}

/// The key hash in the bytes of a key.
pub(crate) fn hash_of(key: &[u8]) -> Result<u64> {
    word(key, PREFIX)
}

/// The namespace in the bytes of a key.
pub(crate) fn namespace_of(key: &[u8]) -> Result<i64> {
    Ok((word(key, 8)? ^ 1 << 63) as i64)
}

/// Aligned memory to encode into and to decode from.
pub(crate) struct Scratch(Buffer);

impl Scratch {
    pub(crate) fn new() -> Self {
        Scratch(Buffer::with_bytes(1024))
    }

    /// The archive of a record.
    pub(crate) fn encode<T: Record>(&mut self, view: T::View<'_>) -> Result<&[u8]> {
        loop {
            let mut encoder = rkyv_encoder(&mut self.0);
            if encoder.encode::<T>(T::shorten(view)).is_ok() {
                let end = encoder.position();
                return Ok(&self.0.bytes()[..end]);
            }
            let bytes = self.0.len() * 2;
            if bytes > ENTRY_BYTES_MAX {
                return Err(Error::job(format!(
                    "a state entry of more than {ENTRY_BYTES_MAX} bytes cannot be stored; keep \
                     less under one key"
                )));
            }
            self.0 = Buffer::with_bytes(bytes);
        }
    }

    /// Shows the record whose archive `bytes` are to `f`; checks them first.
    pub(crate) fn decode<T: Record, R>(
        &mut self,
        bytes: &[u8],
        f: impl FnOnce(T::View<'_>) -> R,
    ) -> Result<R> {
        if bytes.len() > self.0.len() {
            self.0 = Buffer::with_bytes(bytes.len().next_power_of_two());
        }
        self.0.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let copy = &self.0.bytes()[..bytes.len()];
        let root = bytes.len().checked_sub(size_of::<T::Archived>());
        let archived =
            root.map(|root| rkyv::api::high::access_pos::<T::Archived, rancor::Error>(copy, root));
        match archived {
            Some(Ok(archived)) => Ok(f(T::view_archived(archived))),
            Some(Err(e)) => Err(Error::attempt(format!("damaged state entry: {e}"))),
            None => Err(Error::attempt(format!("damaged state entry of {} bytes", bytes.len()))),
        }
    }
}

fn rkyv_encoder(buffer: &mut Buffer) -> tidemill_base::record::Encoder<'_> {
    tidemill_base::record::Encoder::new(buffer.bytes_mut(), 0)
}
