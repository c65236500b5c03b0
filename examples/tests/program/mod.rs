//! Where the examples' programs are.

use std::process::{Command, Stdio};

/// The program of an example, as `cargo test` has built it beside this test.
pub(crate) fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join(name);
    assert!(program.is_file(), "{} is missing: build with --examples", program.display());
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}
