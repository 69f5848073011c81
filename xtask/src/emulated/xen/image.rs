//! The image of the host: hypervisor, kernel, the root of dom0, and how QEMU boots them.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::super::{ROOT, libraries, root as common};
use super::{packages, root, vmlinux};
use crate::{host, images, shell, whole};

/// Debian's package that names its newest kernel: dom0's, and its domains'.
const KERNEL: &str = "linux-image-amd64";

/// The program that boots it and its arguments, one per line.
pub(crate) const COMMAND: &str = include_str!("command");

/// Arguments for the second serial line.
const ANSWERS: &str = include_str!("../answers");

/// Makes it at `place` if it is missing or was made from something else.
pub(crate) fn make(place: &Path) -> anyhow::Result<()> {
    let release = host::debian_release().context(
        "the Xen host is made from the packages of a Debian host, and this is not one; copy target/guests/xen from one",
    )?;
    let guest = images::guest_program()?;
    whole::make(place, &recipe(&release, &guest), |directory| build(directory, guest.clone()))
}

/// Its recipe: downloads by name, files built here by content.
fn recipe(release: &str, guest: &[u8]) -> String {
    let mut content = DefaultHasher::new();
    content.write(guest);
    let common = common::SCRIPTS.iter().map(|(_, text)| *text);
    for text in common.chain(root::SCRIPTS).chain(root::TOOLS).chain([COMMAND, ANSWERS, common::SOURCE]) {
        content.write(text.as_bytes());
    }
    let (packages, modules) = (packages::NAMES.join(" "), root::MODULES.join(" "));
    let own = content.finish();
    format!("release {release}\nkernel {KERNEL}\npackages {packages}\nmodules {modules}\nown {own:016x}\n")
}

fn build(directory: &Path, guest: Vec<u8>) -> anyhow::Result<()> {
    eprintln!("Making a Xen host for QEMU, once (less than a minute); nothing is installed.");
    let (xen, kernel) = (directory.join("packages"), directory.join("kernel"));
    packages::unpack(&xen)?;
    let release = images::unpack_kernel(KERNEL, &kernel)?;
    let hypervisor = hypervisor(&xen)?;
    let file = File::create(directory.join("xen")).context("cannot write the hypervisor")?;
    shell::run(Command::new("gzip").arg("-dc").arg(&hypervisor).stdout(Stdio::from(file)))?;

    let path = kernel.join("boot").join(format!("vmlinuz-{release}"));
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let vmlinux = vmlinux::extract(&bytes)?;
    fs::write(directory.join("vmlinux"), &vmlinux).context("cannot write the kernel")?;
    let entries = root::entries(root::Parts { xen: &xen, kernel: &kernel, vmlinux, guest })?;
    common::write(&directory.join(ROOT), entries)?;
    for (name, text) in [("command", COMMAND), ("answers", ANSWERS)] {
        fs::write(directory.join(name), text).context("cannot write how it is booted")?;
    }
    // For programs compiled against them: tests of structures, benchmarks.
    for (from, to) in [("usr/include", "include"), (libraries::DIRECTORY, "lib")] {
        fs::rename(xen.join(from), directory.join(to))
            .with_context(|| format!("Xen's packages have no {from}"))?;
    }
    [xen, kernel].iter().try_for_each(fs::remove_dir_all).context("cannot remove what was unpacked")
}

/// The hypervisor in its package.
fn hypervisor(xen: &Path) -> anyhow::Result<PathBuf> {
    let boot = xen.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .context("Xen's package has no hypervisor")
}
