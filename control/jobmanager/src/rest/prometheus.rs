//! `GET /metrics`: the JobManager's own numbers, and what workers said last, with the job's id and the
//! worker's number as labels.
//!
//! Invariants
//!   X1  A family's lines stand together, headed by HELP and TYPE once, whoever they come from.
//!   X2  What a worker says cannot end its labels or its lines: lines that are none are left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tidemill_coordination::JobStatus;

use super::{App, Shared};
use crate::refusal::Refusal;
use crate::service::Service;

const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn serve(State(app): Shared) -> Result<Response, Refusal> {
    let mut text = app.look(|s| Ok(own(s))).await?;
    text.push_str(&answers(&app));
    // Merging may take long where there are many workers: not in the service's task.
    let texts = app
        .look(|s| {
            let jobs = s.accepted_jobs().flat_map(|job| {
                let id = job.row().id.clone();
                job.metrics.iter().map(move |(&w, m)| (id.to_string(), w, m.text.clone()))
            });
            Ok(jobs.collect::<Vec<_>>())
        })
        .await?;
    let mut merged = Merged::default();
    for (job, worker, text) in &texts {
        merged.add(text, &format!("job_id=\"{job}\",worker=\"{worker}\""));
    }
    merged.write(&mut text);
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TYPE));
    Ok(response)
}

fn family(out: &mut String, name: &str, kind: &str, help: &str, lines: &[(String, f64)]) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in lines {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

fn own(service: &Service) -> String {
    let mut out = String::new();
    let one = |value: f64| vec![(String::new(), value)];
    let leads = f64::from(u8::from(service.is_leading()));
    let cluster = service.cluster_view();
    let p = "tidemill_jobmanager";
    family(
        &mut out,
        &format!("{p}_leader"),
        "gauge",
        "1 where this JobManager leads.",
        &one(leads),
    );
    let managers = one(cluster.active_task_managers as f64);
    family(&mut out, &format!("{p}_task_managers"), "gauge", "Connected TaskManagers.", &managers);
    let slots = vec![
        ("{state=\"free\"}".to_owned(), f64::from(cluster.available_slots)),
        ("{state=\"used\"}".to_owned(), f64::from(cluster.total_slots - cluster.available_slots)),
    ];
    family(&mut out, &format!("{p}_slots"), "gauge", "Slots of all TaskManagers.", &slots);
    let mut by_status: BTreeMap<String, f64> = BTreeMap::new();
    for job in service.accepted_jobs() {
        *by_status.entry(format!("{{status=\"{}\"}}", job.row().status)).or_default() += 1.0;
    }
    let jobs: Vec<_> = by_status.into_iter().collect();
    family(&mut out, &format!("{p}_jobs"), "gauge", "Jobs by status.", &jobs);
    let waiting = one(service.waiting_writes() as f64);
    let help = "Changes that wait for the metadata store.";
    family(&mut out, &format!("{p}_metadata_writes_waiting"), "gauge", help, &waiting);
    for_jobs(service, &mut out);
    out
}

/// Numbers of each job that is not over.
fn for_jobs(service: &Service, out: &mut String) {
    let live = || service.accepted_jobs().filter(|job| job.is_live());
    let labels = |job: &crate::service::Job| {
        format!("{{job=\"{}\",job_id=\"{}\"}}", escaped(&job.row().name), job.row().id)
    };
    let up =
        |job: &crate::service::Job| f64::from(u8::from(job.row().status == JobStatus::Running));
    let running: Vec<_> = live().map(|job| (labels(job), up(job))).collect();
    family(out, "tidemill_job_running", "gauge", "1 where records flow.", &running);
    let attempts: Vec<_> = live().map(|job| (labels(job), f64::from(job.row().attempt))).collect();
    family(out, "tidemill_job_attempt", "gauge", "Number of the job's attempt, from 0.", &attempts);
    let newest = |job: &crate::service::Job| {
        let latest = job.checkpoints_view().latest.completed?;
        let seconds = latest.duration_ms.unwrap_or(0) as f64 / 1e3;
        Some((latest.epoch as f64, (latest.size_bytes + latest.shared_bytes) as f64, seconds))
    };
    let latest: Vec<_> = live().filter_map(|job| Some((labels(job), newest(job)?))).collect();
    let pick = |f: fn(&(f64, f64, f64)) -> f64| -> Vec<(String, f64)> {
        latest.iter().map(|(labels, l)| (labels.clone(), f(l))).collect()
    };
    let c = "tidemill_job_checkpoint";
    family(out, &format!("{c}_epoch"), "gauge", "Newest complete checkpoint.", &pick(|l| l.0));
    family(out, &format!("{c}_bytes"), "gauge", "Its size.", &pick(|l| l.1));
    let help = "From its trigger to its commit point.";
    family(out, &format!("{c}_duration_seconds"), "gauge", help, &pick(|l| l.2));
}

fn answers(app: &App) -> String {
    let mut out = String::new();
    let counts = app.answers.iter().enumerate().skip(1);
    let lines: Vec<_> = counts
        .map(|(class, n)| (format!("{{status=\"{class}xx\"}}"), n.load(Ordering::Relaxed) as f64))
        .collect();
    let name = "tidemill_jobmanager_rest_answers_total";
    family(&mut out, name, "counter", "Answers of the REST interface.", &lines);
    out
}

fn escaped(value: &str) -> String {
    let plain = value.chars().filter(|c| !c.is_control()).collect::<String>();
    plain.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Families from several texts (X1).
#[derive(Debug, Default)]
struct Merged {
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
struct Family {
    head: String,
    samples: String,
}

impl Merged {
    fn add(&mut self, text: &str, labels: &str) {
        let mut name = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.split(' ');
                let (kind, Some(of)) = (words.next(), words.next()) else { continue };
                if !matches!(kind, Some("HELP" | "TYPE")) || !is_name(of) {
                    continue;
                }
                name = of.to_owned();
                let family = self.families.entry(name.clone()).or_default();
                if family.samples.is_empty() && !family.head.contains(line) {
                    family.head.push_str(line);
                    family.head.push('\n');
                }
            } else if let Some(sample) = labelled(line, labels)
                && line.starts_with(&name)
                && !name.is_empty()
            {
                let family = self.families.entry(name.clone()).or_default();
                family.samples.push_str(&sample);
            }
        }
    }

    fn write(&self, out: &mut String) {
        for family in self.families.values().filter(|f| !f.samples.is_empty()) {
            out.push_str(&family.head);
            out.push_str(&family.samples);
        }
    }
}

fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// A sample with more labels; `None` for what is no sample (X2).
fn labelled(line: &str, labels: &str) -> Option<String> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    if !is_name(name) {
        return None;
    }
    let (own, value) = match rest.strip_prefix('{') {
        Some(rest) => {
            let close = rest.rfind("} ")?;
            (&rest[..close], &rest[close + 2..])
        }
        None => ("", rest.strip_prefix(' ')?),
    };
    let number = value.split(' ').next()?;
    number.parse::<f64>().ok()?;
    let comma = if own.is_empty() { "" } else { "," };
    Some(format!("{name}{{{own}{comma}{labels}}} {value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_two_workers_become_one() {
        let text = |n: u32| {
            format!(
                "# HELP a_total what\n# TYPE a_total counter\na_total{{task=\"x}} y\"}} {n}\n\
                 # HELP h how long\n# TYPE h histogram\nh_bucket{{le=\"+Inf\"}} {n}\nh_sum {n}.5\n\
                 garbage\nother_family 3\n"
            )
        };
        let mut merged = Merged::default();
        merged.add(&text(1), "worker=\"0\"");
        merged.add(&text(2), "worker=\"1\"");
        let mut out = String::new();
        merged.write(&mut out);
        let expected = "# HELP a_total what\n# TYPE a_total counter\n\
            a_total{task=\"x} y\",worker=\"0\"} 1\na_total{task=\"x} y\",worker=\"1\"} 2\n\
            # HELP h how long\n# TYPE h histogram\n\
            h_bucket{le=\"+Inf\",worker=\"0\"} 1\nh_sum{worker=\"0\"} 1.5\n\
            h_bucket{le=\"+Inf\",worker=\"1\"} 2\nh_sum{worker=\"1\"} 2.5\n";
        assert_eq!(out, expected);
    }
}
