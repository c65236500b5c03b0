//! The configuration file: TOML, every key checked against the table, every error with its line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::table::{self, Setting};
use super::value::{Kind, Value};
use super::{ConfigError, nearest};

/// What a file says: settings, their values, and the lines.
pub(crate) type Said = Vec<(&'static Setting, Value, usize)>;

/// Reads a file's text.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub(crate) fn read(path: &Path, text: &str) -> Result<Said, ConfigError> {
    let reader = Reader { path, text };
    let table = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        reader.error(at, e.message().to_owned())
    })?;
    let mut said = Vec::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        let known_section = table::SECTIONS.iter().any(|(s, _)| *s == name);
        match value.get_ref() {
            DeValue::Table(inner) if known_section => {
                for (key, value) in inner {
                    let full = format!("{name}.{}", key.get_ref());
                    said.push(reader.entry(&full, key.span().start, value)?);
                }
            }
            DeValue::Table(_) => return Err(reader.unknown_section(name, key.span().start)),
            _ => said.push(reader.entry(name, key.span().start, value)?),
        }
    }
    Ok(said)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1
    }

    fn error(&self, at: usize, what: String) -> ConfigError {
        ConfigError(format!("{}:{}: {what}", self.path.display(), self.line(at)))
    }

    fn unknown_section(&self, name: &str, at: usize) -> ConfigError {
        let sections = table::SECTIONS.iter().map(|(s, _)| *s).filter(|s| !s.is_empty());
        let near = nearest(name, sections);
        self.error(at, format!("there is no section [{name}]; the nearest is [{near}]"))
    }

    fn entry(
        &self,
        key: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(&'static Setting, Value, usize), ConfigError> {
        let setting = table::find(key).ok_or_else(|| {
            let near = nearest(key, table::TABLE.iter().map(|s| s.key));
            self.error(at, format!("there is no setting {key}; the nearest is {near}"))
        })?;
        let wrong = |what: String| {
            let shown = self.text.get(value.span()).unwrap_or("").trim();
            self.error(at, format!("{key} = {shown}: {what}, e.g. {}", sample(setting)))
        };
        let text = plain(setting.kind, value.get_ref()).ok_or_else(|| {
            let quoted = if setting.kind.is_text() { " as a text in quotes" } else { "" };
            wrong(format!("{}{quoted}", setting.kind.wanted()))
        })?;
        let read = setting.kind.read(&text).map_err(wrong)?;
        Ok((setting, read, self.line(at)))
    }
}

/// A value's text, where it is of the type that the setting wants.
fn plain(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    match (kind, value) {
        (Kind::Bool, DeValue::Boolean(b)) => Some(b.to_string()),
        (Kind::Count { .. } | Kind::CountOr(_), DeValue::Integer(n)) if n.radix() == 10 => {
            Some(n.as_str().to_owned())
        }
        (Kind::CountOr(_), DeValue::String(s)) => Some(s.to_string()),
        (kind, DeValue::Array(all)) if kind.is_list() => {
            let parts = all.iter().map(|v| match v.get_ref() {
                DeValue::String(s) => Some(s.to_string()),
                _ => None,
            });
            Some(parts.collect::<Option<Vec<String>>>()?.join(","))
        }
        (Kind::Bool | Kind::Count { .. }, _) => None,
        (_, DeValue::String(s)) => Some(s.to_string()),
        _ => None,
    }
}

/// A value as TOML writes it.
pub(crate) fn sample(setting: &Setting) -> String {
    let sample = setting.sample();
    match setting.kind {
        kind if kind.is_list() => {
            let parts: Vec<String> =
                sample.split(',').map(|part| format!("\"{}\"", part.trim())).collect();
            format!("[{}]", parts.join(", "))
        }
        kind if kind.is_text() => format!("\"{sample}\""),
        _ => sample.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(Path::new("t.toml"), text).expect_err("wrong").to_string()
    }

    #[test]
    fn a_file_is_read_with_lines() {
        let text = "data_dir = \"/d\"\n[jobmanager]\nrest_port = 9\nplan_timeout = \"5s\"\n\
                    [taskmanager]\njobmanagers = [\"a:1\", \"b:2\"]\n[checkpoints]\n\
                    tolerated_failures = \"any\"\n";
        let said = read(Path::new("t.toml"), text).expect("good");
        let lines: Vec<(&str, usize)> = said.iter().map(|(s, _, line)| (s.key, *line)).collect();
        let mut sorted = lines.clone();
        sorted.sort_by_key(|l| l.1);
        assert_eq!(
            sorted,
            [
                ("data_dir", 1),
                ("jobmanager.rest_port", 3),
                ("jobmanager.plan_timeout", 4),
                ("taskmanager.jobmanagers", 6),
                ("checkpoints.tolerated_failures", 8),
            ]
        );
    }

    #[test]
    fn errors_name_file_line_value_and_remedy() {
        let unknown = error("# a comment\n[jobmanager]\nplan_timout = \"5s\"\n");
        assert!(unknown.starts_with("t.toml:3: "), "{unknown}");
        assert!(unknown.contains("jobmanager.plan_timout"), "{unknown}");
        assert!(unknown.ends_with("the nearest is jobmanager.plan_timeout"), "{unknown}");
        let section = error("[taskmanger]\nslots = 1\n");
        assert!(
            section.starts_with("t.toml:1: ") && section.contains("[taskmanager]"),
            "{section}"
        );
        let unit = error("jobmanager.plan_timeout = \"5\"\n");
        assert!(unit.contains("plan_timeout = \"5\"") && unit.contains("e.g. \"30s\""), "{unit}");
        let kind = error("[jobmanager]\nartifact_limit = 512\n");
        assert!(kind.contains("artifact_limit = 512") && kind.contains("\"512 MiB\""), "{kind}");
        let quoted = error("[taskmanager]\nslots = \"4\"\n");
        assert!(quoted.contains("slots = \"4\"") && quoted.ends_with("e.g. 4"), "{quoted}");
        let top = error("slots = 4\n");
        assert!(top.contains("no setting slots") && top.contains("taskmanager.slots"), "{top}");
        let toml = error("a = \nb = 1\n");
        assert!(toml.starts_with("t.toml:1: "), "{toml}");
        let twice = error("[local]\ntaskmanagers = 1\ntaskmanagers = 2\n");
        assert!(twice.starts_with("t.toml:3: "), "{twice}");
    }
}
