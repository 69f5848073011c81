//! Threads that no signal is delivered to, and whether a thread exists.

use nix::errno::Errno;
use nix::sched::sched_getaffinity;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::Pid;

/// Whether some thread has this number; one that has ended and waits to be collected has it, too. It is asked by
/// sched_getaffinity(2), the cheapest call that takes the number of any thread and that huddle is allowed anyway.
pub fn exists(thread: i32) -> bool {
    sched_getaffinity(Pid::from_raw(thread)) != Err(Errno::ESRCH)
}

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

    #[test]
    fn a_thread_exists_until_it_has_ended() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(nix::unistd::gettid().as_raw()).unwrap();
            std::thread::park();
        });
        let tid = receive.recv().unwrap();
        assert!(exists(tid));
        thread.thread().unpark();
        thread.join().unwrap();
        // The kernel lets a joiner go on a little before the number is free.
        for _ in 0..1000 {
            if !exists(tid) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("thread {tid} is still there");
    }

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
