//! `cargo xtask dist`: builds the programs for distribution, checks their size, and makes packages of them.

mod compare;
mod packages;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::shell;
pub(crate) use packages::Format;

/// What is built, and which packages are made.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The profile: `dist` as it ships, or `dev` for tests of the packages, with the programs that the tests use
    #[arg(long, value_enum, default_value_t = Profile::Dist)]
    profile: Profile,
    /// A package to make; repeatable [default: all]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Vec<Format>,
    /// A program to build and package; repeatable [default: both]
    #[arg(long, value_name = "NAME", value_parser = ["huddle", "huddle-analysis"])]
    program: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    Dist,
    Dev,
}

/// A program for distribution. Its package has the same name.
struct Program {
    name: &'static str,
    /// The directory of its package, from the root of the repository.
    directory: &'static str,
    /// Its maximum size, in millions of bytes.
    limit_mb: f64,
    /// The maximum size of everything that its package installs.
    installed_limit_mb: f64,
}

const PROGRAMS: [Program; 2] = [
    Program { name: "huddle", directory: "collector", limit_mb: 18.0, installed_limit_mb: 20.0 },
    Program { name: "huddle-analysis", directory: "analysis", limit_mb: 60.0, installed_limit_mb: 65.0 },
];

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let formats = match &arguments.format[..] {
        [] => Format::value_variants(),
        some => some,
    };
    make(arguments.profile, formats, &arguments.program)
}

/// The packages for the tests that install them: with the programs that the tests have built anyway.
pub(crate) fn for_tests() -> anyhow::Result<()> {
    make(Profile::Dev, &[Format::Deb, Format::Tarball], &["huddle".to_owned()])?;
    // Its program is large without optimisation, and nothing takes its other packages.
    make(Profile::Dev, &[Format::Deb], &["huddle-analysis".to_owned()])
}

fn make(profile: Profile, formats: &[Format], names: &[String]) -> anyhow::Result<()> {
    let programs: Vec<&Program> = PROGRAMS
        .iter()
        .filter(|program| names.is_empty() || names.iter().any(|name| name == program.name))
        .collect();
    build(profile, &programs)?;
    let target = target()?;
    let built = target.join(match profile {
        Profile::Dist => "dist",
        Profile::Dev => "debug",
    });
    let place = place();
    stage(&built, &place, &programs)?;
    let mut too_large = Vec::new();
    for Program { name, limit_mb, .. } in &programs {
        let path = place.join("programs").join(name);
        let bytes = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        let size_mb = bytes as f64 / 1e6;
        eprintln!("{name}: {size_mb:.1} MB, at most {limit_mb} MB allowed in profile dist");
        if size_mb > *limit_mb {
            too_large.push((*name).to_owned());
        }
    }
    packages::pages(&place)?;
    for program in &programs {
        let mut made = BTreeMap::new();
        for format in formats {
            let is_fast = profile == Profile::Dev;
            let package = packages::make(*format, program, &place, is_fast)?;
            made.insert(*format, package.clone());
            let installed_mb = packages::installed_bytes(*format, &package)?.map(|bytes| bytes as f64 / 1e6);
            let bytes =
                package.metadata().with_context(|| format!("cannot read {}", package.display()))?.len();
            let installed = installed_mb.map_or_else(String::new, |mb| {
                format!(
                    ", installed {mb:.1} MB, at most {} MB allowed in profile dist",
                    program.installed_limit_mb
                )
            });
            eprintln!("{}: {:.1} MB{installed}", package.display(), bytes as f64 / 1e6);
            if installed_mb.is_some_and(|mb| mb > program.installed_limit_mb) {
                too_large.push(package.display().to_string());
            }
        }
        if let (Some(deb), Some(rpm)) = (made.get(&Format::Deb), made.get(&Format::Rpm)) {
            compare::check(program.name, deb, rpm)?;
        }
    }
    ensure!(profile == Profile::Dev || too_large.is_empty(), "larger than allowed: {}", too_large.join(", "));
    Ok(())
}

fn build(profile: Profile, programs: &[&Program]) -> anyhow::Result<()> {
    match profile {
        // One by one: in a single build their dependencies would have the features of both.
        Profile::Dist => programs.iter().try_for_each(|Program { name, .. }| {
            let build = ["build", "--locked", "--profile", "dist", "--package", name, "--bin", name];
            shell::run(shell::cargo().args(build))
        }),
        // With the tests: without them dependencies would have other features, and all be built once more.
        Profile::Dev => {
            shell::run(shell::cargo().args(["build", "--locked", "--workspace", "--bins", "--tests"]))
        }
    }
}

/// Cargo's target directory: next to the directory of the profile of this program.
fn target() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find cargo's target directory")?;
    Ok(own.ancestors().nth(2).context("cargo's target directory has no name")?.to_owned())
}

/// Where packages and what they are made of are: at a fixed place, which the manifests name.
pub(crate) fn place() -> PathBuf {
    shell::root().join("target/packages")
}

/// Puts the programs where the manifests of the packages expect them, without symbols.
fn stage(built: &Path, place: &Path, programs: &[&Program]) -> anyhow::Result<()> {
    let directory = place.join("programs");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    programs.iter().try_for_each(|Program { name, .. }| {
        shell::run(Command::new("strip").arg("-o").args([directory.join(name), built.join(name)]))
    })
}
