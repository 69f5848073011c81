//! `cargo xtask xen-host`: a real Xen in QEMU, with a Debian dom0 and domains of known data, for tests and to
//! play with. Made once in `target/guests/xen` from Debian's packages, which are unpacked, not installed.
//!
//! Of the directory others may use: `command`, the arguments of QEMU, one a line, with `@DIR@` for the directory
//! and `@MORE@` behind the initial file system of dom0, where a second archive (cpio) may follow; `include` and
//! `lib`, Xen's headers and libraries, for what is compiled against them.

mod boot;
mod kernel;
mod libraries;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::archive::{Entries, pad};
use crate::whole::make_whole;
use crate::{images, shell, web_image};

pub(crate) use boot::{Arguments, run};

/// Debian's packages of the Xen that is known here.
const PACKAGES: [&str; 15] = [
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
];

/// Debian's package that names its newest kernel that runs as dom0 and as a PV domain.
const KERNEL: &str = "linux-image-amd64";

/// Its modules that dom0's toolstack needs.
const MODULES: [&str; 5] = ["xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs"];

/// Programs of dom0 and where they are in the packages.
const PROGRAMS: [&str; 8] = [
    "usr/lib/xen-4.17/bin/xl",
    "usr/lib/xen-4.17/bin/xenstored",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xen-init-dom0",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-write",
    "usr/bin/xenstore-list",
    "usr/bin/xenstore-ls",
];

/// Libraries that programs under test load by these names.
const LIBRARIES: [&str; 4] =
    ["libxenctrl.so.4.17", "libxenguest.so.4.17", "libxenforeignmemory.so.1", "libxentoollog.so.1"];

/// Likewise, of the host's own: the C library loads it when a thread is cancelled.
const OF_HOST: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";

const INIT: &str = include_str!("xen_host/init.sh");
const GUEST: &str = include_str!("xen_host/guest.sh");

/// How QEMU is started. Traps: without `-smap` dom0 dies at an iretq, with RDTSCP domains do. Two sockets
/// stand for two last-level caches, each with memory of its own.
const COMMAND: &str = "\
-M
q35
-accel
tcg,thread=multi,tb-size=256
-cpu
max,-smap,-rdtscp
-smp
4,sockets=2,cores=2,threads=1
-m
1408
-object
memory-backend-ram,id=m0,size=704M
-object
memory-backend-ram,id=m1,size=704M
-numa
node,nodeid=0,cpus=0-1,memdev=m0
-numa
node,nodeid=1,cpus=2-3,memdev=m1
-display
none
-no-reboot
-monitor
none
-nodefaults
-kernel
@DIR@/xen
-append
com1=115200,8n1 console=com1 dom0_mem=512M,max:512M dom0_max_vcpus=1 loglvl=warning guest_loglvl=none noreboot
-initrd
@DIR@/vmlinux console=hvc0 rdinit=/init quiet loglevel=3,@DIR@/dom0.cpio@MORE@
";

/// Where it is.
fn place() -> anyhow::Result<PathBuf> {
    Ok(images::images()?.join("xen"))
}

/// Makes the image where it is missing or was made from something else.
pub(crate) fn make() -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the Xen host is made for x86-64 only");
    let place = place()?;
    let parent = place.parent().context("the image's directory has none above it")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let init = images::guest_init()?;
    let [packages, modules, programs, libraries] =
        [&PACKAGES[..], &MODULES, &PROGRAMS, &LIBRARIES].map(|names| names.join(" "));
    let recipe = format!(
        "packages {packages}\nkernel {KERNEL}\nmodules {modules}\nprograms {programs}\nlibraries {libraries} \
         {OF_HOST}\nguest {} bytes, {:x}\n{INIT}{GUEST}{COMMAND}",
        init.len(),
        digest(&init)
    );
    make_whole(&place, &recipe, |directory| build(directory, init))
}

/// Tells one guest program from another (FNV-1a); no defence against anybody.
fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn build(directory: &Path, init: Vec<u8>) -> anyhow::Result<()> {
    eprintln!("Making a Xen host for QEMU from Debian's packages, once; nothing is installed.");
    let packages = directory.join("packages");
    fs::create_dir(&packages).with_context(|| format!("cannot make {}", packages.display()))?;
    shell::run(Command::new("apt-get").current_dir(&packages).args(["download", "-q"]).args(PACKAGES))
        .context("Xen's packages could not be had; run `apt-get update` on a Debian 12 host")?;
    let root = packages.join("root");
    for file in fs::read_dir(&packages)?.filter_map(Result::ok).map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&root))?;
        }
    }
    unzip(&root.join("boot/xen-4.17-amd64.gz"), &directory.join("xen"))?;

    let kernel = directory.join("kernel");
    let release = images::unpack_kernel(KERNEL, &kernel)?;
    let vmlinux = kernel::vmlinux(&read(&kernel.join(format!("boot/vmlinuz-{release}")))?)?;
    let modules = web_image::modules(&kernel, &MODULES)?;
    ensure!(modules.len() == MODULES.len(), "the kernel {release} lacks one of {}", MODULES.join(", "));
    fs::remove_dir_all(&kernel).with_context(|| format!("cannot remove {}", kernel.display()))?;

    let mut guest = Vec::new();
    images::initramfs(init).write_to(&mut guest).context("cannot make an initramfs")?;
    let dom0 = directory.join("dom0.cpio");
    dom0_root(&root, &vmlinux, guest, modules)?
        .write(&dom0)
        .and_then(|()| pad(&dom0))
        .with_context(|| format!("cannot write {}", dom0.display()))?;
    write(&directory.join("vmlinux"), &vmlinux)?;
    write(&directory.join("command"), COMMAND.as_bytes())?;
    for (from, to) in [("usr/include", "include"), ("usr/lib/x86_64-linux-gnu", "lib")] {
        let (from, to) = (root.join(from), directory.join(to));
        fs::rename(&from, &to).with_context(|| format!("the packages have no {}", from.display()))?;
    }
    fs::remove_dir_all(&packages).with_context(|| format!("cannot remove {}", packages.display()))
}

/// What dom0 boots from and lives in.
fn dom0_root(
    packages: &Path,
    vmlinux: &[u8],
    guest: Vec<u8>,
    modules: Vec<(String, Vec<u8>)>,
) -> anyhow::Result<Entries> {
    let mut root = Entries::of_root(&[
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "bin",
        "etc",
        "modules",
        "guest",
        "lib",
        "lib64",
        "usr",
        "usr/bin",
        "var",
        "var/lib",
        "var/log",
        "var/log/xen",
        "var/log/xen/console",
        "usr/sbin",
        "lib/x86_64-linux-gnu",
    ]);
    root.program("init", INIT.into());
    root.program("bin/busybox", images::busybox()?);
    root.link("bin/sh", "busybox");
    root.program("usr/bin/guest", GUEST.into());
    let libraries = packages.join("usr/lib/x86_64-linux-gnu");
    let mut loaded: Vec<PathBuf> = LIBRARIES.map(|name| libraries.join(name)).to_vec();
    loaded.push(OF_HOST.into());
    for program in PROGRAMS {
        let path = packages.join(program);
        let name = path.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        root.program(&format!("usr/bin/{name}"), read(&path)?);
        loaded.push(path);
    }
    for (name, path) in libraries::needed(&loaded, &libraries)? {
        root.program(&name, read(&path)?);
    }
    for (name, content) in modules {
        root.file(&name, content);
    }
    root.file("guest/vmlinux", vmlinux.to_vec());
    root.file("guest/initrd", guest);
    Ok(root)
}

fn unzip(from: &Path, to: &Path) -> anyhow::Result<()> {
    let unzipped = Command::new("gzip").arg("-dc").arg(from).output().context("cannot run gzip")?;
    ensure!(unzipped.status.success(), "{} cannot be unpacked", from.display());
    write(to, &unzipped.stdout)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
