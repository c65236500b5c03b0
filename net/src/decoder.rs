//! Frames out of a stream of bytes that arrives in pieces of any size.
//!
//! Invariants
//!   Y1  Frames come out whole, in order, each once, however the stream is cut into pieces.
//!   Y2  After a mistake nothing more comes out: the same mistake is returned again.
//!   Y3  What is kept of an unfinished frame never exceeds its announced length (F3), and grows only as
//!       bytes arrive.

use crate::error::Broken;
use crate::frame::{HEADER, Header, damaged};

#[cfg(test)]
mod tests;

/// Finds the frames of one connection.
#[derive(Debug)]
pub struct Decoder {
    session: u32,
    /// The beginning of a frame whose end has not arrived.
    partial: Vec<u8>,
    broken: Option<Broken>,
}

impl Decoder {
    /// For the frames of `session`.
    pub fn new(session: u32) -> Self {
        Decoder { session, partial: Vec::new(), broken: None }
    }

    /// Hands every frame that is whole by now to `sink`; an error of it ends the stream too.
    ///
    /// # Errors
    /// [`Broken`], and the same one from then on (Y2).
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(Header, &[u8]) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let result = self.frames(bytes, &mut sink);
        self.broken = result.clone().err();
        result
    }

    /// Whether the stream stands between two frames.
    pub fn is_at_boundary(&self) -> bool {
        self.partial.is_empty()
    }

    fn frames(
        &mut self,
        mut bytes: &[u8],
        sink: &mut impl FnMut(Header, &[u8]) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        // First the frame that an earlier piece began.
        while !self.partial.is_empty() {
            let need = match self.partial.first_chunk::<HEADER>() {
                None => HEADER,
                Some(head) => HEADER + self.header(head)?.length as usize,
            };
            if self.partial.len() < need {
                let more = bytes.len().min(need - self.partial.len());
                self.partial.extend_from_slice(&bytes[..more]);
                bytes = &bytes[more..];
                if self.partial.len() < need {
                    return Ok(());
                }
                if need == HEADER {
                    // Now the length is known; a frame without payload is whole.
                    continue;
                }
            }
            let partial = std::mem::take(&mut self.partial);
            let rest = self.whole(&partial, sink)?;
            debug_assert!(rest.is_some_and(<[u8]>::is_empty));
            self.partial = partial;
            self.partial.clear();
            if self.partial.capacity() > 1 << 20 {
                self.partial = Vec::new();
            }
        }
        while let Some(rest) = self.whole(bytes, sink)? {
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// Hands the first frame of `bytes` on and returns what follows it; `None` if it is not whole.
    fn whole<'a>(
        &self,
        bytes: &'a [u8],
        sink: &mut impl FnMut(Header, &[u8]) -> Result<(), Broken>,
    ) -> Result<Option<&'a [u8]>, Broken> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let header = self.header(head)?;
        let Some((payload, rest)) = rest.split_at_checked(header.length as usize) else {
            return Ok(None);
        };
        if crc32fast::hash(payload) != header.payload_crc {
            let Header { channel, sequence, length, .. } = header;
            return Err(damaged(format!(
                "the {length} bytes of frame {sequence} of channel {channel} do not match their \
                 checksum"
            )));
        }
        sink(header, payload)?;
        Ok(Some(rest))
    }

    fn header(&self, bytes: &[u8; HEADER]) -> Result<Header, Broken> {
        let header = Header::decode(bytes)?;
        if header.session != self.session {
            let (got, own) = (header.session, self.session);
            return Err(Broken::Foreign(format!("a frame of session {got:#x} in {own:#x}")));
        }
        Ok(header)
    }
}
