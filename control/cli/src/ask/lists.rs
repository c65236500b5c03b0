//! Commands that only look.

use std::process::ExitCode;

use serde_json::Value;
use tidemill_plan::PhysicalPlan;

use super::Asker;
use crate::exit::Failure;
use crate::show::{self, bytes, count, duration, facts, field, table, time};

fn list<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    answer[name].as_array().into_iter().flatten()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub(super) async fn jobs(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let answer = asker.client.get("/jobs").await?;
    asker.show(&answer, |answer| {
        let head = ["JOB", "NAME", "STATUS", "SLOTS", "ATTEMPT", "SUBMITTED", "ENDED"];
        let rows: Vec<Vec<String>> = list(answer, "jobs")
            .map(|job| {
                vec![
                    field(&job["job_id"]),
                    field(&job["name"]),
                    field(&job["status"]),
                    field(&job["slots"]),
                    field(&job["attempt"]),
                    time(&job["submitted_at_ms"]),
                    time(&job["ended_at_ms"]),
                ]
            })
            .collect();
        table(&head, &rows)
    })
}

pub(super) async fn status(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let job = asker.job().await?;
    let answer = asker.client.get(&format!("/jobs/{job}")).await?;
    asker.show(&answer, status_text)
}

fn status_text(job: &Value) -> String {
    let args: Vec<String> = list(job, "args").map(field).collect();
    let history: Vec<String> = list(job, "history")
        .map(|h| format!("{}  {}", time(&h["at_ms"]), field(&h["status"])))
        .collect();
    let workers: Vec<String> = list(job, "workers")
        .map(|w| {
            let connected = if w["connected"] == true { "" } else { ", not connected" };
            let (host, manager) = (field(&w["host"]), field(&w["task_manager"]));
            let manager = manager.get(..8).unwrap_or(&manager);
            format!(
                "{}: {} slots on {host} (TaskManager {manager}){connected}",
                w["worker"], w["slots"]
            )
        })
        .collect();
    let mut all = vec![
        ("job", field(&job["job_id"])),
        ("name", field(&job["name"])),
        ("status", field(&job["status"])),
        ("parallelism", field(&job["parallelism"])),
        ("slots", field(&job["slots"])),
        ("attempt", field(&job["attempt"])),
        ("arguments", args.join(" ")),
        ("records read", count(number(&job["records_read"]))),
        ("watermark", event_time(&job["watermark_ms"])),
        ("checkpoints", field(&job["checkpoints_completed"])),
        ("latest checkpoint", field(&job["latest_checkpoint"])),
        ("restored from", field(&job["restored_from"])),
        ("workers", workers.join("\n")),
        ("history", history.join("\n")),
    ];
    if !job["cause"].is_null() {
        all.push(("cause", field(&job["cause"])));
    }
    facts(&all)
}

/// An event time: a job's own, which need not be a date.
pub(super) fn event_time(ms: &Value) -> String {
    // Before 2001 it is hardly one.
    match ms.as_i64() {
        Some(ms) if ms < 978_307_200_000 => format!("{ms} ms"),
        Some(_) => time(ms),
        None => "-".into(),
    }
}

pub(super) async fn checkpoints(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let job = asker.job().await?;
    let answer = asker.client.get(&format!("/jobs/{job}/checkpoints")).await?;
    asker.show(&answer, |answer| {
        let head = ["EPOCH", "STATUS", "KIND", "TRIGGERED", "TOOK", "SIZE", "RECORDS", "PLACE"];
        let row = |c: &Value| {
            let place = if c["location"].is_null() { &c["reason"] } else { &c["location"] };
            let took = c["duration_ms"].as_u64().map_or("-".into(), duration);
            let kind = if c["savepoint"] == true { "savepoint" } else { "checkpoint" };
            vec![
                field(&c["epoch"]),
                field(&c["status"]),
                kind.into(),
                time(&c["triggered_at_ms"]),
                took,
                bytes(number(&c["size_bytes"]) + number(&c["shared_bytes"])),
                count(number(&c["records"])),
                field(place),
            ]
        };
        table(&head, &list(answer, "history").map(row).collect::<Vec<_>>())
    })
}

pub(super) async fn exceptions(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let job = asker.job().await?;
    let answer = asker.client.get(&format!("/jobs/{job}/exceptions")).await?;
    asker.show(&answer, |answer| {
        let entry = |e: &Value| {
            let of = |name: &str, value: &Value| match value {
                Value::Null => String::new(),
                value => format!(", {name} {}", field(value)),
            };
            let place = of("", &e["task"]).replacen(",  ", ", ", 1) + &of("on", &e["host"]);
            let message = field(&e["message"]).trim_end().replace('\n', "\n  ");
            format!("{}  attempt {}{place}\n  {message}\n", time(&e["at_ms"]), e["attempt"])
        };
        let all: Vec<String> = list(answer, "exceptions").map(entry).collect();
        if all.is_empty() { "no attempt has failed".into() } else { all.join("\n") }
    })
}

pub(super) async fn logs(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let job = asker.job().await?;
    let limit = asker.matches.get_one::<u64>("bytes").copied().unwrap_or(65_536);
    let answer = asker.client.get(&format!("/jobs/{job}/logs?bytes={limit}")).await?;
    asker.show(&answer, |answer| {
        let mut text = String::new();
        for part in list(answer, "logs") {
            text.push_str(&format!("==> {}\n", log_source(part)));
            let said = part["text"].as_str().or(part["error"].as_str()).unwrap_or("");
            text.push_str(said);
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        if text.is_empty() { "no TaskManager has a log of it".into() } else { text }
    })
}

fn log_source(part: &Value) -> String {
    let id = field(&part["task_manager"]);
    format!("TaskManager {} on {}", id.get(..8).unwrap_or(&id), field(&part["host"]))
}

pub(super) async fn metrics(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let job = asker.job().await?;
    let answer = asker.client.get(&format!("/jobs/{job}/metrics")).await?;
    asker.show(&answer, |answer| {
        let head =
            ["TASK", "NAME", "IN", "IN/S", "OUT", "OUT/S", "WATERMARK", "BUSY", "BACKPRESSURED"];
        let share = |v: &Value| format!("{:.0}%", v.as_f64().unwrap_or(0.0) * 100.0);
        let rate = |v: &Value| count(v.as_f64().unwrap_or(0.0).round().max(0.0) as u64);
        let row = |t: &Value| {
            vec![
                field(&t["task"]),
                field(&t["name"]),
                count(number(&t["records_in"])),
                rate(&t["records_in_per_second"]),
                count(number(&t["records_out"])),
                rate(&t["records_out_per_second"]),
                event_time(&t["watermark_ms"]),
                share(&t["busy"]),
                share(&t["backpressured"]),
            ]
        };
        table(&head, &list(answer, "tasks").map(row).collect::<Vec<_>>())
    })
}

pub(super) async fn plan(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let job = asker.job().await?;
    let answer = asker.client.get(&format!("/jobs/{job}/plan")).await?;
    let format = asker.matches.get_one::<String>("format").map_or("text", String::as_str);
    if format == "json" || asker.wants_json() {
        return show::json(&answer);
    }
    let plan: PhysicalPlan = serde_json::from_value(answer).map_err(|e| {
        Failure::here(format!("the plan is of another version of tidemill: {e}; use --format json"))
    })?;
    match format {
        "mermaid" => show::out(&plan.to_mermaid()),
        "dot" => show::out(&plan.to_dot()),
        _ => show::out(&plan_text(&plan)),
    }
}

fn plan_text(plan: &PhysicalPlan) -> String {
    let rows: Vec<Vec<String>> = plan
        .tasks()
        .iter()
        .map(|task| {
            let inputs = plan.inputs_of(task.id).map(|edge| {
                format!(
                    "task {} by {}",
                    edge.from.0,
                    format!("{:?}", edge.partitioning).to_lowercase()
                )
            });
            let inputs: Vec<String> = inputs.collect();
            let inputs = if inputs.is_empty() { "-".into() } else { inputs.join(", ") };
            vec![task.id.0.to_string(), task.name.clone(), task.parallelism.to_string(), inputs]
        })
        .collect();
    let (job, slots, groups) = (plan.job(), plan.slots(), plan.max_parallelism());
    let head = ["TASK", "NAME", "PARALLELISM", "READS"];
    format!("{job}: {slots} slots, {groups} key groups\n\n{}", table(&head, &rows))
}

pub(super) async fn task_managers(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let answer = asker.client.get("/taskmanagers").await?;
    asker.show(&answer, |answer| {
        let head = [
            "TASKMANAGER",
            "HOST",
            "ADDRESS",
            "STATUS",
            "SLOTS",
            "FREE",
            "MEMORY",
            "JOBS",
            "HEARD",
        ];
        let row = |t: &Value| {
            let memory = |name: &str| bytes(number(&t[name]));
            let (used, limit) = (memory("memory_used_bytes"), memory("memory_limit_bytes"));
            vec![
                field(&t["id"]),
                field(&t["host"]),
                field(&t["address"]),
                field(&t["status"]),
                field(&t["slots_total"]),
                field(&t["slots_free"]),
                format!("{used} of {limit}"),
                list(t, "jobs").count().to_string(),
                format!("{} ago", duration(number(&t["heard_ms_ago"]))),
            ]
        };
        table(&head, &list(answer, "task_managers").map(row).collect::<Vec<_>>())
    })
}

pub(super) async fn cluster(asker: &Asker<'_>) -> Result<ExitCode, Failure> {
    let answer = asker.client.get("/cluster/metrics").await?;
    asker.show(&answer, |a| {
        let of =
            |part: &str, all: &str, what: &str| format!("{} {what}, {} in all", a[part], a[all]);
        facts(&[
            ("TaskManagers", of("active_task_managers", "total_task_managers", "connected")),
            ("slots", of("available_slots", "total_slots", "free")),
            ("jobs", of("running_jobs", "total_jobs", "running")),
        ])
    })
}
