//! What a checkpoint knows of a file source: one entry a split that is not done; a marker for a
//! subtask that has none, so that a source that is done is not taken for a new one.

use super::lane::Part;
use crate::codec::{Decode, Encode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tidemill_base::Result;

const MARKER: u8 = 0;
const RANGE: u8 = 1;
const TAILED: u8 = 2;

/// Device and inode.
pub(crate) type Identity = (u64, u64);

/// A file that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tailed {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// Bytes read.
    pub(crate) position: u64,
    /// Length and checksum of the first bytes: an inode may be used again.
    pub(crate) head: (u64, u64),
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Marker,
    Range { path: PathBuf, part: Part },
    Tailed(Tailed),
}

impl Entry {
    pub(crate) fn marker() -> Vec<u8> {
        Encode::new(MARKER).finish()
    }

    pub(crate) fn range(path: &Path, part: Part) -> Vec<u8> {
        let bytes = path.as_os_str().as_bytes();
        Encode::new(RANGE).bytes(bytes).u64(part.start).u64(part.end).u64(part.position).finish()
    }

    pub(crate) fn tailed(tailed: &Tailed) -> Vec<u8> {
        let (dev, ino) = tailed.identity;
        Encode::new(TAILED)
            .bytes(tailed.path.as_os_str().as_bytes())
            .u64(dev)
            .u64(ino)
            .u64(tailed.position)
            .u64(tailed.head.0)
            .u64(tailed.head.1)
            .finish()
    }

    pub(crate) fn decode(entry: &[u8]) -> Result<Entry> {
        let (kind, mut d) = Decode::new("file source", entry)?;
        let decoded = match kind {
            MARKER => Entry::Marker,
            RANGE => {
                let path = path(d.bytes()?);
                let (start, end, position) = (d.u64()?, d.u64()?, d.u64()?);
                if start > end || position < start {
                    return Err(d.damaged("its range is none"));
                }
                Entry::Range { path, part: Part { start, end, position } }
            }
            TAILED => Entry::Tailed(Tailed {
                path: path(d.bytes()?),
                identity: (d.u64()?, d.u64()?),
                position: d.u64()?,
                head: (d.u64()?, d.u64()?),
            }),
            _ => return Err(d.damaged("it has another kind")),
        };
        d.finish()?;
        Ok(decoded)
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
