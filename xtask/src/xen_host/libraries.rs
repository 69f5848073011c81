//! The shared libraries that programs need where they are all there is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Where Debian's loader looks for libraries.
const DIRECTORY: &str = "lib/x86_64-linux-gnu";

/// What these files need, themselves included where they are libraries: names within a root, and where they
/// are now. `more` is looked in before the usual places.
pub(super) fn needed(files: &[PathBuf], more: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.contains(".so.") {
            found.insert(format!("{DIRECTORY}/{name}"), file.clone());
        }
        let output = Command::new("ldd").env("LD_LIBRARY_PATH", more).env("LC_ALL", "C").arg(file).output();
        let output = output.context("cannot run ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && !text.contains("not found"),
            "libraries of {} are missing: {text}",
            file.display()
        );
        found.extend(parse(&text));
    }
    Ok(found)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader by its path alone.
fn parse(ldd: &str) -> Vec<(String, PathBuf)> {
    let line = |line: &str| {
        let line = line.trim().rsplit_once(" (")?.0;
        match line.split_once(" => ") {
            Some((name, path)) => Some((format!("{DIRECTORY}/{name}"), PathBuf::from(path))),
            None => Some((line.strip_prefix('/')?.to_owned(), PathBuf::from(line))),
        }
    };
    ldd.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f7a)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f7b)\n";
        let found = parse(text);
        assert_eq!(found[0].0, "lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(found[1].0, "lib64/ld-linux-x86-64.so.2");
        assert_eq!(found.len(), 2);
    }
}
