//! `tidemill config`: the settings that hold.

use std::process::ExitCode;

use crate::exit::Failure;
use crate::settings::Settings;
use crate::show;

/// As TOML, each with where it comes from.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn show(settings: &Settings) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    let mut section = "";
    settings.warnings.iter().for_each(|warning| show::note(format_args!("warning: {warning}")));
    for (key, value, origin) in settings.shown() {
        let (own, name) = key.split_once('.').unwrap_or(("", key));
        if own != section {
            text.push_str(&format!("\n[{own}]\n"));
            section = own;
        }
        text.push_str(&format!("{:<46} # {origin}\n", format!("{name} = {value}")));
    }
    show::out(&text)
}
