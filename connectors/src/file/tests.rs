//! Law of the file source: every line once.

mod bad;
mod engine;
mod follow;
mod lines;

use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A directory with files.
fn dir_with(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn file_with(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = dir_with(&[("in.txt", bytes)]);
    let path = dir.path().join("in.txt");
    (dir, path)
}
