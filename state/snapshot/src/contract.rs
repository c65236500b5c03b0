//! The contract of [`SnapshotStore`], run against every implementation.

use std::sync::Arc;

use crate::testing::{content, read, restore_and_check, write, write_part};
use crate::*;

type Store = Arc<dyn SnapshotStore>;

fn bytes(object: &dyn ObjectReader) -> Vec<u8> {
    let mut out = vec![0; object.bytes() as usize];
    object.read_at(0, &mut out).unwrap();
    out
}

fn epochs(store: &Store) -> Vec<(u64, bool)> {
    store.list().unwrap().into_iter().map(|id| (id.epoch, id.committed)).collect()
}

/// Runs every case, each on a store of its own.
fn suite(make: impl Fn() -> Store) {
    for (name, case) in CASES {
        println!("contract: {name}");
        case(make());
    }
}

type Case = (&'static str, fn(Store));

const CASES: [Case; 9] = [
    ("an empty store is empty", empty),
    ("objects round trip and appear at finish (S3)", objects),
    ("a checkpoint exists with its manifest (S1)", commit),
    ("a committed checkpoint never changes (S4)", immutable),
    ("a commit of what is not stored fails", incomplete_commit),
    ("reads beyond the end are damage", beyond_the_end),
    ("shared files (S6)", shared),
    ("delete (S5)", delete),
    ("names that could escape are refused", names),
];

fn empty(store: Store) {
    assert_eq!(epochs(&store), []);
    assert_eq!(store.list_shared().unwrap(), Vec::<String>::new());
    assert_eq!(store.read_manifest(1).unwrap(), None);
    assert!(matches!(store.load_manifest(1), Err(Error::Missing(_))));
    assert!(matches!(store.open_object(1, &object_name(0)), Err(Error::Missing(_))));
    assert!(matches!(store.get_shared("a"), Err(Error::Missing(_))));
    assert_eq!(restore_latest(&*store).unwrap(), None);
    assert_eq!(store.remove_temporary().unwrap(), 0);
}

fn objects(store: Store) {
    let name = object_name(3);
    let mut dropped = store.begin(4, &name).unwrap();
    dropped.append(b"never seen").unwrap();
    drop(dropped);
    assert!(matches!(store.open_object(4, &name), Err(Error::Missing(_))));

    let big = vec![7; 600 << 10];
    let mut writer = store.begin(4, &name).unwrap();
    let mut want = Vec::new();
    for piece in [&b"abc"[..], &big, b"", b"def", &big[..300 << 10], &[1; 200 << 10]] {
        writer.append(piece).unwrap();
        want.extend_from_slice(piece);
    }
    assert!(store.open_object(4, &name).is_err(), "visible before finish");
    assert_eq!(writer.finish().unwrap(), want.len() as u64);
    let object = store.open_object(4, &name).unwrap();
    assert!(bytes(&*object) == want);
    let mut middle = [0; 4];
    object.read_at((3 + big.len()) as u64 - 1, &mut middle).unwrap();
    assert_eq!(&middle, b"\x07def");

    // A second attempt at an uncommitted epoch replaces the first.
    let mut again = store.begin(4, &name).unwrap();
    again.append(b"again").unwrap();
    again.finish().unwrap();
    assert_eq!(bytes(&*store.open_object(4, &name).unwrap()), b"again");
}

fn commit(store: Store) {
    write_part(&store, 9, 0, Vec::new()).unwrap();
    assert_eq!(epochs(&store), [(9, false)]);
    assert_eq!(restore_and_check(&*store).unwrap(), None);
    let five = write(&store, 5, false, &["a.sst", "b.sst"]).unwrap();
    let savepoint = write(&store, 7, true, &[]).unwrap();
    assert_eq!(epochs(&store), [(9, false), (7, true), (5, true)]);
    assert_eq!(store.load_manifest(5).unwrap(), five);
    assert_eq!(store.load_manifest(7).unwrap(), savepoint);
    assert_eq!(restore_and_check(&*store).unwrap(), Some(7));
    assert_eq!(read(&*store, &Arc::new(five)).unwrap(), content(5));
    assert_eq!(restore_latest(&*store).unwrap().unwrap().next_epoch, 10);
}

fn immutable(store: Store) {
    let late = store.begin(5, &object_name(0)).unwrap();
    drop(late);
    let manifest = write(&store, 5, false, &[]).unwrap();
    let refused = |e: Error| assert!(matches!(e, Error::Refused(_)), "{e}");
    refused(store.begin(5, &object_name(9)).map(|_| ()).unwrap_err());
    refused(store.write_manifest(5, b"other").unwrap_err());
    refused(store.put_manifest(&manifest).unwrap_err());
    assert_eq!(restore_and_check(&*store).unwrap(), Some(5));
}

fn incomplete_commit(store: Store) {
    let parts = [0, 1].map(|worker| write_part(&store, 5, worker, Vec::new()).unwrap());
    let facts = || crate::testing::facts(5, false);
    let fails = |manifest: &Manifest, what: &str| {
        let error = store.put_manifest(manifest).unwrap_err();
        assert!(matches!(error, Error::FailCheckpoint(_)), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(epochs(&store), [(5, false)]);
    };
    fails(&Manifest::assemble(facts(), parts[..1].to_vec()), "subtask entries");
    let mut renamed = Manifest::assemble(facts(), parts.to_vec());
    renamed.objects[1].name = object_name(8);
    for section in renamed.subtasks.iter_mut().flat_map(|s| &mut s.sections) {
        if section.object == object_name(1) {
            section.object = object_name(8);
        }
    }
    fails(&renamed, "worker-8.data is not stored");
    let mut longer = Manifest::assemble(facts(), parts.to_vec());
    longer.objects[0].bytes += 1;
    longer.totals = longer.count();
    fails(&longer, "bytes");
    let mut shared = Manifest::assemble(facts(), parts.to_vec());
    shared.shared.push(SharedFile { name: "gone.sst".to_owned(), bytes: 1, crc32: 2 });
    shared.totals = shared.count();
    fails(&shared, "gone.sst is not stored");
    shared.savepoint = true;
    fails(&shared, "complete in itself");
    store.put_manifest(&Manifest::assemble(facts(), parts.to_vec())).unwrap();
    assert_eq!(restore_and_check(&*store).unwrap(), Some(5));
}

fn beyond_the_end(store: Store) {
    write(&store, 5, false, &["a"]).unwrap();
    for object in [store.open_object(5, &object_name(0)), store.get_shared("a")] {
        let object = object.unwrap();
        for (offset, n) in [(object.bytes(), 1), (object.bytes() - 1, 2), (u64::MAX >> 1, 1)] {
            let error = object.read_at(offset, &mut vec![0; n]).unwrap_err();
            assert!(matches!(error, Error::Damaged(_)), "{error}");
        }
        object.read_at(object.bytes(), &mut []).unwrap();
    }
}

fn shared(store: Store) {
    let name = content_name(&mut &b"content"[..], ".sst").unwrap();
    assert_eq!(name, "ed7002b439e9ac845f22357d822bac14-7.sst");
    let first = store.put_shared(&name, &mut &b"content"[..]).unwrap();
    assert_eq!(first, store.put_shared(&name, &mut &b"content"[..]).unwrap());
    assert_eq!((first.bytes, first.crc32), (7, crc32fast::hash(b"content")));
    let error = store.put_shared(&name, &mut &b"CONTENT"[..]).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert_eq!(bytes(&*store.get_shared(&name).unwrap()), b"content");
    store.put_shared("another", &mut &b""[..]).unwrap();
    assert_eq!(store.list_shared().unwrap(), ["another".to_owned(), name.clone()]);
    store.delete_shared(&name).unwrap();
    store.delete_shared(&name).unwrap();
    assert_eq!(store.list_shared().unwrap(), ["another".to_owned()]);

    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("bad sector"))
        }
    }
    let error = store.put_shared("broken", &mut Broken).unwrap_err();
    assert!(error.to_string().contains("bad sector"), "{error}");
    assert_eq!(store.list_shared().unwrap(), ["another".to_owned()]);
}

fn delete(store: Store) {
    write(&store, 5, false, &["a"]).unwrap();
    write(&store, 6, false, &["a"]).unwrap();
    store.delete(5).unwrap();
    store.delete(5).unwrap();
    store.delete(1234).unwrap();
    assert_eq!(epochs(&store), [(6, true)]);
    assert_eq!(store.list_shared().unwrap(), ["a".to_owned()]);
    assert_eq!(restore_and_check(&*store).unwrap(), Some(6));
    // An uncommitted one goes as well, and its epoch can be begun anew.
    write_part(&store, 7, 0, Vec::new()).unwrap();
    store.delete(7).unwrap();
    assert_eq!(epochs(&store), [(6, true)]);
    write(&store, 7, false, &[]).unwrap();
    assert_eq!(restore_and_check(&*store).unwrap(), Some(7));
}

fn names(store: Store) {
    for name in ["", "worker-0", "../worker-0.data", "worker-00.data", "manifest.json", "a/b"] {
        assert!(matches!(store.begin(1, name), Err(Error::Refused(_))), "{name}");
        assert!(store.open_object(1, name).is_err(), "{name}");
    }
    for name in ["", ".", "..", "../a", "a/b", ".hidden", "UPPER", "a b", "ä", &"x".repeat(129)] {
        let put = store.put_shared(name, &mut &b"x"[..]);
        assert!(matches!(put, Err(Error::Refused(_))), "{name}");
        assert!(store.get_shared(name).is_err(), "{name}");
    }
    assert_eq!(store.list_shared().unwrap(), Vec::<String>::new());
}

#[test]
fn memory_store() {
    suite(|| Arc::new(MemoryStore::new()));
}

#[test]
fn directory_store() {
    let root = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    suite(|| {
        count.set(count.get() + 1);
        Arc::new(DirStore::create(root.path().join(format!("deep/{}", count.get()))).unwrap())
    });
}

#[test]
fn faulty_store_without_faults() {
    suite(|| Arc::new(FaultyStore::new(MemoryStore::new(), Faults::None)));
}

#[cfg(feature = "s3")]
#[test]
fn s3_store() {
    let server = tidemill_s3_testing::Server::start();
    let count = std::cell::Cell::new(0);
    suite(|| {
        count.set(count.get() + 1);
        let prefix = format!("case/{}", count.get());
        Arc::new(S3Store::create(&crate::s3::tests::settings(&server, &prefix)).unwrap())
    });
    assert_eq!(server.open_uploads(), Vec::<String>::new());
}

#[cfg(feature = "s3")]
#[test]
fn s3_store_of_a_server_that_ignores_conditions() {
    let server = tidemill_s3_testing::Server::start();
    server.fail(|_| tidemill_s3_testing::Fault::Unconditional);
    let count = std::cell::Cell::new(0);
    suite(|| {
        count.set(count.get() + 1);
        let prefix = format!("plain/{}", count.get());
        Arc::new(S3Store::create(&crate::s3::tests::settings(&server, &prefix)).unwrap())
    });
}
