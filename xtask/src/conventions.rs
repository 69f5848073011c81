//! Conventions that no lint of the compiler knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::shell;

/// Where modules still have it: what tests of several packages share is not a package yet.
const STILL: [&str; 3] = ["analysis/", "collector/", "experiments/tests/"];

/// Modules are found where the compiler looks for them; tests of one are its `mod tests`, inline or in
/// `tests.rs` of its directory, and what tests of several packages share is in a package.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = shell::root();
    let mut found = Vec::new();
    for file in sources(&root)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let shown = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        if STILL.iter().any(|place| shown.starts_with(place)) {
            continue;
        }
        found.extend(path_attributes(&text).map(|line| format!("{shown}:{line}")));
    }
    ensure!(
        found.is_empty(),
        "modules with `#[path]` (put the file where the compiler looks for it, or what is shared in a \
         package):\n{}",
        found.join("\n")
    );
    Ok(())
}

/// Numbers of the lines on which an attribute `path` begins.
fn path_attributes(text: &str) -> impl Iterator<Item = usize> {
    let is_path = |line: &str| line.trim_start().starts_with("#[path");
    text.lines().zip(1..).filter(move |(line, _)| is_path(line)).map(|(_, number)| number)
}

/// Every Rust file of the repository.
fn sources(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        let entries = fs::read_dir(&directory);
        for entry in entries.with_context(|| format!("cannot read {}", directory.display()))? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                // What cargo and git make, and what runs leave.
                if !name.starts_with('.') && !["target", "runs"].contains(&name.as_ref()) {
                    left.push(path);
                }
            } else if name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_told_by_their_lines() {
        let text = "mod a;\n#[path = \"x.rs\"]\nmod b;\n    #[path=\"y.rs\"]\n// #[path] in a comment\n";
        assert_eq!(path_attributes(text).collect::<Vec<_>>(), [2, 4]);
    }
}
