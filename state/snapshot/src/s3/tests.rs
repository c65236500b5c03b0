//! The store in a bucket of a real server. Its contract is in contract.rs; here is what only S3 has: parts, pages,
//! unanswered commits, and errors that servers give.

use std::time::{Duration, Instant};

use tidemill_s3_testing::{ACCESS_KEY, BUCKET, Fault, SECRET_KEY, Seen, Server};

use super::*;
use crate::object_name;

mod failing;

/// Settings for a store of its own on that server.
pub(crate) fn settings(server: &Server, prefix: &str) -> S3Settings {
    S3Settings {
        endpoint: Some(server.endpoint()),
        path_style: true,
        credentials: Some(S3Credentials {
            id: ACCESS_KEY.to_owned(),
            secret: SECRET_KEY.to_owned(),
        }),
        limits: S3Limits {
            part_bytes: PART_BYTES_MIN,
            parts_in_flight: 2,
            attempts: 3,
            ..S3Limits::within(Duration::from_secs(15))
        },
        ..S3Settings::new(BUCKET, prefix)
    }
}

fn store(server: &Server, prefix: &str) -> S3Store {
    S3Store::create(&settings(server, prefix)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the tests' own clock")]
fn now() -> Instant {
    Instant::now()
}

/// Waits until it holds.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = now() + Duration::from_secs(30);
    while !holds() {
        assert!(now() < until, "{what} within 30 s");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Bytes that differ at every place.
fn noise(length: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(length);
    out
}

fn whole(object: &dyn ObjectReader) -> Vec<u8> {
    let mut out = vec![0; object.bytes() as usize];
    object.read_at(0, &mut out).unwrap();
    out
}

fn count(seen: &[Seen], method: &str, query: &str) -> usize {
    seen.iter().filter(|s| s.method == method && s.query.contains(query)).count()
}

#[test]
fn what_is_large_goes_up_in_parts_and_comes_back() {
    let server = Server::start();
    let store = store(&server, "parts");
    let content = noise(2 * PART_BYTES_MIN + 12_345);
    let mut writer = store.begin(1, &object_name(0)).unwrap();
    server.take_seen();
    for piece in content.chunks(700_001) {
        writer.append(piece).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), content.len() as u64);
    let seen = server.take_seen();
    assert_eq!(count(&seen, "POST", "uploads"), 1);
    assert_eq!(count(&seen, "PUT", "partNumber"), 3);
    assert_eq!(server.open_uploads(), Vec::<String>::new());
    let object = store.open_object(1, &object_name(0)).unwrap();
    assert!(whole(&*object) == content);

    // In the pieces of a reader of sections: ahead of it, by few requests.
    server.take_seen();
    let object = store.open_object(1, &object_name(0)).unwrap();
    let mut at = 0;
    while at < content.len() {
        let mut piece = vec![0; (32 << 10).min(content.len() - at)];
        object.read_at(at as u64, &mut piece).unwrap();
        assert!(piece == content[at..at + piece.len()], "at {at}");
        at += piece.len();
    }
    let gets = count(&server.take_seen(), "GET", "");
    assert!((5..=10).contains(&gets), "{gets} requests");

    // A shared file as well; a second time nothing goes up.
    let name = crate::content_name(&mut &content[..], ".sst").unwrap();
    let first = store.put_shared(&name, &mut &content[..]).unwrap();
    server.take_seen();
    assert_eq!(store.put_shared(&name, &mut &content[..]).unwrap(), first);
    let seen = server.take_seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(whole(&*store.get_shared(&name).unwrap()) == content);
    // And not under another's name.
    let mut other = content.clone();
    other[77] ^= 1;
    store.delete_shared(&name).unwrap();
    let error = store.put_shared(&name, &mut &other[..]).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert_eq!(store.list_shared().unwrap(), Vec::<String>::new());
    eventually("the refused upload is given up", || server.open_uploads().is_empty());
}

#[test]
fn an_upload_that_is_dropped_or_fails_leaves_nothing() {
    let server = Server::start();
    let store = store(&server, "dropped");
    let content = noise(PART_BYTES_MIN + 1);
    let mut writer = store.begin(1, &object_name(0)).unwrap();
    writer.append(&content).unwrap();
    assert_eq!(server.open_uploads(), ["dropped/chk-1/worker-0.data"]);
    drop(writer);
    eventually("the dropped upload is given up", || server.open_uploads().is_empty());

    server.fail(|seen| match seen.query.contains("partNumber=2") {
        true => Fault::Answer(403, "AccessDenied"),
        false => Fault::None,
    });
    let mut writer = store.begin(1, &object_name(0)).unwrap();
    let error = writer.append(&content).and_then(|()| writer.finish()).unwrap_err();
    let text = error.to_string();
    for part in ["s3://tidemill/dropped/chk-1/worker-0.data", "UploadPart", "403", "s3:PutObject"] {
        assert!(text.contains(part), "{text}");
    }
    eventually("the failed upload is given up", || server.open_uploads().is_empty());
    assert_eq!(store.list().unwrap(), []);

    // Those of a process that died are found by what is asked after a commit.
    server.fail(|seen| match seen.method == "DELETE" {
        true => Fault::Answer(500, "InternalError"),
        false => Fault::None,
    });
    let lost = |epoch| {
        let mut writer = store.begin(epoch, &object_name(0)).unwrap();
        writer.append(&content).unwrap();
    };
    lost(1);
    lost(9);
    server.take_seen();
    eventually("giving up fails", || {
        count(&server.take_seen(), "DELETE", "uploadId") > 0 && server.open_uploads().len() == 2
    });
    server.heal();
    crate::testing::write(&(std::sync::Arc::new(store.clone()) as _), 5, false, &[]).unwrap();
    // That of epoch 9 may be of one that is being written. Giving up may also succeed late by itself.
    assert!(store.remove_temporary().unwrap() <= 1);
    let left = server.open_uploads();
    assert!(left.iter().all(|key| key == "dropped/chk-9/worker-0.data"), "{left:?}");
}

#[test]
fn listings_come_in_pages_and_deletes_in_batches() {
    let server = Server::start();
    let mut settings = settings(&server, "pages/of");
    settings.limits.page_keys = 100;
    let store = S3Store::create(&settings).unwrap();
    // Put there behind the server's back: a request for each would take long.
    let dir = server.bucket_dir().join("pages/of");
    std::fs::create_dir_all(dir.join("shared")).unwrap();
    for n in 0..2_345 {
        std::fs::write(dir.join(format!("shared/file-{n:05}")), b"x").unwrap();
    }
    std::fs::create_dir(dir.join("chk-3")).unwrap();
    for worker in 0..250 {
        std::fs::write(dir.join("chk-3").join(object_name(worker)), b"x").unwrap();
    }
    std::fs::write(dir.join("chk-3/notes.txt"), b"of the user").unwrap();
    std::fs::create_dir(dir.join("chk-30")).unwrap();
    std::fs::write(dir.join("chk-30/manifest.json"), b"{}").unwrap();
    std::fs::write(dir.join("chk-30x"), b"of the user").unwrap();

    server.take_seen();
    let shared = store.list_shared().unwrap();
    assert_eq!(count(&server.take_seen(), "GET", "list-type=2"), 24);
    assert_eq!((shared.len(), &*shared[0], &*shared[2_344]), (2_345, "file-00000", "file-02344"));
    let listed = store.list().unwrap();
    let [first, second] =
        [(30, true), (3, false)].map(|(epoch, committed)| CheckpointId { epoch, committed });
    assert_eq!(listed, [first, second]);

    server.take_seen();
    store.delete(3).unwrap();
    assert_eq!(count(&server.take_seen(), "POST", "delete"), 3);
    assert_eq!(std::fs::read_dir(dir.join("chk-3")).unwrap().count(), 1, "what is not ours stays");
    assert_eq!(store.list().unwrap()[0], first);
}

#[test]
fn one_of_two_writers_commits() {
    let server = Server::start();
    let store = store(&server, "race");
    for epoch in 1..=6 {
        let put = |text: &'static str| {
            let store = store.clone();
            move || store.write_manifest(epoch, text.as_bytes())
        };
        let both = std::thread::scope(|scope| {
            let threads = [scope.spawn(put("one")), scope.spawn(put("other"))];
            threads.map(|thread| thread.join().unwrap())
        });
        let won: Vec<_> =
            ["one", "other"].into_iter().zip(&both).filter(|(_, r)| r.is_ok()).collect();
        assert_eq!(won.len(), 1, "{both:?}");
        assert_eq!(store.read_manifest(epoch).unwrap().as_deref(), Some(won[0].0.as_bytes()));
        let lost = both.iter().find_map(|r| r.as_ref().err()).unwrap();
        assert!(matches!(lost, Error::Refused(_)), "{lost}");
    }
}

#[test]
fn errors_name_place_call_answer_and_remedy() {
    let server = Server::start();
    let named = |settings: &S3Settings, parts: &[&str]| {
        let error = S3Store::create(settings).map(|_| ()).unwrap_err();
        for part in parts {
            assert!(error.to_string().contains(part), "no '{part}' in: {error}");
        }
        error
    };
    // What the real server says.
    let absent = S3Settings { bucket: "absent".to_owned(), ..settings(&server, "a") };
    named(&absent, &["s3://absent/a/", "ListObjectsV2", "NoSuchBucket", "create the bucket"]);
    let stranger = S3Credentials { id: ACCESS_KEY.to_owned(), secret: "wrong".to_owned() };
    let stranger = S3Settings { credentials: Some(stranger), ..settings(&server, "b") };
    let error =
        named(&stranger, &["s3://tidemill/b/", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"]);
    assert!(matches!(error, Error::Refused(_)), "{error}");
    // What others say.
    let cases: [(u16, &'static str, &[&str]); 5] = [
        (403, "AccessDenied", &["allow s3:ListBucket", "403"]),
        (301, "PermanentRedirect", &["AWS_REGION"]),
        (403, "ExpiredToken", &["renew"]),
        (403, "RequestTimeTooSkewed", &["clock"]),
        (503, "SlowDown", &["503", "transient"]),
    ];
    for (n, (status, code, parts)) in cases.into_iter().enumerate() {
        server.fail(move |_| Fault::Answer(status, code));
        let error = named(&settings(&server, &format!("case-{n}")), parts);
        assert!(error.to_string().contains(code), "{error}");
        assert_eq!(matches!(error, Error::Retry(_)), status == 503, "{error}");
    }
    // Listing is allowed, storing is not: said when the store is created.
    server.fail(|seen| match seen.method == "POST" {
        true => Fault::Answer(403, "AccessDenied"),
        false => Fault::None,
    });
    named(&settings(&server, "read-only"), &["allow s3:PutObject"]);
    S3Store::open(&settings(&server, "read-only")).unwrap();
    // Nobody there.
    let gone =
        S3Settings { endpoint: Some("http://127.0.0.1:1".to_owned()), ..settings(&server, "c") };
    named(&gone, &["AWS_ENDPOINT_URL_S3", "refused"]);
    // What cannot be.
    for (broken, part) in [
        (S3Settings { bucket: "a/b".to_owned(), ..settings(&server, "d") }, "no bucket's name"),
        (
            S3Settings { endpoint: Some("host:9000".to_owned()), ..settings(&server, "e") },
            "http://",
        ),
        (S3Settings { prefix: "no-slash".to_owned(), ..settings(&server, "f") }, "no-slash"),
    ] {
        named(&broken, &[part]);
    }
}
