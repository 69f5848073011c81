//! Output of test programs.

use std::io::Write;

/// Prints a line that must be visible: libtest captures the `eprintln!` output of passing tests.
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Says that a test is skipped for this reason; an error in CI, where it must not be.
///
/// # Errors
/// The message with which the test is to fail.
pub fn skip(test: &str, reason: &str) -> Result<(), String> {
    if std::env::var_os("CI").is_some() {
        return Err(format!("{test}: CI must not skip this: {reason}"));
    }
    say(&format!("{test}: skipped: {reason}"));
    Ok(())
}
