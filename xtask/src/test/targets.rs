//! Test programs of the workspace, by the convention of their names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Prefix of the names of test programs that boot guests.
pub(crate) const BOOTS: &str = "boot_";
/// Prefix of the names of those that boot none, but take long.
const LONG: &str = "long_";

/// A test program: `tests/NAME.rs`, or `tests/NAME/main.rs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// The directory of its package, from the root of the repository.
    pub(super) package: String,
    pub(super) name: String,
}

/// Why a test program is left out of a quick run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It boots guests.
    Boots,
    /// It takes long.
    Long,
}

impl Target {
    /// Why it is left out of a quick run, if it is.
    pub(super) fn left_out(&self) -> Option<Left> {
        if self.name.starts_with(BOOTS) {
            return Some(Left::Boots);
        }
        self.name.starts_with(LONG).then_some(Left::Long)
    }
}

/// All of them, sorted.
pub(super) fn find(root: &Path) -> anyhow::Result<Vec<Target>> {
    let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        let is_package = directory.join("Cargo.toml").exists();
        for (path, name, is_directory) in entries(&directory)? {
            if !is_directory || name.starts_with('.') || ["target", "runs", "src"].contains(&name.as_str()) {
                continue;
            }
            if !(is_package && name == "tests") {
                left.push(path);
                continue;
            }
            let package = directory.strip_prefix(root).unwrap_or(&directory).display().to_string();
            found.extend(names(&path)?.into_iter().map(|name| Target { package: package.clone(), name }));
        }
    }
    found.sort();
    Ok(found)
}

/// Names of the programs in a directory `tests`, by cargo's rules.
fn names(tests: &Path) -> anyhow::Result<Vec<String>> {
    let program = |(path, name, is_directory): (PathBuf, String, bool)| match is_directory {
        true => path.join("main.rs").exists().then_some(name),
        false => name.strip_suffix(".rs").map(str::to_owned),
    };
    Ok(entries(tests)?.into_iter().filter_map(program).collect())
}

/// Entries of a directory: paths, names, and whether each is a directory.
fn entries(directory: &Path) -> anyhow::Result<Vec<(PathBuf, String, bool)>> {
    let read = || {
        let entries = fs::read_dir(directory)?;
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((entry.path(), name, entry.file_type()?.is_dir()))
        };
        entries.map(entry).collect::<std::io::Result<_>>()
    };
    read().with_context(|| format!("cannot read {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_cargos_rules_and_classified_by_name() {
        let dir = std::env::temp_dir().join(format!("xtask-targets-{}", std::process::id()));
        for file in [
            "Cargo.toml",
            "a/Cargo.toml",
            "a/tests/cli.rs",
            "a/tests/boot_xen/main.rs",
            "a/tests/boot_xen/host.rs",
            "a/tests/support/mod.rs",
            "a/b/Cargo.toml",
            "a/b/tests/long_loop.rs",
            "a/b/tests/data.csv",
            "c/tests/no_package.rs",
            "target/a/Cargo.toml",
            "target/a/tests/built.rs",
        ] {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = find(&dir).unwrap();
        let found_programs: Vec<_> = found
            .iter()
            .map(|target| (target.package.as_str(), target.name.as_str(), target.left_out()))
            .collect();
        let boots = ("a", "boot_xen", Some(Left::Boots));
        assert_eq!(found_programs, [boots, ("a", "cli", None), ("a/b", "long_loop", Some(Left::Long))]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn those_of_this_repository_are_found() {
        let found = find(&crate::shell::root()).unwrap();
        assert!(found.iter().any(|target| target.left_out() == Some(Left::Boots)), "{found:?}");
        assert!(found.iter().any(|target| target.left_out().is_none()), "{found:?}");
    }
}
