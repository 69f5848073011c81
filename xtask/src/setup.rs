//! `cargo xtask setup`: what the tasks need, said before anything is installed.

use std::process::Command;

use anyhow::Context;

use crate::host;
use crate::shell;

/// Components of the toolchain that only `cargo xtask check` needs: cargo's command and the component.
const COMPONENTS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

pub(crate) fn run() -> anyhow::Result<()> {
    eprintln!(
        "The microbenchmark needs a Rust toolchain and a C compiler (`cc`), and nothing else: its stand-in"
    );
    eprintln!("VMs are programs of this repository. The web experiment needs Apache with PHP.");
    eprintln!("Tests also start QEMU, to find real VMs.");
    anyhow::ensure!(
        shell::works(Command::new("cc").arg("--version")),
        "`cc` is missing; on Debian: apt-get install gcc libc6-dev"
    );
    components()?;
    qemu()?;
    busybox()?;
    apache()?;
    for need in host::needs() {
        if need.is_met {
            eprintln!("{}: here", need.name);
        } else {
            eprintln!("{}: MISSING, needed for {}; {}", need.name, need.purpose, need.remedy);
        }
    }
    Ok(())
}

/// Makes sure that format and lints can be checked.
pub(crate) fn components() -> anyhow::Result<()> {
    for (subcommand, component) in COMPONENTS {
        if shell::works(shell::cargo().args([subcommand, "--version"])) {
            continue;
        }
        eprintln!("`cargo {subcommand}` is missing: installing the component {component} with rustup");
        shell::run(Command::new("rustup").args(["component", "add", component]))
            .with_context(|| format!("install {component} by the means your Rust came with"))?;
    }
    Ok(())
}

/// Installs QEMU where it is missing and this is root on Debian; elsewhere the tests that need it say
/// that they are skipped.
pub(crate) fn qemu() -> anyhow::Result<()> {
    let is_met = |name: &str| host::needs().iter().any(|need| need.name == name && need.is_met);
    if is_met("QEMU") || !is_met("root") || !shell::works(Command::new("apt-get").arg("--version")) {
        return Ok(());
    }
    eprintln!(
        "{} is missing: installing qemu-system-x86 with apt-get, for the tests that find real VMs",
        host::QEMU
    );
    shell::run(Command::new("apt-get").args(["update", "-q"]))?;
    // Its tools may be here in another version, which then has to give way.
    let packages = ["qemu-system-x86", "qemu-utils"];
    shell::run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-qy", "--no-install-recommends", "--allow-downgrades"])
            .args(packages),
    )
}

/// Installs the userland of the second flavour of VMs, where it is missing and this is root on Debian.
pub(crate) fn busybox() -> anyhow::Result<()> {
    let is_root = host::needs().iter().any(|need| need.name == "root" && need.is_met);
    let is_met = std::path::Path::new("/bin/busybox").exists();
    if is_met || !is_root || !shell::works(Command::new("apt-get").arg("--version")) {
        return Ok(());
    }
    eprintln!("busybox is missing: installing busybox-static with apt-get, for VMs of experiments");
    shell::run(Command::new("apt-get").args(["update", "-q"]))?;
    shell::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args([
        "install",
        "-qy",
        "--no-install-recommends",
        "busybox-static",
    ]))
}

/// Installs Apache and its PHP module where they are missing and this is root on Debian. Without Debian's
/// package `apache2`, which would start a server on port 80.
pub(crate) fn apache() -> anyhow::Result<()> {
    let is_root = host::needs().iter().any(|need| need.name == "root" && need.is_met);
    if has_apache() || !is_root || !shell::works(Command::new("apt-get").arg("--version")) {
        return Ok(());
    }
    eprintln!(
        "Apache with PHP is missing: installing libapache2-mod-php with apt-get, for the web experiment; no \
         service is started"
    );
    shell::run(Command::new("apt-get").args(["update", "-q"]))?;
    shell::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args([
        "install",
        "-qy",
        "--no-install-recommends",
        "libapache2-mod-php",
    ]))
}

fn has_apache() -> bool {
    let modules = std::fs::read_dir("/usr/lib/apache2/modules").into_iter().flatten().filter_map(Result::ok);
    let mut names = modules.filter_map(|module| module.file_name().into_string().ok());
    std::path::Path::new("/usr/sbin/apache2").exists() && names.any(|name| name.starts_with("libphp"))
}
