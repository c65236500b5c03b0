//! Program files by the hash of their content, fetched from the JobManager where they are missing.
//!
//! Invariants
//!   C1  A file under its hash's name holds the bytes of that hash: it is written elsewhere, verified
//!       and renamed; a file that an earlier life of the agent left is verified before its first use.
//!   C2  One hash is fetched once, however many wait for it.
//!   C3  What is not in use is removed, the least recently used first, while the files together exceed
//!       the limit; what is in use never is.

use crate::link::Connector;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemill_protocol::auth::Role;
use tidemill_protocol::{ArtifactHash, ArtifactRequest};
use tokio::io::AsyncReadExt;
use tokio::sync::OnceCell;
use tracing::{info, warn};

type Fetch = Arc<OnceCell<Result<(), String>>>;

/// The cache.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    bytes_max: u64,
    artifact_max: u64,
    connector: Arc<Connector>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<ArtifactHash, Entry>,
    fetches: HashMap<ArtifactHash, Fetch>,
    /// Increases with each use.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    used: u64,
    users: u32,
    verified: bool,
}

/// A program file that stays while this lives.
#[derive(Debug)]
pub(crate) struct Lease {
    cache: Arc<Cache>,
    hash: ArtifactHash,
}

impl Lease {
    pub(crate) fn path(&self) -> PathBuf {
        self.cache.path(&self.hash)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        if let Some(entry) = state.files.get_mut(&self.hash) {
            entry.users -= 1;
        }
        self.cache.shrink(&mut state);
    }
}

impl Cache {
    /// A cache over a folder; what it holds from before is known again, oldest first.
    pub(crate) fn open(
        folder: PathBuf,
        bytes_max: u64,
        artifact_max: u64,
        connector: Arc<Connector>,
    ) -> io::Result<Arc<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder)?.flatten() {
            let known = entry.file_name().to_str().and_then(|n| n.parse::<ArtifactHash>().ok());
            match known {
                Some(hash) => {
                    let meta = entry.metadata()?;
                    found.push((meta.modified()?, hash, meta.len()));
                }
                // Left by a fetch that was cut short.
                None => fs::remove_file(entry.path())?,
            }
        }
        found.sort();
        let mut state = State::default();
        for (_, hash, bytes) in found {
            state.clock += 1;
            let entry = Entry { bytes, used: state.clock, users: 0, verified: false };
            state.files.insert(hash, entry);
        }
        let state = Mutex::new(state);
        Ok(Arc::new(Cache { folder, bytes_max, artifact_max, connector, state }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, hash: &ArtifactHash) -> PathBuf {
        self.folder.join(hash.as_str())
    }

    /// The file of a hash, fetched if it is missing.
    ///
    /// # Errors
    /// For people: why it cannot be had.
    pub(crate) async fn get(self: &Arc<Self>, hash: &ArtifactHash) -> Result<Lease, String> {
        loop {
            let fetch = match self.lease(hash) {
                Ok(lease) => return Ok(lease),
                Err(fetch) => fetch,
            };
            let result = fetch.get_or_init(|| self.obtain(hash)).await.clone();
            // Whoever comes first removes it; a later fetch is another one.
            let mut state = self.lock();
            if state.fetches.get(hash).is_some_and(|f| Arc::ptr_eq(f, &fetch)) {
                state.fetches.remove(hash);
            }
            drop(state);
            result?;
        }
    }

    /// The file, or the fetch to wait for.
    fn lease(self: &Arc<Self>, hash: &ArtifactHash) -> Result<Lease, Fetch> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        match state.files.get_mut(hash) {
            Some(entry) if entry.verified => {
                entry.users += 1;
                entry.used = now;
                Ok(Lease { cache: self.clone(), hash: hash.clone() })
            }
            _ => Err(state.fetches.entry(hash.clone()).or_default().clone()),
        }
    }

    /// Verifies what is there, or fetches.
    async fn obtain(self: &Arc<Self>, hash: &ArtifactHash) -> Result<(), String> {
        if self.lock().files.contains_key(hash) {
            let (path, wanted) = (self.path(hash), hash.clone());
            let whole = tokio::task::spawn_blocking(move || {
                hash_of(&path).is_ok_and(|found| found == wanted)
            });
            let whole = whole.await.unwrap_or(false);
            let mut state = self.lock();
            match state.files.get_mut(hash) {
                Some(entry) if whole => {
                    entry.verified = true;
                    return Ok(());
                }
                _ => {
                    warn!("artifact {hash} is damaged here: fetching it again");
                    state.files.remove(hash);
                }
            }
        }
        let part = self.folder.join(format!("{hash}.part"));
        let fetched = self.fetch(hash, &part).await;
        let kept = fetched.and_then(|bytes| {
            fs::set_permissions(&part, Permissions::from_mode(0o555))
                .and_then(|()| fs::rename(&part, self.path(hash)))
                .map_err(|e| format!("artifact {hash} cannot be kept in the cache: {e}"))?;
            Ok(bytes)
        });
        match kept {
            Ok(bytes) => {
                info!("artifact {hash} fetched, {bytes} bytes");
                let mut state = self.lock();
                state.clock += 1;
                let entry = Entry { bytes, used: state.clock, users: 0, verified: true };
                state.files.insert(hash.clone(), entry);
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(&part);
                Err(error)
            }
        }
    }

    async fn fetch(&self, hash: &ArtifactHash, part: &Path) -> Result<u64, String> {
        let (mut stream, _) = self.connector.connect(&Role::Artifact).await?;
        let wrong = |e: io::Error| format!("artifact {hash} from the JobManager: {e}");
        let request = ArtifactRequest { artifact: hash.clone() };
        tidemill_protocol::frame::write_async(&mut stream, &request).await.map_err(wrong)?;
        let length = stream.read_u64_le().await.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("the JobManager does not have artifact {hash}: submit the job again")
            }
            _ => wrong(e),
        })?;
        if length > self.artifact_max {
            return Err(format!(
                "artifact {hash} has {length} bytes, this TaskManager takes {}: raise artifact_limit",
                self.artifact_max
            ));
        }
        let mut file = File::create(part).map_err(wrong)?;
        let (mut digest, mut done, mut piece) = (Sha256::new(), 0, vec![0; 256 << 10]);
        while done < length {
            let want = (length - done).min(piece.len() as u64) as usize;
            match stream.read(&mut piece[..want]).await.map_err(wrong)? {
                0 => return Err(format!("artifact {hash} ended after {done} of {length} bytes")),
                n => {
                    digest.update(&piece[..n]);
                    file.write_all(&piece[..n]).map_err(wrong)?;
                    done += n as u64;
                }
            }
        }
        let found = ArtifactHash::from_bytes(digest.finalize().into());
        if found != *hash {
            return Err(format!("artifact {hash} came damaged: its bytes have the hash {found}"));
        }
        Ok(length)
    }

    /// C3.
    fn shrink(&self, state: &mut State) {
        loop {
            let total: u64 = state.files.values().map(|e| e.bytes).sum();
            if total <= self.bytes_max {
                return;
            }
            let idle = state.files.iter().filter(|(_, e)| e.users == 0);
            let Some((hash, _)) = idle.min_by_key(|(_, e)| e.used) else { return };
            let hash = hash.clone();
            if let Err(e) = fs::remove_file(self.path(&hash)) {
                warn!("artifact {hash} cannot be removed from the cache: {e}");
            }
            state.files.remove(&hash);
        }
    }
}

fn hash_of(path: &Path) -> io::Result<ArtifactHash> {
    let (mut file, mut digest) = (File::open(path)?, Sha256::new());
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(ArtifactHash::from_bytes(digest.finalize().into())),
            n => digest.update(&piece[..n]),
        }
    }
}
