//! Settings: from a file, the environment and flags, each going before the one named before it.
//!
//! Invariants
//!   C1  What is not in the table is an error, in a file and on the command line; in the environment,
//!       where others put variables too, it is a warning.
//!   C2  A value that cannot be is an error wherever it stands, also where it is overridden.

mod docs;
mod file;
pub(crate) mod table;
mod value;

pub(crate) use docs::page;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(test)]
use file::sample;
use table::{SECRETS, Setting, TABLE};
use value::{Kind, Value};

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(PathBuf, usize),
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// All settings that have a value.
#[derive(Debug)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
    /// Of the environment (C1).
    pub(crate) warnings: Vec<String>,
}

/// What a process is started with, as far as settings go.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// Name and value of each variable.
    pub(crate) environment: Vec<(String, String)>,
    /// Key, value, and the flag that gave them.
    pub(crate) flags: Vec<(String, String, String)>,
    /// Files that are read where none is named: the first that exists.
    pub(crate) search: Vec<PathBuf>,
}

impl Settings {
    /// Puts everything together.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn load(given: &Given) -> Result<Self, ConfigError> {
        let mut settings = Settings { values: BTreeMap::new(), warnings: Vec::new() };
        settings.defaults()?;
        if let Some(path) = given.file() {
            settings.file(&path)?;
        }
        settings.environment(&given.environment)?;
        for (key, value, flag) in &given.flags {
            let setting = table::find(key).ok_or_else(|| unknown(key, flag))?;
            settings.text(setting, value, Origin::Flag(flag.clone()))?;
        }
        Ok(settings)
    }

    fn defaults(&mut self) -> Result<(), ConfigError> {
        for setting in TABLE.iter().filter(|s| !s.default.is_empty()) {
            self.text(setting, setting.default, Origin::Default)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("{}: {e}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for (setting, mut value, line) in file::read(path, &text)? {
            // What a file names lies beside it.
            if let (Kind::Path | Kind::Location, Value::Text(text)) = (setting.kind, &mut value)
                && !text.contains("://")
            {
                *text = folder.join(&*text).display().to_string();
            }
            self.values.insert(setting.key, (value, Origin::File(path.to_owned(), line)));
        }
        Ok(())
    }

    fn environment(&mut self, variables: &[(String, String)]) -> Result<(), ConfigError> {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("TIDEMILL_") else { continue };
            if let Some(setting) = TABLE.iter().find(|s| s.variable() == *name) {
                self.text(setting, value, Origin::Variable(name.clone()))?;
            } else if !is_other(name, rest) {
                let near = nearest(name, TABLE.iter().map(Setting::variable));
                self.warnings.push(format!("no setting is given by {name}; the nearest is {near}"));
            }
        }
        Ok(())
    }

    fn text(
        &mut self,
        setting: &'static Setting,
        text: &str,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let value = setting.kind.read(text).map_err(|wanted| {
            let key = setting.key;
            ConfigError(format!("{origin}: {key} = {text}: {wanted}, e.g. {}", setting.sample()))
        })?;
        self.values.insert(setting.key, (value, origin));
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&Value> {
        debug_assert!(table::find(key).is_some(), "{key} is not in the table");
        self.values.get(key).map(|(value, _)| value)
    }

    /// Whether somebody gave it.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|(_, origin)| *origin != Origin::Default)
    }

    /// Where it comes from, for errors.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.values.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    pub(crate) fn text_of(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// An absolute path.
    pub(crate) fn path(&self, key: &str) -> Option<PathBuf> {
        self.text_of(key).map(absolute)
    }

    pub(crate) fn address(&self, key: &str) -> IpAddr {
        match self.get(key) {
            Some(Value::Address(address)) => *address,
            _ => IpAddr::from([127, 0, 0, 1]),
        }
    }

    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        match self.get(key) {
            Some(Value::List(all)) => all.clone(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn is(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Value::Bool(true)))
    }

    /// A number; `None` for the word that stands for none.
    pub(crate) fn count(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Count(n)) => Some(*n),
            _ => None,
        }
    }

    /// A number that its kind bounds to what fits.
    pub(crate) fn number<T: TryFrom<u64> + Default>(&self, key: &str) -> T {
        let number = self.count(key).and_then(|n| T::try_from(n).ok());
        debug_assert!(number.is_some(), "{key} has a default and a bound");
        number.unwrap_or_default()
    }

    /// A length of time; `None` for the word that stands for none.
    pub(crate) fn time_or_never(&self, key: &str) -> Option<Duration> {
        match self.get(key) {
            Some(Value::Duration(time)) => Some(*time),
            _ => None,
        }
    }

    pub(crate) fn time(&self, key: &str) -> Duration {
        let time = self.time_or_never(key);
        debug_assert!(time.is_some(), "{key} has a default");
        time.unwrap_or_default()
    }

    pub(crate) fn bytes(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Bytes(n)) => Some(*n),
            _ => None,
        }
    }

    /// Every setting with its value, as TOML, and where it comes from.
    pub(crate) fn shown(&self) -> Vec<(&'static str, String, Origin)> {
        let shown = |s: &'static Setting| {
            let (value, origin) = self.values.get(s.key)?;
            Some((s.key, toml_text(s, value), origin.clone()))
        };
        TABLE.iter().filter_map(shown).collect()
    }
}

fn toml_text(setting: &Setting, value: &Value) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match (setting.kind, value) {
        (Kind::CountOr(word) | Kind::DurationOr(word), Value::Without) => quoted(word),
        (_, Value::Without) => String::new(),
        (_, Value::Text(text)) => quoted(text),
        (_, Value::Address(ip)) => quoted(&ip.to_string()),
        (_, Value::List(all)) => serde_json::Value::from(all.clone()).to_string(),
        (_, Value::Bool(b)) => b.to_string(),
        (_, Value::Count(n)) => n.to_string(),
        (_, Value::Duration(time)) => quoted(&humantime::format_duration(*time).to_string()),
        (_, Value::Bytes(n)) => quoted(&exact_size(*n)),
    }
}

/// A size in the largest binary unit that divides it.
fn exact_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes.trailing_zeros() >= shift && bytes > 0 {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

fn absolute(text: &str) -> PathBuf {
    std::path::absolute(text).unwrap_or_else(|_| PathBuf::from(text))
}

fn unknown(key: &str, flag: &str) -> ConfigError {
    let near = nearest(key, TABLE.iter().map(|s| s.key));
    ConfigError(format!("{flag}: there is no setting {key}; the nearest is {near}"))
}

/// Variables that are no settings and no mistakes: secrets, the file's name, and what Kubernetes adds
/// for a service that is called tidemill.
fn is_other(name: &str, rest: &str) -> bool {
    let service = ["SERVICE_HOST", "SERVICE_PORT", "PORT_", "_PORT"];
    SECRETS.iter().any(|(secret, _)| *secret == name)
        || name == table::CONFIG_VARIABLE
        // Of the store itself (ADR 0013).
        || rest == "S3_TIMEOUT"
        || rest == "PORT"
        || service.iter().any(|part| rest.contains(part))
}

/// The candidate that takes the fewest edits.
pub(crate) fn nearest<S: AsRef<str>>(
    given: &str,
    candidates: impl IntoIterator<Item = S>,
) -> String {
    let distance = |candidate: &str| {
        // A key without its section is as good as the whole.
        let last = candidate.rsplit('.').next().unwrap_or(candidate);
        let whole = strsim::damerau_levenshtein(given, candidate);
        whole.min(strsim::damerau_levenshtein(given, last) + 1)
    };
    let all = candidates.into_iter().map(|c| c.as_ref().to_owned());
    all.min_by_key(|c| distance(c)).unwrap_or_default()
}

impl Given {
    /// What this process was started with; flags are to come.
    ///
    /// # Errors
    /// A variable of ours that is no text.
    pub(crate) fn of_process() -> Result<Self, ConfigError> {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|n| n.starts_with("TIDEMILL_")) else { continue };
            let value = value
                .into_string()
                .map_err(|_| ConfigError(format!("the variable {name} is no UTF-8 text")))?;
            environment.push((name.to_owned(), value));
        }
        Ok(Given { environment, search: search_path(), ..Given::default() })
    }

    fn file(&self) -> Option<PathBuf> {
        let named = self.environment.iter().find(|(name, _)| name == table::CONFIG_VARIABLE);
        let named = self.config.clone().or_else(|| named.map(|(_, value)| value.into()));
        named.or_else(|| self.search.iter().find(|path| path.is_file()).cloned())
    }
}

/// Where a file is looked for: of the user, then of the host.
fn search_path() -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let user = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    let user = user.filter(|p| p.is_absolute()).map(|p| p.join("tidemill/tidemill.toml"));
    user.into_iter().chain([PathBuf::from("/etc/tidemill/tidemill.toml")]).collect()
}

#[cfg(test)]
mod tests;
