//! `cargo xtask xen-host`: a host with Xen in QEMU, for trying out and for tests.

mod image;
mod libraries;
mod packages;
mod root;
mod vmlinux;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::Args;

use crate::archive::{self, DIRECTORY};
use crate::images::EXECUTABLE;
use crate::{host, setup, shell};

pub(crate) use image::make;

/// The placeholder of the image's directory in its `command`.
const PLACE: &str = "@DIR@";

/// The replacement of its line for dom0's console on a terminal: with QEMU's escape keys, so that Ctrl-C goes
/// to dom0.
const TERMINAL: (&str, &str) = ("stdio", "mon:stdio");

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only makes the image, in target/guests/xen
    #[arg(long)]
    make_only: bool,
    /// Boots it without the three example domains
    #[arg(long)]
    no_guests: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    setup::busybox()?;
    let image = make()?;
    if arguments.make_only {
        eprintln!("{}", image.display());
        return Ok(());
    }
    setup::qemu()?;
    shell::run(shell::cargo().args(["build", "--package", "huddle", "--bin", "huddle"]))?;
    let own = Own { path: image.with_extension(format!("{}.cpio", std::process::id())) };
    own.write(&image, !arguments.no_guests)?;
    eprintln!("Booting Xen in QEMU: half a minute, then a shell in dom0, where `huddle` and `xl` are.");
    if !arguments.no_guests {
        eprintln!("Three domains come first, some 15 seconds each; `guest` in dom0 makes more.");
    }
    eprintln!("To leave: `poweroff -f` in dom0, or at any time Ctrl-a x (QEMU's; Ctrl-a h shows more).");
    let text = fs::read_to_string(image.join("command")).context("cannot read how the host is booted")?;
    shell::run(Command::new(host::QEMU).args(qemu_arguments(&text, &image, &own.path)))
}

/// QEMU's arguments for a terminal, with dom0's root from `root`.
fn qemu_arguments(command: &str, image: &Path, root: &Path) -> Vec<String> {
    let (image, root) = (image.display().to_string(), root.display().to_string());
    let line = |line: &str| match line {
        line if line == TERMINAL.0 => TERMINAL.1.to_owned(),
        line => line.replace(&format!("{PLACE}/dom0.cpio"), &root).replace(PLACE, &image),
    };
    command.lines().map(line).collect()
}

/// dom0's root with the added files; removed on drop.
struct Own {
    path: PathBuf,
}

impl Own {
    fn write(&self, image: &Path, with_guests: bool) -> anyhow::Result<()> {
        let programs = std::env::current_exe().context("cannot find cargo's target directory")?;
        let stripped = self.path.with_extension("huddle");
        // With symbols it would fill dom0's memory.
        shell::run(Command::new("strip").arg("-o").arg(&stripped).arg(programs.with_file_name("huddle")))
            .context("strip makes huddle small enough for dom0; on Debian: apt-get install binutils")?;
        let huddle = fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
        fs::remove_file(&stripped).with_context(|| format!("cannot remove {}", stripped.display()))?;
        let directories = ["usr", "usr/bin"].map(|name| archive::entry(name, DIRECTORY | 0o755, ""));
        let mut entries = Vec::from(directories);
        entries.push(archive::entry("usr/bin/huddle", EXECUTABLE, huddle));
        if with_guests {
            entries.push(archive::entry("start", EXECUTABLE, include_str!("start.sh")));
        }
        let added = archive::bytes(entries).context("cannot make an initramfs")?;
        // The kernel unpacks concatenated archives (init/initramfs.c).
        let mut root = fs::read(image.join("dom0.cpio")).context("cannot read dom0's root")?;
        root.extend(added);
        fs::write(&self.path, root).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Own {
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
        let arguments = qemu_arguments(include_str!("command"), Path::new("/image"), Path::new("/own.cpio"));
        let after = |flag: &str| {
            let at = arguments.iter().position(|argument| argument == flag);
            at.and_then(|at| arguments.get(at + 1)).map(String::as_str)
        };
        assert_eq!(after("-kernel"), Some("/image/xen"));
        assert_eq!(after("-initrd"), Some("/image/vmlinux console=hvc0 rdinit=/init quiet,/own.cpio"));
        assert_eq!(after("-serial"), Some("mon:stdio"));
        assert!(!arguments.iter().any(|argument| argument.contains(PLACE)));
    }
}
