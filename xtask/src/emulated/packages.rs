//! Debian's packages of any architecture and release, unpacked rather than installed. apt keeps its lists and its state
//! in a directory of its own, so that those of this machine are as they were.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::{debian, shell};

/// The key of Debian's archive on a Debian host.
const KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with a state of its own.
pub(super) struct Apt {
    directory: PathBuf,
    suite: String,
}

impl Apt {
    /// Fetches the lists of `suites` for one of Debian's architectures. Of a package that is in several, that of the
    /// first is taken.
    pub(super) fn new(directory: &Path, architecture: &str, suites: &[&str]) -> anyhow::Result<Self> {
        let archive = archive()?;
        let sources: Vec<_> = suites.iter().map(|suite| (archive.clone(), (*suite).to_owned())).collect();
        let preferred = suites.first().context("no release of Debian was named")?;
        let preferred = format!("APT::Default-Release \"{preferred}\";\n");
        Self::from_sources(directory, &[architecture], &sources, &preferred)
    }

    /// Fetches the lists of this machine's own release, with its security updates, for several of Debian's
    /// architectures, the machine's first. The newest version of a package is taken.
    pub(super) fn of_this_release(directory: &Path, architectures: &[&str]) -> anyhow::Result<Self> {
        Self::from_sources(directory, architectures, &own_sources(&targets()?), "")
    }

    fn from_sources(
        directory: &Path,
        architectures: &[&str],
        sources: &[(String, String)],
        preferred: &str,
    ) -> anyhow::Result<Self> {
        let first = sources.first().zip(architectures.first());
        let ((_, suite), architecture) = first.context("no release of Debian was named")?;
        for part in ["lists/partial", "cache/archives/partial", "state", "parts"] {
            let part = directory.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let lines = sources.iter();
        let lines: String =
            lines.map(|(archive, suite)| format!("deb [signed-by={KEY}] {archive} {suite} main\n")).collect();
        let all: String = architectures.iter().map(|name| format!("\"{name}\";")).collect();
        let place = directory.display();
        let config = format!(
            "APT::Architecture \"{architecture}\";\nAPT::Architectures {{{all}}};\n\
             {preferred}APT::Sandbox::User \"root\";\n\
             Dir::State \"{place}/state\";\nDir::State::lists \"{place}/lists\";\n\
             Dir::State::status \"{place}/state/status\";\nDir::Cache \"{place}/cache\";\n\
             Dir::Etc::sourcelist \"{place}/sources.list\";\nDir::Etc::sourceparts \"{place}/parts\";\n\
             Dir::Etc::preferencesparts \"{place}/parts\";\n"
        );
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text).with_context(|| format!("cannot write {place}/{name}"))
        };
        write("sources.list", &lines)?;
        write("apt.conf", &config)?;
        write("state/status", "")?;
        let apt = Self { directory: directory.to_owned(), suite: suite.clone() };
        let suites: Vec<&str> = sources.iter().map(|(_, suite)| suite.as_str()).collect();
        shell::run(apt.command("apt-get").args(["update", "-q"]))
            .with_context(|| format!("the lists of Debian {} could not be fetched", suites.join(" and ")))?;
        Ok(apt)
    }

    /// Downloads packages and unpacks them into the directory `unpacked`.
    pub(super) fn unpack(&self, names: &[String], unpacked: &Path) -> anyhow::Result<()> {
        debian::unpack(self.command("apt-get"), names, unpacked)
            .with_context(|| format!("{} could not be downloaded from {}", names.join(", "), self.suite))
    }

    /// Downloads a package and all that it depends on, and unpacks them into the directory `unpacked`.
    pub(super) fn unpack_with_dependencies(&self, name: &str, unpacked: &Path) -> anyhow::Result<()> {
        let options = ["install", "-q", "--yes", "--download-only", "--no-install-recommends"];
        shell::run(self.command("apt-get").args(options).arg(name))
            .with_context(|| format!("{name} could not be downloaded from {}", self.suite))?;
        let downloaded = self.directory.join("cache/archives");
        let listed =
            fs::read_dir(&downloaded).with_context(|| format!("cannot list {}", downloaded.display()));
        for entry in listed? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                shell::run(Command::new("dpkg-deb").arg("-x").arg(path).arg(unpacked))?;
            }
        }
        Ok(())
    }

    /// The packages of the newest kernel that the package `newest_of` names, with its modules or without, and its
    /// release (uname(2)). A kernel has been in several packages since 7.0; earlier ones are in one.
    pub(super) fn kernel(
        &self,
        newest_of: &str,
        with_modules: bool,
    ) -> anyhow::Result<(Vec<String>, String)> {
        let image = self.depends(newest_of)?.into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("apt knows no kernel of {newest_of} in {}", self.suite))?;
        let release = image.trim_start_matches("linux-image-").to_owned();
        let mut parts: Vec<String> = self.depends(&image)?.into_iter().collect();
        parts.retain(|name| {
            name.starts_with("linux-binary-") || with_modules && name.starts_with("linux-modules-")
        });
        Ok((if parts.is_empty() { vec![image] } else { parts }, release))
    }

    /// What a package depends on.
    pub(super) fn depends(&self, package: &str) -> anyhow::Result<BTreeSet<String>> {
        let output = self.command("apt-cache").args(["depends", package]).output();
        let output = output.context("cannot run apt-cache")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "apt-cache depends {package}: {error}");
        Ok(depends(&String::from_utf8_lossy(&output.stdout)))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.directory.join("apt.conf"));
        command
    }
}

/// What `apt-cache depends` lists, without the architecture that it may append.
fn depends(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
    names.map(|name| name.split(':').next().unwrap_or(name).to_owned()).collect()
}

/// The address of Debian's archive that this machine takes its packages from.
fn archive() -> anyhow::Result<String> {
    main_archive(&targets()?).map(|(address, _)| address.to_owned()).context(
        "apt has no list of a release of Debian; run `apt-get update` on a Debian host whose sources name one",
    )
}

/// The lists that apt has here: address, release and who made it, one per line.
fn targets() -> anyhow::Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(ORIGIN)", "Created-By: Packages"])
        .output()
        .context("emulated hosts are made from Debian's packages, and there is no apt-get here")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Addresses and releases of Debian's own lists.
fn of_debian(targets: &str) -> impl Iterator<Item = (&str, &str)> {
    let fields = targets.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter_map(|fields| match fields[..] {
        [address, release, "Debian"] => Some((address, release)),
        _ => None,
    })
}

/// The first archive with a whole release, and the release: not one of updates, as `bookworm-security` is.
fn main_archive(targets: &str) -> Option<(&str, &str)> {
    of_debian(targets).find(|(_, release)| !release.contains(['-', '/']))
}

/// This release and its updates, each with its archive.
fn own_sources(targets: &str) -> Vec<(String, String)> {
    let Some((_, own)) = main_archive(targets) else { return Vec::new() };
    let is_own = |(_, release): &(&str, &str)| {
        *release == own || release.strip_prefix(own).is_some_and(|rest| rest.starts_with('-'))
    };
    let mut found: Vec<_> = of_debian(targets).filter(is_own).collect();
    // One list may be there for several architectures.
    found.sort_by_key(|(_, release)| release.len());
    found.dedup();
    found.into_iter().map(|(address, release)| (address.to_owned(), release.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depended_packages_are_listed_without_architecture() {
        let text = "linux-image-cloud-arm64\n  Depends: linux-image-7.3.4-cloud-arm64:arm64\n |Depends: dracut\n  \
                    Suggests: grub\n";
        let names: Vec<String> = depends(text).into_iter().collect();
        assert_eq!(names, ["dracut", "linux-image-7.3.4-cloud-arm64"]);
    }

    #[test]
    fn the_archive_is_that_of_a_whole_release() {
        let text = "http://a/security bookworm-security Debian\nhttp://a/debian bookworm-updates Debian\n\
                    http://b/tools nodistro \nhttp://a/debian bookworm Debian\n";
        assert_eq!(main_archive(text), Some(("http://a/debian", "bookworm")));
        let own = own_sources(text);
        let own: Vec<(&str, &str)> = own.iter().map(|(address, release)| (&**address, &**release)).collect();
        let updates = ("http://a/debian", "bookworm-updates");
        assert_eq!(
            own,
            [("http://a/debian", "bookworm"), updates, ("http://a/security", "bookworm-security")]
        );
        assert_eq!((main_archive(""), own_sources("").len()), (None, 0));
    }
}
