//! What test programs say.

use std::io::Write;

/// Says something that has to be seen: libtest keeps back what a passing test prints with `eprintln!`.
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
