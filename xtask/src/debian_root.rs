//! A clean Debian with systemd, in which the test of the packages installs, runs and removes them: made once in
//! `target/guests/debian`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::{host, images, shell, web_image, whole};

/// Packages in addition to Debian's smallest system.
const PACKAGES: &str = "systemd,systemd-sysv";

/// Makes it if it is missing or was made from something else.
pub(crate) fn make() -> anyhow::Result<()> {
    let release = host::debian_release()
        .context("packages are tested in a Debian that is made from the packages of a Debian host, and this is not one")?;
    let recipe = format!("release {release}\npackages {PACKAGES}\n");
    whole::make(&images::images()?.join("debian"), &recipe, |directory| build(directory, &release))
}

fn build(directory: &Path, release: &str) -> anyhow::Result<()> {
    let is_root = host::needs().iter().any(|need| need.name == "root" && need.is_met);
    ensure!(is_root, "the Debian in which packages are tested is made by root; run it with `sudo -E`");
    eprintln!("Making a Debian to test packages in, once (about a minute); nothing is installed.");
    let (sources, root) = (directory.join("sources.list"), directory.join("root"));
    fs::write(&sources, web_image::sources_of_host()?).context("cannot write a list of packages' sources")?;
    // In its own namespaces, as for the image of web_image.rs.
    shell::run(
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"])
            .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", &format!("--include={PACKAGES}")])
            .arg(release)
            .args([&root, &sources])
            .env("TMPDIR", directory),
    )
    .context("Debian's packages could not be downloaded; is the archive reachable?")?;
    fs::remove_file(sources).context("cannot remove what is no longer used")
}
