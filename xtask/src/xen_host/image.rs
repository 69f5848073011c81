//! The image of the host: hypervisor, kernel, the root of dom0, and how QEMU boots them.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::{libraries, packages, root, vmlinux};
use crate::{archive, host, images, shell, whole};

/// Debian's package that names its newest kernel: dom0's, and its domains'.
const KERNEL: &str = "linux-image-amd64";

/// QEMU's arguments, one per line.
const COMMAND: &str = include_str!("command");

/// Makes it if it is missing or was made from something else; returns its directory.
pub(crate) fn make() -> anyhow::Result<PathBuf> {
    ensure!(cfg!(target_arch = "x86_64"), "the Xen host is made for x86-64 only");
    let release = host::debian_release().context(
        "the Xen host is made from the packages of a Debian host, and this is not one; copy target/guests/xen from one",
    )?;
    let guest = images::guest_program()?;
    let place = images::images()?.join("xen");
    whole::make(&place, &recipe(&release, &guest), |directory| build(directory, guest.clone()))?;
    Ok(place)
}

/// Its recipe: downloads by name, files built here by content.
fn recipe(release: &str, guest: &[u8]) -> String {
    let mut content = DefaultHasher::new();
    content.write(guest);
    for text in root::SCRIPTS.iter().map(|(_, text)| *text).chain(root::TOOLS).chain([COMMAND]) {
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
    let archive = directory.join("dom0.cpio");
    let entries = root::entries(root::Parts { xen: &xen, kernel: &kernel, vmlinux, guest })?;
    archive::write(&archive, entries)
        .and_then(|()| archive::pad(&archive))
        .with_context(|| format!("cannot write {}", archive.display()))?;
    fs::write(directory.join("command"), COMMAND).context("cannot write how it is booted")?;
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
