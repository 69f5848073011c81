//! Signals: which ones end a command, and how it waits for them.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::task::Poll;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

use super::failure::Failure;

/// Every signal whose default action ends the process and that can be handled (signal(7), Linux 6.18), besides the
/// real-time signals, which also end it. Not among them are:
/// - SIGKILL and SIGSTOP, which cannot be caught;
/// - SIGSEGV, SIGBUS, SIGILL and SIGFPE: if the processor raises them the program cannot go on to undo anything;
/// - SIGPIPE, which Rust's start-up code ignores: a closed log ends nothing.
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

/// What SIGHUP means to a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// Its terminal is gone: the loop ends.
    Ends,
    /// Its configuration is to be read again.
    Reloads,
}

/// The signal on which a loop writes the last minutes. It ends no loop; other commands, which do one thing, it ends.
const SAVE: Signal = Signal::SIGUSR1;

/// Waits for the signals that end a loop. Once it is created none of them ends the process by default, even after it is
/// dropped: an undo that has begun is finished, whatever signal arrives.
pub(crate) struct StopSignals(Vec<(i32, Listener)>);

impl StopSignals {
    /// Starts listening; within a runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Self::listen_to(numbers())
    }

    /// The same for a loop, which goes on after [`SaveSignal`], and after SIGHUP if that means to reload.
    pub(crate) fn listen_for_loop(hangup: Hangup) -> Result<Self, Failure> {
        let reloads = |number: i32| hangup == Hangup::Reloads && number == Signal::SIGHUP as i32;
        Self::listen_to(numbers().filter(|number| *number != SAVE as i32 && !reloads(*number)))
    }

    fn listen_to(numbers: impl Iterator<Item = i32>) -> Result<Self, Failure> {
        let listen = |number| Ok((number, signal(SignalKind::from_raw(number))?));
        let listeners = numbers.map(listen).collect::<io::Result<_>>();
        listeners.map(Self).context("cannot listen for signals").map_err(Failure::Failed)
    }

    /// Waits for the first of them.
    pub(crate) async fn wait(mut self) {
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

/// Waits for the signal on which a loop writes the last minutes. Once it is created the signal ends no process.
pub(crate) struct SaveSignal(Listener);

impl SaveSignal {
    /// Starts listening; within a runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listener = signal(SignalKind::from_raw(SAVE as i32));
        listener.map(Self).context("cannot listen for signals").map_err(Failure::Failed)
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// The name of a signal.
fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {number}"),
    }
}

/// The set of them.
fn set() -> SigSet {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset() initializes the set that it is given, and fails on no valid pointer.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for number in numbers() {
        // SAFETY: the set is initialized; a number that is no signal would be refused. nix knows no real-time signals.
        unsafe { libc::sigaddset(&raw mut set, number) };
    }
    // SAFETY: sigemptyset() has initialized it.
    unsafe { SigSet::from_sigset_t_unchecked(set) }
}

/// Blocks these signals as long as it lives, so that they do not interrupt what has begun. For commands that do one
/// thing in the current thread; other threads block them too ([`huddle_host::threads`]).
pub(crate) struct BlockedSignals {
    before: Option<SigSet>,
    blocked: SigSet,
}

impl BlockedSignals {
    pub(crate) fn block() -> Self {
        let blocked = set();
        // If this fails a signal may interrupt the change, and the journal undoes it.
        let before = SigSet::thread_get_mask().and_then(|before| blocked.thread_block().map(|()| before));
        Self { before: before.ok(), blocked }
    }

    /// The name of a pending signal; the signal is consumed, and no longer ends the process.
    pub(crate) fn take_pending(&self) -> Option<String> {
        let waiting = SignalFd::with_flags(&self.blocked, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let read: Result<_, Errno> = waiting.and_then(|waiting| waiting.read_signal());
        let number = read.ok()??.ssi_signo;
        Some(name(i32::try_from(number).unwrap_or_default()))
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // A pending signal ends the process now, as it would have before.
            let _ = before.thread_set_mask();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own list: every signal ends a process but those that are ignored, stop it, or continue it.
    #[test]
    fn every_signal_that_ends_a_process_is_caught_except_those_that_cannot_be() {
        use Signal::*;
        let no_end = [SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH];
        let not_in_order = [SIGKILL, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGPIPE];
        for signal in Signal::iterator() {
            let is_left = no_end.contains(&signal) || not_in_order.contains(&signal);
            assert_ne!(ENDING.contains(&signal), is_left, "{signal}");
        }
    }

    #[test]
    fn a_pending_signal_is_reported_and_ends_nothing() {
        let blocked = BlockedSignals::block();
        assert_eq!(blocked.take_pending(), None);
        for number in numbers() {
            // SAFETY: raise(3) touches no memory; the signal is for this thread, which has it blocked.
            assert_eq!(unsafe { libc::raise(number) }, 0);
            assert_eq!(blocked.take_pending(), Some(name(number)));
        }
        assert!(numbers().count() > 17 + 20, "the real-time signals are among them");
        assert_eq!(blocked.take_pending(), None);
        drop(blocked);
    }
}
