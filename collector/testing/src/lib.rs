//! Support for tests, benchmarks and examples of several packages. Never a normal dependency.
#![allow(clippy::unwrap_used, reason = "support of tests: what fails, panics")]

pub mod cpu_time;
pub mod emulated;
pub mod experiment;
pub mod figures;
pub mod fixtures;
pub mod fleet;
pub mod ksm;
pub mod machines;
pub mod memory;
pub mod older;
pub mod output;
#[cfg(feature = "pages")]
pub mod pages;
pub mod privileges;
pub mod reader;
#[cfg(feature = "recordings")]
pub mod readers_loop;
#[cfg(feature = "recordings")]
pub mod recording;
pub mod sample;
pub mod sample_observed;
pub mod tmux;
pub mod xen;

use std::path::{Path, PathBuf};

/// The environment of a `huddle` whose state is in `dir`, and which does not keep out those of other tests that run
/// on this machine at the same time.
pub fn own_state(dir: &Path) -> [(&'static str, PathBuf); 2] {
    [("HUDDLE_STATE_DIR", dir.join("state")), ("HUDDLE_HOST_LOCK", dir.join("host"))]
}

/// Copies a program that is then run. `cp` does it: while this process had the copy open for writing, a child that another
/// test starts at that moment would have it open, too, and the copy could not be run ("text file busy").
pub fn copy_program(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").args([from, to]).status().unwrap();
    assert!(status.success(), "cp {} {}", from.display(), to.display());
}
