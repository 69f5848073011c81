//! The image of the web experiment's VMs: a Debian kernel and, as an initramfs, a complete Debian with Apache
//! and PHP, made once in `target/guests/web`. The runner adds the content to serve. The host's packages do
//! not change.

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::{Component, Path};
use std::process::Command;

use anyhow::{Context, ensure};
use cpio::newc::Builder;
use tar::EntryType;

use crate::archive::{self, DIRECTORY, Entries, FILE, LINK};
use crate::{debian, host, images, modules, shell, whole};

/// Debian's package that names its newest kernel.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Its modules that make a network card of QEMU's `virtio-net-pci`, each after those it needs. Modules
/// built into a kernel have no file and are skipped.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Packages installed in addition to Debian's smallest system.
const PACKAGES: &str = "busybox,libapache2-mod-php";

/// Files that a web server does not need: an initramfs stays in memory, and may fill half of it.
const LEFT_OUT: [&str; 11] = [
    "dev",
    "usr/include",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg/info",
];

/// Makes the image if it is missing or was made from something else.
pub(crate) fn make() -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "VMs of experiments are made for x86-64 only");
    let images = images::images()?;
    let release = host::debian_release().context(
        "VMs of the web experiment are made from the packages of a Debian host, and this is not one; copy target/guests/web from one",
    )?;
    whole::make(&images.join("web"), &recipe(&release), |directory| build(directory, &release))
}

fn recipe(release: &str) -> String {
    let (modules, without) = (MODULES.join(" "), LEFT_OUT.join(" "));
    format!("release {release}\nkernel {KERNEL}\nmodules {modules}\npackages {PACKAGES}\nwithout {without}\n")
}

fn build(directory: &Path, release: &str) -> anyhow::Result<()> {
    let unpacked = directory.join("package");
    let kernel_release = images::unpack_kernel(KERNEL, &unpacked)?;
    let kernel = unpacked.join("boot").join(format!("vmlinuz-{kernel_release}"));
    fs::copy(&kernel, directory.join("vmlinuz"))
        .with_context(|| format!("cannot copy {}", kernel.display()))?;
    let modules = modules::find(&unpacked, &MODULES)?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;

    let tree = directory.join("tree.tar");
    let what = "the image of the web experiment's VMs";
    debian::bootstrap(what, release, PACKAGES, debian::As::Tar, &tree)?;

    let archive = directory.join("initrd.cpio");
    let file = File::open(&tree).with_context(|| format!("cannot read {}", tree.display()))?;
    let entries = entries_of(file, modules).context("cannot read what mmdebstrap made")?;
    archive::write(&archive, entries).with_context(|| format!("cannot write {}", archive.display()))?;
    shell::run(Command::new("gzip").arg("-6").arg(&archive))?;
    let initrd = directory.join("initrd");
    fs::rename(archive.with_extension("cpio.gz"), &initrd).context("gzip made nothing")?;
    archive::pad(&initrd).with_context(|| format!("cannot write {}", initrd.display()))?;
    fs::remove_file(tree).context("cannot remove what is no longer used")
}

/// The files of a tree that a VM needs, in the order of an initramfs.
fn entries_of(tree: impl Read, modules: Vec<(String, Vec<u8>)>) -> anyhow::Result<Entries> {
    let mut entries: Entries = Vec::new();
    let mut archive = tar::Archive::new(tree);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = plain(&entry.path()?);
        if name.is_empty() || is_left_out(&name) {
            continue;
        }
        let header = entry.header();
        let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
        let target = entry.link_name()?.map(|target| target.into_owned());
        let (kind, content) = match header.entry_type() {
            EntryType::Directory => (DIRECTORY, Vec::new()),
            EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                (FILE, content)
            }
            EntryType::Symlink => {
                let target = target.context("a link without a target")?;
                (LINK, target.to_string_lossy().into_owned().into_bytes())
            }
            // A hard link: a symbolic link does as well, and needs no inode of the first.
            EntryType::Link => {
                let target = target.context("a link without a target")?;
                (LINK, format!("/{}", plain(&target)).into_bytes())
            }
            // Devices are the kernel's own (devtmpfs).
            _ => continue,
        };
        let builder = Builder::new(&name).mode(kind | mode).uid(u32::try_from(uid)?).gid(u32::try_from(gid)?);
        entries.push((builder, Cursor::new(content)));
    }
    for directory in ["dev", "modules"] {
        entries.push((Builder::new(directory).mode(DIRECTORY | 0o755), Cursor::default()));
    }
    entries.push(archive::console());
    entries.extend(
        modules
            .into_iter()
            .map(|(name, content)| (Builder::new(&name).mode(FILE | 0o644), Cursor::new(content))),
    );
    Ok(entries)
}

/// A path without the leading slash.
fn plain(path: &Path) -> String {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn is_left_out(name: &str) -> bool {
    LEFT_OUT
        .iter()
        .any(|left| name.strip_prefix(left).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_becomes_an_initramfs_without_excluded_files() {
        let mut tree = tar::Builder::new(Vec::new());
        let mut add = |name: &str, kind: EntryType, content: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(33);
            header.set_gid(0);
            match kind {
                EntryType::Symlink | EntryType::Link => {
                    header.set_size(0);
                    tree.append_link(&mut header, name, content).unwrap();
                }
                _ => {
                    header.set_size(content.len() as u64);
                    tree.append_data(&mut header, name, content.as_bytes()).unwrap();
                }
            }
        };
        add("./usr/bin/php", EntryType::Regular, "program");
        add("./usr/bin/second", EntryType::Link, "./usr/bin/php");
        add("./bin", EntryType::Symlink, "usr/bin");
        add("./usr/share/doc/php/copyright", EntryType::Regular, "text");
        add("./usr/share/documents", EntryType::Directory, "");
        let tree = tree.into_inner().unwrap();
        let module = ("modules/0-virtio.ko".to_owned(), b"module".to_vec());
        let entries = entries_of(&tree[..], vec![module]).unwrap();

        let path = std::env::temp_dir().join(format!("xtask-initramfs-{}", std::process::id()));
        archive::write(&path, entries).unwrap();
        archive::pad(&path).unwrap();
        let archive = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(archive.len() % 4, 0);
        let (mut found, mut rest) = (Vec::new(), Cursor::new(archive));
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            found.push((name, mode, content));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("usr/bin/php", 0o100_755, "program"),
            ("usr/bin/second", 0o120_755, "/usr/bin/php"),
            ("bin", 0o120_755, "usr/bin"),
            ("usr/share/documents", 0o040_755, ""),
            ("dev", 0o040_755, ""),
            ("modules", 0o040_755, ""),
            ("dev/console", 0o020_600, ""),
            ("modules/0-virtio.ko", 0o100_644, "module"),
        ];
        assert_eq!(found, expected.map(|(name, mode, content)| (name.to_owned(), mode, content.to_owned())));
    }
}
