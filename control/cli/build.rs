//! The commit that the binary was built from, for `tidemill --version`; nothing where there is no git.

use std::path::Path;
use std::process::Command;

fn main() {
    let root = Path::new("../..");
    // A commit moves HEAD, or what HEAD points to; both write this log.
    let log = root.join(".git/logs/HEAD");
    println!("cargo::rerun-if-changed=build.rs");
    if log.is_file() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    let git =
        Command::new("git").args(["rev-parse", "--short=9", "HEAD"]).current_dir(root).output();
    if let Ok(output) = git
        && output.status.success()
    {
        let commit = String::from_utf8_lossy(&output.stdout);
        println!("cargo::rustc-env=TIDEMILL_COMMIT={}", commit.trim());
    }
}
