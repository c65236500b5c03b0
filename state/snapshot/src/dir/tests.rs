//! Crashes of the directory store: every file system call fails or is the last one, with and
//! without loss of what was not synced; a full disk.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use rand_free::Chance;

use super::*;
use crate::testing::{restore_and_check, write};
use crate::{Policy, retain};

/// What the scenario was told: each epoch's outcome.
#[derive(Debug, Default)]
struct Told {
    committed: Option<u64>,
    in_doubt: Option<u64>,
}

/// Two checkpoints with shared files, a savepoint, and retention.
fn scenario(store: &Arc<dyn SnapshotStore>, mut note: impl FnMut(u64)) -> Told {
    let mut told = Told::default();
    let steps: [(u64, bool, &[&str]); 4] =
        [(1, false, &["a"]), (2, false, &["a", "b"]), (3, true, &[]), (4, false, &["b", "c"])];
    for (epoch, savepoint, shared) in steps {
        match write(store, epoch, savepoint, shared) {
            Ok(_) => {
                told.committed = Some(epoch);
                note(epoch);
            }
            Err(Error::InDoubt(_)) => told.in_doubt = Some(epoch),
            Err(_) => {}
        }
        let policy = Policy { keep: 1 };
        let _ = retain(&**store, policy, &Default::default(), &Default::default());
    }
    told
}

/// Fails the k-th operation, or all from there on, with the given error code.
struct Failing {
    at: u64,
    forever: bool,
    code: i32,
    count: AtomicU64,
    failed: Mutex<Option<Op>>,
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

impl Failing {
    fn new(at: u64, forever: bool, code: i32) -> Arc<Self> {
        Arc::new(Failing { at, forever, code, count: AtomicU64::new(0), failed: Mutex::default() })
    }
}

impl Probe for Failing {
    fn before(&self, op: Op) -> io::Result<()> {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        if n == self.at || (self.forever && n > self.at) {
            let mut failed = self.failed.lock().unwrap();
            // Half of a write may have reached the disk.
            if let (None, Op::Write(path, bytes)) = (&*failed, &op) {
                let mut file = File::options().append(true).open(path)?;
                io::Write::write_all(&mut file, &bytes[..bytes.len() / 2])?;
            }
            failed.get_or_insert(op);
            return Err(io::Error::from_raw_os_error(self.code));
        }
        Ok(())
    }
}

fn temporaries(root: &Path) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_dir() {
                dirs.push(entry.path());
            }
            found.extend(entry.file_name().into_string().ok().filter(|name| is_temporary(name)));
        }
    }
    found
}

fn failing_run(forever: bool, code: i32) {
    for k in 0.. {
        let root = tempfile::tempdir().unwrap();
        let probe = Failing::new(k, forever, code);
        let store: Arc<dyn SnapshotStore> = Arc::new(DirStore::watched(root.path(), probe.clone()));
        let told = scenario(&store, |_| ());
        let Some(failed) = probe.failed.lock().unwrap().clone() else {
            assert!(k > 80, "the scenario has only {k} operations");
            assert_eq!(told.committed, Some(4));
            return;
        };
        let context = format!("operation {k}, {failed:?}: {told:?}");
        let after = DirStore::create(root.path()).unwrap();
        let found = restore_and_check(&after).unwrap_or_else(|e| panic!("{context}: {e}"));
        let newest_told = told.committed.max(told.in_doubt);
        assert!(found >= told.committed && found <= newest_told, "{context}: found {found:?}");
        if !forever {
            assert_eq!(told.in_doubt, None, "{context}: one failure can be undone");
            if !matches!(failed, Op::Remove(_)) {
                assert_eq!(temporaries(root.path()), Vec::<String>::new(), "{context}");
            }
        }
        // The disk is well again: the job goes on beyond all that exist.
        let store: Arc<dyn SnapshotStore> = Arc::new(after);
        write(&store, 9, false, &["a", "d"]).unwrap_or_else(|e| panic!("{context}: {e}"));
        retain(&*store, Policy { keep: 1 }, &Default::default(), &Default::default()).unwrap();
        assert_eq!(restore_and_check(&*store).unwrap(), Some(9), "{context}");
        assert_eq!(temporaries(root.path()), Vec::<String>::new(), "{context}");
        assert_eq!(store.list_shared().unwrap(), ["a", "d"], "{context}");
    }
}

#[test]
fn one_failure_at_every_operation_full_disk() {
    failing_run(false, ENOSPC);
}

#[test]
fn one_failure_at_every_operation_bad_disk() {
    failing_run(false, EIO);
}

#[test]
fn the_process_dies_at_every_operation() {
    failing_run(true, EIO);
}

/// Records operations, and what had been committed when.
#[derive(Default)]
struct Recording(Mutex<Vec<Op>>);

impl Probe for Recording {
    fn before(&self, op: Op) -> io::Result<()> {
        self.0.lock().unwrap().push(op);
        Ok(())
    }
}

/// A disk that remembers what was synced: `now` is what programs see, `safe` what survives.
#[derive(Default)]
struct Model {
    inodes: Vec<Inode>,
    now: BTreeMap<PathBuf, usize>,
    safe: BTreeMap<PathBuf, usize>,
}

#[derive(Default)]
struct Inode {
    dir: bool,
    now: Vec<u8>,
    safe: Vec<u8>,
}

impl Model {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::MakeDir(path) => self.add(path, true),
            Op::Create(path) => self.add(path, false),
            Op::Write(path, bytes) => self.inodes[self.now[path]].now.extend_from_slice(bytes),
            Op::SyncFile(path) => {
                let inode = &mut self.inodes[self.now[path]];
                inode.safe.clone_from(&inode.now);
            }
            Op::Rename(from, to) => {
                let inode = self.now.remove(from).unwrap();
                self.now.insert(to.clone(), inode);
            }
            Op::SyncDir(dir) => {
                let inside = |path: &Path| path.parent() == Some(dir);
                self.safe.retain(|path, _| !inside(path));
                let entries = self.now.iter().filter(|(path, _)| inside(path));
                self.safe.extend(entries.map(|(path, inode)| (path.clone(), *inode)));
            }
            Op::Remove(path) | Op::RemoveDir(path) => drop(self.now.remove(path)),
        }
    }

    fn add(&mut self, path: &Path, dir: bool) {
        self.inodes.push(Inode { dir, ..Inode::default() });
        self.now.insert(path.to_owned(), self.inodes.len() - 1);
    }

    /// One of the disks that a power loss may leave: of each name and each file's tail that was
    /// not synced, either the old or the new.
    fn after_power_loss(&self, from: &Path, to: &Path, chance: &mut Chance) {
        let mut names: BTreeMap<&PathBuf, usize> = BTreeMap::new();
        let all = self.now.keys().chain(self.safe.keys());
        for path in all.collect::<std::collections::BTreeSet<_>>() {
            let pick = if chance.flip() { &self.now } else { &self.safe };
            if let Some(inode) = pick.get(path) {
                names.insert(path, *inode);
            }
        }
        // Parents come before children in path order; a child of a lost directory is lost.
        for (path, inode) in names {
            let target = to.join(path.strip_prefix(from).unwrap());
            let inode = &self.inodes[inode];
            if !target.parent().unwrap().is_dir() {
                continue;
            }
            if inode.dir {
                fs::create_dir(target).unwrap();
            } else {
                let extra = inode.now.len() - inode.safe.len();
                let kept = inode.safe.len() + chance.below(extra + 1);
                let mut bytes = inode.now[..kept].to_vec();
                if kept > inode.safe.len() && chance.flip() {
                    // Allocated but never written.
                    bytes[inode.safe.len()..].fill(0);
                }
                fs::write(target, bytes).unwrap();
            }
        }
    }
}

/// S2 and D1, D2: whatever a power loss leaves, the newest checkpoint that was reported as
/// committed, or a newer one, restores whole.
#[test]
fn power_loss_after_every_operation() {
    let root = tempfile::tempdir().unwrap();
    let recording = Arc::new(Recording::default());
    let store: Arc<dyn SnapshotStore> = Arc::new(DirStore::watched(root.path(), recording.clone()));
    let mut acknowledged = BTreeMap::new();
    scenario(&store, |epoch| {
        acknowledged.insert(recording.0.lock().unwrap().len(), epoch);
    });
    let ops = recording.0.lock().unwrap().clone();
    let mut chance = Chance::new(7);
    let mut model = Model::default();
    let mut newer = 0;
    for (done, op) in ops.iter().enumerate() {
        model.apply(op);
        let done = done + 1;
        let told = acknowledged.range(..=done).next_back().map(|(_, epoch)| *epoch);
        for variant in 0..12 {
            let disk = tempfile::tempdir().unwrap();
            model.after_power_loss(root.path(), disk.path(), &mut chance);
            let found = restore_and_check(&DirStore::existing(disk.path()).unwrap())
                .unwrap_or_else(|e| panic!("after {done} operations ({op:?}), {variant}: {e}"));
            assert!(found >= told, "after {done} ({op:?}), {variant}: {found:?} < {told:?}");
            newer += u64::from(found > told);
        }
    }
    assert!(newer > 0, "the model never kept an unsynced rename: it tests nothing");
}

/// D2, S5, S2: what another process, or one that died, left unsynced is synced before it counts.
#[test]
fn syncs_stand_where_the_invariants_say() {
    let root = tempfile::tempdir().unwrap();
    let recording = Arc::new(Recording::default());
    let store: Arc<dyn SnapshotStore> = Arc::new(DirStore::watched(root.path(), recording.clone()));
    scenario(&store, |_| ());
    let ops = recording.0.lock().unwrap().clone();
    let is_manifest = |path: &Path| path.ends_with(MANIFEST);
    let sync = |path: &Path| Op::SyncDir(path.to_owned());
    let (mut commits, mut deletions) = (0, 0);
    for (i, op) in ops.iter().enumerate() {
        match op {
            Op::Rename(_, to) if is_manifest(to) => {
                commits += 1;
                let dir = to.parent().unwrap();
                assert_eq!(ops[i - 2..i], [sync(dir), sync(root.path())], "D2");
                assert_eq!(ops[i + 1], sync(dir), "S2");
            }
            Op::Remove(path) if is_manifest(path) => {
                deletions += 1;
                assert_eq!(ops[i + 1], sync(path.parent().unwrap()), "S5");
            }
            Op::MakeDir(path) => assert_eq!(ops[i + 1], sync(path.parent().unwrap()), "S2"),
            _ => {}
        }
    }
    assert_eq!((commits, deletions), (4, 2));
    store.put_shared("b", &mut "b".repeat(9).as_bytes()).unwrap();
    let since = recording.0.lock().unwrap()[ops.len()..].to_vec();
    assert!(since.contains(&sync(&root.path().join(SHARED))), "{since:?}");
}

/// A small generator of chances with a fixed seed (splitmix64).
mod rand_free {
    pub(super) struct Chance(u64);

    impl Chance {
        pub(super) fn new(seed: u64) -> Self {
            Chance(seed)
        }

        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub(super) fn flip(&mut self) -> bool {
            self.next().is_multiple_of(2)
        }

        pub(super) fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }
    }
}

/// A tmpfs of 64 KiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"]).arg(dir.path());
        match mount.output() {
            Ok(out) if out.status.success() => Some(SmallDisk(dir)),
            Ok(out) => {
                println!("skipped: no tmpfs: {}", String::from_utf8_lossy(&out.stderr).trim());
                None
            }
            Err(e) => {
                println!("skipped: cannot run mount: {e}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_for_real() {
    let Some(disk) = SmallDisk::mount() else { return };
    let root = disk.0.path();
    let store: Arc<dyn SnapshotStore> = Arc::new(DirStore::create(root).unwrap());
    write(&store, 1, false, &["a"]).unwrap();
    let mut writer = store.begin(2, "worker-0.data").unwrap();
    let mut fill = || -> Result<()> { (0..64).try_for_each(|_| writer.append(&[7; 64 << 10])) };
    let error = fill().unwrap_err();
    assert!(matches!(error, Error::FailCheckpoint(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("chk-2") && text.contains("No space left"), "{text}");
    assert!(text.contains("free space"), "{text}");
    drop(writer);
    let error = store.put_shared("big", &mut io::Read::take(io::repeat(7), 1 << 20)).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    assert_eq!(temporaries(root), Vec::<String>::new());
    assert!(store.open_object(2, "worker-0.data").is_err());
    // The space is free again: the previous checkpoint is whole, and the next one works.
    assert_eq!(restore_and_check(&*store).unwrap(), Some(1));
    write(&store, 3, false, &["a"]).unwrap();
    assert_eq!(restore_and_check(&*store).unwrap(), Some(3));
}

#[test]
fn foreign_files_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let store: Arc<dyn SnapshotStore> = Arc::new(DirStore::create(root.path()).unwrap());
    fs::create_dir(root.path().join("chk-007")).unwrap();
    fs::create_dir(root.path().join("chk-x")).unwrap();
    fs::write(root.path().join("chk-9"), b"a file").unwrap();
    fs::write(root.path().join("notes.txt"), b"mine").unwrap();
    write(&store, 5, false, &["a"]).unwrap();
    fs::write(root.path().join("chk-5/notes.txt"), b"mine").unwrap();
    fs::write(root.path().join("shared/README.TXT"), b"mine").unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(store.list_shared().unwrap(), ["a"]);
    store.delete(5).unwrap();
    assert_eq!(fs::read(root.path().join("chk-5/notes.txt")).unwrap(), b"mine");
    assert_eq!(store.list().unwrap(), [CheckpointId { epoch: 5, committed: false }]);
    assert!(!root.path().join("chk-5/worker-0.data").exists());
}

#[test]
fn a_place_that_cannot_hold_checkpoints_is_refused_at_once() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    for place in [file.clone(), file.join("below")] {
        let error = DirStore::create(&place).err().unwrap();
        assert!(error.to_string().contains("file"), "{error}");
    }
    assert!(matches!(DirStore::existing(&file), Err(Error::Refused(_))));
    assert!(matches!(DirStore::existing(root.path().join("no")), Err(Error::Missing(_))));
    assert!(!root.path().join("no").exists());
}

#[test]
fn a_closed_store_is_gone_unless_it_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("job");
    let store: Arc<dyn SnapshotStore> = Arc::new(DirStore::create(&root).unwrap());
    write(&store, 1, false, &["a"]).unwrap();
    store.close().unwrap();
    assert_eq!(restore_and_check(&*store).unwrap(), Some(1));
    store.delete(1).unwrap();
    for name in store.list_shared().unwrap() {
        store.close().unwrap();
        store.delete_shared(&name).unwrap();
    }
    store.close().unwrap();
    assert!(!root.exists());
    store.close().unwrap();
}
