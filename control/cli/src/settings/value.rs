//! What settings take, as text: reading it, and saying what is wanted where it is not that. Pure.

use std::net::IpAddr;
use std::time::Duration as Time;

use bytesize::ByteSize;

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// One or more texts without commas.
    Texts,
    /// A file or directory of this host.
    Path,
    /// A directory, or `s3://BUCKET/PREFIX`.
    Location,
    /// An IP address.
    Address,
    /// One or more of HOST:PORT.
    HostPorts,
    Bool,
    Count {
        min: u64,
        max: u64,
    },
    /// A number, or this word.
    CountOr(&'static str),
    Duration {
        min_ms: u64,
    },
    /// A length of time, or this word.
    DurationOr(&'static str),
    Size,
    Choice(&'static [&'static str]),
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Address(IpAddr),
    List(Vec<String>),
    Bool(bool),
    Count(u64),
    Duration(Time),
    Bytes(u64),
    /// The word that stands for no number and no length of time.
    Without,
}

impl Kind {
    /// Reads a text.
    ///
    /// # Errors
    /// What is wanted instead.
    pub(crate) fn read(self, text: &str) -> Result<Value, String> {
        let wrong = || self.wanted();
        match self {
            Kind::Text | Kind::Path | Kind::Location if text.trim().is_empty() => Err(wrong()),
            Kind::Texts => texts(text).ok_or_else(wrong),
            Kind::Text | Kind::Path => Ok(Value::Text(text.to_owned())),
            Kind::Location => location(text).ok_or_else(wrong),
            Kind::Address => text.parse().map(Value::Address).map_err(|_| wrong()),
            Kind::HostPorts => host_ports(text).ok_or_else(wrong),
            Kind::Bool => match text {
                "true" | "1" => Ok(Value::Bool(true)),
                "false" | "0" => Ok(Value::Bool(false)),
                _ => Err(wrong()),
            },
            Kind::Count { min, max } => {
                let number = text.parse().ok().filter(|n| (min..=max).contains(n));
                number.map(Value::Count).ok_or_else(wrong)
            }
            Kind::CountOr(word) | Kind::DurationOr(word) if text == word => Ok(Value::Without),
            Kind::CountOr(_) => {
                let number = text.parse::<u32>().map_err(|_| wrong())?;
                Ok(Value::Count(number.into()))
            }
            Kind::Duration { min_ms } => {
                let least = Time::from_millis(min_ms);
                let time = duration(text).filter(|t| *t >= least);
                time.map(Value::Duration).ok_or_else(wrong)
            }
            Kind::DurationOr(_) => {
                let time = duration(text).filter(|t| !t.is_zero());
                time.map(Value::Duration).ok_or_else(wrong)
            }
            Kind::Size => size(text).map(Value::Bytes).ok_or_else(wrong),
            Kind::Choice(all) if all.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Choice(_) => Err(wrong()),
        }
    }

    /// What is wanted, for an error.
    pub(crate) fn wanted(self) -> String {
        match self {
            Kind::Text => "a text that is not empty is wanted".into(),
            Kind::Texts => "a text is wanted, or several with commas between them".into(),
            Kind::Path => "a path is wanted".into(),
            Kind::Location => "a directory or s3://BUCKET/PREFIX is wanted".into(),
            Kind::Address => "an IP address of this host is wanted".into(),
            Kind::HostPorts => "HOST:PORT is wanted, or several with commas between them".into(),
            Kind::Bool => "true or false is wanted".into(),
            Kind::Count { min, max } => format!("a whole number from {min} to {max} is wanted"),
            Kind::CountOr(word) => format!("a whole number, or {word}, is wanted"),
            Kind::Duration { min_ms: 0 } => "a length of time with its unit is wanted".into(),
            Kind::Duration { min_ms } => {
                let least = humantime::format_duration(Time::from_millis(min_ms));
                format!("a length of time with its unit is wanted, {least} or more")
            }
            Kind::DurationOr(word) => {
                format!("a length of time with its unit, or {word}, is wanted")
            }
            Kind::Size => "a size with its unit is wanted".into(),
            Kind::Choice(all) => format!("one of {} is wanted", all.join(", ")),
        }
    }

    /// What it is called in the page.
    pub(crate) fn name(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Texts => "text, ...".into(),
            Kind::Path => "path".into(),
            Kind::Location => "directory or S3".into(),
            Kind::Address => "IP address".into(),
            Kind::HostPorts => "HOST:PORT, ...".into(),
            Kind::Bool => "true, false".into(),
            Kind::Count { .. } => "number".into(),
            Kind::CountOr(word) => format!("number, `{word}`"),
            Kind::Duration { .. } => "time".into(),
            Kind::DurationOr(word) => format!("time, `{word}`"),
            Kind::Size => "size".into(),
            Kind::Choice(all) => {
                all.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Whether a flag of it stands alone.
    pub(crate) fn is_switch(self) -> bool {
        self == Kind::Bool
    }

    /// Whether a flag of it may come several times.
    pub(crate) fn is_list(self) -> bool {
        matches!(self, Kind::HostPorts | Kind::Texts)
    }

    /// What stands for its value in a usage.
    pub(crate) fn placeholder(self) -> &'static str {
        match self {
            Kind::Text | Kind::Texts | Kind::Choice(_) => "TEXT",
            Kind::Path => "PATH",
            Kind::Location => "PLACE",
            Kind::Address => "IP",
            Kind::HostPorts => "HOST:PORT",
            Kind::Bool => "BOOL",
            Kind::Count { .. } | Kind::CountOr(_) => "N",
            Kind::Duration { .. } | Kind::DurationOr(_) => "TIME",
            Kind::Size => "SIZE",
        }
    }

    /// Whether TOML writes it as a text, in quotes.
    pub(crate) fn is_text(self) -> bool {
        !matches!(self, Kind::Bool | Kind::Count { .. } | Kind::CountOr(_)) && !self.is_list()
    }
}

fn location(text: &str) -> Option<Value> {
    if let Some(place) = text.strip_prefix("s3://") {
        let bucket = place.split('/').next().unwrap_or("");
        return (!bucket.is_empty()).then(|| Value::Text(text.to_owned()));
    }
    (!text.contains("://")).then(|| Value::Text(text.to_owned()))
}

fn texts(text: &str) -> Option<Value> {
    let parts: Vec<String> = text.split(',').map(|p| p.trim().to_owned()).collect();
    parts.iter().all(|p| !p.is_empty()).then_some(Value::List(parts))
}

fn host_ports(text: &str) -> Option<Value> {
    let parts: Vec<String> = text.split(',').map(|p| p.trim().to_owned()).collect();
    let good = |part: &String| {
        part.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    parts.iter().all(good).then_some(Value::List(parts))
}

fn duration(text: &str) -> Option<Time> {
    humantime::parse_duration(text).ok()
}

/// A size with a unit; a bare number could mean anything.
fn size(text: &str) -> Option<u64> {
    let unit = text.chars().any(char::is_alphabetic);
    text.parse::<ByteSize>().ok().filter(|_| unit).map(|size| size.as_u64()).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_units() {
        let time = Kind::Duration { min_ms: 10 };
        assert_eq!(time.read("500ms"), Ok(Value::Duration(Time::from_millis(500))));
        assert_eq!(time.read("1m 30s"), Ok(Value::Duration(Time::from_secs(90))));
        assert!(time.read("5").is_err() && time.read("1ms").is_err() && time.read("").is_err());
        assert_eq!(Kind::DurationOr("never").read("never"), Ok(Value::Without));
        assert!(Kind::DurationOr("never").read("0s").is_err());
        assert_eq!(Kind::Size.read("512 MiB"), Ok(Value::Bytes(512 << 20)));
        assert_eq!(Kind::Size.read("1.5GiB"), Ok(Value::Bytes(3 << 29)));
        assert!(Kind::Size.read("512").is_err() && Kind::Size.read("512 apples").is_err());
        let count = Kind::Count { min: 1, max: 9 };
        assert_eq!(count.read("9"), Ok(Value::Count(9)));
        assert!(count.read("0").is_err() && count.read("10").is_err() && count.read("-1").is_err());
        assert_eq!(Kind::CountOr("any").read("any"), Ok(Value::Without));
        let two = Value::List(vec!["a:1".into(), "b:2".into()]);
        assert_eq!(Kind::HostPorts.read("a:1, b:2"), Ok(two));
        assert!(Kind::HostPorts.read("a").is_err() && Kind::HostPorts.read("a:0").is_err());
        let one = Value::List(vec!["http://a".into()]);
        assert_eq!(Kind::Texts.read(" http://a "), Ok(one));
        assert!(Kind::Texts.read("").is_err() && Kind::Texts.read("a,,b").is_err());
        assert!(Kind::Location.read("s3://").is_err() && Kind::Location.read("gs://b").is_err());
        assert!(Kind::Location.read("s3://b/p").is_ok() && Kind::Location.read("/dir").is_ok());
        assert!(Kind::Bool.read("yes").is_err() && Kind::Address.read("localhost").is_err());
    }
}
