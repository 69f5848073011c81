//! A compiler with Rust's standard library for another architecture: that of this machine, or, where rustup can fetch
//! no library for it, Debian's, which is unpacked in `target/tools` and not installed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::packages::Apt;
use crate::{shell, tools, whole};

/// Debian's package of a current compiler in its stable releases (for building browsers), and of its library.
const PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev"];

/// The compiler as it is called: its own libraries are not where the loader looks for them.
const WRAPPER: &str = include_str!("rustc.sh");

/// Seconds after which rustup is taken to have no network.
const FETCH_S: &str = "120";

/// Debian's name of this machine.
const OWN: &str = "amd64";

/// The compiler for `target`, which Debian calls `debian`; `None` is cargo's own.
///
/// # Errors
/// Neither rustup nor Debian has it.
pub(super) fn for_target(target: &str, debian: &str) -> anyhow::Result<Option<PathBuf>> {
    if has_library(Command::new("rustc"), target)? {
        return Ok(None);
    }
    let place = tools::place().join(format!("rust-{debian}"));
    let rustc = place.join("rustc");
    if !place.exists() {
        let fetched = shell::run(Command::new("timeout").args([FETCH_S, "rustup", "target", "add", target]));
        let Err(error) = fetched else { return Ok(None) };
        eprintln!("rustup cannot add {target} ({error:#}): Debian's compiler is unpacked, and not installed");
    }
    let recipe = format!("{} {debian}\n{WRAPPER}", PACKAGES.join(" "));
    whole::make(&place, &recipe, |directory| unpack(directory, debian))
        .with_context(|| format!("install Rust's library for {target} the way your Rust was installed"))?;
    ensure!(has_library(Command::new(&rustc), target)?, "{} has no library for {target}", place.display());
    Ok(Some(rustc))
}

fn has_library(mut rustc: Command, target: &str) -> anyhow::Result<bool> {
    let library = rustc.args(["--print", "target-libdir", "--target", target]).output();
    let library = library.with_context(|| format!("cannot run {}", rustc.get_program().display()))?.stdout;
    let directory = String::from_utf8_lossy(&library).trim().to_owned();
    Ok(!directory.is_empty() && Path::new(&directory).is_dir())
}

fn unpack(directory: &Path, debian: &str) -> anyhow::Result<()> {
    let apt = directory.join("apt");
    let packages = Apt::of_this_release(&apt, &[OWN, debian])?;
    // The compiler is in a library, which uses LLVM's; other libraries are those of every Debian.
    let mut names = PACKAGES.map(str::to_owned).to_vec();
    for prefix in ["libstd-rust-web-", "libllvm"] {
        let last = names.last().context("no packages")?;
        let of = packages.depends(last)?.into_iter().find(|name| name.starts_with(prefix));
        names.push(of.with_context(|| format!("Debian's {last} depends on no {prefix}*"))?);
    }
    names.push(format!("{}:{debian}", PACKAGES[1]));
    packages.unpack(&names, directory)?;
    fs::remove_dir_all(&apt).with_context(|| format!("cannot remove {}", apt.display()))?;
    let rustc = directory.join("rustc");
    fs::write(&rustc, WRAPPER)
        .and_then(|()| fs::set_permissions(&rustc, Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", rustc.display()))
}
