//! Xen's packages, unpacked rather than installed.

use std::path::Path;

use anyhow::Context;

use crate::debian;

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
    debian::unpack(debian::apt_get(), NAMES, unpacked).context(
        "Xen 4.17 could not be downloaded: it is in Debian 12 (bookworm), whose archive must be among apt's sources; run \
         `apt-get update`",
    )
}
