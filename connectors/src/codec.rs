//! Bytes of positions and committables: `kind u8 | fields`, little-endian; byte strings carry a
//! `u32` length. They lie in checkpoints, which are checksummed: damage here means another version.

use tidemill_base::{Error, Result};

/// Writes one entry.
pub(crate) struct Encode(Vec<u8>);

impl Encode {
    pub(crate) fn new(kind: u8) -> Self {
        Encode(vec![kind])
    }
    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(value);
        self
    }
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads one entry; the whole of it must be read.
pub(crate) struct Decode<'a> {
    owner: &'static str,
    rest: &'a [u8],
}

impl<'a> Decode<'a> {
    /// `owner` is the connector, for messages. Returns the kind too.
    pub(crate) fn new(owner: &'static str, entry: &'a [u8]) -> Result<(u8, Self)> {
        let mut decode = Decode { owner, rest: entry };
        let kind = decode.take(1)?[0];
        Ok((kind, decode))
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(n) else {
            return Err(self.damaged("it is too short"));
        };
        self.rest = rest;
        Ok(taken)
    }
    pub(crate) fn u64(&mut self) -> Result<u64> {
        let mut word = [0; 8];
        word.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(word))
    }
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let mut word = [0; 4];
        word.copy_from_slice(self.take(4)?);
        self.take(u32::from_le_bytes(word) as usize)
    }
    pub(crate) fn finish(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged("it is too long")) }
    }
    pub(crate) fn damaged(&self, how: &str) -> Error {
        Error::job(format!(
            "the checkpoint's entry of a {} cannot be read: {how}; it was written by another \
             version or another connector: restore with the program that wrote it",
            self.owner
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_round_trip_and_damage_is_an_error(
            kind in 0u8..9, a in any::<u64>(), s in "\\PC{0,20}", cut in any::<prop::sample::Index>(),
        ) {
            let entry = Encode::new(kind).u64(a).bytes(s.as_bytes()).finish();
            let read = |bytes: &[u8]| -> Result<(u8, u64, Vec<u8>)> {
                let (kind, mut d) = Decode::new("test", bytes)?;
                let fields = (kind, d.u64()?, d.bytes()?.to_vec());
                d.finish()?;
                Ok(fields)
            };
            prop_assert_eq!(read(&entry).unwrap(), (kind, a, s.into_bytes()));
            prop_assert!(read(&entry[..cut.index(entry.len())]).is_err());
            let longer = [&entry[..], &[0]].concat();
            prop_assert!(read(&longer).is_err());
        }
    }
}
