//! The root of dom0: busybox, Xen's tools and services, and the image of its domains.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::libraries;
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

/// Libraries that programs of this host need besides the C library, in the same directory.
const OF_PROGRAMS: [&str; 2] = ["libgcc_s.so.1", "libm.so.6"];

/// The dynamic loader, by the name in every program (System V ABI, AMD64).
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Kernel modules of Xen's tools, each after those it needs.
pub(super) const MODULES: [&str; 5] = ["xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs"];

/// The scripts in it.
pub(super) const SCRIPTS: [(&str, &str); 3] = [
    ("init", include_str!("init.sh")),
    ("bin/answer", include_str!("answer.sh")),
    ("bin/guest", include_str!("guest.sh")),
];

const DIRECTORIES: [&str; 26] = [
    "bin",
    "dev",
    "etc",
    "etc/xen",
    "guest",
    "lib64",
    "modules",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
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
    let mut entries: Entries =
        DIRECTORIES.map(|name| archive::entry(name, DIRECTORY | 0o755, "")).into_iter().collect();
    entries.push(archive::console());
    for (name, target) in [("lib", "usr/lib"), ("var/run", "/run")] {
        entries.push(archive::entry(name, LINK | 0o777, target));
    }
    entries.extend(busybox()?);
    for tool in TOOLS {
        let path = xen.join(tool);
        let name = match tool.rsplit_once('/') {
            Some((_, file)) if tool != CONSOLE && tool.contains("xen-4.17") => format!("usr/sbin/{file}"),
            _ => tool.to_owned(),
        };
        entries.push(archive::entry(&name, EXECUTABLE, read(&path)?));
    }
    for (name, path) in libraries(xen)? {
        entries.push(archive::entry(&name, FILE | 0o755, read(&path)?));
    }
    for (name, content) in modules::find(kernel, &MODULES)? {
        entries.push(archive::entry(&name, FILE | 0o644, content));
    }
    for (name, text) in SCRIPTS {
        entries.push(archive::entry(name, EXECUTABLE, text));
    }
    // Without this file xl complains at every command.
    entries.push(archive::entry("etc/xen/xl.conf", FILE | 0o644, ""));
    entries.push(archive::entry("guest/vmlinux", FILE | 0o644, vmlinux));
    let initrd = images::initramfs(vec![("init", EXECUTABLE, guest)])?;
    entries.push(archive::entry("guest/initrd", FILE | 0o644, initrd));
    Ok(entries)
}

/// Busybox, and its commands as links to it.
fn busybox() -> anyhow::Result<Entries> {
    let program = fs::read(images::BUSYBOX)
        .with_context(|| format!("{} is missing; Debian: apt-get install busybox-static", images::BUSYBOX))?;
    let list = Command::new(images::BUSYBOX).arg("--list").output().context("cannot run busybox")?;
    let list = String::from_utf8(list.stdout).context("busybox does not list its commands")?;
    ensure!(
        list.lines().any(|name| name == "sh"),
        "busybox has no shell; Debian: apt-get install busybox-static"
    );
    let links = list.lines().filter(|name| *name != "busybox");
    let links = links.map(|name| archive::entry(&format!("bin/{name}"), LINK | 0o777, "busybox"));
    Ok(std::iter::once(archive::entry("bin/busybox", EXECUTABLE, program)).chain(links).collect())
}

/// Every needed library, by its path in the root.
fn libraries(xen: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut programs: Vec<PathBuf> = TOOLS.iter().map(|tool| xen.join(tool)).collect();
    let loaded = LOADED.map(|name| (name, xen.join(libraries::DIRECTORY).join(name)));
    programs.extend(loaded.iter().map(|(_, path)| path.clone()));
    let mut found = libraries::of(&programs, xen)?;
    found.extend(loaded.map(|(name, path)| (name.to_owned(), path)));
    let libc = found.get("libc.so.6").context("Xen's tools need no C library: ldd was misread")?.clone();
    found.extend(OF_PROGRAMS.map(|name| (name.to_owned(), libc.with_file_name(name))));
    let mut placed: Vec<_> =
        found.into_iter().map(|(name, path)| (format!("{}/{name}", libraries::DIRECTORY), path)).collect();
    placed.push((LOADER.to_owned(), Path::new("/").join(LOADER)));
    Ok(placed)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
