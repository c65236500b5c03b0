//! The manifest as bytes: JSON that a person and any JSON tool can read, and that cannot be torn
//! or altered unnoticed.
//!
//! ```text
//! {"tidemill_checkpoint":1,"crc32":"0a1b2c3d","bytes":1234,"manifest":      <- head line
//! { ...pretty JSON of `bytes` bytes... }                                    <- body
//! }                                                                         <- tail
//! ```
//! crc32 covers the version (u32, little endian) and the body. Head and tail are compared byte
//! for byte with what this version would have written, so nothing outside the checksum is free
//! to change either. The envelope stays the same in every version.

use super::Manifest;

/// The version of the manifest that this build writes and reads.
pub const MANIFEST_VERSION: u32 = 1;
/// Longest manifest, in bytes; a guard against reading something that is none.
pub const MANIFEST_BYTES_MAX: u64 = 512 << 20;

const TAIL: &[u8] = b"\n}\n";

/// Why bytes are not a manifest that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Torn or altered.
    Damaged(String),
    /// Whole, but of another version.
    Version(u32),
}

fn head(version: u32, body: &[u8]) -> String {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&version.to_le_bytes());
    crc.update(body);
    let (crc, bytes) = (crc.finalize(), body.len());
    format!(
        "{{\"tidemill_checkpoint\":{version},\"crc32\":\"{crc:08x}\",\"bytes\":{bytes},\"manifest\":\n"
    )
}

fn version_of(head: &[u8]) -> Option<u32> {
    let rest = head.strip_prefix(b"{\"tidemill_checkpoint\":")?;
    let end = rest.iter().position(|b| *b == b',')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

impl Manifest {
    /// The manifest as bytes, with its checksum.
    ///
    /// # Errors
    /// A sentence, when the manifest contradicts itself ([`validate`](Self::validate)).
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        self.validate()?;
        let body = serde_json::to_vec_pretty(self).map_err(|e| e.to_string())?;
        if body.len() as u64 > MANIFEST_BYTES_MAX / 2 {
            return Err(format!("a manifest of {} bytes is beyond all limits", body.len()));
        }
        Ok([head(MANIFEST_VERSION, &body).as_bytes(), &body, TAIL].concat())
    }

    /// The manifest that these bytes are, its checksum and its contents verified.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        Self::read(bytes).map_err(|e| match e {
            Unreadable::Damaged(seen) => seen,
            Unreadable::Version(v) => format!("manifest version {v}"),
        })
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let damaged = |seen: &str| Unreadable::Damaged(seen.to_owned());
        let line = bytes.iter().position(|b| *b == b'\n');
        let line = line.ok_or_else(|| damaged("torn: the first line does not end"))?;
        let (found_head, rest) = bytes.split_at(line + 1);
        let version = version_of(found_head)
            .ok_or_else(|| damaged("the first line is not that of a checkpoint manifest"))?;
        let body =
            rest.strip_suffix(TAIL).ok_or_else(|| damaged("torn: the closing brace is missing"))?;
        if head(version, body).as_bytes() != found_head {
            return Err(damaged("checksum or length does not match: torn or altered"));
        }
        if version != MANIFEST_VERSION {
            return Err(Unreadable::Version(version));
        }
        let manifest: Manifest = serde_json::from_slice(body)
            .map_err(|e| Unreadable::Damaged(format!("not a manifest: {e}")))?;
        manifest.validate().map_err(Unreadable::Damaged)?;
        Ok(manifest)
    }
}
