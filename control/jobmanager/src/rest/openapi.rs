//! The description of the interface, OpenAPI 3.1: every endpoint with its parameters, bodies and all
//! statuses that it can answer. Written by hand and kept true by a fuzzer (`scripts/fuzz-rest.sh`) and
//! by a test that compares it with the router.

use serde_json::{Map, Value, json};

use crate::config::Limits;

/// `GET /openapi.json`
pub(crate) fn document(limits: &Limits) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill JobManager",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Submit and watch stream processing jobs. Every error is {\"detail\": \"...\"}.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{}, { "token": [] }],
        "paths": paths(limits),
        "components": {
            "schemas": schemas(),
            "responses": responses(),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer",
                    "description": "Wanted where the JobManager was started with a token; GET / never wants it." },
            },
        },
    })
}

/// What an endpoint is.
struct Endpoint {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    /// Status and schema of the good answer.
    good: (u16, Value),
    /// Refusals beyond those that its path implies.
    refusals: &'static [u16],
    extra: Value,
}

fn get(path: &'static str, id: &'static str, summary: &'static str, schema: &str) -> Endpoint {
    let good = (200, reference(schema));
    Endpoint { method: "get", path, id, summary, good, refusals: &[], extra: json!({}) }
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn post(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    good: (u16, &str),
    refusals: &'static [u16],
) -> Endpoint {
    let good = (good.0, reference(good.1));
    Endpoint { method: "post", path, id, summary, good, refusals, extra: json!({}) }
}

fn endpoints(limits: &Limits) -> Vec<Endpoint> {
    let mut all = vec![
        get("/", "health", "Whether it is there, and leads.", "Health"),
        get("/openapi.json", "openapi", "This document.", "Document"),
        get("/cluster/metrics", "clusterMetrics", "Slots and jobs in numbers.", "Cluster"),
        get("/taskmanagers", "taskManagers", "All TaskManagers.", "TaskManagers"),
        get("/jobs", "jobs", "All jobs, the newest first.", "Jobs"),
    ];
    all.extend([metrics(), submit(limits)]);
    all.extend([
        get("/jobs/{id}", "job", "A job.", "JobDetail"),
        get("/jobs/{id}/status", "jobStatus", "The same as /jobs/{id}.", "JobDetail"),
        get("/jobs/{id}/plan", "jobPlan", "Its tasks and edges.", "Plan"),
        get("/jobs/{id}/metrics", "jobMetrics", "Its tasks in numbers.", "JobMetrics"),
        get("/jobs/{id}/checkpoints", "jobCheckpoints", "Its checkpoints.", "Checkpoints"),
        get("/jobs/{id}/exceptions", "jobExceptions", "Why its attempts failed.", "Exceptions"),
        logs(),
        get(
            "/jobs/{id}/savepoints/{trigger}",
            "savepointStatus",
            "A savepoint that was asked for.",
            "Savepoint",
        ),
        post(
            "/jobs/{id}/cancel",
            "cancel",
            "End it without a checkpoint.",
            (202, "Job"),
            &[403, 409],
        ),
        post(
            "/jobs/{id}/savepoint",
            "savepoint",
            "Take a savepoint.",
            (202, "Triggered"),
            &[403, 409],
        ),
        post(
            "/jobs/{id}/stop",
            "stop",
            "Take a savepoint, and end with it.",
            (202, "Triggered"),
            &[403, 409],
        ),
        rescale(limits),
    ]);
    all
}

fn metrics() -> Endpoint {
    let mut metrics = get("/metrics", "prometheus", "Everything, as Prometheus reads it.", "Text");
    metrics.extra = json!({ "media": "text/plain" });
    metrics
}

fn logs() -> Endpoint {
    let mut logs = get(
        "/jobs/{id}/logs",
        "jobLogs",
        "The end of its workers' output, from all TaskManagers.",
        "Logs",
    );
    logs.refusals = &[422];
    logs.extra = json!({ "parameters": [{
        "name": "bytes", "in": "query", "required": false,
        "description": "At most so many bytes from each TaskManager.",
        "schema": { "type": "integer", "minimum": 1, "maximum": 1_048_576, "default": 65_536 },
    }]});
    logs
}

fn submit(limits: &Limits) -> Endpoint {
    let summary = "Submit a job: its program, compiled for the cluster's machines.";
    let refusals = &[400, 403, 408, 413, 415, 422];
    let mut submit = post("/jobs/submit", "submit", summary, (201, "Submitted"), refusals);
    submit.extra = json!({ "requestBody": { "required": true, "content": { "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["job_file"],
            "additionalProperties": false,
            "properties": {
                "job_file": { "type": "string", "format": "binary", "description": "The program." },
                "args": { "type": "string", "description": "Its arguments: a JSON array of strings, or words as in a shell." },
                "parallelism": { "type": "integer", "minimum": 1, "maximum": limits.parallelism, "description": "Instead of what the program says." },
                "savepoint": { "type": "string", "description": "Start from it: a trigger id, or the place of a checkpoint (a path or s3://...)." },
                "allow_dropped_state": { "type": "boolean", "description": "Start although operators with state are gone." },
            },
        },
    }}}});
    submit
}

fn rescale(limits: &Limits) -> Endpoint {
    let summary = "Move it to another parallelism, from its newest checkpoint.";
    let refusals = &[400, 403, 408, 409, 413, 415, 422];
    let mut rescale = post("/jobs/{id}/rescale", "rescale", summary, (202, "Rescaling"), refusals);
    rescale.extra = json!({ "requestBody": { "required": true, "content": { "application/json": {
        "schema": {
            "type": "object",
            "required": ["parallelism"],
            "additionalProperties": false,
            "properties": { "parallelism": { "type": "integer", "minimum": 1, "maximum": limits.parallelism } },
        },
    }}}});
    rescale
}

fn paths(limits: &Limits) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints(limits) {
        let entry = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        entry[endpoint.method] = operation(&endpoint);
    }
    Value::Object(paths)
}

fn operation(endpoint: &Endpoint) -> Value {
    let (status, schema) = &endpoint.good;
    let media = endpoint.extra["media"].as_str().unwrap_or("application/json");
    let mut good =
        json!({ "description": endpoint.summary, "content": { media: { "schema": schema } } });
    if matches!(endpoint.id, "submit" | "savepoint" | "stop") {
        good["headers"] = json!({ "Location": {
            "description": "Where to look.", "schema": { "type": "string" },
        }});
    }
    let mut responses = json!({ status.to_string(): good });
    let public = endpoint.path == "/";
    let id = endpoint.path.contains("{id}");
    let always: &[u16] = if public { &[] } else { &[401, 503] };
    let unknown: &[u16] = if id { &[404] } else { &[] };
    for code in always.iter().chain(unknown).chain(endpoint.refusals) {
        let name = format!("#/components/responses/{code}");
        responses[code.to_string()] = json!({ "$ref": name });
    }
    let mut parameters: Vec<Value> = Vec::new();
    if id {
        parameters.push(path_parameter("id", 32, "The job."));
    }
    if endpoint.path.contains("{trigger}") {
        parameters.push(path_parameter(
            "trigger",
            16,
            "The trigger id that the request for it was answered with.",
        ));
    }
    parameters.extend(endpoint.extra["parameters"].as_array().into_iter().flatten().cloned());
    let mut operation = json!({
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "responses": responses,
    });
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if endpoint.extra.get("requestBody").is_some() {
        operation["requestBody"] = endpoint.extra["requestBody"].clone();
    }
    if public {
        operation["security"] = json!([{}]);
    }
    operation
}

fn path_parameter(name: &str, digits: u32, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": description,
        "schema": { "type": "string", "pattern": format!("^[0-9a-f]{{{digits}}}$") },
    })
}

fn responses() -> Value {
    let mut all = Map::new();
    let texts: [(u16, &str); 11] = [
        (400, "The request is damaged, or lacks a field."),
        (401, "The token is missing or wrong."),
        (403, "A web page asks, and there is no token."),
        (404, "There is no such thing."),
        (408, "The client was silent for too long."),
        (409, "The job's state does not allow it."),
        (413, "The body is too large."),
        (415, "The body's type is not the one wanted."),
        (422, "The body is readable, but what it says cannot be done."),
        (500, "A defect."),
        (
            503,
            "Too few free slots, a store that is away, or another JobManager leads; the same may succeed later.",
        ),
    ];
    for (code, text) in texts {
        let mut response = json!({
            "description": text,
            "content": { "application/json": { "schema": reference("Error") } },
        });
        if code == 401 {
            response["headers"] = json!({ "WWW-Authenticate": {
                "required": true, "schema": { "type": "string" },
            }});
        }
        all.insert(code.to_string(), response);
    }
    Value::Object(all)
}

/// A field's schema by a short word.
fn field(kind: &str) -> Value {
    match kind {
        "text" => json!({ "type": "string" }),
        "text?" => json!({ "type": ["string", "null"] }),
        "count" => json!({ "type": "integer", "minimum": 0 }),
        "count?" => json!({ "type": ["integer", "null"], "minimum": 0 }),
        "int?" => json!({ "type": ["integer", "null"] }),
        "time" => json!({ "type": "integer", "description": "Milliseconds since 1970." }),
        "time?" => {
            json!({ "type": ["integer", "null"], "description": "Milliseconds since 1970." })
        }
        "number" => json!({ "type": "number", "minimum": 0 }),
        "share" => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        "flag" => json!({ "type": "boolean" }),
        "texts" => json!({ "type": "array", "items": { "type": "string" } }),
        "job" => json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" }),
        other => match other.strip_prefix("[]") {
            Some(of) => json!({ "type": "array", "items": reference(of) }),
            None => match other.strip_suffix('?') {
                Some(of) => json!({ "anyOf": [reference(of), { "type": "null" }] }),
                None => reference(other),
            },
        },
    }
}

/// An object with exactly these fields.
fn object(fields: &[(&str, &str)]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|(name, kind)| ((*name).to_owned(), field(kind))).collect();
    let names: Vec<&str> = fields.iter().map(|f| f.0).collect();
    json!({ "type": "object", "required": names, "properties": properties, "additionalProperties": false })
}

const JOB: &[(&str, &str)] = &[
    ("job_id", "job"),
    ("name", "text"),
    ("status", "JobStatus"),
    ("submitted_at_ms", "time"),
    ("ended_at_ms", "time?"),
    ("parallelism", "count"),
    ("slots", "count"),
    ("attempt", "count"),
    ("cause", "text?"),
];

const RATES: &[(&str, &str)] = &[
    ("records_in", "count"),
    ("records_out", "count"),
    ("bytes_out", "count"),
    ("records_in_per_second", "number"),
    ("records_out_per_second", "number"),
    ("watermark_ms", "int?"),
    ("busy", "share"),
    ("backpressured", "share"),
];

fn schemas() -> Value {
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| {
        all.insert(name.to_owned(), schema);
    };
    add(
        "Error",
        json!({
            "type": "object", "required": ["detail"],
            "properties": {
                "detail": { "type": "string", "minLength": 1 },
                "slots_wanted": { "type": "integer", "description": "With 503: what the job wants." },
                "slots_free": { "type": "integer", "description": "With 503: what it could have." },
                "limit_bytes": { "type": "integer", "description": "With 413." },
                "leader": { "type": ["string", "null"], "description": "With 503: the leader's control port." },
            },
        }),
    );
    add(
        "JobStatus",
        json!({ "type": "string", "enum": [
            "SCHEDULING", "DEPLOYING", "RUNNING", "RESTARTING", "RESCALING", "CANCELLING",
            "FINISHED", "STOPPED", "CANCELLED", "FAILED",
        ]}),
    );
    add(
        "Health",
        object(&[("name", "text"), ("version", "text"), ("status", "text"), ("role", "text")]),
    );
    add("Document", json!({ "type": "object", "required": ["openapi", "info", "paths"] }));
    add("Text", json!({ "type": "string" }));
    add(
        "Plan",
        json!({
            "type": "object",
            "required": ["job", "parallelism", "max_parallelism", "tasks", "edges"],
            "properties": { "tasks": { "type": "array" }, "edges": { "type": "array" } },
        }),
    );
    for (name, schema) in
        cluster_schemas().into_iter().chain(job_schemas()).chain(checkpoint_schemas())
    {
        add(name, schema);
    }
    Value::Object(all)
}

fn cluster_schemas() -> Vec<(&'static str, Value)> {
    vec![
        (
            "Cluster",
            object(&[
                ("total_task_managers", "count"),
                ("active_task_managers", "count"),
                ("total_slots", "count"),
                ("available_slots", "count"),
                ("utilization", "share"),
                ("total_jobs", "count"),
                ("running_jobs", "count"),
            ]),
        ),
        ("TaskManagers", object(&[("task_managers", "[]TaskManager")])),
        (
            "TaskManager",
            object(&[
                ("id", "job"),
                ("host", "text"),
                ("address", "text"),
                ("status", "text"),
                ("slots_total", "count"),
                ("slots_free", "count"),
                ("release", "text"),
                ("memory_limit_bytes", "count"),
                ("memory_used_bytes", "count"),
                ("registered_at_ms", "time"),
                ("heard_ms_ago", "count"),
                ("jobs", "texts"),
            ]),
        ),
        ("Logs", object(&[("logs", "[]LogPart")])),
        ("LogPart", object(&[("task_manager", "job"), ("host", "text"), ("text", "text")])),
    ]
}

fn job_schemas() -> Vec<(&'static str, Value)> {
    let more: &[(&str, &str)] = &[
        ("artifact", "text"),
        ("args", "texts"),
        ("restored_from", "text?"),
        ("history", "[]StatusChange"),
        ("workers", "[]Worker"),
        ("records_read", "count"),
        ("watermark_ms", "int?"),
        ("checkpoints_completed", "count"),
        ("latest_checkpoint", "count?"),
    ];
    let task: &[(&str, &str)] =
        &[("task", "count"), ("name", "text"), ("source", "flag"), ("subtasks", "[]Subtask")];
    vec![
        ("Jobs", object(&[("jobs", "[]Job")])),
        ("Job", object(JOB)),
        ("JobDetail", object(&[JOB, more].concat())),
        ("StatusChange", object(&[("status", "JobStatus"), ("at_ms", "time")])),
        (
            "Worker",
            object(&[
                ("worker", "count"),
                ("task_manager", "job"),
                ("host", "text?"),
                ("slots", "count"),
                ("connected", "flag"),
            ]),
        ),
        (
            "Submitted",
            object(&[
                ("job_id", "job"),
                ("name", "text"),
                ("slots", "count"),
                ("status", "JobStatus"),
            ]),
        ),
        ("Rescaling", object(&[("job_id", "job"), ("parallelism", "count"), ("slots", "count")])),
        ("Exceptions", object(&[("exceptions", "[]Exception")])),
        (
            "Exception",
            object(&[
                ("at_ms", "time"),
                ("attempt", "count"),
                ("task", "text?"),
                ("host", "text?"),
                ("message", "text"),
            ]),
        ),
        (
            "JobMetrics",
            object(&[
                ("job_id", "job"),
                ("status", "JobStatus"),
                ("attempt", "count"),
                ("tasks", "[]Task"),
                ("checkpoints", "Counts"),
                ("latest_checkpoint", "Checkpoint?"),
            ]),
        ),
        ("Task", object(&[task, RATES].concat())),
        ("Subtask", object(&[&[("subtask", "count"), ("worker", "count")], RATES].concat())),
    ]
}

fn checkpoint_schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("Triggered", object(&[("trigger_id", "text"), ("status", "SavepointStatus")])),
        (
            "SavepointStatus",
            json!({ "type": "string", "enum": ["IN_PROGRESS", "COMPLETED", "FAILED"] }),
        ),
        (
            "Savepoint",
            object(&[
                ("trigger_id", "text"),
                ("status", "SavepointStatus"),
                ("stop", "flag"),
                ("requested_at_ms", "time"),
                ("epoch", "count?"),
                ("location", "text?"),
                ("reason", "text?"),
            ]),
        ),
        (
            "Checkpoints",
            object(&[("counts", "Counts"), ("latest", "Latest"), ("history", "[]Checkpoint")]),
        ),
        (
            "Counts",
            object(&[
                ("in_progress", "count"),
                ("completed", "count"),
                ("failed", "count"),
                ("damaged", "count"),
                ("expired", "count"),
            ]),
        ),
        (
            "Latest",
            object(&[
                ("completed", "Checkpoint?"),
                ("savepoint", "Checkpoint?"),
                ("failed", "Checkpoint?"),
            ]),
        ),
        (
            "CheckpointStatus",
            json!({ "type": "string", "enum": [
                "IN_PROGRESS", "COMPLETED", "FAILED", "DAMAGED", "EXPIRED",
            ]}),
        ),
        (
            "Checkpoint",
            object(&[
                ("epoch", "count"),
                ("status", "CheckpointStatus"),
                ("savepoint", "flag"),
                ("triggered_at_ms", "time"),
                ("duration_ms", "count?"),
                ("size_bytes", "count"),
                ("shared_bytes", "count"),
                ("records", "count"),
                ("location", "text?"),
                ("reason", "text?"),
            ]),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The routes as rest.rs has them.
    fn routed() -> BTreeSet<(String, String)> {
        let source = include_str!("../rest.rs");
        let lines = source.lines().filter_map(|l| l.trim().strip_prefix(".route(\""));
        let route = |line: &str| {
            let (path, rest) = line.split_once("\", ").expect("a path");
            let method = rest.split('(').next().expect("a method").to_owned();
            (method, path.to_owned())
        };
        lines.map(route).collect()
    }

    #[test]
    fn the_document_has_the_router_s_endpoints_and_no_others() {
        let described: BTreeSet<_> = endpoints(&Limits::default())
            .iter()
            .map(|e| (e.method.to_owned(), e.path.to_owned()))
            .collect();
        assert!(described.len() > 15);
        assert_eq!(described, routed());
    }

    /// Every reference leads somewhere.
    #[test]
    fn references_hold() {
        fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => map.iter().for_each(|(key, v)| match (key.as_str(), v) {
                    ("$ref", Value::String(to)) => found.push(to),
                    _ => walk(v, found),
                }),
                Value::Array(all) => all.iter().for_each(|v| walk(v, found)),
                _ => {}
            }
        }
        let document = document(&Limits::default());
        let mut found = Vec::new();
        walk(&document, &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for to in found {
            assert!(document.pointer(&to[1..]).is_some(), "{to}");
        }
    }
}
