//! Programs in a bucket: `<prefix>artifacts/<hash>`.
//!
//! Z1, Z2: an object of S3 is there whole or not at all, and an upload that was given up leaves nothing to see. What
//! blocks runs on threads for that; a file goes up in parts and comes down in pieces, so that its length does not
//! matter to memory.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tidemill_protocol::{ArtifactHash, StoreSettings};
use tidemill_snapshot::{Error, ObjectReader, S3Objects, S3Settings};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{ArtifactError, ArtifactReader, ArtifactStore, Pending};

const BELOW: &str = "artifacts/";
/// What is read at once, of the file and of the object.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that wait for whoever reads an object.
const PIECES_MAX: usize = 2;
/// Tries of what looks transient, beyond those of each request.
const TRIES: usize = 3;

/// Program files in a bucket.
#[derive(Clone)]
pub struct S3Artifacts {
    objects: S3Objects,
}

impl S3Artifacts {
    /// Those of a cluster: beside its checkpoints. Connects to nothing yet; blocking, and to be called from an
    /// unpinned thread.
    ///
    /// # Errors
    /// When settings cannot be.
    pub fn of_cluster(settings: &StoreSettings) -> Result<Self, ArtifactError> {
        let settings = tidemill_protocol::s3_settings(settings);
        Self::new(&settings.map_err(|e| ArtifactError(e.to_string()))?)
    }

    /// Those of a bucket.
    ///
    /// # Errors
    /// When settings cannot be.
    pub fn new(settings: &S3Settings) -> Result<Self, ArtifactError> {
        Ok(S3Artifacts { objects: S3Objects::new(settings).map_err(failed)? })
    }

    fn blocking<'a, T: Send + 'static>(
        &self,
        work: impl Fn(&S3Objects) -> Result<T, Error> + Send + 'static,
    ) -> Pending<'a, Result<T, ArtifactError>> {
        let objects = self.objects.clone();
        let again = move || {
            let mut left = TRIES;
            loop {
                left -= 1;
                match work(&objects) {
                    Err(Error::Retry(report)) if left > 0 => tracing::debug!("again: {report}"),
                    result => return result.map_err(failed),
                }
            }
        };
        Box::pin(async move {
            spawn_blocking(again).await.unwrap_or_else(|e| Err(ArtifactError(e.to_string())))
        })
    }
}

fn failed(e: Error) -> ArtifactError {
    ArtifactError(e.to_string())
}

fn name(hash: &ArtifactHash) -> String {
    format!("{BELOW}{hash}")
}

fn put(objects: &S3Objects, name: &str, file: &Path) -> Result<(), Error> {
    let unreadable = |e: std::io::Error| {
        let (path, seen) = (file.display().to_string(), format!("cannot be read: {e}"));
        let remedy = "check the disk of the data directory".to_owned();
        Error::Refused(tidemill_snapshot::Report { path, seen, remedy })
    };
    let mut content = std::fs::File::open(file).map_err(unreadable)?;
    let bytes = content.metadata().map_err(unreadable)?.len();
    // Its name is its content's: whole as every object is, it is the same.
    if objects.open(name)?.is_some_and(|there| there.bytes() == bytes) {
        return Ok(());
    }
    let mut object = objects.begin(name);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match content.read(&mut piece).map_err(unreadable)? {
            0 => return object.finish().map(|_| ()),
            n => object.append(&piece[..n])?,
        }
    }
}

impl ArtifactStore for S3Artifacts {
    fn put<'a>(
        &'a self,
        hash: &'a ArtifactHash,
        file: &'a Path,
    ) -> Pending<'a, Result<(), ArtifactError>> {
        let (name, file): (String, PathBuf) = (name(hash), file.to_owned());
        self.blocking(move |objects| put(objects, &name, &file))
    }

    fn open<'a>(
        &'a self,
        hash: &'a ArtifactHash,
    ) -> Pending<'a, Result<Option<ArtifactReader>, ArtifactError>> {
        let name = name(hash);
        let opened = self.blocking(move |objects| objects.open(&name));
        Box::pin(async move {
            let Some(object) = opened.await? else { return Ok(None) };
            let bytes = object.bytes();
            let (sender, pieces) = mpsc::channel(PIECES_MAX);
            // Ends when everything was sent, or nobody reads any more.
            spawn_blocking(move || send(&*object, &sender));
            let content = Box::new(Pieces { pieces, piece: Vec::new(), at: 0, left: bytes });
            Ok(Some(ArtifactReader { bytes, content }))
        })
    }

    fn delete<'a>(&'a self, hash: &'a ArtifactHash) -> Pending<'a, Result<(), ArtifactError>> {
        let name = name(hash);
        self.blocking(move |objects| objects.delete(&name))
    }

    fn list(&self) -> Pending<'_, Result<Vec<ArtifactHash>, ArtifactError>> {
        self.blocking(|objects| {
            let names = objects.list(BELOW)?.into_iter();
            // What has another name is not ours.
            Ok(names.filter_map(|(name, _)| name.strip_prefix(BELOW)?.parse().ok()).collect())
        })
    }
}

type Piece = Result<Vec<u8>, String>;

fn send(object: &dyn ObjectReader, pieces: &mpsc::Sender<Piece>) {
    let mut at = 0;
    while at < object.bytes() {
        let mut piece = vec![0; (object.bytes() - at).min(PIECE_BYTES as u64) as usize];
        let read = object.read_at(at, &mut piece);
        at += piece.len() as u64;
        let failed = read.is_err();
        let piece = read.map(|()| piece).map_err(|e| e.to_string());
        if pieces.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

/// An object as it comes.
struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    left: u64,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.at == self.piece.len() && self.left > 0 {
            let next = std::task::ready!(self.pieces.poll_recv(context));
            let next = next.unwrap_or_else(|| Err("the object's reader ended".to_owned()));
            self.piece = next.map_err(std::io::Error::other)?;
            self.at = 0;
        }
        let n = buf.remaining().min(self.piece.len() - self.at);
        buf.put_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        self.left -= n as u64;
        Poll::Ready(Ok(()))
    }
}
