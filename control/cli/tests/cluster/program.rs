//! The program of the job of these tests: an example of this crate. Cargo builds it beside the tests, but not where
//! `--test` narrows what it builds. A test that then ran what an earlier build left would test another engine than
//! the one that lies here; so what is missing or older than its sources is built anew.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

const NAME: &str = "cluster_word_count";

/// Where the program is. It is built at most once, by whichever test asks first.
pub(crate) fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(find_or_build).clone()
}

fn find_or_build() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join(NAME);
    let Err(why) = check(&program) else { return program };
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--package", env!("CARGO_PKG_NAME")]);
    build.args(["--example", NAME]);
    // Directories are called by profiles, but for one.
    let profile = program.ancestors().nth(2).and_then(Path::file_name).unwrap().to_str().unwrap();
    build.args(["--profile", if profile == "debug" { "dev" } else { profile }]);
    let status = build.status().unwrap();
    let now = check(&program);
    assert!(
        status.success() && now.is_ok(),
        "{why}, and {build:?} does not help ({status}, {now:?}): run the tests without --test, or with \
         --examples"
    );
    program
}

/// Whether the program is there and no older than what cargo says it is made of.
fn check(program: &Path) -> Result<(), String> {
    let changed = |path: &Path| -> Result<SystemTime, String> {
        let metadata = path.metadata().and_then(|m| m.modified());
        metadata.map_err(|e| format!("{}: {e}", path.display()))
    };
    let built = changed(program)?;
    let list = program.with_extension("d");
    let text = std::fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    let sources = sources(&text);
    if sources.is_empty() {
        return Err(format!("{} names no sources", list.display()));
    }
    for source in sources {
        if changed(&source)? > built {
            let source = source.display();
            return Err(format!("{} is older than {source}", program.display()));
        }
    }
    Ok(())
}

/// What a file of dependencies names behind its target, as `make` would read it.
fn sources(text: &str) -> Vec<PathBuf> {
    let rest = text.lines().next().and_then(|line| line.split_once(": "));
    let rest = rest.map_or("", |(_, rest)| rest).replace("\\ ", "\0");
    rest.split_whitespace().map(|path| PathBuf::from(path.replace('\0', " "))).collect()
}

#[test]
fn sources_are_read_as_make_writes_them() {
    let names = |text| sources(text).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    assert_eq!(names("/t/e: /a.rs /b\\ c.rs\n"), ["/a.rs", "/b c.rs"]);
    assert!(names("").is_empty() && names("/t/e:\n").is_empty());
}

#[test]
fn a_program_older_than_its_sources_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let (program, source) = (dir.path().join("program"), dir.path().join("a.rs"));
    let old = SystemTime::now() - std::time::Duration::from_secs(60);
    assert!(check(&program).unwrap_err().contains("No such file"));
    std::fs::write(&source, "").unwrap();
    std::fs::write(&program, "").unwrap();
    std::fs::write(dir.path().join("program.d"), format!("x: {}", source.display())).unwrap();
    std::fs::File::open(&source).unwrap().set_modified(old).unwrap();
    assert_eq!(check(&program), Ok(()));
    std::fs::File::options()
        .write(true)
        .open(&program)
        .unwrap()
        .set_modified(old - std::time::Duration::from_secs(1))
        .unwrap();
    assert!(check(&program).unwrap_err().contains("older than"), "the source changed since");
    std::fs::remove_file(&source).unwrap();
    assert!(check(&program).unwrap_err().contains("a.rs"), "a source is gone");
}
