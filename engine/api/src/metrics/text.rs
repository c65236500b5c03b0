//! The text exposition format of Prometheus, version 0.0.4.
//!
//! ```text
//!   # HELP name what it is
//!   # TYPE name counter|gauge|histogram
//!   name[suffix]{label="value",...} number
//! ```
//!
//! Invariants
//!   X1  A family's lines stand together, headed by HELP and TYPE once; a family without samples
//!       is left out.
//!   X2  Whatever a label's value is, it cannot end its quotes or its line.

use std::fmt::{self, Write as _};

/// The content type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Most characters of a label's value: names beyond it are cut.
pub(crate) const LABEL_CHARS_MAX: usize = 200;

/// What the numbers of a family do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A number of a sample. Counts are written in full, beyond the 53 bits of a float.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Count(u64),
    Number(f64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Count(n) => write!(f, "{n}"),
            Value::Number(x) if x.is_nan() => f.write_str("NaN"),
            Value::Number(x) if x.is_infinite() => {
                f.write_str(if *x > 0.0 { "+Inf" } else { "-Inf" })
            }
            Value::Number(x) => write!(f, "{x}"),
        }
    }
}

/// Labels of a sample, escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(String);

impl Labels {
    /// The same labels and one more.
    #[must_use]
    pub(crate) fn with(&self, name: &str, value: &str) -> Labels {
        let mut text = self.0.clone();
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        escape(&mut text, value, true);
        text.push('"');
        Labels(text)
    }
}

/// A name as a label's value: no control characters, which some readers end the text at, and not
/// endless.
pub(crate) fn printable(name: &str) -> String {
    let clean = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    let mut text: String = name.chars().take(LABEL_CHARS_MAX).map(clean).collect();
    if name.chars().nth(LABEL_CHARS_MAX).is_some() {
        text.push('…');
    }
    text
}

/// X2. Quotes need no escape in HELP, where they would be taken for themselves.
fn escape(text: &mut String, value: &str, quotes: bool) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

/// A text being written.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family; its samples follow at once.
    pub(crate) fn family(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
    ) -> Family<'_> {
        Family { text: &mut self.text, name, kind, help, headed: false }
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// A family being written.
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    headed: bool,
}

impl Family<'_> {
    /// One number.
    pub(crate) fn sample(&mut self, labels: &Labels, value: Value) {
        self.line("", labels, value);
    }

    /// A histogram from its buckets' upper bounds and counts, one more count than bounds.
    pub(crate) fn histogram(
        &mut self,
        labels: &Labels,
        bounds: impl Iterator<Item = f64>,
        counts: impl Iterator<Item = u64>,
        sum: f64,
    ) {
        debug_assert_eq!(self.kind, Kind::Histogram);
        let bounds = bounds.chain(std::iter::once(f64::INFINITY));
        let mut total = 0;
        for (bound, count) in bounds.zip(counts) {
            total += count;
            let le = Value::Number(bound).to_string();
            self.line("_bucket", &labels.with("le", &le), Value::Count(total));
        }
        self.line("_sum", labels, Value::Number(sum));
        self.line("_count", labels, Value::Count(total));
    }

    fn line(&mut self, suffix: &str, labels: &Labels, value: Value) {
        if !self.headed {
            self.headed = true;
            let _ = write!(self.text, "# HELP {} ", self.name);
            escape(self.text, self.help, false);
            let _ = writeln!(self.text, "\n# TYPE {} {}", self.name, self.kind.name());
        }
        let _ = writeln!(self.text, "{}{suffix}{{{}}} {value}", self.name, labels.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_headed_once_and_only_if_it_has_samples() {
        let mut out = Exposition::default();
        out.family("empty_total", Kind::Counter, "nothing");
        let mut family = out.family("some_seconds", Kind::Gauge, "a \\ and\na \"quote\"");
        family.sample(&Labels::default().with("a", "1"), Value::Number(0.25));
        family.sample(&Labels::default(), Value::Number(f64::NEG_INFINITY));
        let expected = "# HELP some_seconds a \\\\ and\\na \"quote\"\n\
                        # TYPE some_seconds gauge\n\
                        some_seconds{a=\"1\"} 0.25\n\
                        some_seconds{} -Inf\n";
        assert_eq!(out.finish(), expected);
    }

    #[test]
    fn hostile_names_stay_within_their_quotes() {
        let hostile = "a\"} 1\nevil_total{x=\"\\";
        let labels = Labels::default().with("task", hostile);
        assert_eq!(labels.0, r#"task="a\"} 1\nevil_total{x=\"\\""#);
        let mut out = Exposition::default();
        out.family("f", Kind::Counter, "h").sample(&labels, Value::Count(1));
        assert_eq!(out.finish().lines().count(), 3);
    }

    #[test]
    fn names_lose_control_characters_and_length() {
        assert_eq!(printable("a\0b\rc\u{85}d\ne"), "a\u{fffd}b\u{fffd}c\u{fffd}d\ne");
        let long = printable(&"ß".repeat(LABEL_CHARS_MAX + 1));
        assert_eq!(long.chars().count(), LABEL_CHARS_MAX + 1);
        assert!(long.ends_with("ß…"));
        assert_eq!(printable(&"x".repeat(LABEL_CHARS_MAX)), "x".repeat(LABEL_CHARS_MAX));
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut out = Exposition::default();
        let bounds = [0.00001, 10.0].into_iter();
        out.family("h", Kind::Histogram, "x").histogram(
            &Labels::default().with("t", "a"),
            bounds,
            [3, 0, 2].into_iter(),
            1.5,
        );
        let expected = "# HELP h x\n# TYPE h histogram\n\
                        h_bucket{t=\"a\",le=\"0.00001\"} 3\n\
                        h_bucket{t=\"a\",le=\"10\"} 3\n\
                        h_bucket{t=\"a\",le=\"+Inf\"} 5\n\
                        h_sum{t=\"a\"} 1.5\nh_count{t=\"a\"} 5\n";
        assert_eq!(out.finish(), expected);
    }

    #[test]
    fn counts_are_exact() {
        assert_eq!(Value::Count(u64::MAX).to_string(), "18446744073709551615");
    }
}
