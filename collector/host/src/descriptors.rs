//! File descriptors of this process: the limit, and a reserve below it.
//!
//! Counters take a descriptor for each event of each vCPU, so a large host reaches the limit with them.
//! What must go on then, journal and recorder, opens its files in the reserve.

use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many descriptors below the limit counters leave free.
pub const RESERVE: u64 = 64;

/// Raises this process's soft limit of open files to its hard one.
pub fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!("the limit of open files stays at {soft}: {errno}");
    }
}

/// An error where a descriptor lies in the reserve, and so has to be closed again. The kernel gives the lowest
/// free number (open(2)), so a number in the reserve means that all below are taken.
///
/// # Errors
/// The limit and the remedy in words.
pub fn leave_reserve(descriptor: RawFd) -> Result<(), String> {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) if is_reserved(descriptor, limit) => Err(format!(
            "the limit of {limit} open files is reached ({RESERVE} are kept for journal and recorder): raise it \
             with `ulimit -n` or LimitNOFILE= of systemd"
        )),
        _ => Ok(()),
    }
}

fn is_reserved(descriptor: RawFd, limit: u64) -> bool {
    // A small limit is shared evenly.
    let reserve = RESERVE.min(limit / 2);
    u64::try_from(descriptor).is_ok_and(|descriptor| descriptor >= limit - reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_numbers_below_the_limit_are_reserved() {
        assert!(!is_reserved(959, 1024));
        assert!(is_reserved(960, 1024));
        assert!(!is_reserved(31, 64));
        assert!(is_reserved(32, 64));
        assert!(!is_reserved(i32::MAX, u64::MAX));
    }
}
