//! What this machine lacks, and the consequences.

use std::path::Path;
use std::process::Command;

use crate::shell;

/// The emulator that the tests of discovery start.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// The emulator of ARM64 hosts.
pub(crate) const QEMU_ARM64: &str = "qemu-system-aarch64";

/// The manager of VMs beside which tests run.
pub(crate) const LIBVIRT: &str = "libvirt";

/// A requirement of a task.
pub(crate) struct Need {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether it is present.
    pub(crate) is_met: bool,
    /// Its purpose.
    pub(crate) purpose: &'static str,
    /// How to get it.
    pub(crate) remedy: &'static str,
}

/// What tests and experiments need of the host beyond a Rust toolchain.
pub(crate) fn needs() -> [Need; 6] {
    [
        Need {
            name: "root",
            is_met: is_root(Path::new("/proc/self/status")),
            purpose: "physical frames (CAP_SYS_ADMIN), KSM's settings",
            remedy: "run as root, for example with `sudo -E`",
        },
        Need {
            name: "KSM",
            is_met: Path::new("/sys/kernel/mm/ksm/run").exists(),
            purpose: "merging equal pages",
            remedy: "use a kernel with CONFIG_KSM=y",
        },
        Need {
            name: "QEMU",
            is_met: shell::works(Command::new(QEMU).arg("--version")),
            purpose: "finding real VMs in tests",
            remedy: "install it (Debian: apt-get install qemu-system-x86)",
        },
        Need {
            name: "QEMU for ARM",
            is_met: shell::works(Command::new(QEMU_ARM64).arg("--version")),
            purpose: "tests in an ARM64 host, where counters are known",
            remedy: "install it (Debian: apt-get install qemu-system-arm)",
        },
        Need {
            name: LIBVIRT,
            is_met: has_libvirt(),
            purpose: "tests beside a manager of VMs",
            remedy: "install it (Debian: apt-get install libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients)",
        },
        Need {
            name: "tmux",
            is_met: shell::works(Command::new("tmux").arg("-V")),
            purpose: "tests in a real terminal",
            remedy: "install it (Debian: apt-get install tmux)",
        },
    ]
}

/// Whether libvirt's daemon, its driver for QEMU and its client are here. The daemon need not run.
pub(crate) fn has_libvirt() -> bool {
    let works = |program| shell::works(Command::new(program).arg("--version"));
    // Multiarch directories are called after the machine.
    let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().filter_map(Result::ok);
    let mut directories = libraries.map(|entry| entry.path()).chain(["/usr/lib".into(), "/usr/lib64".into()]);
    let driver = "libvirt/connection-driver/libvirt_driver_qemu.so";
    works("libvirtd") && works("virsh") && directories.any(|directory| directory.join(driver).exists())
}

/// The code name of this host's Debian release (os-release(5)).
pub(crate) fn debian_release() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    value("VERSION_CODENAME").filter(|_| value("ID").as_deref() == Some("debian"))
}

fn is_root(status: &Path) -> bool {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    // Real, effective, saved and file-system user id (proc(5)).
    let ids = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_ascii_whitespace().nth(1)) == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_counts() {
        let file = std::env::temp_dir().join(format!("xtask-status-{}", std::process::id()));
        for (text, root) in [
            ("Name:\tx\nUid:\t1000\t0\t0\t0\n", true),
            ("Name:\tx\nUid:\t0\t1000\t0\t0\n", false),
            ("", false),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(is_root(&file), root, "{text:?}");
        }
        std::fs::remove_file(file).unwrap();
    }
}
