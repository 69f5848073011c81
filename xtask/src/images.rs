//! Images of experiments' VMs: for each flavour a Debian kernel and an initramfs with one static
//! program. Made in `target/guests`; nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::archive::{self, DIRECTORY, Entries, FILE};
use crate::{debian, shell};

/// A kernel and a userland; two of them represent the two operating systems of the paper.
struct Flavour {
    name: &'static str,
    /// Debian's package that names the newest kernel of this kind.
    package: &'static str,
    /// Whether busybox is in its initramfs, too.
    busybox: bool,
}

const FLAVOURS: [Flavour; 2] = [
    Flavour { name: "cloud", package: "linux-image-cloud-amd64", busybox: false },
    Flavour { name: "generic", package: "linux-image-amd64", busybox: true },
];

/// The userland of flavours that have one.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// The program of the initramfs.
const INIT: &str = "huddle-guest-init";

/// A program, as a mode of stat(2).
pub(crate) const EXECUTABLE: u32 = FILE | 0o755;

/// Makes missing images, and always the initramfs.
pub(crate) fn make() -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "VMs of experiments are made for x86-64 only");
    let images = images()?;
    let init = guest_program()?;
    for flavour in &FLAVOURS {
        let directory = images.join(flavour.name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let kernel = directory.join("vmlinuz");
        if !kernel.exists() {
            fetch_kernel(flavour, &directory, &kernel)?;
        }
        let mut files = vec![("init", EXECUTABLE, init.clone())];
        if flavour.busybox {
            let busybox = fs::read(BUSYBOX)
                .with_context(|| format!("{BUSYBOX} is missing; Debian: apt-get install busybox-static"))?;
            files.push(("bin/sh", EXECUTABLE, busybox));
        }
        let initrd = directory.join("initrd");
        fs::write(&initrd, initramfs(files)?)
            .with_context(|| format!("cannot write {}", initrd.display()))?;
    }
    Ok(())
}

/// Builds the program of an initramfs and reads it.
pub(crate) fn guest_program() -> anyhow::Result<Vec<u8>> {
    // Only the program itself is linked statically; its dependencies are those of all other builds.
    shell::run(shell::cargo().args([
        "rustc",
        "--package",
        "huddle-guest",
        "--bin",
        INIT,
        "--",
        "-C",
        "target-feature=+crt-static",
        "-C",
        "strip=symbols",
    ]))?;
    let own = std::env::current_exe().context("cannot find cargo's target directory")?;
    fs::read(own.with_file_name(INIT)).with_context(|| format!("cannot read {INIT}"))
}

/// The directory of images.
pub(crate) fn images() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find cargo's target directory")?;
    Ok(own.ancestors().nth(2).context("this program is in no target directory")?.join("guests"))
}

/// Downloads the kernel's package and extracts the kernel.
fn fetch_kernel(flavour: &Flavour, directory: &Path, kernel: &Path) -> anyhow::Result<()> {
    let unpacked = directory.join("package");
    let release = unpack_kernel(flavour.package, &unpacked)?;
    let found = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    fs::copy(&found, kernel).with_context(|| format!("cannot copy {}", found.display()))?;
    // Its modules are many times larger than the kernel, and not needed here.
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
}

/// Downloads the newest kernel that Debian's package `newest_of` names, and unpacks it into the directory
/// `unpacked`, which is created anew; returns its release (uname(2)).
pub(crate) fn unpack_kernel(newest_of: &str, unpacked: &Path) -> anyhow::Result<String> {
    let depends = Command::new("apt-cache").args(["depends", newest_of]).output();
    let depends =
        depends.context("cannot run apt-cache; kernels for VMs are taken from Debian's packages")?;
    let text = String::from_utf8_lossy(&depends.stdout).into_owned();
    let package = newest(&text).with_context(|| {
        format!("apt knows no kernel of {newest_of}; run `apt-get update` on a Debian host")
    })?;
    eprintln!("Fetching {package} for VMs; it is unpacked in {}, not installed.", unpacked.display());
    let _ = fs::remove_dir_all(unpacked);
    debian::unpack(debian::apt_get(), [&package], unpacked)
        .with_context(|| format!("{package} could not be downloaded; run `apt-get update`"))?;
    Ok(package.trim_start_matches("linux-image-").to_owned())
}

/// The package that a package of the newest kernel depends on, from `apt-cache depends`.
fn newest(depends: &str) -> Option<String> {
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// An initramfs of these files, by name and mode.
pub(crate) fn initramfs(files: Vec<(&str, u32, Vec<u8>)>) -> anyhow::Result<Vec<u8>> {
    let directories = ["dev", "proc", "bin"].map(|name| archive::entry(name, DIRECTORY | 0o755, ""));
    let mut entries: Entries = directories.into();
    entries.push(archive::console());
    entries.extend(files.into_iter().map(|(name, mode, content)| archive::entry(name, mode, content)));
    archive::bytes(entries).context("cannot make an initramfs")
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_archive_holds_the_program_and_the_console() {
        let archive = initramfs(vec![("init", EXECUTABLE, b"program".to_vec())]).unwrap();
        let mut names = Vec::new();
        let mut rest = Cursor::new(archive);
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode()));
            rest = reader.finish().unwrap();
        }
        assert!(names.contains(&("init".to_owned(), EXECUTABLE)), "{names:?}");
        assert!(names.contains(&("dev/console".to_owned(), 0o020_600)), "{names:?}");
    }

    #[test]
    fn the_newest_kernel_is_what_the_package_depends_on() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(newest(text).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(newest("N: Unable to locate package"), None);
    }
}
