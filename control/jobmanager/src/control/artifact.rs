//! Sends a program file to an agent: `length u64` in little-endian, then the bytes.

use std::io;
use std::time::Duration;

use tidemill_protocol::ArtifactRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::metadata::ArtifactStore;

const PIECE: usize = 256 << 10;
/// A piece that is not taken by then ends the connection.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends the file; an unknown one ends the connection.
pub(super) async fn send(
    artifacts: &dyn ArtifactStore,
    mut stream: TcpStream,
    request: &ArtifactRequest,
) -> io::Result<()> {
    let mut reader = match artifacts.open(&request.artifact).await {
        Ok(Some(reader)) => reader,
        Ok(None) => return Err(io::Error::other(format!("no artifact {}", request.artifact))),
        Err(e) => {
            tracing::warn!("artifact {} is not sent: {e}", request.artifact);
            return Err(io::Error::other(e));
        }
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the agent does not take the artifact");
    stream.write_u64_le(reader.bytes).await?;
    let mut piece = vec![0; PIECE];
    loop {
        let n = reader.content.read(&mut piece).await?;
        if n == 0 {
            return stream.shutdown().await;
        }
        timeout(PIECE_TIMEOUT, stream.write_all(&piece[..n])).await.map_err(late)??;
    }
}
