//! A real libvirtd with domains that are emulated (TCG), apart from the host's: see `start.sh`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use huddle_model::cpuset::CpuSet;

/// The user that emulators run as, in Debian's numbering.
const UID: &str = "64055";

/// The group below which libvirt makes those of its domains, and which it leaves behind.
const PARTITION: &str = "machine";

/// libvirtd asks each emulator of the machine what it can do when it is first talked to.
const PATIENCE: Duration = Duration::from_secs(60);

/// One at a time: they use the same cgroups.
static ONLY: Mutex<()> = Mutex::new(());

/// Why libvirt cannot be run here, if it cannot.
pub(crate) fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root, for namespaces and for libvirt's system instance".into());
    }
    for (program, package) in [
        ("libvirtd", "libvirt-daemon"),
        ("virsh", "libvirt-clients"),
        ("qemu-system-x86_64", "qemu-system-x86"),
    ] {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!(
                "{program} is missing (Debian: apt-get install {package}, and cargo xtask setup)"
            ));
        }
    }
    None
}

/// A running libvirtd. Dropping it ends it with all of its domains.
pub(crate) struct Libvirt {
    /// `unshare`, whose child is the first process of the PID namespace and ends with it.
    namespaces: Child,
    dir: tempfile::TempDir,
    /// Directories that libvirt makes in the host's cgroups and does not remove.
    partitions: Vec<PathBuf>,
    _only: MutexGuard<'static, ()>,
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // By libvirt itself, so that it removes their cgroups.
        for name in self.names() {
            let _ = self.virsh_output(&["destroy", &name]);
        }
        let _ = self.namespaces.kill();
        let _ = self.namespaces.wait();
        for partition in &self.partitions {
            remove_cgroups(partition);
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
    }
}

/// Removes an empty group with the empty groups in it, once the kernel has let go of their last process.
fn remove_cgroups(group: &Path) {
    let begin = Instant::now();
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_cgroups(&child.path());
        }
    }
    while fs::remove_dir(group).is_err() && group.exists() && begin.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a domain is made of.
pub(crate) struct Definition {
    pub(crate) name: &'static str,
    pub(crate) uuid: &'static str,
}

impl Definition {
    fn xml(&self) -> String {
        let Self { name, uuid } = self;
        let name = huddle_model::text::xml(name);
        format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>\
             <vcpu current='2'>3</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>\
             <features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
             <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
        )
    }
}

impl Libvirt {
    /// Starts it; with a cpuset for each vCPU, or as where it has no such controller, with affinities alone.
    pub(crate) fn start(has_cpusets: bool) -> Self {
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot_libvirt/start.sh");
        // Should this program be killed, all of it ends too.
        let namespaces = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
            ])
            .args(["--kill-child", "sh", script])
            .env("HUDDLE_TEST_UID", UID)
            .env("HUDDLE_TEST_CPUSETS", if has_cpusets { "yes" } else { "no" })
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let roots = controllers.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        let partitions = roots.map(|root| root.join(PARTITION)).filter(|path| !path.exists()).collect();
        let mut libvirt = Self { namespaces, dir, partitions, _only: only };
        let begin = Instant::now();
        while !libvirt.virsh_output(&["version"]).status.success() {
            let ended = libvirt.namespaces.try_wait().unwrap();
            // Dropping it shows its log.
            assert!(ended.is_none() && begin.elapsed() < PATIENCE, "libvirtd does not answer ({ended:?})");
            std::thread::sleep(Duration::from_millis(100));
        }
        libvirt
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A directory that libvirt sees too.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A program among libvirt's files.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.namespaces.id().to_string(), "--mount", "--", program]);
        command.env("LIBVIRT_DEFAULT_URI", "qemu:///system").env("LC_ALL", "C");
        command
    }

    fn virsh_output(&self, args: &[&str]) -> Output {
        self.inside("virsh").args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// What `virsh` says, which has to succeed.
    pub(crate) fn virsh(&self, args: &[&str]) -> String {
        let output = self.virsh_output(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a script with sh(1), as an operator would; gives what it said.
    pub(crate) fn sh(&self, script: &str) -> Output {
        let path = self.dir.path().join("script");
        fs::write(&path, script).unwrap();
        self.inside("sh").stdin(File::open(path).unwrap()).output().unwrap()
    }

    pub(crate) fn define(&self, definition: &Definition) {
        let path = self.dir.path().join("domain.xml");
        fs::write(&path, definition.xml()).unwrap();
        self.virsh(&["define", path.to_str().unwrap()]);
    }

    /// Names of the domains that run.
    fn names(&self) -> Vec<String> {
        let output = self.virsh_output(&["list", "--name"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// What libvirt has set: the CPUs of each vCPU, among them those that do not run.
    pub(crate) fn pins(&self, uuid: &str) -> BTreeMap<u32, CpuSet> {
        let text = self.virsh(&["vcpupin", uuid]);
        let row = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        text.lines().filter_map(row).collect()
    }

    /// What libvirt reads of the kernel: the CPUs of each vCPU that runs.
    pub(crate) fn affinities(&self, uuid: &str) -> BTreeMap<u32, CpuSet> {
        let mut vcpu = 0;
        let mut all = BTreeMap::new();
        for line in self.virsh(&["vcpuinfo", uuid]).lines() {
            match line.split_once(':') {
                Some(("VCPU", number)) => vcpu = number.trim().parse().unwrap(),
                Some(("CPU Affinity", mask)) => {
                    let cpus = (0..).zip(mask.trim().chars()).filter(|(_, letter)| *letter == 'y');
                    all.insert(vcpu, cpus.map(|(cpu, _)| cpu).collect());
                }
                _ => {}
            }
        }
        all
    }
}
