//! Which job a user means.

use serde_json::Value;

use crate::client::Client;
use crate::exit::{self, Failure};

/// Digits of a whole id.
const DIGITS: usize = 32;

/// The id of the job that a text means: an id, the beginning of one, or a name.
///
/// # Errors
/// There is none, or more than one.
pub(crate) async fn job(client: &Client, text: &str) -> Result<String, Failure> {
    let hexadecimal = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() == DIGITS && hexadecimal {
        return Ok(text.to_owned());
    }
    let answer = client.get("/jobs").await?;
    choose(text, &answer["jobs"])
}

fn choose(text: &str, jobs: &Value) -> Result<String, Failure> {
    let all = || jobs.as_array().into_iter().flatten();
    let id = |job: &Value| job["job_id"].as_str().unwrap_or_default().to_owned();
    let live = |job: &&Value| job["ended_at_ms"].is_null();
    let named: Vec<&Value> = all().filter(|job| job["name"].as_str() == Some(text)).collect();
    // Of jobs of one name, the one that runs is meant.
    let running: Vec<&Value> = named.iter().copied().filter(|job| live(job)).collect();
    let named = if running.is_empty() { named } else { running };
    let begins: Vec<&Value> = all().filter(|job| id(job).starts_with(text)).collect();
    let found = if begins.is_empty() { named } else { begins };
    match found.as_slice() {
        [job] => Ok(id(job)),
        [] => {
            let text = format!(
                "no job's id begins with '{text}', and none is called so; tidemill jobs lists all"
            );
            Err(Failure::new(exit::REFUSED, text))
        }
        several => {
            let ids: Vec<String> = several.iter().map(|job| id(job)).collect();
            let text = format!("'{text}' may be any of {}: give more of the id", ids.join(", "));
            Err(Failure::new(exit::REFUSED, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_found_by_what_is_unique() {
        let jobs = serde_json::json!([
            {"job_id": "aa11", "name": "words", "ended_at_ms": null},
            {"job_id": "aa22", "name": "words", "ended_at_ms": 5},
            {"job_id": "bb33", "name": "twice", "ended_at_ms": null},
            {"job_id": "bb44", "name": "twice", "ended_at_ms": null},
        ]);
        assert_eq!(choose("aa1", &jobs).expect("one"), "aa11");
        assert_eq!(choose("words", &jobs).expect("the one that runs"), "aa11");
        assert!(choose("aa", &jobs).expect_err("two").to_string().contains("aa11, aa22"));
        assert!(choose("twice", &jobs).expect_err("two").to_string().contains("bb33, bb44"));
        assert!(choose("nothing", &jobs).is_err());
    }
}
