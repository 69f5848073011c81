//! Guests: what stands for VMs in an experiment.
//!
//! A [`Guest`] holds data and reads it on command. There are three kinds, and the runner does not know which
//! it has: [`process`] (the program `huddle-standin`, a process of its own with mergeable memory and
//! threads named like vCPUs), [`qemu`] (a real VM whose only program is `huddle-guest-init`) and [`xen`] (a
//! domain of Xen's with the same program). All speak the protocol of [`huddle_guest::protocol`], over a pair
//! of pipes or a console: see [`protocol_guest::ProtocolGuest`].

pub mod child;
pub mod kvm;
pub mod process;
pub(crate) mod process_group;
pub mod protocol_guest;
pub mod qemu;
pub mod start;
pub mod xen;

use std::fmt;
use std::time::Duration;

pub use huddle_guest::protocol::{Pace, Reading};
use huddle_xen::toolstack::DomainRef;

use crate::interrupt::Interrupted;

/// What the host knows a guest as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The process that holds its memory.
    Process(i32),
    /// The domain that it is.
    Domain(DomainRef),
}

impl fmt::Display for Holder {
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
}

/// A guest that reads its data on command. Dropping it ends it.
pub trait Guest {
    /// The name of its VM.
    fn name(&self) -> &str;

    /// What holds the VM.
    fn holder(&self) -> Holder;

    /// Makes sure that it has not ended.
    fn check(&mut self) -> Result<(), GuestError>;

    /// Makes it hold `data` instead of what it held.
    fn load(&mut self, data: GuestData) -> Result<(), GuestError>;

    /// Begins to read, with all counters at 0: the common data, or its own copy, which cannot be merged.
    fn start(&mut self, pace: Pace, own: bool) -> Result<(), GuestError>;

    /// What each vCPU has done since it was started. They go on.
    fn read(&mut self) -> Result<Vec<Reading>, GuestError>;

    /// Stops reading and reports what each vCPU has done since it was started.
    fn stop(&mut self) -> Result<Vec<Reading>, GuestError>;
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
        "the guest {name} ({holder}) did not answer {asked:?} within {seconds} s; it is ended. \
         Is the host so loaded that it does not get to run?{console}"
    )]
    Silent {
        /// The guest.
        name: String,
        /// What holds it.
        holder: Holder,
        /// The command.
        asked: &'static str,
        /// How long was waited, in seconds.
        seconds: f64,
        /// The last lines of its console, if it has one.
        console: String,
    },
    /// It has ended.
    #[error(
        "the guest {name} ({holder}) ended before it answered {asked:?}: {status}; its own output, if any, is above{console}"
    )]
    Ended {
        /// The guest.
        name: String,
        /// What holds it.
        holder: Holder,
        /// The command.
        asked: &'static str,
        /// How it ended.
        status: String,
        /// The last lines of its console, if it has one.
        console: String,
    },
    /// It answered something else.
    #[error("the guest {name} ({holder}) answered {asked:?} with {answer:?}")]
    Unexpected {
        /// The guest.
        name: String,
        /// What holds it.
        holder: Holder,
        /// The command.
        asked: &'static str,
        /// Its answer.
        answer: String,
    },
}

/// How long a guest may take to answer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To be up after it was started, and to fill its memory.
    pub ready: Duration,
    /// To answer anything else.
    pub answer: Duration,
}
