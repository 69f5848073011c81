//! A stand-in VM: the program `huddle-standin`.

use std::path::Path;
use std::process::Command;

use super::child::ChildGuest;
use super::{GuestError, TimeLimits};
use crate::interrupt::Interrupt;

/// How to start a stand-in.
#[derive(Clone, Debug)]
pub struct ProcessGuestSpec<'a> {
    /// Name of the VM.
    pub name: &'a str,
    /// The program `huddle-standin`.
    pub program: &'a Path,
    /// vCPUs that read.
    pub vcpus: u32,
    /// KiB of memory that no other guest holds.
    pub private_kib: u64,
    /// Seed of that memory.
    pub private_seed: u64,
    /// How long it may take to answer.
    pub limits: TimeLimits,
    /// What ends the waiting for it early.
    pub interrupt: Interrupt,
}

impl ProcessGuestSpec<'_> {
    /// Starts the process without waiting until it is ready: see [`Guest::wait_ready`](super::Guest::wait_ready).
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&self) -> Result<ChildGuest, GuestError> {
        let mut process = Command::new(self.program);
        process.args([
            "--vcpus".to_owned(),
            self.vcpus.to_string(),
            "--private-kib".to_owned(),
            self.private_kib.to_string(),
            "--private-seed".to_owned(),
            self.private_seed.to_string(),
        ]);
        ChildGuest::start(self.name, process, self.limits, self.interrupt.clone(), None)
    }
}
