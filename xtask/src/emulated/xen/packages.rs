//! Xen's packages, unpacked rather than installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::shell;

/// Debian's packages of the hypervisor and its tools, with the libraries of Xen's that they use.
pub(super) const NAMES: [&str; 16] = [
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "xenstore-utils",
    "libxen-dev",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libuuid1",
];

/// Downloads them and unpacks them into the directory `unpacked`.
pub(super) fn unpack(unpacked: &Path) -> anyhow::Result<()> {
    let downloaded = unpacked.with_extension("deb");
    fs::create_dir_all(&downloaded).with_context(|| format!("cannot make {}", downloaded.display()))?;
    shell::run(Command::new("apt-get").current_dir(&downloaded).args(["download", "-q"]).args(NAMES)).context(
        "Xen 4.17 could not be downloaded: it is in Debian 12 (bookworm), whose archive must be among apt's sources; run \
         `apt-get update`",
    )?;
    for entry in fs::read_dir(&downloaded)? {
        shell::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(unpacked))?;
    }
    fs::remove_dir_all(&downloaded).with_context(|| format!("cannot remove {}", downloaded.display()))
}
