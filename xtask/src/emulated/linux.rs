//! Hosts with Linux alone: ARM64 with a PMU and KVM, x86 with KVM.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::packages::Apt;
use super::programs::ARM64_LIBRARIES;
use super::{ROOT, device_tree, libraries, processor_table, root};
use crate::archive::{self, DIRECTORY, Entries, FILE};
use crate::{modules, setup, whole};

/// Debian's releases that kernels are taken from: the newest kernel that Debian has for a release, and what it is not
/// in.
pub(super) const SUITES: [&str; 2] = ["trixie-backports", "trixie"];

const SERVICES: &str = include_str!("linux/services.sh");

/// What a host shows of itself on a terminal.
pub(super) const START: &str = include_str!("linux/start.sh");

/// A host of this kind.
pub(super) struct Linux {
    /// Its name (hostname(1)).
    name: &'static str,
    /// Debian's architecture.
    architecture: &'static str,
    /// Debian's package that names its newest kernel.
    kernel: &'static str,
    /// Kernel modules, each after those it needs; built-in ones are skipped.
    modules: &'static [&'static str],
    /// The program that boots it and its arguments, one per line.
    pub(super) command: &'static str,
    /// Arguments for the second serial line.
    answers: &'static str,
    /// The device of that line in it.
    answers_on: &'static str,
    /// How it learns of its hardware.
    hardware: Hardware,
}

/// What describes the hardware to the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hardware {
    /// QEMU's firmware for x86.
    Pc,
    /// A device tree made here.
    DeviceTree,
    /// ACPI, by UEFI, with a table of processors made here.
    Acpi,
}

/// Debian's package of UEFI for ARM64, and the file in it.
const UEFI: (&str, &str) = ("qemu-efi-aarch64", "usr/share/qemu-efi-aarch64/QEMU_EFI.fd");

pub(super) const ARM64: Linux = Linux {
    name: "arm64",
    architecture: "arm64",
    kernel: "linux-image-cloud-arm64",
    modules: &[],
    command: include_str!("linux/arm64.command"),
    answers: include_str!("linux/arm64.answers"),
    answers_on: "ttyS0",
    hardware: Hardware::DeviceTree,
};

pub(super) const ARM64_WITH_16_KIB_PAGES: Linux =
    Linux { name: "arm64-16k", kernel: "linux-image-arm64-16k", ..ARM64 };

pub(super) const ARM64_WITH_ACPI: Linux = Linux {
    name: "arm64-acpi",
    command: include_str!("linux/arm64-acpi.command"),
    hardware: Hardware::Acpi,
    ..ARM64
};

pub(super) const X86_KVM: Linux = Linux {
    name: "x86-kvm",
    architecture: "amd64",
    kernel: "linux-image-cloud-amd64",
    modules: &["irqbypass", "kvm", "kvm-amd"],
    command: include_str!("linux/x86-kvm.command"),
    answers: include_str!("answers"),
    answers_on: "ttyS1",
    hardware: Hardware::Pc,
};

/// Names of the libraries of ARM64's programs; the loader is the first.
const ARM64_NAMES: [&str; 4] = ["ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1"];

impl Linux {
    pub(super) fn make(&self, place: &Path) -> anyhow::Result<()> {
        if self.is_arm64() {
            setup::emulators()?;
            setup::arm64_compiler()?;
        }
        whole::make(place, &self.recipe(), |directory| self.build(directory))
    }

    fn is_arm64(&self) -> bool {
        self.architecture == "arm64"
    }

    /// What it is made from: downloads by name, files of this repository by content.
    fn recipe(&self) -> String {
        let mut content = DefaultHasher::new();
        for text in root::SCRIPTS.iter().map(|(_, text)| *text).chain([
            SERVICES,
            self.command,
            self.answers,
            device_tree::SOURCE,
            processor_table::SOURCE,
            root::SOURCE,
        ]) {
            content.write(text.as_bytes());
        }
        let own = content.finish();
        format!(
            "suites {}\nkernel {}\nmodules {}\nown {own:016x}\n",
            SUITES.join(" "),
            self.kernel,
            self.modules.join(" ")
        )
    }

    fn build(&self, directory: &Path) -> anyhow::Result<()> {
        eprintln!("Making the host {} for QEMU, once (less than a minute); nothing is installed.", self.name);
        let (apt, unpacked) = (directory.join("apt"), directory.join("unpacked"));
        let packages = Apt::new(&apt, self.architecture, &SUITES)?;
        let (mut names, release) = packages.kernel(self.kernel, !self.modules.is_empty())?;
        names.push("busybox-static".into());
        if self.hardware == Hardware::Acpi {
            names.push(UEFI.0.into());
        }
        packages.unpack(&names, &unpacked)?;
        let places = [
            unpacked.join(format!("usr/lib/modules/{release}/vmlinuz")),
            unpacked.join(format!("boot/vmlinuz-{release}")),
        ];
        let kernel = places.iter().find(|path| path.exists());
        let kernel = kernel.with_context(|| format!("{} has no kernel", names.join(" and ")))?;
        fs::copy(kernel, directory.join("vmlinuz")).context("cannot copy the kernel")?;
        root::write(&directory.join(ROOT), self.entries(&unpacked)?)?;
        match self.hardware {
            Hardware::Pc => {}
            Hardware::DeviceTree => device_tree::write(&directory.join("device-tree"), self.command)?,
            Hardware::Acpi => {
                fs::copy(unpacked.join(UEFI.1), directory.join("firmware"))
                    .with_context(|| format!("{} has no {}", UEFI.0, UEFI.1))?;
            }
        }
        for (name, text) in [("command", self.command), ("answers", self.answers)] {
            fs::write(directory.join(name), text).context("cannot write how it is booted")?;
        }
        [apt, unpacked].iter().try_for_each(fs::remove_dir_all).context("cannot remove what was unpacked")
    }

    fn entries(&self, unpacked: &Path) -> anyhow::Result<Entries> {
        let busybox = ["usr/bin/busybox", "bin/busybox"].map(|path| unpacked.join(path));
        let busybox = busybox.iter().find(|path| path.exists()).context("Debian's busybox has no program")?;
        let mut entries = root::entries(busybox, SERVICES, self.answers_on)?;
        entries.push(archive::entry("etc/hostname", FILE | 0o644, format!("{}\n", self.name)));
        let mut files: Vec<(String, u32, Vec<u8>)> = Vec::new();
        if self.hardware == Hardware::Acpi {
            let table = processor_table::table(device_tree::processors_of(self.command)?);
            files.push((processor_table::PATH.into(), FILE | 0o644, table));
        }
        for (path, from) in self.libraries()? {
            files.push((path, FILE | 0o755, root::read(&from)?));
        }
        let mut made = Vec::new();
        for (path, mode, content) in files {
            let directories = Path::new(&path).ancestors().skip(1).filter(|path| path != &Path::new(""));
            let mut directories: Vec<String> = directories.map(|path| path.display().to_string()).collect();
            directories.reverse();
            for directory in directories.into_iter().filter(|directory| directory != "usr") {
                if !made.contains(&directory) {
                    entries.push(archive::entry(&directory, DIRECTORY | 0o755, ""));
                    made.push(directory);
                }
            }
            entries.push(archive::entry(&path, mode, content));
        }
        for (name, content) in modules::find(unpacked, self.modules)? {
            entries.push(archive::entry(&name, FILE | 0o644, content));
        }
        Ok(entries)
    }

    /// The libraries of programs built for it, by their path in the root.
    fn libraries(&self) -> anyhow::Result<Vec<(String, PathBuf)>> {
        if self.is_arm64() {
            let from = Path::new(ARM64_LIBRARIES);
            return Ok(ARM64_NAMES.map(|name| (format!("lib/{name}"), from.join(name))).into());
        }
        libraries::of_this_machine()
    }
}
