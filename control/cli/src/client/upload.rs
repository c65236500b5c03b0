//! A submission as a multipart form, the program streamed from its file.

use std::path::Path;
use std::time::Duration;

use http_body_util::channel::Channel;
use hyper::body::Bytes;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use crate::exit::Failure;

/// Read and sent at a time.
const PIECE_BYTES: usize = 256 << 10;
/// An upload takes at most this, and a second for each megabyte.
const TIME: Duration = Duration::from_secs(120);
/// Pieces that wait for the connection.
const PIECES: usize = 4;

/// What is sent. Its boundary cannot occur in a program: it is random.
#[derive(Debug)]
pub(crate) struct Form {
    boundary: String,
    fields: Vec<u8>,
    program: File,
    bytes: u64,
}

impl Form {
    /// A form with a program.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn new(program: &Path) -> Result<Self, Failure> {
        let cannot = |e| Failure::usage(format!("the program {}: {e}", program.display()));
        let file = File::open(program).await.map_err(cannot)?;
        let metadata = file.metadata().await.map_err(cannot)?;
        if !metadata.is_file() {
            return Err(Failure::usage(format!("the program {} is no file", program.display())));
        }
        let mut chance = [0; 16];
        getrandom::fill(&mut chance)
            .map_err(|e| Failure::here(format!("no random numbers: {e}")))?;
        let boundary = chance.iter().map(|b| format!("{b:02x}")).collect();
        Ok(Form { boundary, fields: Vec::new(), program: file, bytes: metadata.len() })
    }

    /// Adds a field.
    pub(crate) fn field(&mut self, name: &str, value: &str) {
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n",
            self.boundary
        );
        self.fields.extend_from_slice(head.as_bytes());
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    pub(super) fn time(&self) -> Duration {
        TIME + Duration::from_secs(self.bytes >> 20)
    }

    /// The body; a task reads the file while it is sent.
    pub(super) fn into_body(self) -> Channel<Bytes, std::io::Error> {
        let (mut sender, body) = Channel::new(PIECES);
        let Form { boundary, mut fields, mut program, .. } = self;
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"job_file\"; filename=\"job\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        fields.extend_from_slice(head.as_bytes());
        tokio::spawn(async move {
            // An error is the connection's end, which its own side tells.
            if sender.send_data(fields.into()).await.is_err() {
                return;
            }
            loop {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                match (&mut program).take(PIECE_BYTES as u64).read_to_end(&mut piece).await {
                    Ok(0) => break,
                    Ok(_) => {
                        if sender.send_data(piece.into()).await.is_err() {
                            return;
                        }
                    }
                    Err(e) => return sender.abort(e),
                }
            }
            let _ = sender.send_data(format!("\r\n--{boundary}--\r\n").into()).await;
        });
        body
    }
}
