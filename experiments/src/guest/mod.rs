//! Guests: the VMs of an experiment, or their stand-ins.
//!
//! A [`Guest`] holds data and works on it on command. The microbenchmark has three kinds, which the runner does
//! not distinguish: [`process`] (the program `huddle-standin`, a process of its own with mergeable memory and
//! threads named like vCPUs), [`qemu`] (a real VM whose only program is `huddle-guest-init`) and [`xen`] (a
//! Xen domain with the same program). All are controlled by the protocol of [`huddle_guest::protocol`], over a pair
//! of pipes or a console: see [`protocol_guest::ProtocolGuest`].

pub mod child;
#[cfg(test)]
pub(crate) mod fake;
pub mod kvm;
pub mod process;
pub(crate) mod process_group;
pub mod protocol_guest;
pub mod qemu;
pub mod running;
pub mod start;
pub mod xen;

use std::fmt;
use std::path::Path;
use std::time::Duration;

pub use huddle_guest::protocol::{ColdData, Pace, Reading};
use huddle_xen::toolstack::DomainRef;

use crate::interrupt::Interrupted;

/// What the host knows a guest as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestId {
    /// The process that holds its memory.
    Process(i32),
    /// The domain that it is.
    Domain(DomainRef),
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "pid {pid}"),
            Self::Domain(domain) => write!(f, "domain {}", domain.id),
        }
    }
}

/// What a guest shall hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestData {
    /// Seed of the data: guests of one seed hold the same.
    pub seed: u64,
    /// Seed of the guest's own copy, which equals no other guest's.
    pub own_seed: u64,
    /// Size of either in KiB.
    pub kib: u64,
    /// What it holds besides and never reads.
    pub cold: Option<ColdData>,
}

/// A guest that holds data and works on it on command. Dropping it ends it.
pub trait Guest {
    /// The name of its VM.
    fn name(&self) -> &str;

    /// What the host knows it as.
    fn id(&self) -> GuestId;

    /// Waits until it is up.
    fn wait_ready(&mut self) -> Result<(), GuestError>;

    /// Makes sure that it has not ended.
    fn check(&mut self) -> Result<(), GuestError>;

    /// Loads `data` instead of what it held.
    fn load(&mut self, data: GuestData) -> Result<(), GuestError>;

    /// Begins to work, with all counters at 0: on the common data, or on its own copy, which cannot be merged.
    fn start(&mut self, pace: Pace, own: bool) -> Result<(), GuestError>;

    /// Stops.
    fn stop(&mut self) -> Result<(), GuestError>;
}

/// A guest whose work is to read its data, and that counts its reads.
pub trait Reader: Guest {
    /// What each vCPU has done since it was started. They go on.
    fn read(&mut self) -> Result<Vec<Reading>, GuestError>;
}

/// A guest that failed.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The run was interrupted while it waited for a guest.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The program could not be started.
    #[error(
        "cannot start the guest {name} ({program}): {source}; `cargo xtask experiment` builds what it needs"
    )]
    Start {
        /// The guest.
        name: String,
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It could not be made.
    #[error("cannot make the guest {name}: {why}")]
    Make {
        /// The guest.
        name: String,
        /// Why.
        why: String,
    },
    /// It hangs.
    #[error(
        "the guest {name} ({id}) did not answer {command:?} within {seconds} s; it is ended. \
         Is the host so loaded that it does not get to run?{output}"
    )]
    TimedOut {
        /// The guest.
        name: String,
        /// What the host knows it as.
        id: GuestId,
        /// The command.
        command: &'static str,
        /// How long was waited, in seconds.
        seconds: f64,
        /// The last lines of its console or log, if it has one.
        output: String,
    },
    /// It has ended.
    #[error(
        "the guest {name} ({id}) ended before it answered {command:?}: {status}; its own output, if any, is above{output}"
    )]
    Ended {
        /// The guest.
        name: String,
        /// What the host knows it as.
        id: GuestId,
        /// The command.
        command: &'static str,
        /// How it ended.
        status: String,
        /// The last lines of its console or log, if it has one.
        output: String,
    },
    /// It answered something else.
    #[error("the guest {name} ({id}) answered {command:?} with {answer:?}")]
    Unexpected {
        /// The guest.
        name: String,
        /// What the host knows it as.
        id: GuestId,
        /// The command.
        command: &'static str,
        /// Its answer.
        answer: String,
    },
}

impl GuestError {
    /// That `program` could not be started for the guest `name`.
    pub fn start(name: &str, program: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Start { name: name.to_owned(), program: program.as_ref().display().to_string(), source }
    }
}

/// How long a guest may take to answer.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// To be up after it was started, and to fill its memory.
    pub ready: Duration,
    /// To answer anything else.
    pub answer: Duration,
}
