//! A server that answers 503 or 500, is slow, hangs, or cuts connections: every call ends within its time, and
//! the laws hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::testing::{restore_and_check, write};

/// Short times: what hangs is to be given up soon.
fn impatient(server: &Server, prefix: &str) -> S3Settings {
    let mut settings = settings(server, prefix);
    settings.limits.connect = Duration::from_millis(400);
    settings.limits.attempt = Duration::from_millis(400);
    settings.limits.operation = Duration::from_millis(1_500);
    settings
}

fn is_manifest_put(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.path.ends_with("manifest.json")
}

/// `fault` for the first `n` puts of a manifest.
fn first_puts(n: u32, fault: Fault) -> impl FnMut(&Seen) -> Fault {
    let mut left = n;
    move |seen| {
        if left > 0 && is_manifest_put(seen) {
            left -= 1;
            return fault;
        }
        Fault::None
    }
}

#[test]
fn a_commit_that_was_not_answered_is_found_out() {
    let server = Server::start();
    let store = S3Store::create(&impatient(&server, "unanswered")).unwrap();
    let faults = [
        Fault::CutAfter,
        Fault::HangAfter,
        Fault::CutBefore,
        Fault::Hang,
        Fault::INTERNAL,
        Fault::SLOW_DOWN,
        Fault::Answer(409, "ConditionalRequestConflict"),
        Fault::Answer(501, "NotImplemented"),
    ];
    for (epoch, fault) in (1..).zip(faults) {
        server.fail(first_puts(1, fault));
        store.write_manifest(epoch, b"manifest").unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(store.read_manifest(epoch).unwrap().as_deref(), Some(&b"manifest"[..]));
        let again = store.write_manifest(epoch, b"manifest").unwrap_err();
        assert!(matches!(again, Error::Refused(_)), "{fault:?}: {again}");
    }
}

#[test]
fn a_commit_that_nobody_heard_of_is_given_up_for_ever() {
    let server = Server::start();
    let store = S3Store::create(&impatient(&server, "given-up")).unwrap();
    server.fail(first_puts(store.bucket.limits().attempts, Fault::Hang));
    let error = store.write_manifest(7, b"manifest").unwrap_err();
    assert!(matches!(error, Error::Retry(_)), "{error}");
    assert_eq!(store.read_manifest(7).unwrap(), None);
    assert_eq!(store.list().unwrap(), [CheckpointId { epoch: 7, committed: false }]);
    assert!(matches!(store.load_manifest(7), Err(Error::Missing(_))));
    // A put that was under way arrives too late, and so does everybody else.
    let (bucket, late) = (store.bucket.clone(), bytes::Bytes::from_static(b"manifest"));
    let put =
        store.bucket.wait(async move { bucket.put_once("chk-7/manifest.json", late, true).await });
    assert_eq!(put.unwrap().unwrap_err().kind, Kind::Exists);
    let begun = store.begin(7, &object_name(0)).map(|_| ()).unwrap_err();
    assert!(begun.to_string().contains("given up"), "{begun}");
    // Retention removes it as it does any epoch that was not committed.
    store.delete(7).unwrap();
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn where_nothing_can_be_known_the_commit_is_in_doubt() {
    let server = Server::start();
    let store = S3Store::create(&impatient(&server, "doubt")).unwrap();
    // The server is gone from the first put on, for all that is asked afterwards.
    let mut gone = false;
    server.fail(move |seen| {
        gone |= is_manifest_put(seen);
        if gone { Fault::HangAfter } else { Fault::None }
    });
    let error = store.write_manifest(1, b"manifest").unwrap_err();
    assert!(matches!(error, Error::InDoubt(_)), "{error}");
    server.heal();
    assert!(store.read_manifest(1).unwrap().is_some(), "it was carried out, in truth");
    // A server without conditions cannot tell what is still on its way.
    let mut puts = 0;
    server.fail(move |seen| {
        puts += u32::from(is_manifest_put(seen));
        if is_manifest_put(seen) && puts <= 3 { Fault::Hang } else { Fault::Unconditional }
    });
    let error = store.write_manifest(2, b"manifest").unwrap_err();
    assert!(matches!(error, Error::InDoubt(_)), "{error}");
    assert!(error.to_string().contains("no conditional put"), "{error}");
}

#[test]
fn a_completion_that_was_not_answered_is_looked_up() {
    let server = Server::start();
    let mut settings = settings(&server, "completed");
    settings.limits.attempt = Duration::from_secs(3);
    let store = S3Store::create(&settings).unwrap();
    let content = noise(PART_BYTES_MIN + 1);
    let is_completion = |seen: &Seen| seen.method == "POST" && seen.query.contains("uploadId");
    for (epoch, fault) in
        (1..).zip([Fault::CutAfter, Fault::HangAfter, Fault::INTERNAL, Fault::CutBefore])
    {
        let mut first = true;
        server.fail(move |seen| {
            let fail = is_completion(seen) && std::mem::take(&mut first);
            if fail { fault } else { Fault::None }
        });
        let mut writer = store.begin(epoch, &object_name(0)).unwrap();
        writer.append(&content).unwrap();
        assert_eq!(writer.finish().unwrap(), content.len() as u64, "{fault:?}");
        assert!(whole(&*store.open_object(epoch, &object_name(0)).unwrap()) == content);
    }
    // Another upload's object of that name and length is not taken for it.
    server.fail(move |seen| if is_completion(seen) { Fault::INTERNAL } else { Fault::None });
    let mut writer = store.begin(1, &object_name(0)).unwrap();
    writer.append(&content).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(error.to_string().contains("CompleteMultipartUpload"), "{error}");
}

#[test]
fn a_hanging_server_lets_every_call_go_in_time() {
    let server = Server::start();
    let settings = impatient(&server, "hangs");
    let store: Arc<dyn SnapshotStore> = Arc::new(S3Store::create(&settings).unwrap());
    write(&store, 1, false, &["a"]).unwrap();
    let object = store.open_object(1, &object_name(0)).unwrap();
    let (mut small, mut large) =
        (store.begin(2, &object_name(0)).unwrap(), store.begin(2, &object_name(1)).unwrap());
    small.append(b"small").unwrap();
    large.append(&noise(PART_BYTES_MIN + 1)).unwrap();
    server.fail(|_| Fault::Hang);
    // With time for a machine that is busy otherwise.
    let limit = settings.limits.operation * 3 + Duration::from_secs(10);
    let timed = |what: &str, act: &mut dyn FnMut() -> Result<()>| {
        let from = now();
        let error = act().unwrap_err();
        assert!(matches!(error, Error::Retry(_)), "{what}: {error}");
        assert!(error.to_string().contains("did not answer in time"), "{what}: {error}");
        assert!(from.elapsed() < limit, "{what} took {:?}", from.elapsed());
    };
    timed("begin", &mut || store.begin(3, &object_name(0)).map(|_| ()));
    timed("write_manifest", &mut || store.write_manifest(3, b"manifest"));
    timed("read_manifest", &mut || store.read_manifest(1).map(|_| ()));
    timed("list", &mut || store.list().map(|_| ()));
    timed("open_object", &mut || store.open_object(1, &object_name(0)).map(|_| ()));
    timed("read_at", &mut || object.read_at(0, &mut [0; 9]));
    timed("put_shared", &mut || store.put_shared("b", &mut &b"x"[..]).map(|_| ()));
    timed("list_shared", &mut || store.list_shared().map(|_| ()));
    timed("delete", &mut || store.delete(1));
    timed("delete_shared", &mut || store.delete_shared("a"));
    let (mut small, mut large) = (Some(small), Some(large));
    timed("finish", &mut || small.take().map_or(Ok(()), |w| w.finish().map(|_| ())));
    timed("finish of parts", &mut || {
        let Some(mut writer) = large.take() else { return Ok(()) };
        writer.append(&noise(PART_BYTES_MIN)).and_then(|()| writer.finish()).map(|_| ())
    });
    server.heal();
    let patient = S3Store::create(&super::settings(&server, "hangs")).unwrap();
    assert_eq!(restore_and_check(&patient).unwrap(), Some(1));
}

#[test]
fn reading_goes_on_after_a_cut() {
    let server = Server::start();
    let store = S3Store::create(&impatient(&server, "cut")).unwrap();
    let content = noise(1_000_000);
    let mut writer = store.begin(1, &object_name(0)).unwrap();
    writer.append(&content).unwrap();
    writer.finish().unwrap();
    // Each second request for content ends in the middle.
    server.fail(|seen| match seen.method == "GET" && seen.number % 2 == 0 {
        true => Fault::CutBody,
        false => Fault::None,
    });
    let object = store.open_object(1, &object_name(0)).unwrap();
    for at in [0, 400_000, 999_000] {
        let mut piece = [0; 1_000];
        object.read_at(at, &mut piece).unwrap();
        assert!(piece[..] == content[at as usize..][..1_000]);
    }
    assert!(whole(&*object) == content);
}

/// A schedule of faults that a seed stands for.
fn schedule(seed: u64) -> impl FnMut(&Seen) -> Fault + Send {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        match x % 40 {
            0 | 1 => Fault::SLOW_DOWN,
            2 => Fault::INTERNAL,
            3 => Fault::Hang,
            4 => Fault::HangAfter,
            5 => Fault::CutBefore,
            6 => Fault::CutAfter,
            7 => Fault::CutBody,
            8 => Fault::Slow(Duration::from_millis(x >> 32 & 127)),
            _ => Fault::None,
        }
    }
}

/// What one life under a seed's faults did, and what must be true afterwards.
fn life(seed: u64) {
    let server = Server::start();
    let store: Arc<dyn SnapshotStore> =
        Arc::new(S3Store::create(&impatient(&server, "seeded")).unwrap());
    server.fail(schedule(seed));
    let large = noise(PART_BYTES_MIN + 4_321);
    let (mut outcomes, mut parts) = (BTreeMap::new(), BTreeMap::new());
    for epoch in 1..=6 {
        let shared: &[&str] = if epoch % 2 == 0 { &["a.sst", "b.sst"] } else { &["a.sst"] };
        let from = now();
        outcomes.insert(epoch, write(&store, epoch, false, shared).map(|_| ()));
        // Some 20 requests of at most 1.5 seconds, and a machine that is busy otherwise.
        assert!(from.elapsed() < Duration::from_secs(60), "seed {seed}: {:?}", from.elapsed());
        if epoch % 3 == 0 {
            let epoch = 100 + epoch;
            let written = store.begin(epoch, &object_name(7)).and_then(|mut writer| {
                writer.append(&large)?;
                writer.finish()
            });
            parts.insert(epoch, written);
        }
    }
    server.heal();
    let store: Arc<dyn SnapshotStore> =
        Arc::new(S3Store::create(&settings(&server, "seeded")).unwrap());
    for (epoch, outcome) in &outcomes {
        let there = store.read_manifest(*epoch).unwrap().is_some();
        match outcome {
            Ok(()) => assert!(there, "seed {seed}: epoch {epoch} is lost"),
            Err(Error::InDoubt(_)) => {}
            Err(e) => assert!(!there, "seed {seed}: epoch {epoch} is there after: {e}"),
        }
        if there {
            let manifest = crate::restore_epoch(&*store, *epoch).unwrap();
            let read = crate::testing::read(&*store, &Arc::new(manifest)).unwrap();
            assert!(read == crate::testing::content(*epoch), "seed {seed}: epoch {epoch} differs");
        }
    }
    for (epoch, written) in parts {
        match store.open_object(epoch, &object_name(7)) {
            Ok(object) => assert!(whole(&*object) == large, "seed {seed}: a torn object"),
            Err(Error::Missing(_)) => assert!(written.is_err(), "seed {seed}: it is lost"),
            Err(e) => panic!("seed {seed}: {e}"),
        }
        store.delete(epoch).unwrap();
    }
    let newest = outcomes.iter().rev().find(|(_, outcome)| outcome.is_ok()).map(|(e, _)| *e);
    assert!(restore_and_check(&*store).unwrap() >= newest, "seed {seed}");
}

#[test]
fn laws_hold_under_seeded_faults() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=6).collect::<Vec<u64>>(),
    };
    std::thread::scope(|scope| {
        for seed in seeds {
            scope.spawn(move || life(seed));
        }
    });
}
