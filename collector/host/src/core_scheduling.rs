//! Core scheduling: threads with different cookies never run on the SMT siblings of one core at the same time
//! (Documentation/admin-guide/hw-vuln/core-scheduling.rst, Linux 6.18).

use nix::errno::Errno;
use nix::libc;

/// The cookie of a thread; 0 where it has none, as on a host without SMT (`ENODEV`) and on a kernel without
/// CONFIG_SCHED_CORE (`EINVAL`).
///
/// # Errors
/// `EPERM` where this process may not look into the thread; `ESRCH` where it is gone.
pub fn cookie(tid: i32) -> Result<u64, Errno> {
    /// `PIDTYPE_PID`: the thread alone.
    const THREAD: libc::c_ulong = 0;
    let mut cookie = 0u64;
    // SAFETY: the kernel writes one unsigned long to the address, which is that of a u64 that lives through the call.
    let done = unsafe {
        libc::prctl(
            libc::PR_SCHED_CORE,
            libc::PR_SCHED_CORE_GET as libc::c_ulong,
            libc::c_long::from(tid),
            THREAD,
            &raw mut cookie,
        )
    };
    match Errno::result(done) {
        Ok(_) => Ok(cookie),
        Err(Errno::ENODEV | Errno::EINVAL) => Ok(0),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_a_cookie_has_none_and_of_one_that_is_gone_it_is_unknown() {
        assert_eq!(cookie(nix::unistd::gettid().as_raw()), Ok(0));
        let gone = std::thread::spawn(|| nix::unistd::gettid().as_raw()).join().unwrap();
        // A kernel without core scheduling does not look for the thread.
        assert!(matches!(cookie(gone), Err(Errno::ESRCH) | Ok(0)));
    }

    #[test]
    fn threads_of_a_core_scheduling_group_have_one_cookie() {
        let of_thread = std::thread::spawn(|| {
            // This thread, alone, and no address.
            let none: libc::c_ulong = 0;
            let create = libc::PR_SCHED_CORE_CREATE as libc::c_ulong;
            // SAFETY: no address is passed.
            let created = unsafe { libc::prctl(libc::PR_SCHED_CORE, create, none, none, none) };
            let heir = std::thread::spawn(|| cookie(nix::unistd::gettid().as_raw())).join().unwrap();
            (created, cookie(nix::unistd::gettid().as_raw()), heir)
        });
        let (created, own, heir) = of_thread.join().unwrap();
        // Without SMT or CONFIG_SCHED_CORE there are none.
        assert!(created != 0 || own.is_ok_and(|own| own != 0), "{own:?}");
        assert_eq!(own, heir);
    }
}
