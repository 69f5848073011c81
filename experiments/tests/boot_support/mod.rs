//! The image that tests boot in QEMU.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use huddle_experiments::guest::qemu::PROGRAM;
use huddle_experiments::images;

/// The images beside the test's own programs, in `target/guests`; `None`, and a line that says so, without QEMU or them.
pub(crate) fn image() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_huddle-standin")).ancestors().nth(2).unwrap();
    let missing = match images::find(&target.join("guests"), "cloud") {
        Ok(image) if Command::new(PROGRAM).arg("--version").output().is_ok() => return Some(image),
        Ok(_) => format!("{PROGRAM} is missing"),
        Err(why) => why,
    };
    // Not a macro of printing: the harness catches those.
    assert!(std::env::var_os("CI").is_none(), "CI must not skip this: {missing}");
    std::io::stderr().write_all(format!("skipped: {missing}\n").as_bytes()).unwrap();
    None
}
