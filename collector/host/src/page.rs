//! The size of a page of the running kernel: sysconf(3), `_SC_PAGESIZE`. It is that of this program too, so it is
//! not read from a tree.

use std::sync::LazyLock;

use huddle_model::page_size::PageSize;
use nix::unistd::{SysconfVar, sysconf};

/// Bytes of a page, and of a frame in `/proc/PID/pagemap` and in KSM's counts.
pub fn size() -> PageSize {
    static SIZE: LazyLock<PageSize> = LazyLock::new(|| {
        let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
        // POSIX has no error for it.
        bytes.and_then(|bytes| PageSize::new(bytes).ok()).unwrap_or_default()
    });
    *SIZE
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn it_is_that_of_the_kernel() {
        let told = Command::new("getconf").arg("PAGESIZE").output().unwrap();
        assert_eq!(size().bytes().to_string(), String::from_utf8(told.stdout).unwrap().trim());
    }
}
