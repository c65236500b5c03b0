//! Every change that the file sink makes to the disk, so that tests can stop between any two.

use crate::io_error::io_error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use tidemill_base::Result;

#[cfg(test)]
pub(crate) type Fuel = std::sync::Arc<std::sync::atomic::AtomicU64>;

/// The disk; in tests it can stop working after so many operations, as if the process were killed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) fuel: Option<Fuel>,
}

impl Disk {
    #[cfg(test)]
    fn burn(&self) -> std::io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let burnt =
            self.fuel.as_ref().map(|f| f.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)));
        if let Some(Err(_)) = burnt { Err(std::io::Error::other("killed")) } else { Ok(()) }
    }
    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "fails in tests only")]
    #[inline(always)]
    fn burn(&self) -> std::io::Result<()> {
        Ok(())
    }

    pub(crate) fn create_dir(&self, dir: &Path) -> Result<()> {
        let made = self.burn().and_then(|()| fs::create_dir_all(dir));
        made.map_err(|e| io_error("make the directory", dir, &e))
    }

    /// Creates a file that is not there yet.
    pub(crate) fn create(&self, path: &Path) -> Result<File> {
        let create = || OpenOptions::new().write(true).create_new(true).open(path);
        self.burn().and_then(|()| create()).map_err(|e| io_error("create", path, &e))
    }

    pub(crate) fn write(&self, mut file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
        let written = match self.burn() {
            Ok(()) => file.write_all(bytes),
            // Killed in the middle of it.
            Err(killed) => file.write_all(&bytes[..bytes.len() / 2]).and(Err(killed)),
        };
        written.map_err(|e| io_error("write to", path, &e))
    }

    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<()> {
        self.burn().and_then(|()| file.sync_data()).map_err(|e| io_error("sync", path, &e))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.burn().and_then(|()| fs::rename(from, to)).map_err(|e| io_error("rename", from, &e))
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        self.burn().and_then(|()| fs::remove_file(path)).map_err(|e| io_error("remove", path, &e))
    }

    /// Makes names durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<()> {
        let sync = || File::open(dir)?.sync_all();
        self.burn().and_then(|()| sync()).map_err(|e| io_error("sync", dir, &e))
    }
}
