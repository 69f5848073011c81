//! Guests: what stands for VMs in an experiment.
//!
//! A [`Guest`] holds its data and reads it when told. [`process::ProcessGuest`] is a stand-in VM: the
//! program `huddle-standin`, a process of its own with mergeable memory and a thread named like a
//! vCPU, so that discovery, the scan and the pinner meet what they meet in a VM.

pub mod memory;
pub mod process;
pub mod protocol;
pub mod standin;

use std::time::Duration;

pub use protocol::Reading;

/// A guest that reads its data when told. Dropping it ends it.
pub trait Guest {
    /// The name of its VM.
    fn name(&self) -> &str;

    /// The process that holds the VM.
    fn pid(&self) -> i32;

    /// Begins to read, with all counters at 0.
    fn start(&mut self) -> Result<(), GuestError>;

    /// What it has done since it was started. It goes on.
    fn read(&mut self) -> Result<Reading, GuestError>;

    /// Stops reading and tells what it has done since it was started.
    fn stop(&mut self) -> Result<Reading, GuestError>;
}

/// A guest that did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
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
    /// It hangs.
    #[error(
        "the guest {name} (pid {pid}) did not answer {asked:?} within {seconds} s; it is ended. \
         Is the host so loaded that it does not get to run?"
    )]
    Silent {
        /// The guest.
        name: String,
        /// Its process.
        pid: i32,
        /// What it was told.
        asked: &'static str,
        /// How long was waited, in seconds.
        seconds: f64,
    },
    /// It has ended.
    #[error(
        "the guest {name} (pid {pid}) ended before it answered {asked:?}: {status}; its own words are above, if it had any"
    )]
    Ended {
        /// The guest.
        name: String,
        /// Its process.
        pid: i32,
        /// What it was told.
        asked: &'static str,
        /// How it ended.
        status: String,
    },
    /// It answered something else.
    #[error("the guest {name} (pid {pid}) answered {asked:?} with {answer:?}")]
    Unexpected {
        /// The guest.
        name: String,
        /// Its process.
        pid: i32,
        /// What it was told.
        asked: &'static str,
        /// Its answer.
        answer: String,
    },
}

/// How long a guest may take to answer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To fill its memory after it was started.
    pub ready: Duration,
    /// To answer anything else.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { ready: Duration::from_secs(60), answer: Duration::from_secs(15) }
    }
}
