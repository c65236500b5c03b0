//! What the documents name is there.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Crate, file (without its `src/`), id.
type Invariant = (String, String, String);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All files below a folder, build output and hidden ones left out.
fn files_below(folder: &Path, suffix: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files_below(&path, suffix, found);
        } else if name.ends_with(suffix) {
            found.push(path);
        }
    }
}

/// `A1` of a header's line `//!   A1  What must hold.`
fn id_of(line: &str) -> Option<&str> {
    let (id, text) = line.strip_prefix("//! ")?.trim_start().split_once("  ")?;
    let (letter, number) = (id.chars().next()?, id.get(1..)?);
    let is_id = letter.is_ascii_uppercase() && number.parse::<u32>().is_ok();
    (is_id && !text.trim().is_empty()).then_some(id)
}

/// The invariants that the files' headers state, of crates whose folder the page has a section for.
fn stated(crates: &BTreeSet<String>) -> BTreeSet<Invariant> {
    let mut all = BTreeSet::new();
    for folder in crates {
        let mut files = Vec::new();
        files_below(&root().join(folder), ".rs", &mut files);
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let name = file.strip_prefix(root().join(folder)).unwrap().display().to_string();
            let name = name.strip_prefix("src/").unwrap_or(&name).to_owned();
            for id in text.lines().take_while(|l| l.starts_with("//!")).filter_map(id_of) {
                all.insert((folder.clone(), name.clone(), id.to_owned()));
            }
        }
    }
    all
}

#[test]
fn the_page_of_invariants_lists_those_of_the_headers() {
    let page = fs::read_to_string(root().join("docs/invariants.md")).unwrap();
    let (mut crates, mut listed) = (BTreeSet::new(), BTreeSet::new());
    let mut section = String::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.split('`').nth(1).unwrap().to_owned();
            crates.insert(section.clone());
        }
        let mut cells = line.split('|').map(str::trim).skip(1);
        if let (Some(id), Some(file)) = (cells.next(), cells.next())
            && file.ends_with(".rs`")
        {
            listed.insert((section.clone(), file.trim_matches('`').to_owned(), id.to_owned()));
        }
    }
    let stated = stated(&crates);
    assert!(stated.len() > 150, "only {} invariants found in headers", stated.len());
    let missing: Vec<_> = stated.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&stated).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/invariants.md: add {missing:#?}\nremove {gone:#?}"
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    files_below(&root().join("docs"), ".md", &mut pages);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = page.parent().unwrap().join(target);
            assert!(path.exists(), "{}: the link to '{target}' leads nowhere", page.display());
        }
    }
}

/// The files whose public functions a program may call: the crate `tidemill`, and what it re-exports.
fn callable() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["engine/api/src", "connectors/src", "state/keyed/src/state"] {
        files_below(&root().join(folder), ".rs", &mut files);
    }
    for file in ["process/context.rs", "process/plain.rs", "window/spec.rs"] {
        files.push(root().join("engine/runtime/src").join(file));
    }
    // Modules that no documentation shows.
    files.retain(|f| !f.ends_with("job/checkpoint.rs") && !f.ends_with("job/restore.rs"));
    let test = |f: &PathBuf| f.components().any(|c| c.as_os_str() == "tests");
    files.retain(|f| !test(f) && !f.ends_with("tests.rs") && !f.ends_with("testing.rs"));
    files
}

/// The code of the runnable examples in a file's documentation, hidden lines included.
fn example_code(text: &str) -> String {
    let (mut code, mut within) = (String::new(), false);
    for line in text.lines().map(str::trim_start) {
        let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        match doc.map(str::trim_start) {
            Some(fence) if fence.starts_with("```") => {
                within = !within && !fence.contains("text") && !fence.contains("ignore");
            }
            Some(line) if within => code.extend([line, "\n"]),
            Some(_) => {}
            None => within = false,
        }
    }
    code
}

/// The public functions that a file documents; those of the engine itself are hidden.
fn public_functions(text: &str) -> Vec<String> {
    let (mut found, mut documented) = (Vec::new(), false);
    let text = text.split("#[cfg(test)]").next().unwrap();
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("///") {
            documented = true;
        } else if line.starts_with("#[") {
            documented &= !line.contains("doc(hidden)");
        } else if !line.is_empty() {
            let name = line.strip_prefix("pub fn ").filter(|_| documented);
            found.extend(name.map(|n| n.split(['(', '<']).next().unwrap().to_owned()));
            documented = false;
        }
    }
    found
}

/// Of what `tidemill` re-exports, functions that only the engine calls.
const ENGINES_OWN: &[&str] =
    &["with_backend", "time", "tables", "tables_mut", "table_mut", "millis", "validate"];

#[test]
fn every_public_function_is_called_in_a_runnable_example() {
    let mut files = Vec::new();
    files_below(&root().join("engine/api/src"), ".rs", &mut files);
    let code: String =
        files.iter().map(|f| example_code(&fs::read_to_string(f).unwrap())).collect();
    let mut called = BTreeSet::new();
    for (at, _) in code.match_indices(['(', '<']) {
        let before = code[..at].trim_end_matches("::");
        let name = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
        called.extend(name.map(str::to_owned));
    }
    let (mut functions, mut missing) = (0, Vec::new());
    for file in callable() {
        for name in public_functions(&fs::read_to_string(&file).unwrap()) {
            functions += 1;
            if !called.contains(&name) && !ENGINES_OWN.contains(&name.as_str()) {
                missing.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert!(functions > 150, "only {functions} public functions found");
    assert!(missing.is_empty(), "no example in engine/api/src calls these: {missing:#?}");
}
