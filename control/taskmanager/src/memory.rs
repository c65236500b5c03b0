//! How much memory this process and its children may use, and how much they do.
//!
//! The limit is the least of: `memory.max` of the control group (version 2) and of every group above
//! it, `memory.limit_in_bytes` (version 1), and the machine's memory.

use std::fs;
use std::path::Path;

/// The limit in bytes; 0 where nothing says one.
pub fn memory_limit() -> u64 {
    limit_below(Path::new("/")).unwrap_or(0)
}

/// The same for a file system that begins at `root`.
fn limit_below(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut limits: Vec<u64> = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = Path::new(path.trim_start_matches('/'));
        let (mount, file) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        // Within a container the path may be that of the host; the group is then the mount itself.
        let files = path.ancestors().map(|above| root.join(mount).join(above).join(file));
        limits.extend(files.filter_map(|f| fs::read_to_string(f).ok()?.trim().parse::<u64>().ok()));
    }
    limits.extend(machine(&fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default()));
    limits.into_iter().filter(|&bytes| bytes > 0).min()
}

fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Resident memory of these processes, in bytes; those that are gone count nothing.
pub(crate) fn resident(pids: impl Iterator<Item = u32>) -> u64 {
    let page = rustix::param::page_size() as u64;
    let pages = |pid: u32| -> Option<u64> {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        statm.split_whitespace().nth(1)?.parse().ok()
    };
    pids.filter_map(pages).sum::<u64>() * page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("tempdir");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            fs::write(path, text).expect("file");
        }
        root
    }

    #[test]
    fn the_least_limit_counts() {
        let meminfo = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:       8192 kB\n");
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        let host = root(&[meminfo, v2, ("sys/fs/cgroup/a/b/memory.max", "max\n")]);
        assert_eq!(limit_below(host.path()), Some(8 << 20), "the machine's");
        let group = root(&[
            meminfo,
            v2,
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "1048576\n"),
        ]);
        assert_eq!(limit_below(group.path()), Some(1 << 20), "the group's above");
        let v1 = root(&[
            meminfo,
            ("proc/self/cgroup", "5:cpu,memory:/docker/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2097152\n"),
        ]);
        assert_eq!(limit_below(v1.path()), Some(2 << 20), "version 1, at the container's mount");
        assert_eq!(limit_below(root(&[]).path()), None);
    }

    #[test]
    fn this_machine_has_memory_and_this_process_uses_some() {
        let used = resident([std::process::id()].into_iter());
        assert!((1..memory_limit()).contains(&used), "{used} of {}", memory_limit());
        assert_eq!(resident([u32::MAX].into_iter()), 0);
    }
}
