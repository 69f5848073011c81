//! Threads that no signal is delivered to.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Runs `start` with all signals blocked, so that the threads it starts have them blocked from their first
/// instruction on. A signal to the process is then delivered to the threads that handle it, or that have blocked it
/// until a change of the host is complete.
pub fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started = start();
    // Where they could not be blocked there is nothing to put back.
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    started
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    fn blocked() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    #[test]
    fn a_thread_has_them_blocked_and_the_one_that_starts_it_has_not() {
        let before = blocked();
        let of_thread = without_signals(|| std::thread::spawn(blocked)).join().unwrap();
        let bit = |number: i32| 1u64 << (number - 1);
        for number in [Signal::SIGTERM as i32, nix::libc::SIGRTMIN(), nix::libc::SIGRTMAX()] {
            assert_ne!(of_thread & bit(number), 0, "signal {number}: {of_thread:x}");
        }
        assert_eq!(blocked(), before);
    }
}
