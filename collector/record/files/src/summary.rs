//! The result of an experiment, as a file.

use std::path::{Path, PathBuf};

use huddle_model::summary::{SUMMARY_FILE, Summary, SummaryError};
use huddle_model::text::plain_short;
use serde::de::DeserializeOwned;

use super::regular::{RegularError, read_text};

/// A result has some 100 KiB, and some MiB with many blocks of many VMs; far larger files are refused.
pub const MAX_SUMMARY_BYTES: u64 = 64 << 20;

/// Most bytes of what the parser says, which quotes the file.
const MESSAGE_BYTES: usize = 300;

/// A result that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SummaryFault {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: RegularError,
    },
    /// It is not a result, or of an unsupported version.
    #[error("{}: {}", path.display(), plain_short(&source.to_string(), MESSAGE_BYTES))]
    Content {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: SummaryError,
    },
}

impl SummaryFault {
    /// Whether it does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.is_not_found())
    }
}

/// Reads the result of the experiment in `dir`, of at most [`MAX_SUMMARY_BYTES`], with its own figures as `F`.
///
/// # Errors
/// It does not exist, is not a regular file, is too large, or is of an unsupported version.
pub fn read_summary<F: DeserializeOwned>(dir: &Path) -> Result<Summary<F>, SummaryFault> {
    let path = dir.join(SUMMARY_FILE);
    let text = match read_text(&path, MAX_SUMMARY_BYTES) {
        Ok(text) => text,
        Err(source) => return Err(SummaryFault::File { path, source }),
    };
    Summary::from_json(&text).map_err(|source| SummaryFault::Content { path, source })
}

#[cfg(test)]
mod tests {
    use huddle_model::summary::ShownFigures;

    use super::*;

    fn error(dir: &Path) -> SummaryFault {
        read_summary::<ShownFigures>(dir).unwrap_err()
    }

    #[test]
    fn what_is_damaged_is_one_sentence_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(error(dir.path()).is_not_found());
        let file = dir.path().join(SUMMARY_FILE);
        let hostile = format!("\"{}\\u001b[2J\\n\"", "x".repeat(5000));
        for (text, words) in [
            ("{\"schema\":\"huddle/summary/1\",", "not an experiment's result"),
            ("{\"schema\":\"huddle/summary/9\"}", "huddle/summary/9"),
            (&format!("{{\"schema\":{hostile}}}"), ".."),
            (
                &format!("{{\"schema\":\"huddle/summary/1\",\"experiment\":1,\"x\":{hostile}}}"),
                "expected a string",
            ),
        ] {
            std::fs::write(&file, text).unwrap();
            let fault = error(dir.path());
            let said = fault.to_string();
            assert!(said.contains(words) && said.contains(SUMMARY_FILE), "{said}");
            assert!(said.len() < 600 && !said.contains(char::is_control), "{said}");
            assert!(!fault.is_not_found());
        }
    }

    #[test]
    fn what_is_too_large_or_no_file_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(SUMMARY_FILE);
        std::fs::File::create(&file).unwrap().set_len(MAX_SUMMARY_BYTES + 1).unwrap();
        let said = error(dir.path()).to_string();
        assert!(said.contains(&format!("at most {MAX_SUMMARY_BYTES} are read")), "{said}");
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        assert!(error(dir.path()).to_string().contains("a symbolic link"));
    }
}
