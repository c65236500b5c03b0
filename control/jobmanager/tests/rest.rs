//! The REST interface against a JobManager with fake TaskManagers: every endpoint, every bad input.

mod common;

use common::http::{all_of, raw};
use common::{
    Behaviour, Cluster, elf, multipart, program, submission, task_managers, with_task_managers,
};
use std::sync::Arc;
use std::time::Duration;
use tidemill_protocol::{PlanError, PlanErrorKind};

type Fields<'a> = &'a [(&'a str, &'a [u8])];

const NO_JOB: &str = "00000000000000000000000000000000";

#[tokio::test]
async fn an_idle_cluster_of_three_is_described_byte_by_byte() {
    let (cluster, _managers) = with_task_managers(3).await;
    let answer = cluster.get("/cluster/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.text(),
        r#"{"total_task_managers":3,"active_task_managers":3,"total_slots":12,"available_slots":12,"utilization":0.0,"total_jobs":0,"running_jobs":0}"#
    );
}

#[tokio::test]
async fn what_there_is_of_a_running_job() {
    let (cluster, managers) = with_task_managers(2).await;
    let id = cluster.run(&[("args", b"--input 'a b'"), ("parallelism", b"6")]).await;
    let job = cluster.until_status(&id, "RUNNING").await;
    assert_eq!((job["slots"].as_u64(), job["workers"].as_array().unwrap().len()), (Some(6), 2));
    assert_eq!(job["args"], serde_json::json!(["--input", "a b"]));
    let start = &managers[0].starts()[0];
    assert_eq!(
        (&start.args[..], start.parallelism),
        (&["--input".into(), "a b".into()][..], Some(6))
    );
    for path in ["", "/status"] {
        assert_eq!(cluster.get(&format!("/jobs/{id}{path}")).await.json()["job_id"], id);
    }
    assert_eq!(cluster.get("/jobs").await.json()["jobs"][0]["name"], "a job");
    let plan = cluster.get(&format!("/jobs/{id}/plan")).await.json();
    assert_eq!(
        (plan["parallelism"].as_u64(), plan["tasks"].as_array().unwrap().len()),
        (Some(6), 2)
    );
    cluster
        .until("its metrics are there", |c| {
            let path = format!("/jobs/{id}/metrics");
            async move {
                c.get(&path).await.json()["tasks"][1]["subtasks"]
                    .as_array()
                    .is_some_and(|s| s.len() == 6)
            }
        })
        .await;
    let metrics = cluster.get(&format!("/jobs/{id}/metrics")).await.json();
    assert_eq!(metrics["tasks"][0]["records_in"], 60);
    assert_eq!(metrics["tasks"][0]["watermark_ms"], 40);
    let text = cluster.get("/metrics").await;
    assert!(text.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let sample = format!("a_total{{job=\"a job\",job_id=\"{id}\",worker=");
    assert_eq!(text.text().matches(&sample).count(), 2, "{}", text.text());
    assert_eq!(text.text().matches("# TYPE a_total counter").count(), 1);
    assert!(text.text().contains("tidemill_jobmanager_slots{state=\"used\"} 6"), "{}", text.text());
    let logs = cluster.get(&format!("/jobs/{id}/logs?bytes=100")).await.json();
    assert_eq!(logs["logs"].as_array().unwrap().len(), 2);
    assert!(logs["logs"][0]["text"].as_str().unwrap().contains(&id));
    let managers = cluster.get("/taskmanagers").await.json();
    assert_eq!(managers["task_managers"][0]["jobs"][0], id);
    assert_eq!(cluster.get("/cluster/metrics").await.json()["utilization"], 0.5 * 1.5);
}

#[tokio::test]
async fn cancelling_ends_a_job_and_frees_its_slots() {
    let (cluster, managers) = with_task_managers(1).await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    assert_eq!(cluster.post(&format!("/jobs/{id}/cancel")).await.status, 202);
    let job = cluster.until_status(&id, "CANCELLED").await;
    assert!(job["ended_at_ms"].as_i64() >= job["submitted_at_ms"].as_i64());
    cluster
        .until("all slots are free", |c| async move {
            c.get("/cluster/metrics").await.json()["available_slots"] == 4
        })
        .await;
    assert!(managers[0].workers().is_empty());
    for path in ["cancel", "savepoint", "stop"] {
        let detail = cluster.post(&format!("/jobs/{id}/{path}")).await.refused(409);
        assert!(detail.contains("CANCELLED"), "{detail}");
    }
    let rescale = cluster.post_json(&format!("/jobs/{id}/rescale"), r#"{"parallelism":1}"#).await;
    rescale.refused(409);
}

#[tokio::test]
async fn a_job_that_wants_more_slots_than_there_are_is_refused() {
    let cluster = Cluster::start().await;
    let nobody = cluster.submit(&[("job_file", &program("x")), ("parallelism", b"3")]).await;
    assert_eq!(nobody.refused(503), "No available TaskManagers for scheduling");
    assert_eq!(
        (&nobody.json()["slots_wanted"], &nobody.json()["slots_free"]),
        (&3.into(), &0.into())
    );
    let _managers = task_managers(&cluster, 1, Behaviour::default());
    cluster
        .until("it registered", |c| async move {
            c.get("/cluster/metrics").await.json()["total_slots"] == 4
        })
        .await;
    let first = cluster.run(&[("parallelism", b"3")]).await;
    let second = cluster.submit(&[("job_file", &program("y")), ("parallelism", b"2")]).await;
    assert_eq!(second.refused(503), "No available TaskManagers for scheduling");
    assert_eq!(second.json()["slots_free"], 1);
    cluster.until_status(&first, "RUNNING").await;
    assert_eq!(cluster.get("/jobs").await.json()["jobs"].as_array().unwrap().len(), 1);
    cluster
        .until("only the first program is kept", |c| async move { c.artifacts().await == 1 })
        .await;
    cluster.assert_no_upload();
}

#[tokio::test]
async fn files_that_are_no_jobs_are_refused_and_gone() {
    let (cluster, _managers) = with_task_managers(1).await;
    let marker = tidemill_protocol::program_marker!("0.1.0");
    let foreign = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    let native = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let cases: [(Vec<u8>, &str); 6] = [
        (b"#!/bin/sh\necho no\n".to_vec(), "not an ELF program"),
        (vec![0; 100_000], "not an ELF program"),
        (Vec::new(), "empty"),
        (elf(foreign, marker), "this cluster runs"),
        (elf(native, "nothing"), "not a Tidemill program"),
        (elf(native, &marker.replace("protocol=1", "protocol=99")), "protocol 99"),
    ];
    for (file, expected) in cases {
        let detail = cluster.submit(&[("job_file", &file)]).await.refused(422);
        assert!(detail.contains(expected), "{detail}");
    }
    cluster.assert_no_upload();
    assert_eq!(cluster.artifacts().await, 0);
    assert_eq!(cluster.get("/jobs").await.json()["jobs"], serde_json::json!([]));
}

#[tokio::test]
async fn forms_that_are_none() {
    let (cluster, _managers) = with_task_managers(1).await;
    let file = program("x");
    let cases: [(Fields<'_>, u16, &str); 11] = [
        (&[], 400, "job_file is missing"),
        (&[("parallelism", b"2")], 400, "job_file is missing"),
        (&[("job_file", &file), ("job_file", &file)], 400, "twice"),
        (&[("job_file", &file), ("jobfile", b"")], 400, "'jobfile' is not known"),
        (&[("job_file", &file), ("parallelism", b"0")], 422, "from 1 to"),
        (&[("job_file", &file), ("parallelism", b"-1")], 422, "parallelism is '-1'"),
        (&[("job_file", &file), ("parallelism", b"99999999999")], 422, "parallelism"),
        (&[("job_file", &file), ("allow_dropped_state", b"maybe")], 422, "true or false"),
        (&[("job_file", &file), ("args", b"'open")], 422, "not closed"),
        (&[("job_file", &file), ("args", b"\xff\xfe")], 422, "UTF-8"),
        (&[("job_file", &file), ("args", &[b'a'; 200_000])], 413, "'args' has more than"),
    ];
    for (fields, status, expected) in cases {
        let detail = cluster.submit(fields).await.refused(status);
        assert!(detail.contains(expected), "{detail}");
    }
    for (kind, status) in
        [("text/plain", 415), ("application/json", 415), ("", 415), ("multipart/form-data", 400)]
    {
        cluster
            .send("POST", "/jobs/submit", &[("Content-Type", kind)], b"abc")
            .await
            .refused(status);
    }
    cluster.until("nothing is left", |c| async move { c.artifacts().await == 0 }).await;
    cluster.assert_no_upload();
}

#[tokio::test]
async fn a_body_cut_short_leaves_nothing() {
    let (cluster, _managers) = with_task_managers(1).await;
    let (kind, body) = multipart(&[("job_file", &program("x")), ("parallelism", b"2")]);
    for cut in [0, 10, 90, 200, body.len() / 2, body.len() - 60, body.len() - 5] {
        // Cut by its own length, as a client that is done too early.
        let answer =
            cluster.send("POST", "/jobs/submit", &[("Content-Type", &kind)], &body[..cut]).await;
        answer.refused(400);
        // Cut by the connection's end.
        let head = format!(
            "POST /jobs/submit HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let bytes = [head.as_bytes(), &body[..cut]].concat();
        let mut stream =
            tokio::net::TcpStream::connect(cluster.manager.rest_address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
        drop(stream);
    }
    cluster
        .until("nothing is left", |c| async move {
            c.artifacts().await == 0
                && std::fs::read_dir(c.dir.path().join("uploads")).unwrap().count() == 0
        })
        .await;
    assert_eq!(cluster.get("/jobs").await.json()["jobs"], serde_json::json!([]));
}

#[tokio::test]
async fn a_program_beyond_the_limit_is_refused_whether_announced_or_not() {
    let cluster = Cluster::with(|c| c.limits.artifact_bytes = 10_000).await;
    let mut file = program("x");
    file.resize(20_000, 0);
    let answer = cluster.submit(&[("job_file", &file)]).await;
    assert!(answer.refused(413).contains("10000 bytes"));
    assert_eq!(answer.json()["limit_bytes"], 10_000);
    let announced = format!(
        "POST /jobs/submit HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n\r\n",
        3u64 << 30
    );
    raw(cluster.manager.rest_address(), announced.as_bytes(), false).await.refused(413);
    cluster.assert_no_upload();
}

#[tokio::test]
async fn plans_that_fail_are_the_user_s_to_mend() {
    let cluster = Cluster::with(|c| c.limits.plan_timeout = Duration::from_secs(7)).await;
    let says = |kind, message: &str| Some(Err(PlanError { kind, message: message.to_owned() }));
    let behaviour =
        Behaviour::planning(move |request| match request.args.first().map(String::as_str) {
            Some("program") => says(PlanErrorKind::Program, "no such input: x"),
            Some("panic") => says(PlanErrorKind::Crashed, "thread 'main' panicked"),
            Some("hang") => says(PlanErrorKind::TimedOut, ""),
            Some("garbage") => says(PlanErrorKind::Unreadable, "hello"),
            Some("agent") => says(PlanErrorKind::Agent, "Exec format error"),
            Some("old") => {
                let mut old = submission(1, None);
                old.protocol = 9;
                Some(Ok(old))
            }
            _ => Some(Ok(submission(request.parallelism.unwrap_or(2), None))),
        });
    let _managers = task_managers(&cluster, 1, behaviour);
    cluster
        .until("it registered", |c| async move {
            c.get("/cluster/metrics").await.json()["total_slots"] == 4
        })
        .await;
    let cases = [
        ("program", "no such input: x"),
        ("panic", "crashed"),
        ("hang", "did not finish within 7 s"),
        ("garbage", "cannot be read"),
        ("agent", "Exec format error"),
        ("old", "protocol 9"),
    ];
    for (args, expected) in cases {
        let fields: [(&str, &[u8]); 2] = [("job_file", &program(args)), ("args", args.as_bytes())];
        let detail = cluster.submit(&fields).await.refused(422);
        assert!(detail.contains(expected), "{detail}");
    }
    cluster.until("nothing is left", |c| async move { c.artifacts().await == 0 }).await;
    cluster.assert_no_upload();
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_served() {
    let (cluster, _managers) = with_task_managers(1).await;
    for path in ["/nothing", "/jobs/", "/jobs/x/y/z", "/favicon.ico"] {
        cluster.get(path).await.refused(404);
    }
    for end in [
        "",
        "/status",
        "/plan",
        "/metrics",
        "/checkpoints",
        "/exceptions",
        "/logs",
        "/savepoints/0000000000000000",
    ] {
        for id in [NO_JOB, "x", "..%2f..%2fetc", "%ff"] {
            let answer = cluster.get(&format!("/jobs/{id}{end}")).await;
            let expected = if id == "%ff" { 400 } else { 404 };
            answer.refused(expected);
        }
    }
    for end in ["cancel", "savepoint", "stop"] {
        cluster.post(&format!("/jobs/{NO_JOB}/{end}")).await.refused(404);
    }
    cluster
        .post_json(&format!("/jobs/{NO_JOB}/rescale"), r#"{"parallelism":2}"#)
        .await
        .refused(404);
    for (method, path, allow) in [
        ("DELETE", "/jobs", "GET"),
        ("GET", "/jobs/submit", "POST"),
        ("PUT", "/", "GET"),
        ("POST", "/metrics", "GET"),
        ("GET", &format!("/jobs/{NO_JOB}/cancel"), "POST"),
    ] {
        let answer = cluster.send(method, path, &[], b"").await;
        if (method, path) == ("GET", "/jobs/submit") {
            // It could be a job's id, and is none.
            answer.refused(405);
            continue;
        }
        answer.refused(405);
        assert!(
            answer.header("allow").is_some_and(|a| a.contains(allow)),
            "{method} {path}: {:?}",
            answer.headers
        );
    }
}

#[tokio::test]
async fn rescaling_wants_a_sound_body() {
    let (cluster, _managers) = with_task_managers(1).await;
    let id = cluster.run(&[]).await;
    cluster.until_status(&id, "RUNNING").await;
    let path = format!("/jobs/{id}/rescale");
    cluster.post(&path).await.refused(415);
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("[]", 422),
        ("{}", 422),
        (r#"{"parallelism":"2"}"#, 422),
        (r#"{"parallelism":0}"#, 422),
        (r#"{"parallelism":1,"more":1}"#, 422),
        (r#"{"parallelism":4000000000}"#, 422),
    ] {
        cluster.post_json(&path, body).await.refused(status);
    }
    cluster.post_json(&path, &" ".repeat(100_000)).await.refused(413);
    let answer = cluster.post_json(&path, r#"{"parallelism":5}"#).await;
    answer.refused(503);
    assert_eq!(
        (&answer.json()["slots_wanted"], &answer.json()["slots_free"]),
        (&5.into(), &4.into())
    );
}

#[tokio::test]
async fn a_token_is_wanted_where_there_is_one() {
    let mut cluster = Cluster::with(|c| c.token = Some("s3cret".into())).await;
    cluster.token = None;
    assert_eq!(cluster.get("/").await.status, 200);
    for headers in [
        &[][..],
        &[("Authorization", "Bearer wrong")],
        &[("Authorization", "s3cret")],
        &[("Authorization", "Basic s3cret")],
    ] {
        for path in ["/jobs", "/metrics", "/openapi.json", "/nothing"] {
            let answer = cluster.send("GET", path, headers, b"").await;
            answer.refused(401);
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
    }
    for given in ["Bearer s3cret", "bearer  s3cret "] {
        assert_eq!(
            cluster.send("GET", "/jobs", &[("Authorization", given)], b"").await.status,
            200
        );
    }
}

#[tokio::test]
async fn web_pages_may_look_but_not_touch() {
    let (cluster, _managers) = with_task_managers(1).await;
    let origin = [("Origin", "https://evil.example")];
    assert_eq!(cluster.send("GET", "/jobs", &origin, b"").await.status, 200);
    cluster.send("POST", "/jobs/submit", &origin, b"").await.refused(403);
    cluster.send("POST", &format!("/jobs/{NO_JOB}/cancel"), &origin, b"").await.refused(403);
}

#[tokio::test]
async fn silent_clients_are_given_up() {
    let cluster = Cluster::with(|c| {
        c.limits.client_silence = Duration::from_millis(300);
        c.limits.rest_connections = 3;
    })
    .await;
    // More than are served, saying nothing, or half a head: the next client is served all the same.
    let mut silent = Vec::new();
    for said in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\nX-A: ", ""] {
        let mut stream =
            tokio::net::TcpStream::connect(cluster.manager.rest_address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, said.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    assert_eq!(cluster.get("/").await.status, 200);
    // A body that stops.
    let head = "POST /jobs/submit HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n";
    raw(cluster.manager.rest_address(), head.as_bytes(), false).await.refused(408);
}

#[tokio::test]
async fn the_description_is_served() {
    let cluster = Cluster::start().await;
    let document = cluster.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/jobs/submit"]["post"]["responses"]["503"].is_object());
}

#[tokio::test]
async fn an_address_that_others_reach_wants_a_token() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut config =
        tidemill_jobmanager::JobManagerConfig::new(dir.path().to_owned(), common::secret());
    config.bind = "0.0.0.0".parse().unwrap();
    let stores = tidemill_jobmanager::Stores {
        metadata: Arc::new(tidemill_jobmanager::metadata::MemoryMetadata::default()),
        artifacts: Arc::new(tidemill_jobmanager::metadata::MemoryArtifacts::default()),
        snapshots: Arc::new(tidemill_jobmanager::open_store),
    };
    let error =
        tidemill_jobmanager::JobManager::start(config, stores).await.unwrap_err().to_string();
    assert!(error.contains("security.token_file"), "{error}");
}

/// What hyper refuses by itself, before there is a request.
#[tokio::test]
async fn what_is_no_http_is_refused_like_everything_else() {
    let cluster = Cluster::start().await;
    let address = cluster.manager.rest_address();
    let long = "x".repeat(1_000_000);
    let many = "a: b\r\n".repeat(1_000);
    for (bytes, status, part) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "HTTP"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400, "version"),
        ("G\u{7f}T / HTTP/1.1\r\n\r\n".to_owned(), 400, "method"),
        ("GET http://[ HTTP/1.1\r\n\r\n".to_owned(), 400, "URI"),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(), 400, "header"),
        ("POST /jobs HTTP/1.1\r\nContent-Length: many\r\n\r\n".to_owned(), 400, "content-length"),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
            400,
            "content-length",
        ),
        (format!("GET / HTTP/1.1\r\nlong: {long}\r\n\r\n"), 431, "65536"),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), 431, "fields"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), 431, "65536"),
    ] {
        let answer = raw(address, bytes.as_bytes(), false).await;
        let detail = answer.refused(status);
        assert!(detail.contains(part), "{part} in: {detail}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    // As it comes in: the address is too long, or the head is before its end is seen.
    let far = format!("GET /{} HTTP/1.1\r\n\r\n", &long[..70_000]);
    let answer = raw(address, far.as_bytes(), false).await;
    assert!(answer.status == 414 || answer.status == 431, "{}", answer.status);
    answer.refused(answer.status);
    // Behind a request that is served, on the same connection.
    let good = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let both = all_of(address, format!("{good}{good}nonsense\r\n\r\n").as_bytes(), false).await;
    let text = String::from_utf8_lossy(&both);
    let parts: Vec<&str> = text.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(parts.len(), 3, "{text}");
    assert!(parts[..2].iter().all(|p| p.starts_with("200 ") && p.ends_with('}')), "{text}");
    common::http::parse(format!("HTTP/1.1 {}", parts[2]).as_bytes()).refused(400);
    // They are counted.
    let metrics = cluster.get("/metrics").await.text();
    let counted = |l: &&str| l.contains("rest") && l.contains("4xx") && l.ends_with(" 12");
    assert!(metrics.lines().any(|l| counted(&l)), "{metrics}");
}
