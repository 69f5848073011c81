//! Output of test programs.

use std::io::Write;

/// Prints a line that must be visible: libtest captures the `eprintln!` output of passing tests.
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
