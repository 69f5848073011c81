//! A fleet at a glance, as a file.

use std::path::{Path, PathBuf};

use huddle_model::fleet::{FleetOverview, InvalidOverview};
use huddle_model::text::plain_short;

use super::regular::{RegularError, read_text};

/// A host takes some 100 bytes, and some 50 for each family that it holds; far larger files are refused.
pub const MAX_OVERVIEW_BYTES: u64 = 256 << 20;

/// Most bytes of what the parser says, which quotes the file.
const MESSAGE_BYTES: usize = 300;

/// A file that is no overview.
#[derive(Debug, thiserror::Error)]
pub enum OverviewFault {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: RegularError,
    },
    /// It holds something else.
    #[error("{}: {}", path.display(), plain_short(&source.to_string(), MESSAGE_BYTES))]
    Content {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidOverview,
    },
}

/// Reads what `huddle-analysis fleet overview` wrote, of at most [`MAX_OVERVIEW_BYTES`].
///
/// # Errors
/// It does not exist, is not a regular file, is too large, or holds something else.
pub fn read_fleet_overview(path: &Path) -> Result<FleetOverview, OverviewFault> {
    let text = match read_text(path, MAX_OVERVIEW_BYTES) {
        Ok(text) => text,
        Err(source) => return Err(OverviewFault::File { path: path.to_owned(), source }),
    };
    FleetOverview::from_json(&text).map_err(|source| OverviewFault::Content { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_overview_is_one_sentence_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fleet.json");
        let said = |path: &Path| read_fleet_overview(path).unwrap_err().to_string();
        assert!(said(&file).starts_with(&format!("cannot read {}: ", file.display())));
        let hostile = format!("\"{}\\u001b[2J\\n\"", "x".repeat(5000));
        for (text, words) in [
            ("[]", "not an overview of a fleet"),
            (&format!("{{\"schema\":{hostile}}}")[..], "huddle/fleet/1"),
        ] {
            std::fs::write(&file, text).unwrap();
            let said = said(&file);
            assert!(said.contains("fleet.json: "), "{said}");
            assert!(said.contains(words) || said.ends_with(".."), "{said}");
            assert!(said.len() < 600 && !said.contains(char::is_control), "{said}");
        }
        assert!(said(dir.path()).contains("a directory"), "{}", said(dir.path()));
    }
}
