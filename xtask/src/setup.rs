//! `cargo xtask setup`: requirements of the tasks, listed before anything is installed.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::{debian, emulated, host, images, shell, tools};

/// Debian's package of QEMU's tools.
const QEMU_TOOLS: &str = "qemu-utils";

/// Components of the toolchain that only `cargo xtask check` needs: cargo's command and the component.
const COMPONENTS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

pub(crate) fn run() -> anyhow::Result<()> {
    eprintln!(
        "The microbenchmark needs a Rust toolchain and a C compiler (`cc`), and nothing else: its simulated"
    );
    eprintln!(
        "VMs are programs of this repository. The web experiment needs Apache with PHP. Real VMs, in tests"
    );
    eprintln!(
        "and with `--guest qemu`, need QEMU, libvirt, busybox and, for web servers, mmdebstrap. A host with Xen"
    );
    eprintln!(
        "(`cargo xtask host xen`) needs QEMU and busybox; Xen itself is downloaded, not installed. An ARM64"
    );
    eprintln!("host (`cargo xtask host arm64`) needs QEMU for ARM and a C compiler for it as well.");
    anyhow::ensure!(
        shell::works(Command::new("cc").arg("--version")),
        "`cc` is missing; on Debian: apt-get install gcc libc6-dev"
    );
    components()?;
    tools::install()?;
    emulators()?;
    arm64_compiler()?;
    libvirt()?;
    busybox()?;
    apache()?;
    mmdebstrap()?;
    promtool()?;
    for need in host::needs() {
        if need.is_met {
            eprintln!("{}: here", need.name);
        } else {
            eprintln!("{}: MISSING, needed for {}; {}", need.name, need.purpose, need.remedy);
        }
    }
    Ok(())
}

/// Installs what checks of format and lints need.
pub(crate) fn components() -> anyhow::Result<()> {
    for (subcommand, component) in COMPONENTS {
        if shell::works(shell::cargo().args([subcommand, "--version"])) {
            continue;
        }
        eprintln!("`cargo {subcommand}` is missing: installing the component {component} with rustup");
        shell::run(Command::new("rustup").args(["component", "add", component]))
            .with_context(|| format!("install {component} the way your Rust was installed"))?;
    }
    Ok(())
}

/// Installs QEMU if it is missing and this is root on Debian; elsewhere tests that need it report that they
/// are skipped.
pub(crate) fn qemu() -> anyhow::Result<()> {
    let is_met = host::needs().iter().any(|need| need.name == "QEMU" && need.is_met);
    install_unless(is_met, host::QEMU, "the VMs of tests and experiments", || {
        let mut packages = vec!["qemu-system-x86".to_owned()];
        // Its tools may be installed in another version that conflicts: they are replaced.
        if shell::works(Command::new("dpkg").args(["--status", QEMU_TOOLS])) {
            let policy = Command::new("apt-cache").args(["policy", &packages[0]]).output();
            let policy = String::from_utf8(policy.context("cannot run apt-cache")?.stdout)?;
            let version = candidate(&policy)
                .context("apt knows no qemu-system-x86; is Debian's archive among its sources?")?;
            packages = [&packages[0], QEMU_TOOLS].map(|name| format!("{name}={version}")).to_vec();
        }
        Ok(packages)
    })
}

/// Installs the emulators of all hosts of `cargo xtask host`.
pub(crate) fn emulators() -> anyhow::Result<()> {
    qemu()?;
    let is_met = shell::works(Command::new(host::QEMU_ARM64).arg("--version"));
    install_unless(is_met, host::QEMU_ARM64, "ARM64 hosts in tests", || {
        Ok(vec!["qemu-system-arm".to_owned()])
    })?;
    let editor = emulated::device_tree::EDITOR;
    let is_met = shell::works(Command::new(editor).arg("--version"));
    install_unless(is_met, editor, "the caches of ARM64 hosts", || {
        Ok(vec!["device-tree-compiler".to_owned()])
    })
}

/// Installs the C compiler and the C library for ARM64.
pub(crate) fn arm64_compiler() -> anyhow::Result<()> {
    let cc = emulated::programs::ARM64_CC;
    install_unless(
        shell::works(Command::new(cc).arg("--version")),
        cc,
        "programs of ARM64 hosts in tests",
        || Ok(["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"].map(str::to_owned).to_vec()),
    )
}

/// Installs libvirt if it is missing and this is root on Debian. The daemon alone: Debian's `libvirt-daemon-system`
/// would start it as a service.
pub(crate) fn libvirt() -> anyhow::Result<()> {
    install_unless(
        host::has_libvirt(),
        host::LIBVIRT,
        "tests beside its domains (no service is started)",
        || {
            Ok(["libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients"]
                .map(str::to_owned)
                .to_vec())
        },
    )
}

/// Installs the userland of the second flavour of VMs, if it is missing and this is root on Debian.
pub(crate) fn busybox() -> anyhow::Result<()> {
    let is_met = Path::new(images::BUSYBOX).exists();
    install_unless(is_met, "busybox", "VMs of experiments", || Ok(vec!["busybox-static".to_owned()]))
}

/// Installs Apache and its PHP module if they are missing and this is root on Debian. Without Debian's
/// package `apache2`, which would start a server on port 80.
pub(crate) fn apache() -> anyhow::Result<()> {
    install_unless(has_apache(), "Apache with PHP", "the web experiment (no service is started)", || {
        Ok(vec!["libapache2-mod-php".to_owned()])
    })
}

/// Installs the tool for the image of the web experiment's VMs.
pub(crate) fn mmdebstrap() -> anyhow::Result<()> {
    let is_met = shell::works(Command::new("mmdebstrap").arg("--version"));
    install_unless(is_met, "mmdebstrap", "the image of the web experiment's VMs", || {
        Ok(vec!["mmdebstrap".to_owned()])
    })
}

/// Unpacks Debian's `promtool`, which checks metrics, alerts and queries, where it is missing and there is apt. Installed, its
/// package would start a server.
pub(crate) fn promtool() -> anyhow::Result<()> {
    const PACKAGE: &str = "prometheus";
    let bin = tools::place().join("bin");
    let program = bin.join("promtool");
    let is_met =
        [Path::new("promtool"), &program].map(|name| shell::works(Command::new(name).arg("--version")));
    if is_met.contains(&true) || !shell::works(Command::new("apt-get").arg("--version")) {
        return Ok(());
    }
    eprintln!("promtool is missing: unpacking it from Debian's {PACKAGE}, for checks of metrics and alerts");
    let place = tools::place().join("apt-promtool");
    std::fs::create_dir_all(&bin).context("cannot make target/tools")?;
    let unpack = || debian::unpack(debian::apt_get(), [PACKAGE], &place);
    // Old lists may have versions that the archive no longer has; new ones need root.
    if let Err(error) = unpack() {
        shell::run(debian::apt_get().args(["update", "-q"])).map_err(|_| error)?;
        unpack()?;
    }
    std::fs::rename(place.join("usr/bin/promtool"), &program).context("Debian's package has no promtool")?;
    std::fs::remove_dir_all(&place).context("cannot remove what apt-get downloaded")
}

/// Installs packages if they are missing and this is root on Debian; elsewhere the tasks that need them
/// report that they are missing.
fn install_unless(
    is_met: bool,
    what: &str,
    purpose: &str,
    packages: impl FnOnce() -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<()> {
    let is_root = host::needs().iter().any(|need| need.name == "root" && need.is_met);
    if is_met || !is_root || !shell::works(Command::new("apt-get").arg("--version")) {
        return Ok(());
    }
    // Old lists may have versions that the archive no longer has.
    shell::run(Command::new("apt-get").args(["update", "-q"]))?;
    let packages = packages()?;
    eprintln!("{what} is missing: installing {} with apt-get, for {purpose}", packages.join(" "));
    shell::run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-qy", "--no-install-recommends", "--allow-downgrades"])
            .args(packages),
    )
}

/// The version that apt would install, from `apt-cache policy`.
fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then_some(version)
}

fn has_apache() -> bool {
    let modules = std::fs::read_dir("/usr/lib/apache2/modules").into_iter().flatten().filter_map(Result::ok);
    let mut names = modules.filter_map(|module| module.file_name().into_string().ok());
    Path::new("/usr/sbin/apache2").exists() && names.any(|name| name.starts_with("libphp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_what_apt_would_install() {
        let policy = "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7\n  Version table:\n";
        assert_eq!(candidate(policy), Some("1:7.2+dfsg-7"));
        assert_eq!(candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }
}
