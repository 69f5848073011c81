//! Debian's packages of any architecture and release, unpacked rather than installed. apt keeps its lists and its state
//! in a directory of its own, so that those of this machine are as they were.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::shell;

/// The key of Debian's archive on a Debian host.
const KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with a state of its own.
pub(super) struct Apt {
    directory: PathBuf,
    suite: &'static str,
}

impl Apt {
    /// Fetches the lists of `suites` for one of Debian's architectures. Of a package that is in several, that of the
    /// first is taken.
    pub(super) fn new(directory: &Path, architecture: &str, suites: &[&'static str]) -> anyhow::Result<Self> {
        let suite = suites.first().context("no release of Debian was named")?;
        for part in ["lists/partial", "cache/archives/partial", "state", "parts"] {
            let part = directory.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let archive = archive()?;
        let sources: String =
            suites.iter().map(|suite| format!("deb [signed-by={KEY}] {archive} {suite} main\n")).collect();
        let place = directory.display();
        let config = format!(
            "APT::Architecture \"{architecture}\";\nAPT::Architectures {{\"{architecture}\";}};\n\
             APT::Default-Release \"{suite}\";\nAPT::Sandbox::User \"root\";\n\
             Dir::State \"{place}/state\";\nDir::State::lists \"{place}/lists\";\n\
             Dir::State::status \"{place}/state/status\";\nDir::Cache \"{place}/cache\";\n\
             Dir::Etc::sourcelist \"{place}/sources.list\";\nDir::Etc::sourceparts \"{place}/parts\";\n\
             Dir::Etc::preferencesparts \"{place}/parts\";\n"
        );
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text).with_context(|| format!("cannot write {place}/{name}"))
        };
        write("sources.list", &sources)?;
        write("apt.conf", &config)?;
        write("state/status", "")?;
        let apt = Self { directory: directory.to_owned(), suite };
        shell::run(apt.command("apt-get").args(["update", "-q"]))
            .with_context(|| format!("the lists of Debian {} could not be fetched", suites.join(" and ")))?;
        Ok(apt)
    }

    /// Downloads packages and unpacks them into the directory `unpacked`.
    pub(super) fn unpack(&self, names: &[String], unpacked: &Path) -> anyhow::Result<()> {
        let downloaded = self.directory.join("downloaded");
        fs::create_dir_all(&downloaded).with_context(|| format!("cannot make {}", downloaded.display()))?;
        shell::run(self.command("apt-get").current_dir(&downloaded).args(["download", "-q"]).args(names))
            .with_context(|| format!("{} could not be downloaded from {}", names.join(", "), self.suite))?;
        for entry in fs::read_dir(&downloaded)? {
            shell::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(unpacked))?;
        }
        fs::remove_dir_all(&downloaded).with_context(|| format!("cannot remove {}", downloaded.display()))
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

    fn depends(&self, package: &str) -> anyhow::Result<BTreeSet<String>> {
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
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"])
        .output()
        .context("emulated hosts are made from Debian's packages, and there is no apt-get here")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    main_archive(&text).map(str::to_owned).context(
        "apt has no list of a release of Debian; run `apt-get update` on a Debian host whose sources name one",
    )
}

/// The first archive with a whole release: not one of updates, as `bookworm-security` is.
fn main_archive(targets: &str) -> Option<&str> {
    let targets = targets.lines().filter_map(|line| line.split_once(' '));
    let mut whole = targets.filter(|(_, release)| !release.contains(['-', '/']));
    whole.next().map(|(address, _)| address)
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
        let text = "http://a/security bookworm-security\nhttp://a/debian bookworm-updates\nhttp://a/debian \
                    bookworm\n";
        assert_eq!(main_archive(text), Some("http://a/debian"));
        assert_eq!(main_archive(""), None);
    }
}
