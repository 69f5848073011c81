//! What the roots of all emulated hosts have: busybox, the first program, and the one that answers commands.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::archive::{self, DIRECTORY, Entries, FILE};
use crate::images::EXECUTABLE;

/// The scripts in it, besides the services of its kind.
pub(super) const SCRIPTS: [(&str, &str); 2] =
    [("init", include_str!("init.sh")), ("bin/answer", include_str!("answer.sh"))];

/// What it is made by, for the recipes of images.
pub(super) const SOURCE: &str = include_str!("root.rs");

const DIRECTORIES: [&str; 11] =
    ["bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin"];

/// The beginning of a root. `busybox` is a static one of the host's architecture, `services` what its first program runs
/// before it is ready, `answers_on` the device on which commands are answered.
pub(super) fn entries(busybox: &Path, services: &str, answers_on: &str) -> anyhow::Result<Entries> {
    let mut entries: Entries =
        DIRECTORIES.map(|name| archive::entry(name, DIRECTORY | 0o755, "")).into_iter().collect();
    entries.push(archive::console());
    entries.push(archive::entry("bin/busybox", EXECUTABLE, read(busybox)?));
    // The first program is a script; it makes the other links itself.
    entries.push(archive::entry("bin/sh", archive::LINK | 0o777, "busybox"));
    for (name, text) in SCRIPTS {
        entries.push(archive::entry(name, EXECUTABLE, text));
    }
    entries.push(archive::entry("services", EXECUTABLE, services));
    entries.push(archive::entry("etc/answers-on", FILE | 0o644, format!("{answers_on}\n")));
    Ok(entries)
}

pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a root that other archives can be appended to.
pub(super) fn write(path: &Path, entries: Entries) -> anyhow::Result<()> {
    archive::write(path, entries)
        .and_then(|()| archive::pad(path))
        .with_context(|| format!("cannot write {}", path.display()))
}
