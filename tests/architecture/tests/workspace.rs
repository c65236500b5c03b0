//! Shows this workspace to the checkers.

use std::path::{Path, PathBuf};
use std::process::Command;
use tidemill_architecture_tests::{graph, rules, sources};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn arrows_between_crates_point_down() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed: {said}");

    let crates = graph::read(&serde_json::from_slice(&output.stdout).unwrap()).unwrap();
    assert!(crates.iter().any(|known| known.name == "tidemill-base"), "read: {crates:?}");
    let found: Vec<_> = rules::check(&crates).iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_file_opens_with_a_doc_comment() {
    let files: Vec<_> = sources::FOLDERS
        .iter()
        .flat_map(|folder| sources::rust_files(&root().join(folder)).unwrap())
        .collect();
    assert!(files.len() > 5, "found only {files:?}");
    let bare: Vec<_> = files
        .iter()
        .filter(|file| !sources::opens_with_doc(&std::fs::read_to_string(file).unwrap()))
        .map(|file| file.display().to_string())
        .collect();
    assert!(bare.is_empty(), "S1: without a `//!` on their first line:\n{}\n", bare.join("\n"));
}

#[test]
fn only_the_worker_names_the_executor() {
    let source = root().join("engine/runtime/src");
    let files = sources::rust_files(&source).unwrap();
    assert!(!files.is_empty(), "no files in {}", source.display());
    for file in files {
        let relative = file.strip_prefix(&source).unwrap();
        let line = sources::first_use_of_executor(&std::fs::read_to_string(&file).unwrap());
        assert!(
            line.is_none() || sources::is_shell(relative),
            "S2: {}:{} names glommio: only worker.rs may",
            file.display(),
            line.unwrap_or_default(),
        );
    }
}
