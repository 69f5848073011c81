//! Signals: which ones end a command in order, and how it hears of them.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

use super::failure::Failure;

/// Every signal that would end a process which does nothing about it and that can be caught in order (signal(7),
/// Linux 6.18), besides the real-time ones, which do the same. Not among them are:
/// - SIGKILL and SIGSTOP, which cannot be caught;
/// - SIGSEGV, SIGBUS, SIGILL and SIGFPE: where the processor raises them the program cannot go on to undo anything;
/// - SIGPIPE, which Rust's start-up ignores: a log that nobody reads any more ends nothing.
const ENDING: [Signal; 17] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGSTKFLT,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGSYS,
];

/// Their numbers, and those of the real-time signals that the C library leaves to programs.
fn numbers() -> impl Iterator<Item = i32> {
    ENDING.into_iter().map(|signal| signal as i32).chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Hears the signals that end a loop. From its making on none of them ends the process by itself, also after it is
/// dropped: what was begun to undo is undone, whatever comes meanwhile.
pub(crate) struct Stopping(Vec<(i32, Listener)>);

impl Stopping {
    /// Begins to listen; within a runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |number| Ok((number, signal(SignalKind::from_raw(number))?));
        let listeners = numbers().map(listen).collect::<io::Result<_>>();
        listeners.map(Self).context("cannot listen for signals").map_err(Failure::Failed)
    }

    /// Ready with the first of them.
    pub(crate) async fn come(mut self) {
        let number = poll_fn(|context| {
            for (number, listener) in &mut self.0 {
                if listener.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        });
        tracing::info!("{}: everything is undone now", name(number.await));
    }
}

/// How a signal is called.
fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {number}"),
    }
}

/// Keeps these signals, but for the real-time ones, from ending this process as long as it lives, so that what was begun is not cut off in the
/// middle. For commands that do one thing in the thread that has this; other threads have to keep them too.
pub(crate) struct HeldSignals {
    before: Option<SigSet>,
    held: SigSet,
}

impl HeldSignals {
    pub(crate) fn hold() -> Self {
        let held: SigSet = ENDING.into_iter().collect();
        // Without it a signal cuts in, which the journal is made for.
        let before = SigSet::thread_get_mask().and_then(|before| held.thread_block().map(|()| before));
        Self { before: before.ok(), held }
    }

    /// The signal that came meanwhile, by its name; it is taken, and ends nothing any more.
    pub(crate) fn came(&self) -> Option<String> {
        let waiting = SignalFd::with_flags(&self.held, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let read: Result<_, Errno> = waiting.and_then(|waiting| waiting.read_signal());
        let number = read.ok()??.ssi_signo;
        Some(name(i32::try_from(number).unwrap_or_default()))
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // What came meanwhile ends the process now, as it would have before.
            let _ = before.thread_set_mask();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own list: every signal ends a process but those that are ignored, stop it, or continue it.
    #[test]
    fn every_signal_that_ends_a_process_is_caught_but_the_ones_that_cannot_be() {
        use Signal::*;
        let no_end = [SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH];
        let not_in_order = [SIGKILL, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGPIPE];
        for signal in Signal::iterator() {
            let is_left = no_end.contains(&signal) || not_in_order.contains(&signal);
            assert_ne!(ENDING.contains(&signal), is_left, "{signal}");
        }
    }

    #[test]
    fn a_signal_that_came_while_it_was_held_is_told_and_ends_nothing() {
        let held = HeldSignals::hold();
        assert_eq!(held.came(), None);
        // To this thread.
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        assert_eq!(held.came().as_deref(), Some("SIGUSR1"));
        drop(held);
    }
}
