//! Why a connection has ended.

/// Why a connection between two slots has ended. The attempt fails, the process goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The peer has closed before all channels had ended.
    #[error("closed by the peer before the channels had ended; look at the peer's log")]
    Closed,
    /// The operating system reports a failure.
    #[error("{0}")]
    Io(String),
    /// Bytes that no peer sends.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Whole frames that belong to another connection or to no channel of this one.
    #[error("foreign: {0}")]
    Foreign(String),
    /// A frame twice, or one missing.
    #[error("out of order: frame {got} of channel {channel}, expected {expected}")]
    Order {
        /// The channel, or [`crate::frame::LINK`].
        channel: u32,
        /// Sequence number seen.
        got: u64,
        /// The next one.
        expected: u64,
    },
    /// A frame that its channel's state forbids.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The peer has ended the connection and said why.
    #[error("the peer said: {0}")]
    Goodbye(String),
    /// Nothing heard for so many microseconds.
    #[error("silent for {0} us")]
    Silent(u64),
}
