//! The CPUs that this process may use.

/// CPUs of the process's affinity mask, in order; never empty on Linux.
#[expect(unsafe_code, reason = "the affinity mask has no safe interface in std")]
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is plain bits, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a writable `cpu_set_t` of the size that is passed.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0;
    if failed {
        return vec![0];
    }
    let max = libc::CPU_SETSIZE as usize;
    // SAFETY: `cpu` is below the set's size.
    (0..max).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}
