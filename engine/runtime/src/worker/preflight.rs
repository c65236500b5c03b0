//! Whether the kernel lets this process use io_uring, asked before glommio would panic.

use tidemill_base::{Error, Result};

/// Locked memory that the executors' rings need where the limit applies.
const MEMLOCK_MIN: u64 = 512 << 10;

/// Checks that io_uring can be used.
///
/// # Errors
/// Says what refused it (kernel, seccomp profile, sysctl, memlock limit) and what cures it.
#[expect(unsafe_code, reason = "the system call has no safe interface in std")]
pub fn check_io_uring() -> Result<()> {
    let mut params = [0u8; 120];
    // SAFETY: `io_uring_params` is 120 bytes, all zeros is a valid request, and the kernel writes
    // only into them.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2u32, params.as_mut_ptr()) };
    if fd >= 0 {
        // SAFETY: the call above made this descriptor, and nobody else knows it.
        unsafe { libc::close(fd as i32) };
        return check_memlock();
    }
    let error = std::io::Error::last_os_error();
    let remedy = match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "the kernel has no io_uring, or a seccomp profile hides it: Linux 5.8 or newer is \
             needed; in a container allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::EPERM) => {
            "it is forbidden here: sysctl kernel.io_uring_disabled must be 0, and a container's \
             seccomp profile must allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOMEM) => "raise the limit on locked memory (ulimit -l) to 512 KiB or more",
        _ => "look at the kernel's log and at the limits of this process",
    };
    Err(Error::job(format!("io_uring cannot be used: {error}; {remedy}")))
}

#[expect(unsafe_code, reason = "resource limits have no safe interface in std")]
fn check_memlock() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a writable `rlimit`.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0;
    if failed || limit.rlim_cur >= MEMLOCK_MIN {
        return Ok(());
    }
    Err(Error::job(format!(
        "the limit on locked memory is {} KiB, executors need {} KiB: raise it (ulimit -l {}, or \
         LimitMEMLOCK= in a systemd unit, or --ulimit memlock= for a container)",
        limit.rlim_cur >> 10,
        MEMLOCK_MIN >> 10,
        MEMLOCK_MIN >> 10
    )))
}
