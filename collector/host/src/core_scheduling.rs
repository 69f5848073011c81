//! Core scheduling: threads with different cookies never run on the SMT siblings of one core at the same time
//! (Documentation/admin-guide/hw-vuln/core-scheduling.rst, Linux 6.18).

use nix::errno::Errno;
use nix::libc;

/// The cookie of a thread; `None` where it has none.
///
/// # Errors
/// `ENODEV` on a host without SMT and `EINVAL` on a kernel without CONFIG_SCHED_CORE, where no thread has one; `EPERM`
/// where this process may not look into the thread; `ESRCH` where it is gone.
pub fn cookie(tid: i32) -> Result<Option<u64>, Errno> {
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
    Errno::result(done)?;
    Ok((cookie != 0).then_some(cookie))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_a_cookie_has_none_or_the_kernel_knows_of_none() {
        let own = cookie(nix::unistd::gettid().as_raw());
        assert!(matches!(own, Ok(None) | Err(Errno::ENODEV | Errno::EINVAL)), "{own:?}");
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
        assert!(created != 0 || own.is_ok_and(|own| own.is_some()), "{own:?}");
        assert_eq!(own, heir);
    }
}
