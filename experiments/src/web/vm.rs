//! One Apache with PHP in a real VM: QEMU with a Debian that `cargo xtask` has made, to which this adds pages.
//!
//! Requests come from the host, through QEMU's user network: its main thread carries them, on the CPUs of
//! the VM's vCPU. The guest reaches nothing but who asks it (`restrict=on`).

use std::fs::File;
use std::io::{self, BufWriter, Cursor, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cpio::newc::Builder;

use super::apache::{self, DEBIAN_MODULES};
use super::run_directory::{RunDirectory, SERVER_FILES};
use super::server::{Server, free_port};
use crate::guest::GuestError;
use crate::guest::qemu::{Accelerator, Machine, Plugin};
use crate::host::HostFailure;
use crate::images;

/// The image's name in `target/guests`.
pub const IMAGE: &str = "web";

/// Where a server finds its files.
const FILES: &str = "srv/web";

/// Where it listens: the address that init.sh gives it.
const INSIDE: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 2, 15), 8080));

/// The user `www-data` of every Debian (base-passwd).
const WWW_DATA: u32 = 33;

/// What all VMs of a run boot, and how.
#[derive(Clone, Debug)]
pub struct WebVms {
    kernel: PathBuf,
    initrd: PathBuf,
    /// What runs their instructions.
    pub accelerator: Accelerator,
    memory_mib: u64,
}

impl WebVms {
    /// Adds the pages to a copy of the image beneath `images`, in `directory`.
    ///
    /// # Errors
    /// [`HostFailure::Cannot`]: there is no image; [`HostFailure::Failed`]: it cannot be read or written.
    pub fn make(
        images: &Path,
        directory: &RunDirectory,
        accelerator: Accelerator,
        memory_mib: u64,
    ) -> Result<Self, HostFailure> {
        let image = images::find(images, IMAGE).map_err(HostFailure::Cannot)?;
        let initrd = directory.path().join("initrd");
        let copied = || {
            std::fs::copy(image.join("initrd"), &initrd)?;
            let mut file = BufWriter::new(File::options().append(true).open(&initrd)?);
            file.write_all(&pages()?)?;
            file.flush()
        };
        copied().map_err(|error| {
            HostFailure::Failed(format!("cannot make {} from {}: {error}", initrd.display(), image.display()))
        })?;
        Ok(Self { kernel: image.join("vmlinuz"), initrd, accelerator, memory_mib })
    }

    /// Starts a VM, without waiting until it answers.
    ///
    /// # Errors
    /// The program or its files are not available.
    pub fn start(
        &self,
        name: &str,
        directory: &RunDirectory,
        plugin: Option<&Plugin>,
    ) -> Result<Server, GuestError> {
        let machine = Machine {
            name,
            kernel: &self.kernel,
            initrd: &self.initrd,
            accelerator: self.accelerator,
            memory_mib: self.memory_mib,
            vcpus: 1,
            console: &directory.path().join(format!("{name}.log")),
            plugin,
        };
        let mut process = machine.command()?;
        let failed = |source| machine.failed(source);
        let address = free_port().map_err(failed)?;
        process.args([
            "-netdev",
            &format!("user,id=net,restrict=on,hostfwd=tcp:{address}-{INSIDE}"),
            "-device",
            // Nothing is booted from it.
            "virtio-net-pci,netdev=net,romfile=",
        ]);
        Server::start(name, process, machine.console, address, || Ok(()))
    }
}

/// An initramfs (cpio, "newc") of what servers serve, which the kernel unpacks over the image's.
fn pages() -> io::Result<Vec<u8>> {
    const DIRECTORY: u32 = 0o040_755;
    const FILE: u32 = 0o100_644;
    const PROGRAM: u32 = 0o100_755;
    let (own, modules) = (&Path::new("/").join(FILES), Path::new(DEBIAN_MODULES));
    let config =
        apache::configuration(modules, &own.join("libphp.so"), own, Path::new("/dev/console"), INSIDE);
    let mut entries = vec![("init".to_owned(), PROGRAM, 0, include_str!("../../web/init.sh").to_owned())];
    entries.push((FILES.to_owned(), DIRECTORY, WWW_DATA, String::new()));
    entries.push((format!("{FILES}/pages"), DIRECTORY, WWW_DATA, String::new()));
    entries.push((format!("{FILES}/apache.conf"), FILE, 0, config));
    entries.extend(SERVER_FILES.map(|(name, text)| (format!("{FILES}/{name}"), FILE, 0, text.to_owned())));
    let numbered = entries.into_iter().zip(1..).map(|((name, mode, user, text), inode)| {
        let entry = Builder::new(&name).mode(mode).uid(user).gid(user).ino(inode);
        (entry, Cursor::new(text.into_bytes()))
    });
    cpio::write_cpio(numbered, Vec::new())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_served_is_appended_to_the_image_and_a_missing_image_is_named() {
        let (dir, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = RunDirectory::create(dir.path()).unwrap();
        let error = WebVms::make(images.path(), &directory, Accelerator::Tcg, 512).unwrap_err();
        assert!(matches!(error, HostFailure::Cannot(_)), "{error}");
        assert!(error.to_string().contains("cargo xtask experiment web --guest qemu"), "{error}");

        let image = images.path().join(IMAGE);
        std::fs::create_dir(&image).unwrap();
        std::fs::write(image.join("vmlinuz"), "").unwrap();
        std::fs::write(image.join("initrd"), "base").unwrap();
        let vms = WebVms::make(images.path(), &directory, Accelerator::Tcg, 512).unwrap();
        let initrd = std::fs::read(&vms.initrd).unwrap();
        assert_eq!(std::fs::read_to_string(image.join("initrd")).unwrap(), "base");
        assert_eq!(initrd.strip_prefix(b"base").unwrap(), pages().unwrap());
        let text = String::from_utf8(initrd).unwrap();
        for part in
            ["init\0", "srv/web/pages/resident.php\0", "srv/web/php.ini\0", "Define address 10.0.2.15:8080"]
        {
            assert!(text.contains(part), "{part}");
        }
    }
}
