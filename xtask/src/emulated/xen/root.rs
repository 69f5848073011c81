//! The root of dom0: Xen's tools and services, and the image of its domains.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::{libraries, root};
use crate::archive::{self, DIRECTORY, Entries, FILE, LINK};
use crate::images::{self, EXECUTABLE};
use crate::modules;

/// Xen's programs in its packages; those in `bin` of its own directory are installed in PATH.
pub(super) const TOOLS: [&str; 8] = [
    "usr/lib/xen-4.17/bin/xl",
    "usr/lib/xen-4.17/bin/xenstored",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xen-init-dom0",
    "usr/lib/xen-4.17/bin/xenconsole",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-ls",
    "usr/bin/xenstore-write",
];

/// `xl console` runs it from here.
const CONSOLE: &str = "usr/lib/xen-4.17/bin/xenconsole";

/// Libraries that huddle loads at run time, by name.
const LOADED: [&str; 5] = [
    "libxenctrl.so.4.17",
    "libxenguest.so.4.17",
    "libxenforeignmemory.so.1",
    "libxentoolcore.so.1",
    "libxentoollog.so.1",
];

/// Kernel modules of Xen's tools, each after those it needs.
pub(super) const MODULES: [&str; 5] = ["xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs"];

/// What its first program starts before it is ready.
const SERVICES: &str = include_str!("services.sh");

/// Makes a domain.
const GUEST: &str = include_str!("guest.sh");

/// The scripts in it, besides those of every host.
pub(super) const SCRIPTS: [&str; 2] = [SERVICES, GUEST];

const DIRECTORIES: [&str; 15] = [
    "etc/xen",
    "guest",
    "lib64",
    "usr/lib",
    libraries::DIRECTORY,
    "usr/lib/xen-4.17",
    "usr/lib/xen-4.17/bin",
    "usr/sbin",
    "var",
    "var/lib",
    "var/lib/xen",
    "var/lib/xenstored",
    "var/log",
    "var/log/xen",
    "var/log/xen/console",
];

/// Its sources: Xen's packages and the kernel's, unpacked, the kernel itself, and the program of the domains.
pub(super) struct Parts<'a> {
    pub(super) xen: &'a Path,
    pub(super) kernel: &'a Path,
    pub(super) vmlinux: Vec<u8>,
    pub(super) guest: Vec<u8>,
}

/// Its files, in the order of an initramfs.
pub(super) fn entries(parts: Parts<'_>) -> anyhow::Result<Entries> {
    let Parts { xen, kernel, vmlinux, guest } = parts;
    let mut entries = root::entries(Path::new(images::BUSYBOX), SERVICES, "ttyS1")
        .context("Debian has busybox in its package busybox-static")?;
    entries.extend(DIRECTORIES.map(|name| archive::entry(name, DIRECTORY | 0o755, "")));
    for (name, target) in [("lib", "usr/lib"), ("var/run", "/run")] {
        entries.push(archive::entry(name, LINK | 0o777, target));
    }
    for tool in TOOLS {
        let path = xen.join(tool);
        let name = match tool.rsplit_once('/') {
            Some((_, file)) if tool != CONSOLE && tool.contains("xen-4.17") => format!("usr/sbin/{file}"),
            _ => tool.to_owned(),
        };
        entries.push(archive::entry(&name, EXECUTABLE, root::read(&path)?));
    }
    for (name, path) in libraries(xen)? {
        entries.push(archive::entry(&name, FILE | 0o755, root::read(&path)?));
    }
    for (name, content) in modules::find(kernel, &MODULES)? {
        entries.push(archive::entry(&name, FILE | 0o644, content));
    }
    entries.push(archive::entry("bin/guest", EXECUTABLE, GUEST));
    // Without this file xl complains at every command.
    entries.push(archive::entry("etc/xen/xl.conf", FILE | 0o644, ""));
    entries.push(archive::entry("guest/vmlinux", FILE | 0o644, vmlinux));
    let initrd = images::initramfs(vec![("init", EXECUTABLE, guest)])?;
    entries.push(archive::entry("guest/initrd", FILE | 0o644, initrd));
    Ok(entries)
}

/// Every needed library, by its path in the root.
fn libraries(xen: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut programs: Vec<PathBuf> = TOOLS.iter().map(|tool| xen.join(tool)).collect();
    let loaded = LOADED.map(|name| (name, xen.join(libraries::DIRECTORY).join(name)));
    programs.extend(loaded.iter().map(|(_, path)| path.clone()));
    let mut found = libraries::of(&programs, xen)?;
    found.extend(loaded.map(|(name, path)| (name.to_owned(), path)));
    let libc = found.get("libc.so.6").context("Xen's tools need no C library: ldd was misread")?.clone();
    found.extend(libraries::OF_PROGRAMS.map(|name| (name.to_owned(), libc.with_file_name(name))));
    let mut placed: Vec<_> =
        found.into_iter().map(|(name, path)| (format!("{}/{name}", libraries::DIRECTORY), path)).collect();
    placed.push((libraries::LOADER.to_owned(), Path::new("/").join(libraries::LOADER)));
    Ok(placed)
}
