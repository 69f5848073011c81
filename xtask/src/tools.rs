//! Programs that extend cargo and look at dependencies.

use std::env::join_paths;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::shell;

/// A program that extends cargo.
struct Tool {
    /// Cargo's command.
    command: &'static str,
    /// Its package at crates.io.
    package: &'static str,
    /// The version that is installed if none is present, here and in `requirements.txt`.
    version: &'static str,
}

/// Finds unused dependencies and files outside of the module tree, by reading the sources, without a build.
const SHEAR: Tool = Tool { command: "shear", package: "cargo-shear", version: "1.14.0" };

/// Checks licences, sources and bans of dependencies by `deny.toml`.
const DENY: Tool = Tool { command: "deny", package: "cargo-deny", version: "0.20.2" };

/// Makes .deb packages. Built without optimisation, which takes half as long and suffices.
const DEB: Tool = Tool { command: "deb", package: "cargo-deb", version: "3.8.0" };

/// Makes .rpm packages.
const RPM: Tool = Tool { command: "generate-rpm", package: "cargo-generate-rpm", version: "0.21.1" };

/// What makes packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packager {
    Deb,
    Rpm,
}

/// The command that makes packages; built first if it is missing.
pub(crate) fn packager(packager: Packager) -> anyhow::Result<Command> {
    let (tool, more) = match packager {
        Packager::Deb => (&DEB, Some("--debug")),
        Packager::Rpm => (&RPM, None),
    };
    if !is_there(tool) {
        build(tool, more)?;
    }
    let mut command = cargo()?;
    command.arg(tool.command);
    Ok(command)
}

/// Builds a tool, with one more option.
fn build(tool: &Tool, more: Option<&str>) -> anyhow::Result<()> {
    let Tool { command, package, version } = tool;
    eprintln!("`cargo {command}` is missing: building {package} {version}, which takes minutes");
    let install = ["install", "--locked", package, "--version", version];
    shell::run(shell::cargo().args(install).args(more).arg("--root").arg(place()))
}

/// Installs the tools that check dependencies. Tools that are present are used, whatever their version.
pub(crate) fn install() -> anyhow::Result<()> {
    if !(is_there(&SHEAR) && is_there(&DENY))
        && let Err(error) = install_wheels()
    {
        eprintln!("xtask: the prebuilt tools are unavailable: {error:#}");
    }
    [SHEAR, DENY].iter().filter(|tool| !is_there(tool)).try_for_each(|tool| build(tool, None))
}

/// Fails if a package has an unused dependency, or a file belongs to no module.
pub(crate) fn unused_dependencies() -> anyhow::Result<()> {
    shell::run(cargo()?.args([SHEAR.command, "--locked"]))
}

/// Fails if a dependency violates `deny.toml`. Its comment explains why advisories are left out.
pub(crate) fn allowed_dependencies() -> anyhow::Result<()> {
    let checks = ["check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    shell::run(cargo()?.args([DENY.command, "--workspace", "--locked"]).args(checks))
}

fn is_there(tool: &Tool) -> bool {
    cargo().is_ok_and(|mut cargo| shell::works(cargo.args([tool.command, "--version"])))
}

/// The directory of installed tools: not the user's home, whose tools are left alone.
pub(crate) fn place() -> PathBuf {
    shell::root().join("target/tools")
}

/// Cargo, with a PATH that has the user's tools before those installed here.
fn cargo() -> anyhow::Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([place().join("bin")]);
    let mut cargo = shell::cargo();
    cargo.env("PATH", join_paths(directories).context("PATH cannot be extended")?);
    Ok(cargo)
}

/// Installs prebuilt ones from PyPI, each pinned by its hash.
fn install_wheels() -> anyhow::Result<()> {
    python(&place(), &["--only-binary=:all:", "--require-hashes"], "xtask/requirements.txt").map(drop)
}

/// The Python of a virtual environment at `place`, which is made where it is missing, with the packages of a file of
/// requirements, named from the root of the repository.
pub(crate) fn python(place: &Path, options: &[&str], requirements: &str) -> anyhow::Result<PathBuf> {
    let python = place.join("bin/python");
    if !python.exists() {
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(place))?;
    }
    let mut pip = Command::new(place.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(options);
    shell::run(pip.arg("-r").arg(shell::root().join(requirements)))?;
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prebuilt_tools_have_the_versions_that_would_be_built() {
        let text = include_str!("../requirements.txt");
        for Tool { package, version, .. } in [SHEAR, DENY] {
            assert!(text.contains(&format!("{package}=={version} ")), "{package} {version}");
        }
    }
}
