//! How source files open, and where the executor may be named.
//!
//! Invariants
//!   S1  Every Rust file of the house opens with a `//!` doc comment: what it is, and what it must never break.
//!   S2  In the runtime, code that names glommio stands in `worker.rs` or below `worker/`; everything else is stepped.

use std::io;
use std::path::{Path, PathBuf};

/// The folders of the house whose files are judged.
pub const FOLDERS: &[&str] = &["engine", "net", "state", "control", "connectors"];

/// S1: whether the first line with anything on it is a `//!` that says something.
#[must_use]
pub fn opens_with_doc(text: &str) -> bool {
    text.trim_start()
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("//!"))
        .is_some_and(|doc| !doc.trim().is_empty())
}

/// S2: the number of the first line of code that names glommio, counted from 1; comments may speak of it.
#[must_use]
pub fn first_use_of_executor(text: &str) -> Option<usize> {
    text.lines()
        .position(|line| line.split("//").next().unwrap_or_default().contains("glommio"))
        .map(|index| index + 1)
}

/// S2: whether a file, named relative to the runtime's `src`, is part of the glommio shell.
#[must_use]
pub fn is_shell(file: &Path) -> bool {
    file == Path::new("worker.rs") || file.starts_with("worker")
}

/// Every `.rs` file below `folder`, sorted; none where the folder does not exist yet. Build output and hidden folders
/// are left out.
///
/// # Errors
/// What the file system says about a folder that cannot be read.
pub fn rust_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        if !next.is_dir() {
            continue;
        }
        for entry in next.read_dir()? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_wants_words_on_the_first_line() {
        assert!(opens_with_doc("//! Barrier alignment.\nuse std::fmt;\n"));
        assert!(opens_with_doc("\n//! After a blank line.\n"));
        for text in [
            "",
            "use std::fmt;\n//! Too late.\n",
            "//!\n//! A heading without words.\n",
            "// Not a doc comment.\n",
            "/// The doc of an item.\n",
            "#![forbid(unsafe_code)]\n//! After an attribute.\n",
        ] {
            assert!(!opens_with_doc(text), "{text:?} was accepted");
        }
    }

    #[test]
    fn s2_sees_code_not_comments() {
        assert_eq!(first_use_of_executor("//! Unlike glommio.\nlet a = 1; // glommio\n"), None);
        assert_eq!(first_use_of_executor("//! Shell.\nuse glommio::Task;\n"), Some(2));
        assert!(is_shell(Path::new("worker.rs")));
        assert!(is_shell(Path::new("worker/park.rs")));
        assert!(!is_shell(Path::new("task/worker.rs")));
        assert!(!is_shell(Path::new("workers.rs")));
    }

    #[test]
    fn finds_files_at_any_depth() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = rust_files(own).unwrap();
        assert!(files.contains(&own.join("src/rules/tests.rs")));
        assert!(files.contains(&own.join("tests/workspace.rs")));
        assert_eq!(rust_files(&own.join("absent")).unwrap(), [""; 0].map(PathBuf::from));
    }
}
