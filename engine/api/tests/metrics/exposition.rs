//! A strict reader of Prometheus' text format, version 0.0.4: what it accepts, Prometheus does.

use std::collections::{BTreeMap, BTreeSet};

/// One line with a number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// A scrape.
pub(crate) struct Scrape {
    pub(crate) samples: Vec<Sample>,
    types: BTreeMap<String, String>,
}

impl Scrape {
    /// Samples of this name whose labels contain `part` in the task's name, summed; `None` if
    /// there are none.
    pub(crate) fn sum(&self, name: &str, task: &str) -> Option<f64> {
        let mine =
            |s: &&Sample| s.name == name && s.labels.get("task").is_none_or(|t| t.contains(task));
        self.samples.iter().filter(mine).map(|s| s.value).reduce(|a, b| a + b)
    }

    /// Every counter of `earlier` is here and has not fallen.
    pub(crate) fn assert_follows(&self, earlier: &Scrape) {
        for old in &earlier.samples {
            let family = earlier.family(&old.name);
            if earlier.types[&family] == "gauge" {
                continue;
            }
            let same = |s: &&Sample| s.name == old.name && s.labels == old.labels;
            let new = self.samples.iter().find(same).unwrap_or_else(|| panic!("{old:?} is gone"));
            assert!(new.value >= old.value, "{old:?} fell to {}", new.value);
        }
    }

    fn family(&self, name: &str) -> String {
        for suffix in ["_bucket", "_sum", "_count"] {
            if let Some(base) = name.strip_suffix(suffix)
                && self.types.get(base).is_some_and(|t| t == "histogram")
            {
                return base.to_owned();
            }
        }
        name.to_owned()
    }
}

fn is_name(name: &str, colon: bool) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || colon && c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// `name{label="value",...} number`
fn sample(line: &str) -> Sample {
    let (name, rest) = line.split_once('{').expect("every sample has labels here");
    assert!(is_name(name, true), "metric name {name:?}");
    let (mut labels, mut rest) = (BTreeMap::new(), rest);
    while !rest.starts_with('}') {
        let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("label in {line}"));
        assert!(is_name(label, false), "label name {label:?} in {line}");
        let (mut text, mut chars) = (String::new(), value.char_indices());
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("open quotes in {line}")) {
                (at, '"') => break at,
                (_, '\\') => text.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => panic!("escape {other:?} in {line}"),
                }),
                (_, c) => text.push(c),
            }
        };
        assert_eq!(labels.insert(label.to_owned(), text), None, "label twice in {line}");
        rest = &value[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    let value = rest.strip_prefix("} ").unwrap_or_else(|| panic!("a space in {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("number {value:?} in {line}"));
    Sample { name: name.to_owned(), labels, value }
}

/// Reads a text and checks what the format demands beyond its grammar.
pub(crate) fn parse(text: &str) -> Scrape {
    assert!(text.ends_with('\n'), "the last line ends too");
    let mut scrape = Scrape { samples: Vec::new(), types: BTreeMap::new() };
    let (mut helped, mut current) = (BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("HELP has a text");
            assert!(is_name(name, true) && !help.is_empty());
            assert!(helped.insert(name.to_owned()), "HELP of {name} twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("TYPE has a kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(helped.contains(name), "TYPE of {name} without HELP");
            assert_eq!(scrape.types.insert(name.to_owned(), kind.to_owned()), None, "{line} twice");
            current = name.to_owned();
        } else {
            let sample = sample(line);
            assert_eq!(scrape.family(&sample.name), current, "{line} is not in its family");
            if scrape.types[&current] != "gauge" {
                assert!(sample.value >= 0.0, "{line}");
            }
            scrape.samples.push(sample);
        }
    }
    let mut series = BTreeSet::new();
    for s in &scrape.samples {
        assert!(series.insert((&s.name, &s.labels)), "{s:?} twice");
    }
    check_histograms(&scrape);
    scrape
}

/// Buckets rise with their bounds; the last one is `+Inf` and equals the count.
fn check_histograms(scrape: &Scrape) {
    for (family, _) in scrape.types.iter().filter(|t| t.1 == "histogram") {
        let mut buckets: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        for s in scrape.samples.iter().filter(|s| s.name == format!("{family}_bucket")) {
            let mut labels = s.labels.clone();
            let le = labels.remove("le").expect("buckets have a bound").parse().expect("number");
            buckets.entry(labels).or_default().push((le, s.value));
        }
        for (labels, buckets) in buckets {
            assert!(buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{buckets:?}");
            let last = buckets[buckets.len() - 1];
            let of = |suffix: &str| {
                let name = format!("{family}{suffix}");
                scrape.samples.iter().find(|s| s.name == name && s.labels == labels).unwrap().value
            };
            assert_eq!(last, (f64::INFINITY, of("_count")));
            assert!(of("_sum") >= 0.0);
        }
    }
}
