//! A database that is opened when its first table is.

use super::database::Database;
use super::memory::Memory;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tidemill_base::Result;

/// Where a database will be; clones open the same one. An operator without state opens none.
#[derive(Clone, Debug)]
pub struct LazyDatabase(Rc<Lazy>);

#[derive(Debug)]
struct Lazy {
    dir: PathBuf,
    memory: Memory,
    database: OnceCell<Database>,
}

impl LazyDatabase {
    /// A database in `dir`, which must not exist or be empty.
    pub fn new(dir: &Path, memory: &Memory) -> Self {
        let (dir, memory) = (dir.to_owned(), memory.clone());
        LazyDatabase(Rc::new(Lazy { dir, memory, database: OnceCell::new() }))
    }

    /// The database, opened if it was not.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn get(&self) -> Result<&Database> {
        if let Some(database) = self.0.database.get() {
            return Ok(database);
        }
        let opened = Database::open(&self.0.dir, &self.0.memory)?;
        Ok(self.0.database.get_or_init(|| opened))
    }
}

impl From<Database> for LazyDatabase {
    fn from(database: Database) -> Self {
        let (dir, memory) = (database.dir().to_owned(), database.memory().clone());
        LazyDatabase(Rc::new(Lazy { dir, memory, database: OnceCell::from(database) }))
    }
}
