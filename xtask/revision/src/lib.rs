//! The git revision of a build, for build scripts (`build.rs`) of packages that have programs.
//!
//! Only packages with programs have such a script, since whatever has one is compiled again after each
//! commit. The script runs again when HEAD moves, and when a source of the program changes, after which the
//! revision is `-dirty`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the sources of a build come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// A git work tree: what `git describe --always --dirty` says of it.
    Git(String),
    /// No git work tree, but an archive of the sources.
    SourceArchive,
    /// A git work tree of which git tells nothing, and why.
    Unknown(String),
}

impl Revision {
    /// Asks git about the work tree at `root`.
    pub fn of(root: &Path) -> Self {
        // An archive may be unpacked inside a work tree of something else.
        if !root.join(".git").exists() {
            return Self::SourceArchive;
        }
        match git(root, &["describe", "--always", "--dirty", "--abbrev=12"]) {
            Ok(text) if !text.is_empty() => Self::Git(text),
            Ok(_) => Self::Unknown("git describe printed nothing".to_owned()),
            Err(reason) => Self::Unknown(reason),
        }
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Git(revision) => f.write_str(revision),
            Self::SourceArchive => f.write_str("source archive"),
            Self::Unknown(_) => f.write_str("git revision unknown"),
        }
    }
}

/// Tells cargo, from a build script, the environment variables that the package is compiled with, and when
/// to run the script again.
///
/// - `HUDDLE_VERSION`: the package's version and, in brackets, the revision;
/// - `HUDDLE_GIT_REVISION`: the revision; not set where there is none.
///
/// `sources` are what the program is made of, beside its own package: packages or files, by their paths from
/// the root of the workspace. Those that are not there are left out.
#[expect(clippy::print_stdout, reason = "standard output is how a build script speaks to cargo")]
pub fn emit(sources: &[&str]) {
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into()));
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let root = package.ancestors().find(|dir| dir.join("Cargo.lock").exists()).unwrap_or(&package);
    let revision = Revision::of(root);
    let mut lines = vec![format!("rustc-env=HUDDLE_VERSION={version} ({revision})")];
    match &revision {
        Revision::Git(text) => lines.push(format!("rustc-env=HUDDLE_GIT_REVISION={text}")),
        Revision::SourceArchive => {}
        Revision::Unknown(reason) => lines.push(format!("warning=the git revision is unknown: {reason}")),
    }
    let of_git = if revision == Revision::SourceArchive { Vec::new() } else { git_files(root) };
    let of_sources =
        sources.iter().map(|path| root.join(path)).chain([package.clone(), root.join("Cargo.lock")]);
    let watched = of_git.into_iter().chain(of_sources.flat_map(source_files));
    lines.extend(watched.map(|path| format!("rerun-if-changed={}", path.display())));
    for line in lines {
        println!("cargo::{line}");
    }
}

/// What of git changes when HEAD or a tag moves. Of a branch that is packed, the directory in which its file
/// will be made.
fn git_files(root: &Path) -> Vec<PathBuf> {
    let path = |name: &str| git(root, &["rev-parse", "--git-path", name]).ok().map(|path| root.join(path));
    let branch = git(root, &["symbolic-ref", "-q", "HEAD"]).ok().and_then(|branch| path(&branch));
    let branch = branch.and_then(|file| file.ancestors().find(|path| path.exists()).map(Path::to_owned));
    let files = [path("HEAD"), branch, path("packed-refs"), path("refs/tags")];
    // A file that is not there would make cargo run the script at every build.
    files.into_iter().flatten().filter(|path| path.exists()).collect()
}

/// What of a package goes into a program: not its tests. Of a file, itself.
fn source_files(path: PathBuf) -> Vec<PathBuf> {
    let of_package = ["Cargo.toml", "build.rs", "src"].map(|name| path.join(name));
    let all = if path.is_dir() { of_package.to_vec() } else { vec![path] };
    all.into_iter().filter(|path| path.exists()).collect()
}

/// What git prints, without the newline.
fn git(root: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("git");
    // A hook of git has these set, for another work tree perhaps.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        command.env_remove(name);
    }
    // Without the index being written, which others may be doing.
    let command = command.arg("-C").arg(root).args(args).env("GIT_OPTIONAL_LOCKS", "0");
    let output = command.output().map_err(|error| format!("cannot run git: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    Err(if complaint.is_empty() { format!("git {} failed", args[0]) } else { complaint })
}

#[cfg(test)]
mod tests;
