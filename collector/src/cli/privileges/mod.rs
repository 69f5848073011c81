//! Least privilege: a command keeps only the privileges that it needs (see docs/privileges.md).

mod capabilities;
mod system_calls;

use huddle_host::{HostRoot, descriptors};

use super::args::{Command, MethodArg};

/// What a command does on the host, and so which privileges it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Reads files that the user names, and connects to a loop of another process.
    Offline,
    /// Finds VMs and reads their contents.
    Contents,
    /// As [`Mode::Contents`], and records.
    Sketch,
    /// Finds VMs and reads which frames they map.
    Frames,
    /// Tries everything out, and changes nothing.
    Examine,
    /// Measures again and again, reads counters, records, serves viewers.
    Watch,
    /// As [`Mode::Frames`], and sets affinities.
    Pin,
    /// As [`Mode::Watch`], and sets affinities.
    Loop,
    /// Sets affinities and settings to what they were.
    Restore,
}

#[cfg(test)]
const MODES: [Mode; 9] = [
    Mode::Offline,
    Mode::Contents,
    Mode::Sketch,
    Mode::Frames,
    Mode::Examine,
    Mode::Watch,
    Mode::Pin,
    Mode::Loop,
    Mode::Restore,
];

impl Mode {
    /// What this command needs.
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Doctor => Self::Examine,
            Command::Vms => Self::Contents,
            Command::Sketch(_) => Self::Sketch,
            Command::Matrix(matrix) if matrix.method == Some(MethodArg::Content) => Self::Contents,
            Command::Matrix(_) => Self::Frames,
            Command::Plan(plan) if plan.matrix.is_some() || plan.replay.is_some() => Self::Offline,
            Command::Plan(_) => Self::Frames,
            Command::Pin(pin) if pin.dry_run => Self::Frames,
            Command::Pin(_) => Self::Pin,
            Command::Top(top) if !top.runs_a_loop() => Self::Offline,
            Command::Run(super::args::RunArgs { looping, .. })
            | Command::Top(super::args::TopArgs { looping, .. }) => {
                if looping.dry_run {
                    Self::Watch
                } else {
                    Self::Loop
                }
            }
            Command::Restore => Self::Restore,
        }
    }
}

/// Drops the privileges that this command does not need, for this process and its children. To be called before the
/// first thread is started: later threads inherit it.
///
/// A privilege that cannot be dropped is logged and kept: the command still works.
pub(super) fn confine(command: &Command) {
    descriptors::raise_limit();
    let mode = Mode::of(command);
    capabilities::keep(mode);
    if let Err(error) = nix::sys::prctl::set_no_new_privs() {
        tracing::warn!("programs that huddle starts may gain privileges: {error}");
    }
    if let Err(error) = system_calls::allow(mode, huddle_xen::is_control_domain(&HostRoot::real())) {
        tracing::warn!("huddle is not confined to the system calls that it needs: {error}");
    }
}
