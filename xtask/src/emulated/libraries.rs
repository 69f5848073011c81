//! The shared libraries of programs, as the dynamic loader finds them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Debian's directory of libraries on x86-64.
pub(super) const DIRECTORY: &str = "usr/lib/x86_64-linux-gnu";

/// The paths of the libraries that the programs need, by name: from the unpacked packages first, then from
/// the host.
pub(super) fn of(programs: &[PathBuf], unpacked: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for program in programs {
        let output = Command::new("ldd")
            .arg(program)
            .env("LD_LIBRARY_PATH", unpacked.join(DIRECTORY))
            .output()
            .context(
                "cannot run ldd, which lists a program's libraries; on Debian: apt-get install libc-bin",
            )?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "ldd cannot read {}: {text}", program.display());
        for (name, path) in text.lines().filter_map(library) {
            let path = path.with_context(|| {
                format!(
                    "{} needs {name}, which is neither installed nor in Xen's packages",
                    program.display()
                )
            })?;
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}

/// The dynamic loader, by the name in every program (System V ABI, AMD64).
pub(super) const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Libraries that programs of this repository need besides the C library, in the same directory.
pub(super) const OF_PROGRAMS: [&str; 2] = ["libgcc_s.so.1", "libm.so.6"];

/// What programs built on this machine need, by their path in a root.
pub(super) fn of_this_machine() -> anyhow::Result<Vec<(String, PathBuf)>> {
    // Not by its path, at which a build of the whole workspace may have put another one since.
    let own = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let found = of(&[own], Path::new("/"))?;
    let libc = found.get("libc.so.6").context("this program needs no C library: ldd was misread")?;
    let others = OF_PROGRAMS.map(|name| (name.to_owned(), libc.with_file_name(name)));
    let placed = [("libc.so.6".to_owned(), libc.clone())].into_iter().chain(others);
    let mut placed: Vec<_> = placed.map(|(name, path)| (format!("{DIRECTORY}/{name}"), path)).collect();
    placed.push((LOADER.to_owned(), Path::new("/").join(LOADER)));
    Ok(placed)
}

/// The name and path in a line of ldd; the loader and the vDSO have none.
fn library(line: &str) -> Option<(&str, Option<&str>)> {
    let (name, rest) = line.trim().split_once(" => ")?;
    let path = rest.split_once(" (").map(|(path, _)| path);
    Some((name, path.filter(|path| path.starts_with('/'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd_are_read() {
        let line = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f7f2b681000)";
        assert_eq!(library(line), Some(("libc.so.6", Some("/lib/x86_64-linux-gnu/libc.so.6"))));
        assert_eq!(library("\tlibyajl.so.2 => not found"), Some(("libyajl.so.2", None)));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffc)"), None);
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), None);
    }
}
