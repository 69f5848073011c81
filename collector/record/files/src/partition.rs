//! The directories of recordings of many hosts, which any reader of Parquet datasets understands as partitions.

use std::fmt::Write as _;
use std::path::PathBuf;

/// `host=HOST/run=RUN`.
pub fn of_run(host: &str, run: &str) -> PathBuf {
    PathBuf::from(format!("host={}", escaped(host))).join(format!("run={}", escaped(run)))
}

/// A partition's value as Hive writes it: all but letters, digits, `-`, `_` and `.` as `%XX`.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_directory() {
        assert_eq!(of_run("../a=b c", "r-1").to_str(), Some("host=..%2Fa%3Db%20c/run=r-1"));
    }
}
