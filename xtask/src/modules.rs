//! Modules of a kernel that was unpacked rather than installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// The files of the modules `names` in an unpacked kernel, by a name in `modules` that sorts them. Modules
/// built into a kernel have no file and are skipped.
pub(crate) fn find(unpacked: &Path, names: &[&str]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let (mut found, mut left) = (Vec::new(), vec![unpacked.join("lib/modules")]);
    if !left[0].exists() {
        left = vec![unpacked.join("usr/lib/modules")];
    }
    while let Some(directory) = left.pop() {
        let entries = fs::read_dir(&directory);
        for entry in entries.with_context(|| format!("cannot read {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    let mut modules = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let is_it = |path: &&PathBuf| {
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko"))
        };
        let Some(path) = found.iter().find(is_it) else { continue };
        let content = match path.extension().is_some_and(|extension| extension == "xz") {
            true => Command::new("xz").arg("-dc").arg(path).output().context("cannot run xz")?.stdout,
            false => fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        };
        modules.push((format!("modules/{number}-{name}.ko"), content));
    }
    Ok(modules)
}
