//! Messages on a byte stream: `length u32 little-endian | JSON`.
//!
//! Invariants
//!   F1  A length above [`FRAME_BYTES_MAX`] is refused before anything of that size is allocated.
//!   F2  [`Frames`] hands out the same messages however the bytes were cut into pieces.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// The longest message, in bytes. A plan of a thousand operators has about one MiB.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

const HEADER: usize = 4;

/// Why bytes are no messages.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// F1.
    #[error(
        "a message of {0} bytes was announced, {FRAME_BYTES_MAX} are allowed: not a Tidemill peer?"
    )]
    TooLong(usize),
    /// The JSON is not a message that this version knows.
    #[error("a message of {bytes} bytes cannot be read: {source}")]
    Unreadable {
        /// Its length.
        bytes: usize,
        /// What JSON says.
        source: serde_json::Error,
    },
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// The bytes of a message.
///
/// # Errors
/// [`FrameError::TooLong`], and [`FrameError::Unreadable`] for a value that JSON cannot express.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message)
        .map_err(|source| FrameError::Unreadable { bytes: 0, source })?;
    let length = bytes.len() - HEADER;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    bytes[..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Takes bytes in pieces, hands out messages.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Already handed out.
    start: usize,
}

impl Frames {
    /// Takes a piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// The stream is of no more use then.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.bytes[self.start..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body)
            .map_err(|source| FrameError::Unreadable { bytes: length, source })?;
        self.start += HEADER + length;
        Ok(Some(message))
    }

    /// Bytes that are not handed out yet.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.start
    }
}

/// Writes a message, blocking.
///
/// # Errors
/// Those of the stream, and `InvalidData` for a message that is too long.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// Reads a message, blocking; `None` when the stream ends between two of them.
///
/// # Errors
/// Those of the stream, `UnexpectedEof` when it ends within one, `InvalidData` for what is none.
pub fn read<T: DeserializeOwned>(
    stream: &mut impl Read,
    frames: &mut Frames,
) -> io::Result<Option<T>> {
    let mut piece = [0; 16 << 10];
    loop {
        if let Some(message) = frames.take()? {
            return Ok(Some(message));
        }
        match stream.read(&mut piece) {
            Ok(0) if frames.pending() == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => frames.push(&piece[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// [`write()`] on one of tokio's streams.
///
/// # Errors
/// As there.
#[cfg(feature = "tokio")]
pub async fn write_async<T: Serialize>(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    stream.write_all(&encode(message)?).await
}

/// [`read()`] on one of tokio's streams. May be dropped between two polls: nothing is lost.
///
/// # Errors
/// As there.
#[cfg(feature = "tokio")]
pub async fn read_async<T: DeserializeOwned>(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    frames: &mut Frames,
) -> io::Result<Option<T>> {
    use tokio::io::AsyncReadExt as _;
    let mut piece = vec![0; 16 << 10];
    loop {
        if let Some(message) = frames.take()? {
            return Ok(Some(message));
        }
        match stream.read(&mut piece).await? {
            0 if frames.pending() == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => frames.push(&piece[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_messages(
            messages in prop::collection::vec(".{0,200}", 0..20),
            cuts in prop::collection::vec(1usize..50, 1..200),
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|m| encode(m).expect("text")).collect();
            let (mut frames, mut got, mut at) = (Frames::default(), Vec::<String>::new(), 0);
            for cut in cuts.iter().cycle().take(bytes.len() + 1) {
                let end = (at + cut).min(bytes.len());
                frames.push(&bytes[at..end]);
                at = end;
                while let Some(message) = frames.take().expect("whole") {
                    got.push(message);
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert_eq!(frames.pending(), 0);
        }

        #[test]
        fn damaged_bytes_are_an_error_or_wait_for_more(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            while let Ok(Some(message)) = frames.take::<serde_json::Value>() {
                prop_assert!(!message.to_string().is_empty());
            }
        }
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_at_once() {
        let mut frames = Frames::default();
        frames.push(b"GET / HTTP/1.1\r\n");
        let error = frames.take::<String>().expect_err("not ours").to_string();
        assert!(error.contains("not a Tidemill peer"), "{error}");
    }

    #[test]
    fn a_stream_that_ends_within_a_message_is_an_error() {
        let bytes = encode(&"hello").expect("text");
        let mut frames = Frames::default();
        let end = read::<String>(&mut &bytes[..6], &mut frames).expect_err("torn");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        let mut stream = &bytes[..];
        let mut frames = Frames::default();
        assert_eq!(
            read::<String>(&mut stream, &mut frames).expect("whole").as_deref(),
            Some("hello")
        );
        assert_eq!(read::<String>(&mut stream, &mut frames).expect("end"), None);
    }
}
