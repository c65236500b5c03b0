//! Several measurements of one thing.

use serde_json::{Value, json};

/// Median, least and greatest, to a tenth.
pub(super) fn summary(values: &[f64]) -> Value {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let round = |v: f64| (v * 10.0).round() / 10.0;
    match (sorted.first(), sorted.last()) {
        (Some(&min), Some(&max)) => {
            let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
            let median = (sorted[low] + sorted[high]) / 2.0;
            json!({"median": round(median), "min": round(min), "max": round(max)})
        }
        _ => Value::Null,
    }
}

/// A table for people: a row a name, with its summary.
pub(super) fn table(title: &str, rows: &[(&str, Vec<f64>)]) -> String {
    let mut text = format!("{title:<46} {:>9} {:>9} {:>9}\n", "median", "min", "max");
    for (name, values) in rows {
        let summary = summary(values);
        let number = |of: &str| summary[of].as_f64().unwrap_or(f64::NAN);
        text += &format!(
            "{name:<46} {:>9.1} {:>9.1} {:>9.1}\n",
            number("median"),
            number("min"),
            number("max")
        );
    }
    text
}
