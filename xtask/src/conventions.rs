//! Conventions for which the compiler has no lint.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::shell;
use crate::test::targets::BOOTS;

/// Code that boots a guest contains one of these.
const BOOTING: [&str; 4] = ["qemu-system-", "guest::qemu", "create_vcpu", "testing::emulated"];

/// - Modules are found where the compiler looks for them; tests of one are its `mod tests`, inline or in
///   `tests.rs` of its directory, and test support shared by several packages is a package.
/// - Test programs that boot guests have a prefix, since quick runs leave them out.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = shell::root();
    let mut found = Vec::new();
    for file in sources(&root)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let shown = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        found.extend(path_attributes(&text).map(|line| {
            format!(
                "{shown}:{line}: `#[path]`; put the file where the compiler looks for it, or shared code in a \
                 package"
            )
        }));
        if boots_unnamed(&shown, &text) {
            found.push(format!(
                "{shown}: the name of a test program that boots guests must begin with {BOOTS}"
            ));
        }
    }
    ensure!(found.is_empty(), "conventions:\n{}", found.join("\n"));
    Ok(())
}

/// Whether the file at a path is part of a test program that boots guests without the prefix in its name.
fn boots_unnamed(path: &str, text: &str) -> bool {
    let program = path.split_once("/tests/").filter(|(package, _)| !package.contains("/src"));
    let is_unnamed = program.is_some_and(|(_, program)| !program.starts_with(BOOTS));
    is_unnamed && BOOTING.iter().any(|sign| text.contains(sign))
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
                // Directories of cargo, git and runs.
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
    fn attributes_are_found_with_their_lines() {
        let text = "mod a;\n#[path = \"x.rs\"]\nmod b;\n    #[path=\"y.rs\"]\n// #[path] in a comment\n";
        assert_eq!(path_attributes(text).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn a_test_program_that_boots_guests_needs_the_prefix() {
        let text = "Command::new(\"qemu-system-x86_64\")";
        assert!(boots_unnamed("collector/tests/qemu.rs", text));
        assert!(!boots_unnamed("collector/tests/boot_qemu.rs", text));
        assert!(!boots_unnamed("collector/tests/cli.rs", "Command::new(\"huddle\")"));
        assert!(!boots_unnamed("collector/host/src/discover/tests.rs", text), "unit tests only name it");
    }
}
