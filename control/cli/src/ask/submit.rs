//! `tidemill submit`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Asker, follow};
use crate::client::Form;
use crate::exit::Failure;
use crate::show;

pub(super) async fn run(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let matches = asker.matches;
    let named = matches.get_one::<PathBuf>("PROGRAM").cloned().unwrap_or_default();
    let program = find(&named)?;
    let mut form = Form::new(&program).await?;
    let args: Vec<&str> =
        matches.get_many::<String>("ARGS").into_iter().flatten().map(String::as_str).collect();
    if !args.is_empty() {
        form.field("args", &serde_json::Value::from(args).to_string());
    }
    if let Some(n) = matches.get_one::<u32>("parallelism") {
        form.field("parallelism", &n.to_string());
    }
    if let Some(place) = matches.get_one::<String>("savepoint") {
        form.field("savepoint", &absolute(place));
    }
    if matches.get_flag("allow-dropped-state") {
        form.field("allow_dropped_state", "true");
    }
    let answer = asker.client.submit(form).await?;
    let id = answer["job_id"].as_str().unwrap_or_default().to_owned();
    if asker.detaches() {
        return asker.show(&answer, |_| id.clone());
    }
    if !asker.wants_json() {
        show::out(&id)?;
    }
    let name = show::field(&answer["name"]);
    show::note(format_args!("{name} is accepted, with {} slots", answer["slots"]));
    follow::to_the_end(asker, &id).await
}

/// The file that a name means; a directory of this machine that a program was built into is not guessed.
fn find(program: &Path) -> Result<PathBuf, Failure> {
    match std::fs::metadata(program) {
        Ok(_) => Ok(program.to_owned()),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(Failure::usage(format!(
            "the program {} is not there; give the path of the compiled program, e.g. target/release/my-job",
            program.display()
        ))),
        Err(e) => Err(Failure::usage(format!("the program {}: {e}", program.display()))),
    }
}

/// A directory of this machine by its whole path; what else may be named is left as it is.
fn absolute(place: &str) -> String {
    let trigger = place.len() == 16 && place.bytes().all(|b| b.is_ascii_hexdigit());
    if trigger || place.contains("://") || !Path::new(place).exists() {
        return place.to_owned();
    }
    std::path::absolute(place).map_or_else(|_| place.to_owned(), |path| path.display().to_string())
}
