//! What is made of Debian's packages without installing one: packages that are unpacked, and whole systems.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::{host, shell};

/// This machine's `apt-get`.
pub(crate) fn apt_get() -> Command {
    Command::new("apt-get")
}

/// Downloads packages by this `apt-get` and unpacks them into the directory `unpacked`. They are downloaded beside it.
pub(crate) fn unpack(
    mut apt_get: Command,
    names: impl IntoIterator<Item = impl AsRef<OsStr>>,
    unpacked: &Path,
) -> anyhow::Result<()> {
    let downloaded = unpacked.with_extension("deb");
    for directory in [&downloaded, unpacked] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    shell::run(apt_get.current_dir(&downloaded).args(["download", "-q"]).args(names))?;
    let listed = fs::read_dir(&downloaded).with_context(|| format!("cannot list {}", downloaded.display()));
    for entry in listed? {
        shell::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(unpacked))?;
    }
    fs::remove_dir_all(&downloaded).with_context(|| format!("cannot remove {}", downloaded.display()))
}

/// What mmdebstrap makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// A tar archive.
    Tar,
    /// A directory.
    Directory,
}

/// Makes Debian's smallest system of a release with further packages, as `made`. `what` names it in messages.
pub(crate) fn bootstrap(
    what: &str,
    release: &str,
    packages: &str,
    kind: As,
    made: &Path,
) -> anyhow::Result<()> {
    let is_root = host::needs().iter().any(|need| need.name == "root" && need.is_met);
    ensure!(is_root, "{what} is made by root; run it with `sudo -E`");
    ensure!(
        shell::works(Command::new("mmdebstrap").arg("--version")),
        "mmdebstrap is missing, which makes {what}; run `cargo xtask setup`, or on Debian: apt-get install mmdebstrap"
    );
    eprintln!("Making {what}, once (about a minute); nothing is installed.");
    let format = match kind {
        As::Tar => "--format=tar",
        As::Directory => "--format=directory",
    };
    let scratch = made.parent().context("a system is made in a directory")?;
    let sources = scratch.join("sources.list");
    fs::write(&sources, sources_of_host()?).context("cannot write a list of packages' sources")?;
    // In its own namespaces, which end with this program: its mounts are never visible on the host, and none
    // stays behind.
    shell::run(
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "mmdebstrap", "--mode=root", "--variant=minbase", format])
            // An archive may be a snapshot, as on machines with pinned packages.
            .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", &format!("--include={packages}")])
            .arg(release)
            .args([made, &sources])
            .env("TMPDIR", scratch),
    )
    .with_context(|| {
        format!("Debian's packages for {what} could not be downloaded; is the archive reachable?")
    })?;
    fs::remove_file(sources).context("cannot remove what is no longer used")
}

/// The archives of Debian that this host's apt uses, as lines of sources.list(5).
fn sources_of_host() -> anyhow::Result<String> {
    let targets = apt_get()
        .args(["indextargets", "--format", "$(TARGET_OF) $(REPO_URI) $(RELEASE) $(COMPONENT)"])
        .args(["Created-By: Packages", "Origin: Debian"])
        .output()
        .context("cannot run apt-get; systems are made from Debian's packages")?;
    let text = String::from_utf8_lossy(&targets.stdout).into_owned();
    ensure!(
        !text.trim().is_empty(),
        "apt knows no archive of Debian; run `apt-get update`, and see /etc/apt/sources.list"
    );
    Ok(text)
}
