//! The file: opening and making it, and what went wrong with it.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
};
use tempfile::Builder;

use super::rows;
use crate::metadata::{Change, JobRecord, MetadataError, Term};

/// What rows look like; a higher one is refused.
const FORMAT: u64 = 1;
/// Pages in memory: all of a small file.
const CACHE_BYTES: usize = 16 << 20;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("tidemill");

/// Why it was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was changed.
    Undone(String),
    /// It was in the midst of its commit.
    InDoubt(String),
    /// The file has another term.
    Fenced,
    /// Repeating cannot help.
    Refused(String),
}

impl From<Failure> for MetadataError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Undone(why) => MetadataError::Unavailable(why),
            Failure::InDoubt(why) => MetadataError::InDoubt(why),
            Failure::Fenced => MetadataError::Fenced,
            Failure::Refused(why) => MetadataError::Refused(why),
        }
    }
}

/// From any error of redb before a commit.
pub(super) fn undone(e: impl Into<redb::Error>) -> Failure {
    match e.into() {
        e @ (redb::Error::Corrupted(_) | redb::Error::ValueTooLarge(_)) => {
            Failure::Refused(e.to_string())
        }
        e => Failure::Undone(e.to_string()),
    }
}

/// See the module above.
#[derive(Debug)]
pub(super) struct MetadataFile {
    path: PathBuf,
    /// `None` after an error (E5).
    database: Option<Database>,
}

impl MetadataFile {
    /// # Errors
    /// For people, naming the file and the remedy.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |e: io::Error| {
            format!("the metadata file {}: {e}; give one that can be written", path.display())
        };
        if !fs::exists(path).map_err(failed)? {
            make(path).map_err(|e| match e {
                Making::Disk(e) => failed(e),
                Making::Redb(e) => {
                    format!("the metadata file {} cannot be made: {e}", path.display())
                }
            })?;
        }
        let database = open(path)?;
        // Under the lock: nobody else is making the file.
        remove_unfinished(path).map_err(failed)?;
        Ok(MetadataFile { path: path.to_owned(), database: Some(database) })
    }

    /// Does something with the database; what fails closes it (E5).
    fn with<T>(
        &mut self,
        work: impl FnOnce(&Database) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path).map_err(Failure::Undone)?,
        };
        let done = work(&database);
        if matches!(done, Ok(_) | Err(Failure::Fenced)) {
            self.database = Some(database);
        }
        done.map_err(|failure| match failure {
            Failure::Undone(why) => Failure::Undone(self.named(&why)),
            Failure::InDoubt(why) => Failure::InDoubt(self.named(&why)),
            Failure::Refused(why) => Failure::Refused(self.named(&why)),
            Failure::Fenced => Failure::Fenced,
        })
    }

    fn named(&self, why: &str) -> String {
        format!("{}: {why}", self.path.display())
    }

    /// Gives the next term.
    pub(super) fn next_term(&mut self) -> Result<Term, Failure> {
        self.with(|database| {
            let transaction = database.begin_write().map_err(undone)?;
            let term = {
                let mut meta = transaction.open_table(META).map_err(undone)?;
                let term = meta.get("term").map_err(undone)?.map_or(0, |t| t.value()) + 1;
                meta.insert("term", term).map_err(undone)?;
                term
            };
            commit(transaction)?;
            Ok(term)
        })
    }

    pub(super) fn load(&mut self, term: Term) -> Result<Vec<JobRecord>, Failure> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(undone)?;
            let meta = transaction.open_table(META).map_err(undone)?;
            check_term(&meta, term)?;
            rows::load(&transaction)
        })
    }

    pub(super) fn check(&mut self, term: Term) -> Result<(), Failure> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(undone)?;
            check_term(&transaction.open_table(META).map_err(undone)?, term)
        })
    }

    pub(super) fn write(&mut self, term: Term, changes: &[Change]) -> Result<(), Failure> {
        self.with(|database| {
            let transaction = database.begin_write().map_err(undone)?;
            check_term(&transaction.open_table(META).map_err(undone)?, term)?;
            rows::apply(&transaction, changes)?;
            commit(transaction)
        })
    }
}

fn check_term(meta: &impl ReadableTable<&'static str, u64>, term: Term) -> Result<(), Failure> {
    let present = meta.get("term").map_err(undone)?.map(|t| t.value());
    if present == Some(term) { Ok(()) } else { Err(Failure::Fenced) }
}

fn commit(transaction: redb::WriteTransaction) -> Result<(), Failure> {
    transaction.commit().map_err(|e| Failure::InDoubt(e.to_string()))
}

fn open(path: &Path) -> Result<Database, String> {
    let name = path.display();
    let mut builder = Database::builder();
    // A file that was changed by something else is told as damaged instead of being believed.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    let database = builder.open(path).map_err(|e| match e {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => format!(
            "the metadata file {name} is in use by another process: end that JobManager, or give \
             this one a file of its own; several JobManagers share jobs by PostgreSQL"
        ),
        DatabaseError::Storage(StorageError::Io(e)) if e.kind() == ErrorKind::InvalidData => {
            foreign(path)
        }
        DatabaseError::Storage(StorageError::Corrupted(what)) => format!(
            "the metadata file {name} is damaged ({what}): put a copy back, or move it away, which \
             forgets all jobs but not their checkpoints"
        ),
        DatabaseError::UpgradeRequired(version) => format!(
            "the metadata file {name} has redb's file format {version}, which this version does not \
             read: use the version that wrote it"
        ),
        e => format!("the metadata file {name} cannot be opened: {e}; give one that can be written"),
    })?;
    match format_of(&database) {
        Ok(Some(FORMAT)) => Ok(database),
        Ok(Some(newer)) => Err(format!(
            "the metadata file {name} has format {newer}, this version knows format {FORMAT}: use \
             the version that wrote it, or a newer one"
        )),
        Ok(None) => Err(foreign(path)),
        Err(e) => Err(format!("the metadata file {name} cannot be read: {e}")),
    }
}

fn foreign(path: &Path) -> String {
    format!(
        "{} is not a metadata file of Tidemill: give the path of one, or of a file that does not \
         exist yet",
        path.display()
    )
}

fn format_of(database: &Database) -> Result<Option<u64>, Box<redb::Error>> {
    let boxed = |e: redb::Error| Box::new(e);
    let transaction = database.begin_read().map_err(|e| boxed(e.into()))?;
    match transaction.open_table(META) {
        Ok(meta) => {
            Ok(meta.get("format").map_err(|e| boxed(e.into()))?.map(|format| format.value()))
        }
        // Another program's.
        Err(redb::TableError::Storage(e)) => Err(boxed(e.into())),
        Err(_) => Ok(None),
    }
}

enum Making {
    Disk(io::Error),
    Redb(Box<redb::Error>),
}

impl From<io::Error> for Making {
    fn from(e: io::Error) -> Self {
        Making::Disk(e)
    }
}

fn redb_failed(e: impl Into<redb::Error>) -> Making {
    Making::Redb(Box::new(e.into()))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unfinished_prefix(path: &Path) -> String {
    format!(".{}.new-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// E4. Where another process makes it at the same time, one of the two files stays.
fn make(path: &Path) -> Result<(), Making> {
    fs::create_dir_all(folder(path))?;
    let new = Builder::new().prefix(&unfinished_prefix(path)).tempfile_in(folder(path))?;
    let database = Database::builder().create(new.path()).map_err(redb_failed)?;
    let transaction = database.begin_write().map_err(redb_failed)?;
    {
        let mut meta = transaction.open_table(META).map_err(redb_failed)?;
        meta.insert("format", FORMAT).map_err(redb_failed)?;
        meta.insert("term", 0).map_err(redb_failed)?;
    }
    rows::make(&transaction).map_err(redb_failed)?;
    transaction.commit().map_err(redb_failed)?;
    database.close().map_err(redb_failed)?;
    new.as_file().sync_all()?;
    match new.persist_noclobber(path) {
        Err(e) if e.error.kind() != ErrorKind::AlreadyExists => return Err(e.error.into()),
        _ => {}
    }
    Ok(File::open(folder(path))?.sync_all()?)
}

/// What a crash left of [`make`].
fn remove_unfinished(path: &Path) -> io::Result<()> {
    let prefix = unfinished_prefix(path);
    for entry in fs::read_dir(folder(path))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
