//! `cargo xtask host`: hosts in QEMU's emulator, for trying out and for tests: with Xen, with ARM64 and a PMU whose
//! counts are known, with a real KVM on x86.
//!
//! Each is an image in `target/guests`: a kernel, a root that the kernel unpacks, and QEMU's arguments. One
//! [`init.sh`](root) starts all of them, and one program answers commands on a second serial line.

pub(crate) mod device_tree;
mod libraries;
mod linux;
mod packages;
pub(crate) mod perf;
mod processor_table;
pub(crate) mod programs;
mod root;
mod toolchain;
mod xen;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::archive::{self, DIRECTORY};
use crate::images::{self, EXECUTABLE};
use crate::{setup, shell};

/// The placeholder of the image's directory in its `command`.
const PLACE: &str = "@DIR@";

/// The file with the root that the kernel unpacks.
const ROOT: &str = "root.cpio";

/// The replacement of the console's line on a terminal: with QEMU's escape keys, so that Ctrl-C goes to the host.
const TERMINAL: (&str, &str) = ("stdio", "mon:stdio");

/// A kind of host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Xen with a Debian dom0, and three domains
    Xen,
    /// ARM64 with a PMU and KVM; one instruction is one cycle is one nanosecond
    Arm64,
    /// The same, with a kernel whose pages have 16 KiB
    #[value(name = "arm64-16k")]
    Arm64With16KiBPages,
    /// ARM64 whose caches ACPI describes, with UEFI; its clock is the machine's
    #[value(name = "arm64-acpi")]
    Arm64WithAcpi,
    /// x86 with a real KVM and two last-level caches; it has no PMU
    X86Kvm,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Xen, Self::Arm64, Self::Arm64With16KiBPages, Self::Arm64WithAcpi, Self::X86Kvm];

    /// Its name, which is that of its directory.
    fn name(self) -> &'static str {
        match self {
            Self::Xen => "xen",
            Self::Arm64 => "arm64",
            Self::Arm64With16KiBPages => "arm64-16k",
            Self::Arm64WithAcpi => "arm64-acpi",
            Self::X86Kvm => "x86-kvm",
        }
    }

    /// The architecture of its programs.
    fn architecture(self) -> programs::Architecture {
        match self {
            Self::Xen | Self::X86Kvm => programs::Architecture::Own,
            Self::Arm64 | Self::Arm64With16KiBPages | Self::Arm64WithAcpi => programs::Architecture::Arm64,
        }
    }

    /// Makes its image if it is missing or was made from something else; returns its directory.
    pub(crate) fn make(self) -> anyhow::Result<PathBuf> {
        ensure!(cfg!(target_arch = "x86_64"), "emulated hosts are made on x86-64 only");
        let place = images::images()?.join(self.name());
        match self {
            Self::Xen => xen::make(&place)?,
            Self::Arm64 => linux::ARM64.make(&place)?,
            Self::Arm64With16KiBPages => linux::ARM64_WITH_16_KIB_PAGES.make(&place)?,
            Self::Arm64WithAcpi => linux::ARM64_WITH_ACPI.make(&place)?,
            Self::X86Kvm => linux::X86_KVM.make(&place)?,
        }
        Ok(place)
    }
}

#[derive(Args)]
pub(crate) struct Arguments {
    /// Kind of the host
    #[arg(value_enum)]
    kind: Kind,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
pub(crate) struct Options {
    /// Only makes the image, in target/guests
    #[arg(long)]
    make_only: bool,
    /// Boots it without the example guests
    #[arg(long)]
    no_guests: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    run_kind(arguments.kind, &arguments.options)
}

/// Boots a host with its console on this terminal.
pub(crate) fn run_kind(kind: Kind, options: &Options) -> anyhow::Result<()> {
    setup::busybox()?;
    setup::emulators()?;
    let image = kind.make()?;
    if options.make_only {
        eprintln!("{}", image.display());
        return Ok(());
    }
    let directory = programs::build(kind.architecture(), programs::Profile::Dev)?;
    let added = Added { path: image.with_extension(format!("{}.cpio", std::process::id())) };
    added.write(&image, kind, &directory, !options.no_guests)?;
    introduce(kind, options);
    let text = fs::read_to_string(image.join("command")).context("cannot read how the host is booted")?;
    let (program, arguments) = qemu(&text, &image, &added.path)?;
    shell::run(Command::new(program).args(arguments))
}

fn introduce(kind: Kind, options: &Options) {
    let (what, shell) = match kind {
        Kind::Xen => ("Booting Xen in QEMU: half a minute", "dom0, where `huddle` and `xl` are"),
        Kind::Arm64 | Kind::Arm64With16KiBPages | Kind::Arm64WithAcpi => {
            ("Booting an ARM64 host in QEMU: some seconds", "it, where `huddle` and `huddle-workload` are")
        }
        Kind::X86Kvm => {
            ("Booting a host with KVM in QEMU: some seconds", "it, where `huddle` and `huddle-workload` are")
        }
    };
    eprintln!("{what}, then a shell in {shell}.");
    if kind == Kind::Xen && !options.no_guests {
        eprintln!("Three domains come first, some 15 seconds each; `guest` in dom0 makes more.");
    }
    eprintln!("To leave: `poweroff -f` there, or at any time Ctrl-a x (QEMU's; Ctrl-a h shows more).");
}

/// QEMU's program and arguments for a terminal, with the root from `root`.
fn qemu(command: &str, image: &Path, root: &Path) -> anyhow::Result<(String, Vec<String>)> {
    let (image, root) = (image.display().to_string(), root.display().to_string());
    let line = |line: &str| match line {
        line if line == TERMINAL.0 => TERMINAL.1.to_owned(),
        line => line.replace(&format!("{PLACE}/{ROOT}"), &root).replace(PLACE, &image),
    };
    let mut lines = command.lines().map(line);
    let program = lines.next().context("the image does not say which program boots it")?;
    Ok((program, lines.collect()))
}

/// The root with added files; removed on drop.
struct Added {
    path: PathBuf,
}

impl Added {
    fn write(&self, image: &Path, kind: Kind, programs: &Path, with_guests: bool) -> anyhow::Result<()> {
        let directories = ["usr", "usr/bin"].map(|name| archive::entry(name, DIRECTORY | 0o755, ""));
        let mut entries = Vec::from(directories);
        for name in programs::NAMES {
            // With symbols they would fill the host's memory.
            let stripped = self.path.with_extension(name);
            let strip = kind.architecture().strip();
            shell::run(Command::new(strip).arg("-o").arg(&stripped).arg(programs.join(name)))
                .with_context(|| format!("{strip} makes {name} small enough for the host"))?;
            let bytes = fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
            fs::remove_file(&stripped).with_context(|| format!("cannot remove {}", stripped.display()))?;
            entries.push(archive::entry(&format!("usr/bin/{name}"), EXECUTABLE, bytes));
        }
        if with_guests {
            let start = if kind == Kind::Xen { xen::START } else { linux::START };
            entries.push(archive::entry("start", EXECUTABLE, start));
        }
        let added = archive::bytes(entries).context("cannot make an initramfs")?;
        // The kernel unpacks concatenated archives (init/initramfs.c).
        let mut root = fs::read(image.join(ROOT)).context("cannot read the host's root")?;
        root.extend(added);
        fs::write(&self.path, root).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Added {
    fn drop(&mut self) {
        // If it does not exist there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_image_the_root_and_the_terminal() {
        for (command, kernel, console) in [
            (xen::COMMAND, "/image/xen", "-serial"),
            (linux::ARM64.command, "/image/vmlinuz", "-serial"),
            (linux::ARM64_WITH_ACPI.command, "/image/vmlinuz", "-serial"),
            (linux::X86_KVM.command, "/image/vmlinuz", "-serial"),
        ] {
            let (program, arguments) = qemu(command, Path::new("/image"), Path::new("/own.cpio")).unwrap();
            let after = |flag: &str| {
                let at = arguments.iter().position(|argument| argument == flag);
                at.and_then(|at| arguments.get(at + 1)).map(String::as_str)
            };
            assert!(program.starts_with("qemu-system-"), "{program}");
            assert_eq!(after("-kernel"), Some(kernel));
            assert!(after("-initrd").unwrap().ends_with("/own.cpio"));
            assert_eq!(after(console), Some("mon:stdio"));
            assert!(!arguments.iter().any(|argument| argument.contains(PLACE)));
        }
    }
}
