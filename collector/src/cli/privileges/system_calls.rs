//! System calls: a seccomp filter (seccomp(2)) that allows what a mode needs. The kernel answers EPERM to the rest,
//! and what needed it is unavailable with that reason.
//!
//! Only the backend of Xen can start programs, since it may need `xl`; only Unix sockets are allowed.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::Mode;

/// Memory, threads, time, signals of this process; files by name, which permissions and capabilities
/// guard; what tokio and the terminal need.
const BASE: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Sockets that are there already, and pairs; `socket` itself is a rule of its own.
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
];

/// The older forms of some of these, which glibc uses on x86-64.
#[cfg(target_arch = "x86_64")]
const BASE_OLD: &[i64] = &[
    libc::SYS_arch_prctl,
    libc::SYS_time,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_getdents,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const BASE_OLD: &[i64] = &[];

/// Other processes: how they are scheduled, where their memory is, whether they are still the same.
const PROCESSES: &[i64] = &[
    libc::SYS_pidfd_open,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getattr,
    libc::SYS_getpriority,
    libc::SYS_kill,
];

/// BPF programs and perf events: counters, probes, fast readings of merged frames, page tables and mappings.
const PROBES: &[i64] = &[libc::SYS_bpf, libc::SYS_perf_event_open];

/// The state directory, recordings, resctrl's monitoring groups.
const FILES: &[i64] = &[
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_pwrite64,
    libc::SYS_flock,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_umask,
];

/// The older forms of some of these.
#[cfg(target_arch = "x86_64")]
const FILES_OLD: &[i64] =
    &[libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_link, libc::SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const FILES_OLD: &[i64] = &[];

/// Sockets for viewers and reports.
const SERVE: &[i64] = &[libc::SYS_bind, libc::SYS_listen, libc::SYS_accept4];

/// Affinities.
const AFFINITIES: &[i64] = &[libc::SYS_sched_setaffinity];

fn allowed(mode: Mode) -> impl Iterator<Item = i64> {
    let more: &[&[i64]] = match mode {
        Mode::Offline => &[],
        Mode::Contents => &[PROCESSES],
        Mode::Sketch => &[PROCESSES, FILES, FILES_OLD],
        Mode::Frames => &[PROCESSES, PROBES],
        Mode::Examine => &[PROCESSES, PROBES, FILES, FILES_OLD],
        Mode::Watch => &[PROCESSES, PROBES, FILES, FILES_OLD, SERVE],
        Mode::Pin => &[PROCESSES, PROBES, FILES, FILES_OLD, SERVE, AFFINITIES],
        Mode::Loop => &[PROCESSES, PROBES, FILES, FILES_OLD, SERVE, AFFINITIES],
        Mode::Restore => &[PROCESSES, FILES, FILES_OLD, SERVE, AFFINITIES],
    };
    [BASE, BASE_OLD].into_iter().chain(more.iter().copied()).flatten().copied()
}

/// Why the filter is not installed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// The filter could not be compiled for this processor.
    #[error("no filter can be made for {ARCH}: {0}")]
    Made(#[from] seccompiler::BackendError),
    /// The kernel refuses it: it was built without seccomp, or an outer filter forbids it.
    #[error("the kernel refused the filter: {0}")]
    Refused(#[from] seccompiler::Error),
}

/// Allows what `mode` needs, in this thread and all that it starts. On Xen its libraries and `xl` make calls of their
/// own, and the filter forbids only what none of them needs.
pub(super) fn allow(mode: Mode, on_xen: bool) -> Result<(), FilterError> {
    let architecture = TargetArch::try_from(ARCH)?;
    let filter = if on_xen { toolstack(architecture) } else { own(mode, architecture) }?;
    if !on_xen {
        // Without clone3 glibc creates threads by clone, whose flags a filter can read. The kernel applies the strictest
        // result of all filters: that of this one, since `own` allows clone3.
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let missing = SeccompAction::Errno(libc::ENOSYS as u32);
        let filter = SeccompFilter::new(clone3, SeccompAction::Allow, missing, architecture)?;
        seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    }
    Ok(seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?)
}

/// A filter that forbids everything except what this mode needs.
fn own(mode: Mode, architecture: TargetArch) -> Result<SeccompFilter, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed(mode).map(|call| (call, Vec::new())).collect();
    let argument = |index, operator, value| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let flags_set = |index, flags: u64| argument(index, SeccompCmpOp::MaskedEq(flags), flags);
    let flags_not_set = |index, flags: u64| argument(index, SeccompCmpOp::MaskedEq(flags), 0);
    rules.insert(libc::SYS_clone3, Vec::new());
    // Threads, not processes.
    rules.insert(libc::SYS_clone, vec![flags_set(0, libc::CLONE_THREAD as u64)?]);
    // No network, and no netlink.
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![argument(0, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?]);
    }
    // No new code.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![flags_not_set(2, libc::PROT_EXEC as u64)?]);
    }
    // Signals to this process alone, as abort() sends them.
    rules.insert(libc::SYS_tgkill, vec![argument(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?]);
    // No injected terminal input.
    rules.insert(libc::SYS_ioctl, vec![argument(1, SeccompCmpOp::Ne, libc::TIOCSTI)?]);
    SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, architecture)
}

/// What neither huddle nor Xen's toolstack needs.
const NEVER: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_acct,
    libc::SYS_quotactl,
];

fn toolstack(architecture: TargetArch) -> Result<SeccompFilter, seccompiler::BackendError> {
    let rules = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32), architecture)
}

#[cfg(test)]
mod tests {
    use super::super::MODES;
    use super::*;

    #[test]
    fn each_filter_can_be_compiled() {
        for mode in MODES {
            let filter = own(mode, TargetArch::try_from(ARCH).unwrap()).unwrap();
            let program = BpfProgram::try_from(filter).unwrap();
            // BPF_MAXINSNS, linux/bpf_common.h.
            assert!(program.len() < 4096, "{mode:?}: {}", program.len());
        }
    }

    #[test]
    fn the_kernel_refuses_what_no_mode_needs() {
        // A filter applies to one thread, and to those that it starts.
        std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            allow(Mode::Offline, false).unwrap();
            let refused = |error: std::io::Error| error.raw_os_error() == Some(libc::EPERM);
            assert!(refused(std::process::Command::new("true").status().unwrap_err()));
            assert!(refused(std::net::TcpListener::bind("127.0.0.1:0").unwrap_err()));
            let this = nix::unistd::Pid::from_raw(0);
            let everywhere = nix::sched::sched_getaffinity(this).unwrap();
            assert_eq!(nix::sched::sched_setaffinity(this, &everywhere), Err(nix::errno::Errno::EPERM));
            // What is allowed works: files, threads, Unix sockets.
            assert!(std::fs::read("/proc/self/stat").is_ok());
            assert_eq!(std::thread::spawn(|| 1).join().unwrap(), 1);
            assert!(std::os::unix::net::UnixStream::pair().is_ok());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn only_pinning_modes_set_affinities_and_none_starts_programs() {
        for mode in MODES {
            let allowed: Vec<i64> = allowed(mode).collect();
            let pins = matches!(mode, Mode::Pin | Mode::Loop | Mode::Restore);
            assert_eq!(allowed.contains(&libc::SYS_sched_setaffinity), pins, "{mode:?}");
            for never in
                NEVER.iter().chain(&[libc::SYS_execve, libc::SYS_execveat, libc::SYS_process_vm_readv])
            {
                assert!(!allowed.contains(never), "{mode:?}: {never}");
            }
        }
    }
}
