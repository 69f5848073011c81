//! Whether the .deb and the .rpm of a program install the same: paths, modes, owners, contents, scripts and the C library
//! that they ask for.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::shell;

/// What a package installs at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Installed {
    /// Permissions, as in stat(2).
    mode: u32,
    /// User and group.
    owner: String,
    content: Vec<u8>,
}

type Files = BTreeMap<String, Installed>;

/// What there is of a package besides its files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct About {
    has_scripts: bool,
    /// The least version of glibc.
    glibc: Option<String>,
}

/// Compares the packages of a program. Where a tool for one of them is missing, that is said, and nothing is compared.
///
/// # Errors
/// They do not install the same: each difference in one line.
pub(super) fn check(name: &str, deb: &Path, rpm: &Path) -> anyhow::Result<()> {
    for tool in ["dpkg-deb", "rpm", "rpm2cpio"] {
        // rpm2cpio has no option that only says its version.
        if !shell::works(Command::new("sh").args(["-c", "command -v \"$0\"", tool])) {
            eprintln!(
                "{tool} is missing: the .deb and the .rpm of {name} are not compared (Debian: apt-get install rpm)"
            );
            return Ok(());
        }
    }
    let (deb_files, rpm_files) = (files_of_deb(deb)?, files_of_rpm(rpm)?);
    let mut wrong = differences(&deb_files, &rpm_files);
    let (deb_about, rpm_about) = (about_deb(deb)?, about_rpm(rpm)?);
    if deb_about != rpm_about {
        wrong.push(format!("the .deb is {deb_about:?}, and the .rpm {rpm_about:?}"));
    }
    ensure!(wrong.is_empty(), "the packages of {name} do not install the same:\n{}", wrong.join("\n"));
    eprintln!("{name}: .deb and .rpm install the same {} files", deb_files.len());
    Ok(())
}

/// The path where both formats would have a file, after the customs of their distributions; `None` for what only one of
/// them has: licences, which are elsewhere, and the notes of the distribution.
fn common(path: &str) -> Option<String> {
    let path = path.trim_start_matches('.').trim_start_matches('/');
    let path = path.strip_prefix("lib/").map_or_else(|| path.to_owned(), |rest| format!("usr/lib/{rest}"));
    if path.starts_with("usr/share/licenses/")
        || path.starts_with("usr/share/doc/") && path.ends_with("/copyright")
    {
        return None;
    }
    let path = path.replace("usr/share/zsh/vendor-completions/", "usr/share/zsh/site-functions/");
    Some(path.strip_suffix(".gz").map_or(path.clone(), str::to_owned))
}

fn differences(deb: &Files, rpm: &Files) -> Vec<String> {
    let lacks = |files: &Files, other: &Files, format: &str| -> Vec<String> {
        let missing = files.keys().filter(|path| !other.contains_key(*path));
        missing.map(|path| format!("{path} is not in the {format}")).collect()
    };
    let mut found = [lacks(deb, rpm, ".rpm"), lacks(rpm, deb, ".deb")].concat();
    for (path, one) in deb {
        let Some(other) = rpm.get(path) else { continue };
        if (one.mode, &one.owner) != (other.mode, &other.owner) {
            found.push(format!(
                "{path} is {:o} {} in the .deb, and {:o} {} in the .rpm",
                one.mode, one.owner, other.mode, other.owner
            ));
        }
        if one.content != other.content {
            found.push(format!(
                "{path} has {} bytes in the .deb and {} others in the .rpm",
                one.content.len(),
                other.content.len()
            ));
        }
    }
    found
}

fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn text(command: &mut Command) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

fn files_of_deb(package: &Path) -> anyhow::Result<Files> {
    let tree = output(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package))?;
    let mut files = Files::new();
    for entry in tar::Archive::new(&tree[..]).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let Some(common) = common(&path).filter(|_| !entry.header().entry_type().is_dir()) else { continue };
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if path.ends_with(".gz") {
            content = unzipped(&content)?;
        }
        let header = entry.header();
        // An empty field is 0 to tar and dpkg.
        let owner = |name: Option<&str>, id: std::io::Result<u64>| match (name, id.unwrap_or(0)) {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, 0) => "root".to_owned(),
            (_, id) => id.to_string(),
        };
        let user = owner(header.username().ok().flatten(), header.uid());
        let group = owner(header.groupname().ok().flatten(), header.gid());
        files.insert(
            common,
            Installed { mode: header.mode()? & 0o7777, owner: format!("{user}:{group}"), content },
        );
    }
    Ok(files)
}

fn unzipped(content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run gzip, with which tarballs are made too")?;
    let stdin = gzip.stdin.take();
    let (written, output) = std::thread::scope(|scope| {
        // It may stop to read until what it wrote is read.
        let writer = scope.spawn(|| stdin.map_or(Ok(()), |mut stdin| stdin.write_all(content)));
        let output = gzip.wait_with_output();
        (writer.join(), output)
    });
    let output = output?;
    ensure!(output.status.success() && matches!(written, Ok(Ok(()))), "gzip cannot unpack a man page");
    Ok(output.stdout)
}

fn files_of_rpm(package: &Path) -> anyhow::Result<Files> {
    let format = "[%{FILEMODES} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]";
    let listed = text(Command::new("rpm").args(["-qp", "--queryformat", format]).arg(package))?;
    let mut files = Files::new();
    for line in listed.lines() {
        let mut fields = line.splitn(3, ' ');
        let (Some(mode), Some(owner), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some(common) = common(path) else { continue };
        let mode: u32 = mode.parse().with_context(|| format!("rpm says {line:?}"))?;
        let installed = Installed { mode: mode & 0o7777, owner: owner.to_owned(), content: Vec::new() };
        files.insert(common, installed);
    }
    // rpm2cpio 4.18 ends with 1 for packages of cargo-generate-rpm 0.21, although all of the archive is there, as its end shows.
    let archive = Command::new("rpm2cpio").arg(package).output().context("cannot run rpm2cpio")?;
    let mut rest = Cursor::new(archive.stdout);
    loop {
        let mut reader = cpio::newc::Reader::new(rest).context("rpm2cpio made no archive")?;
        if reader.entry().is_trailer() {
            return Ok(files);
        }
        let path = common(reader.entry().name());
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        if let Some(found) = path.and_then(|path| files.get_mut(&path)) {
            found.content = content;
        }
        rest = reader.finish()?;
    }
}

fn about_deb(package: &Path) -> anyhow::Result<About> {
    let parts = output(Command::new("dpkg-deb").arg("--ctrl-tarfile").arg(package))?;
    let mut has_scripts = false;
    for entry in tar::Archive::new(&parts[..]).entries()? {
        let name = entry?.path()?.file_name().map(|name| name.to_string_lossy().into_owned());
        has_scripts |=
            name.is_some_and(|name| ["preinst", "postinst", "prerm", "postrm"].contains(&name.as_str()));
    }
    let depends = text(Command::new("dpkg-deb").arg("--field").arg(package).arg("Depends"))?;
    Ok(About { has_scripts, glibc: glibc_of_deb(&depends) })
}

/// The version in `libc6 (>= 2.34)`.
fn glibc_of_deb(depends: &str) -> Option<String> {
    let of_libc = depends.split(',').find_map(|one| one.trim().strip_prefix("libc6 (>= "))?;
    Some(of_libc.trim_end().trim_end_matches(')').to_owned())
}

fn about_rpm(package: &Path) -> anyhow::Result<About> {
    let scripts = text(Command::new("rpm").args(["-qp", "--scripts"]).arg(package))?;
    let requires = text(Command::new("rpm").args(["-qp", "--requires"]).arg(package))?;
    Ok(About { has_scripts: !scripts.trim().is_empty(), glibc: glibc_of_rpm(&requires) })
}

/// The highest version in lines as `libc.so.6(GLIBC_2.34)(64bit)`.
fn glibc_of_rpm(requires: &str) -> Option<String> {
    let versions = requires.lines().filter_map(|line| {
        let version = line.split_once("(GLIBC_")?.1.split(')').next()?;
        let numbers: Option<Vec<u32>> = version.split('.').map(|number| number.parse().ok()).collect();
        Some((numbers?, version))
    });
    versions.max().map(|(_, version)| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customs_of_distributions_are_no_differences() {
        for (deb, rpm) in [
            ("./usr/bin/huddle", "/usr/bin/huddle"),
            ("./lib/systemd/system/huddle.service", "/usr/lib/systemd/system/huddle.service"),
            ("./usr/share/man/man1/huddle.1.gz", "/usr/share/man/man1/huddle.1"),
            ("./usr/share/zsh/vendor-completions/_huddle", "/usr/share/zsh/site-functions/_huddle"),
            ("./usr/share/doc/huddle/copyright", "/usr/share/licenses/huddle/LICENSE-MIT"),
        ] {
            assert_eq!(common(deb), common(rpm), "{deb}");
        }
        assert_eq!(common("./etc/huddle/huddle.toml").as_deref(), Some("etc/huddle/huddle.toml"));
    }

    #[test]
    fn each_difference_is_named() {
        let file =
            |mode, content: &str| Installed { mode, owner: "root:root".into(), content: content.into() };
        let files = |all: &[(&str, Installed)]| -> Files {
            all.iter().map(|(path, file)| ((*path).to_owned(), file.clone())).collect()
        };
        let deb = files(&[("a", file(0o755, "x")), ("b", file(0o644, "x")), ("c", file(0o644, "x"))]);
        assert_eq!(differences(&deb, &deb), [""; 0]);
        let rpm = files(&[("a", file(0o644, "x")), ("b", file(0o644, "xy")), ("d", file(0o644, "x"))]);
        let expected = [
            "c is not in the .rpm",
            "d is not in the .deb",
            "a is 755 root:root in the .deb, and 644 root:root in the .rpm",
            "b has 1 bytes in the .deb and 2 others in the .rpm",
        ];
        assert_eq!(differences(&deb, &rpm), expected);
    }

    #[test]
    fn the_c_library_is_the_same_in_both_notations() {
        assert_eq!(glibc_of_deb("libc6 (>= 2.34), libgcc-s1 (>= 4.2)\n").as_deref(), Some("2.34"));
        let requires =
            "/bin/sh\nlibc.so.6(GLIBC_2.4)(64bit)\nlibc.so.6(GLIBC_2.34)(64bit)\nlibc.so.6()(64bit)\n";
        assert_eq!(glibc_of_rpm(requires).as_deref(), Some("2.34"));
        assert_eq!((glibc_of_deb("\n"), glibc_of_rpm("/bin/sh\n")), (None, None));
    }
}
