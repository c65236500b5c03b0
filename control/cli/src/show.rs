//! Output for people: tables, times, sizes. Standard output carries what was asked for, and nothing else.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use crate::exit::Failure;

/// Prints a text and ends well. A reader that has gone away (`| head`) is no failure.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn out(text: &str) -> Result<ExitCode, Failure> {
    let mut stdout = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(stdout, "{text}{newline}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::here(format!("standard output: {e}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Writes a line to standard error. Nobody who reads it is no reason to end, let alone to panic.
pub(crate) fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// JSON, indented.
///
/// # Errors
/// As [`out`].
pub(crate) fn json(value: &Value) -> Result<ExitCode, Failure> {
    out(&format!("{value:#}"))
}

/// Columns as wide as they need to be, two blanks between them; numbers to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([head[at].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let right: Vec<bool> = (0..head.len())
        .map(|at| {
            !rows.is_empty()
                && rows.iter().all(|r| r.get(at).is_some_and(&is_number))
                && RIGHT.contains(&head[at])
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (at, cell) in cells.enumerate() {
            let gap = " ".repeat(widths[at].saturating_sub(cell.chars().count()));
            if at > 0 {
                line.push_str("  ");
            }
            match right[at] {
                true => line.push_str(&format!("{gap}{cell}")),
                false => line.push_str(&format!("{cell}{gap}")),
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut text = line(&mut head.iter().copied());
    rows.iter().for_each(|row| text.push_str(&line(&mut row.iter().map(String::as_str))));
    text
}

/// Columns of numbers.
const RIGHT: &[&str] = &[
    "SLOTS",
    "FREE",
    "PARALLELISM",
    "ATTEMPT",
    "EPOCH",
    "RECORDS",
    "IN",
    "OUT",
    "IN/S",
    "OUT/S",
    "TASK",
    "JOBS",
    "SIZE",
    "TOOK",
];

/// Names and values below each other.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let indent = format!("\n{}", " ".repeat(width + 2));
        format!("{name:width$}  {}\n", value.trim_end().replace('\n', &indent))
    };
    facts.iter().map(line).collect()
}

/// Milliseconds since 1970 as UTC; `-` for none.
pub(crate) fn time(ms: &Value) -> String {
    let Some(ms) = ms.as_u64() else { return "-".into() };
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// A length of time, in at most two units.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{:.1}s", ms as f64 / 1e3),
        60_000..3_600_000 => format!("{}m {}s", ms / 60_000, ms / 1_000 % 60),
        3_600_000..86_400_000 => format!("{}h {}m", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{}d {}h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

/// A number of bytes.
pub(crate) fn bytes(n: u64) -> String {
    bytesize::ByteSize::b(n).display().iec().to_string()
}

/// A number with its thousands apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A field as text: `-` for none.
pub(crate) fn field(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a".into(), "1".into()], vec!["long".into(), "20".into()]];
        assert_eq!(table(&["NAME", "SLOTS"], &rows), "NAME  SLOTS\na         1\nlong     20\n");
        assert_eq!(table(&["NAME", "SLOTS"], &[]), "NAME  SLOTS\n");
        assert_eq!(facts(&[("a", "x\ny".into()), ("bcd", "z".into())]), "a    x\n     y\nbcd  z\n");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(duration(999), "999ms");
        assert_eq!(duration(61_000), "1m 1s");
        assert_eq!(duration(90_000_000), "1d 1h");
        assert_eq!(time(&Value::from(0)), "1970-01-01T00:00:00Z");
        assert_eq!(bytes(1536), "1.5 KiB");
    }
}
