//! Debian's perf for ARM64, with the libraries that it loads: files for one directory of a host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::linux::SUITES;
use super::packages::Apt;
use crate::{setup, whole};

/// Where it is kept, in the directory of images.
pub(crate) const DIRECTORY: &str = "perf-arm64";

/// Debian's package.
const PACKAGE: &str = "linux-perf";

/// The dynamic loader.
const LOADER: &str = "ld-linux-aarch64.so.1";

/// Makes the directory `place` with `perf`, its libraries and the loader that starts it.
pub(crate) fn make(place: &Path) -> anyhow::Result<()> {
    setup::arm64_compiler()?;
    whole::make(place, &format!("suites {}\npackage {PACKAGE}\n", SUITES.join(" ")), build)
}

fn build(directory: &Path) -> anyhow::Result<()> {
    eprintln!("Unpacking perf for ARM64, once (a minute); nothing is installed.");
    let (apt, unpacked) = (directory.join("apt"), directory.join("unpacked"));
    Apt::new(&apt, "arm64", &SUITES)?.unpack_with_dependencies(PACKAGE, &unpacked)?;
    let found = files(&unpacked)?;
    let file =
        |name: &str| found.get(name).with_context(|| format!("the packages of {PACKAGE} have no {name}"));
    // Where `perf` is a script, it starts one whose name has a version.
    let perf = found.keys().find(|name| *name == "perf" || name.starts_with("perf_")).cloned();
    let perf = perf.with_context(|| format!("{PACKAGE} has no perf"))?;
    let mut wanted = vec![perf.clone(), LOADER.to_owned()];
    let mut taken = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if !taken.insert(name.clone()) {
            continue;
        }
        let path = file(&name)?;
        let to = if name == perf { "perf" } else { &name };
        fs::copy(path, directory.join(to)).with_context(|| format!("cannot copy {}", path.display()))?;
        wanted.extend(needed(path)?);
    }
    [apt, unpacked].iter().try_for_each(fs::remove_dir_all).context("cannot remove what was unpacked")
}

/// The programs and libraries below a directory by name.
fn files(directory: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let (mut found, mut directories) = (BTreeMap::new(), vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                directories.push(path);
            } else if is_elf(&path)
                && let Some(name) = path.file_name().and_then(|name| name.to_str())
            {
                found.insert(name.to_owned(), path);
            }
        }
    }
    Ok(found)
}

/// Whether it is a program or a library; links to one are, too.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = path.is_file().then(|| fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)));
    read.is_some_and(|read| read.is_ok()) && magic == *b"\x7fELF"
}

/// The libraries that a program or library names (DT_NEEDED).
fn needed(path: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("readelf").arg("-dW").arg(path).env("LC_ALL", "C").output();
    let output = output.context("cannot run readelf, which is of binutils")?;
    ensure!(output.status.success(), "readelf cannot read {}", path.display());
    Ok(named(&String::from_utf8_lossy(&output.stdout)))
}

fn named(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
    let names = lines.filter_map(|line| line.split_once('[')?.1.split_once(']'));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_libraries_are_those_that_readelf_lists() {
        let text = " 0x0000000000000001 (NEEDED)             Shared library: [libelf.so.1]\n \
                    0x000000000000000e (SONAME)             Library soname: [libdw.so.1]\n";
        assert_eq!(named(text), ["libelf.so.1"]);
    }
}
