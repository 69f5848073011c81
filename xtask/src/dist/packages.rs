//! Packages: .deb, .rpm and tarballs. Their contents are in the manifests of the packages (`[package.metadata.deb]`,
//! `[package.metadata.generate-rpm]`), and made below `target/packages`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::ValueEnum;

use super::Program;
use crate::shell;
use crate::tools::{self, Packager};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Format {
    Deb,
    Rpm,
    Tarball,
}

/// Has the tests of both command lines write their man pages and completions.
pub(super) fn pages(place: &Path) -> anyhow::Result<()> {
    let pages = place.join("pages");
    if pages.exists() {
        fs::remove_dir_all(&pages).with_context(|| format!("cannot remove {}", pages.display()))?;
    }
    // The whole workspace, so that its crates have one set of features.
    let test = ["test", "--locked", "--workspace", "--bin", "huddle", "--bin", "huddle-analysis"];
    shell::run(
        shell::cargo()
            .args(test)
            .args(["--", "--exact", "cli::pages::every_command_has_a_page_and_completions"])
            .arg("pages::every_command_has_a_page_and_completions")
            .env("HUDDLE_PAGES", &pages),
    )?;
    ensure!(
        pages.join("man/huddle-run.1").exists() && pages.join("man/huddle-analysis-report.1").exists(),
        "no man pages were written to {}: was the test that writes them renamed?",
        pages.display()
    );
    Ok(())
}

/// Makes a package; returns its path. `is_fast` compresses less.
pub(super) fn make(
    format: Format,
    program: &Program,
    place: &Path,
    is_fast: bool,
) -> anyhow::Result<PathBuf> {
    let Program { name, directory, .. } = program;
    let epoch = epoch()?;
    let (version, machine) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    match format {
        Format::Deb => {
            let package = place.join(format!("{name}_{version}_{machine}.deb"));
            let mut command = tools::packager(Packager::Deb)?;
            command.args(["--no-build", "--no-strip", "--quiet", "--locked", "--package", name, "--output"]);
            command.arg(&package).args(is_fast.then_some("--fast"));
            shell::run(command.env("SOURCE_DATE_EPOCH", epoch))?;
            Ok(package)
        }
        Format::Rpm => {
            let package = place.join(format!("{name}-{version}.{machine}.rpm"));
            let mut command = tools::packager(Packager::Rpm)?;
            command.args(["--package", directory, "--auto-req", "builtin", "--output"]).arg(&package);
            shell::run(command.env("SOURCE_DATE_EPOCH", epoch))?;
            Ok(package)
        }
        Format::Tarball => tarball(program, place, &epoch),
    }
}

/// The date of the last commit, so that the same commit makes the same package.
fn epoch() -> anyhow::Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let output = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(shell::root()).output();
    let output = output.context("cannot run git; set SOURCE_DATE_EPOCH to the date of the sources")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Everything in one directory, for other distributions and to look into.
fn tarball(program: &Program, place: &Path, epoch: &str) -> anyhow::Result<PathBuf> {
    let Program { name, .. } = program;
    let whole = format!("{name}-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let tree = place.join(&whole);
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    let root = shell::root();
    copy(&place.join("programs").join(name), &tree.join("bin"))?;
    for (pages, into) in [("man", "share/man/man1"), ("completions", "share/completions")] {
        for page in files(&place.join("pages").join(pages))? {
            let is_analysis =
                page.file_name().is_some_and(|file| file.to_string_lossy().contains("huddle-analysis"));
            if is_analysis == (*name == "huddle-analysis") {
                copy(&page, &tree.join(into))?;
            }
        }
    }
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        copy(&root.join(licence), &tree)?;
    }
    if *name == "huddle" {
        for file in ["huddle.service", "huddle.toml", "Containerfile"] {
            copy(&root.join("packaging").join(file), &tree.join("packaging"))?;
        }
        for page in
            files(&root.join("docs"))?.iter().filter(|page| page.extension().is_some_and(|end| end == "md"))
        {
            copy(page, &tree.join("docs"))?;
        }
        copy(&root.join("README.md"), &tree)?;
        copy(&root.join("CHANGELOG.md"), &tree)?;
    }
    let package = place.join(format!("{whole}.tar.gz"));
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=go-w"]);
    command.arg(format!("--mtime=@{epoch}")).arg("-C").arg(place);
    // Without a time in its header.
    command.args(["-I", "gzip -n", "-cf"]).arg(&package).arg(&whole);
    shell::run(&mut command)?;
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    Ok(package)
}

fn copy(file: &Path, into: &Path) -> anyhow::Result<()> {
    let name = file.file_name().context("a file without a name")?;
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    fs::copy(file, into.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.retain(|file| file.is_file());
    files.sort();
    Ok(files)
}

/// How much a package installs; `None` where that cannot be asked here.
pub(super) fn installed_bytes(format: Format, package: &Path) -> anyhow::Result<Option<u64>> {
    if format != Format::Deb || !shell::works(Command::new("dpkg-deb").arg("--version")) {
        return Ok(None);
    }
    let output = Command::new("dpkg-deb").arg("--field").arg(package).arg("Installed-Size").output()?;
    // In KiB (deb-control(5)).
    let kib: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("no Installed-Size")?;
    Ok(Some(kib * 1024))
}
