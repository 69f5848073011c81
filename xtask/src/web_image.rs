//! What the web experiment's VMs boot: a kernel of Debian's and, as an initramfs, a whole Debian with
//! Apache and PHP, made once in `target/guests/web`. What they serve, the runner adds.
//!
//! It is made in a directory of its own and moved into place when it is whole; a build that fails or is
//! killed leaves that directory, and the next one removes it. The host's packages stay as they are.

use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use cpio::newc::Builder;
use tar::EntryType;

use crate::{host, images, shell};

/// Debian's package that names its newest kernel.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Its modules that make a network card of QEMU's `virtio-net-pci`, each after those it needs. What is
/// built into a kernel is no file, and not missed.
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

/// What is installed beside Debian's smallest system.
const PACKAGES: &str = "busybox,libapache2-mod-php";

/// What no web server reads: an initramfs stays in memory, and may fill half of it.
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

/// What an image was made from, beside it.
const RECIPE: &str = "recipe";

/// Makes the image where it is missing or was made from something else.
pub(crate) fn make() -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "VMs of experiments are made for x86-64 only");
    let images = images::images()?;
    fs::create_dir_all(&images).with_context(|| format!("cannot make {}", images.display()))?;
    // Two builds at once would use one directory. The lock ends with this process.
    let path = images.join("web.lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    let release = debian_release()?;
    make_whole(&images.join("web"), &recipe(&release), |directory| build(directory, &release))
}

/// Has `build` fill a directory beside `place`, and moves it there; nothing where `place` is of this
/// recipe already. When `build` fails, `place` stays what it was.
fn make_whole(
    place: &Path,
    recipe: &str,
    build: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let building = place.with_extension("building");
    if building.exists() {
        fs::remove_dir_all(&building)
            .with_context(|| format!("cannot remove {}, left by an earlier build", building.display()))?;
    }
    if fs::read_to_string(place.join(RECIPE)).is_ok_and(|text| text == recipe) {
        return Ok(());
    }
    fs::create_dir(&building).with_context(|| format!("cannot make {}", building.display()))?;
    let made = build(&building).and_then(|()| {
        fs::write(building.join(RECIPE), recipe).context("cannot write the image's recipe")?;
        if place.exists() {
            fs::remove_dir_all(place).with_context(|| format!("cannot replace {}", place.display()))?;
        }
        fs::rename(&building, place).with_context(|| format!("cannot make {}", place.display()))
    });
    made.inspect_err(|_| {
        // What cannot be removed now, the next build removes or names.
        let _ = fs::remove_dir_all(&building);
    })
}

fn recipe(release: &str) -> String {
    let (modules, without) = (MODULES.join(" "), LEFT_OUT.join(" "));
    format!("release {release}\nkernel {KERNEL}\nmodules {modules}\npackages {PACKAGES}\nwithout {without}\n")
}

fn build(directory: &Path, release: &str) -> anyhow::Result<()> {
    let is_root = host::needs().iter().any(|need| need.name == "root" && need.is_met);
    ensure!(is_root, "the image of the web experiment's VMs is made by root; run it with `sudo -E`");
    ensure!(
        shell::works(Command::new("mmdebstrap").arg("--version")),
        "mmdebstrap is missing, which makes the image of the web experiment's VMs; run `cargo xtask setup`, or on \
         Debian: apt-get install mmdebstrap"
    );
    eprintln!("Making a Debian with Apache and PHP for VMs, once (a minute or some); nothing is installed.");
    let unpacked = directory.join("package");
    let kernel_release = images::unpack_kernel(KERNEL, &unpacked)?;
    let kernel = unpacked.join("boot").join(format!("vmlinuz-{kernel_release}"));
    fs::copy(&kernel, directory.join("vmlinuz"))
        .with_context(|| format!("cannot copy {}", kernel.display()))?;
    let modules = modules(&unpacked)?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;

    let (sources, tree) = (directory.join("sources.list"), directory.join("tree.tar"));
    fs::write(&sources, sources_of_host()?).context("cannot write a list of packages' sources")?;
    // In namespaces of its own, and dead with this program: no mount of it is ever the host's, and none
    // is left by any end.
    shell::run(
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"])
            // An archive may be a copy of one day, as on machines whose packages are pinned.
            .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", &format!("--include={PACKAGES}")])
            .arg(release)
            .args([&tree, &sources])
            .env("TMPDIR", directory),
    )
    .context("Debian's packages for VMs could not be had; is the archive reachable?")?;

    let archive = directory.join("initrd.cpio");
    let file = File::open(&tree).with_context(|| format!("cannot read {}", tree.display()))?;
    let entries = entries_of(file, modules).context("cannot read what mmdebstrap made")?;
    write_archive(&archive, entries).with_context(|| format!("cannot write {}", archive.display()))?;
    shell::run(Command::new("gzip").arg("-6").arg(&archive))?;
    let initrd = directory.join("initrd");
    fs::rename(archive.with_extension("cpio.gz"), &initrd).context("gzip made nothing")?;
    pad(&initrd).with_context(|| format!("cannot write {}", initrd.display()))?;
    [tree, sources].iter().try_for_each(fs::remove_file).context("cannot remove what is used no more")
}

/// The release of Debian that this host is, by which its archive names it (os-release(5)).
fn debian_release() -> anyhow::Result<String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    value("VERSION_CODENAME").filter(|_| value("ID").as_deref() == Some("debian")).context(
        "VMs of the web experiment are made from the packages of a Debian host, and this is none; bring \
         target/guests/web from one",
    )
}

/// The archives of Debian that this host's apt uses, as lines of sources.list(5).
fn sources_of_host() -> anyhow::Result<String> {
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(TARGET_OF) $(REPO_URI) $(RELEASE) $(COMPONENT)"])
        .args(["Created-By: Packages", "Origin: Debian"])
        .output()
        .context("cannot run apt-get; the image is made from Debian's packages")?;
    let text = String::from_utf8_lossy(&targets.stdout).into_owned();
    ensure!(
        !text.trim().is_empty(),
        "apt knows no archive of Debian; run `apt-get update`, and see /etc/apt/sources.list"
    );
    Ok(text)
}

/// The files of [`MODULES`] in an unpacked kernel, by a name that sorts them.
fn modules(unpacked: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let (mut found, mut left) = (Vec::new(), vec![unpacked.join("lib/modules")]);
    if !left[0].exists() {
        left = vec![unpacked.join("usr/lib/modules")];
    }
    while let Some(directory) = left.pop() {
        let entries = fs::read_dir(&directory);
        for entry in entries.with_context(|| format!("cannot read {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    let mut modules = Vec::new();
    for (number, name) in MODULES.iter().enumerate() {
        let is_it = |path: &&PathBuf| {
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko"))
        };
        let Some(path) = found.iter().find(is_it) else { continue };
        let content = match path.extension().is_some_and(|extension| extension == "xz") {
            true => Command::new("xz").arg("-dc").arg(path).output().context("cannot run xz")?.stdout,
            false => fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        };
        modules.push((format!("modules/{number}-{name}.ko"), content));
    }
    Ok(modules)
}

type Entries = Vec<(Builder, Cursor<Vec<u8>>)>;

/// What a tree holds and a VM needs, in the order of an initramfs.
fn entries_of(tree: impl Read, modules: Vec<(String, Vec<u8>)>) -> anyhow::Result<Entries> {
    // Kinds of files, as in the mode of stat(2).
    const DIRECTORY: u32 = 0o040_000;
    const FILE: u32 = 0o100_000;
    const LINK: u32 = 0o120_000;
    const DEVICE: u32 = 0o020_000;
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
            // Another name of a file: a link to it does as well, and needs no inode of the first.
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
    // The kernel opens it for the standard streams of /init.
    let console = Builder::new("dev/console").mode(DEVICE | 0o600).rdev_major(5).rdev_minor(1);
    entries.push((console, Cursor::default()));
    entries.extend(
        modules
            .into_iter()
            .map(|(name, content)| (Builder::new(&name).mode(FILE | 0o644), Cursor::new(content))),
    );
    Ok(entries)
}

/// A path without what says that it starts at the root.
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

/// An archive (cpio, "newc") as the kernel unpacks it (Documentation/driver-api/early-userspace).
fn write_archive(path: &Path, entries: Entries) -> std::io::Result<()> {
    let numbered = entries.into_iter().zip(1..).map(|((entry, content), inode)| (entry.ino(inode), content));
    cpio::write_cpio(numbered, BufWriter::new(File::create(path)?))?.flush()
}

/// Fills up to a multiple of four bytes, where an archive that is appended must begin (init/initramfs.c,
/// Linux 6.1).
fn pad(path: &Path) -> std::io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    let over = file.metadata()?.len() as usize % 4;
    file.write_all(&[0; 4][..(4 - over) % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_whole_or_not_there_and_made_once() {
        let dir = std::env::temp_dir().join(format!("xtask-web-image-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let place = dir.join("web");
        let half = |directory: &Path| {
            fs::write(directory.join("vmlinuz"), "half")?;
            anyhow::bail!("no network")
        };
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert!(make_whole(&place, "one", half).is_err());
        assert!(names().is_empty(), "{:?}", names());

        // A build that was killed leaves its directory.
        fs::create_dir(dir.join("web.building")).unwrap();
        fs::write(dir.join("web.building/tree.tar"), "half").unwrap();
        let whole =
            |text: &'static str| move |directory: &Path| Ok(fs::write(directory.join("initrd"), text)?);
        make_whole(&place, "one", whole("first")).unwrap();
        make_whole(&place, "one", whole("again")).unwrap();
        assert_eq!(fs::read_to_string(place.join("initrd")).unwrap(), "first");
        assert!(make_whole(&place, "two", half).is_err());
        assert_eq!(fs::read_to_string(place.join("initrd")).unwrap(), "first");
        make_whole(&place, "two", whole("second")).unwrap();
        assert_eq!(fs::read_to_string(place.join("initrd")).unwrap(), "second");
        assert_eq!(names(), ["web"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_tree_becomes_an_initramfs_without_what_is_left_out() {
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
        write_archive(&path, entries).unwrap();
        pad(&path).unwrap();
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
