//! Processes that the runner starts for its guests: how they end with it, and what is shown of their logs.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpid, getppid};

/// Lines of a log or console that are shown when its guest dies.
const TAIL_LINES: usize = 15;

/// Makes `process` die with the thread that starts it (PR_SET_PDEATHSIG, prctl(2)), so that a runner that is
/// killed leaves none behind. `prepare` is called in it before its program is; only system calls may be made
/// there.
pub(crate) fn dies_with_runner(
    process: &mut Command,
    prepare: impl Fn() -> Result<(), Errno> + Send + Sync + 'static,
) {
    // A group of its own: Ctrl-C on the terminal is for the runner, which ends its guests itself.
    process.process_group(0);
    let parent = getpid();
    // SAFETY: only system calls between fork and exec: no allocation, no lock.
    unsafe {
        process.pre_exec(move || {
            // The runner blocks signals in its threads, and a child inherits that (execve(2)).
            SigSet::all().thread_unblock()?;
            // Huge pages merge only once they are split.
            prctl::set_thp_disable(true)?;
            prepare()?;
            // After that: a change of user forgets it.
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The runner may have died before the signal was asked for.
            if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
        });
    }
}

/// The last lines of a log or console, to be shown indented.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn the_last_lines_are_shown_without_empty_ones() {
        let text: String = (0..20).map(|n| format!("line {n}  \n\n")).collect();
        let shown = tail(&text);
        assert!(shown.starts_with("line 5\n  line 6") && shown.ends_with("line 19"), "{shown}");
        assert_eq!(tail(""), "");
    }
}
