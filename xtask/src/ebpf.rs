//! `cargo xtask ebpf`: rebuilds the BPF object that is in the repository, with pinned tools.
//!
//! The object is built by one release of stable Rust with its `rust-src` component, and linked by bpf-linker
//! with the LLVM library of that release: one version pins compiler and code generator, and no distribution's
//! LLVM is needed. Paths are remapped, so that the bytes are the same from any checkout.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

/// The release of Rust that builds the object.
const TOOLCHAIN: &str = "1.95.0";
/// The linker, from crates.io.
const LINKER_VERSION: &str = "0.13.0";
/// The feature of the linker that names the major version of LLVM in [`TOOLCHAIN`].
const LINKER_LLVM: &str = "llvm-22";
const TARGET: &str = "bpfel-unknown-none";
/// The object, below the root of the repository.
const OBJECT: &str = "ebpf/huddle.bpf.o";
/// The name of its binary.
const BINARY: &str = "huddle";
/// Names a directory for the linker, so that several checkouts can use one.
const TOOLS_VARIABLE: &str = "HUDDLE_EBPF_TOOLS";

/// Arguments of `cargo xtask ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Build, and fail if the bytes differ from the object in the repository; write nothing.
    #[arg(long)]
    check: bool,
}

/// Rebuilds the object, or checks that the one in the repository matches its source.
///
/// # Errors
/// The pinned tools are unavailable, the build fails, or (with `--check`) the bytes differ.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = repository_root()?;
    let sysroot = toolchain().context("the pinned tools of the BPF object are not available here")?;
    let linker =
        linker(&root, &sysroot).context("the pinned tools of the BPF object are not available here")?;
    let built = build(&root, &sysroot, &linker)?;
    keep_or_compare(arguments, &root.join(OBJECT), &built.join(BINARY))
}

fn keep_or_compare(arguments: &Arguments, object: &Path, built: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if !arguments.check {
        fs::write(object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
        eprintln!("xtask: wrote {} ({} bytes)", object.display(), bytes.len());
        return Ok(());
    }
    let kept = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    if let Some(at) = first_difference(&kept, &bytes) {
        bail!(
            "{} does not match its source: {} bytes in the repository, {} built ({}), first \
             difference at byte {at}; run `cargo xtask ebpf` and commit the object",
            object.display(),
            kept.len(),
            bytes.len(),
            built.display()
        );
    }
    eprintln!("xtask: {} matches its source ({} bytes)", object.display(), bytes.len());
    Ok(())
}

fn repository_root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask has no parent directory")?.to_owned())
}

/// Position of the first difference; the shorter length if one is a prefix of the other.
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let common = one.iter().zip(other).position(|(a, b)| a != b);
    common.or((one.len() != other.len()).then(|| one.len().min(other.len())))
}

/// The sysroot of the pinned release, installed with its sources if missing.
fn toolchain() -> Result<PathBuf> {
    let ask = || output(Command::new("rustc").arg(format!("+{TOOLCHAIN}")).args(["--print", "sysroot"]));
    let has_sources = |sysroot: &Path| sysroot.join("lib/rustlib/src/rust/library/core").is_dir();
    let found = ask().ok().map(|text| PathBuf::from(text.trim())).filter(|sysroot| has_sources(sysroot));
    if let Some(sysroot) = found {
        return Ok(sysroot);
    }
    eprintln!("xtask: installing Rust {TOOLCHAIN} with rust-src through rustup");
    let install = ["toolchain", "install", TOOLCHAIN, "--profile", "minimal", "--component", "rust-src"];
    output(Command::new("rustup").args(install)).context("install rustup from https://rustup.rs")?;
    let sysroot = PathBuf::from(ask()?.trim());
    ensure!(has_sources(&sysroot), "{} has no rust-src", sysroot.display());
    Ok(sysroot)
}

/// The linker, built with the LLVM library of the pinned release if missing.
fn linker(root: &Path, sysroot: &Path) -> Result<PathBuf> {
    let tools = match std::env::var_os(TOOLS_VARIABLE) {
        Some(directory) => PathBuf::from(directory),
        None => root.join("target/ebpf-tools"),
    };
    let linker = tools.join("bin/bpf-linker");
    let installed = || -> Result<bool> {
        Ok(linker.exists()
            && output(Command::new(&linker).arg("--version"))?.trim().ends_with(LINKER_VERSION))
    };
    if installed().unwrap_or(false) {
        return Ok(linker);
    }
    eprintln!("xtask: building bpf-linker {LINKER_VERSION} in {} (about a minute)", tools.display());
    let prefix = llvm_prefix(&tools, sysroot)?;
    let mut install = Command::new("cargo");
    install
        .arg(format!("+{TOOLCHAIN}"))
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", LINKER_LLVM, "--root"])
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        .env("LLVM_PREFIX", prefix);
    output(clean(&mut install))?;
    ensure!(installed()?, "{} is not version {LINKER_VERSION}", linker.display());
    Ok(linker)
}

/// A directory that looks like an installation of LLVM and contains the library of the toolchain: under the
/// name used for linking, and under its own, which the linker needs at run time.
fn llvm_prefix(tools: &Path, sysroot: &Path) -> Result<PathBuf> {
    let libraries = sysroot.join("lib");
    let mut found = None;
    for entry in fs::read_dir(&libraries).with_context(|| format!("cannot read {}", libraries.display()))? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("libLLVM.so.") {
            found = Some(name);
        }
    }
    let own_name = found
        .with_context(|| format!("{} has no libLLVM.so: use the toolchain of rustup", libraries.display()))?;
    let directory = tools.join("llvm/lib");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for name in [OsString::from("libLLVM.so"), own_name.clone()] {
        let link = directory.join(name);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
        }
        std::os::unix::fs::symlink(libraries.join(&own_name), &link)
            .with_context(|| format!("cannot create {}", link.display()))?;
    }
    Ok(tools.join("llvm"))
}

fn build(root: &Path, sysroot: &Path, linker: &Path) -> Result<PathBuf> {
    let crate_root = root.join("ebpf");
    let target = root.join("target/ebpf");
    let registry = cargo_home()?.join("registry");
    let mut flags = vec!["--cfg=bpf_target_arch=\"x86_64\"".to_owned()];
    for (from, to) in [
        (crate_root.as_path(), "/huddle/ebpf"),
        (target.as_path(), "/huddle/target"),
        (registry.as_path(), "/cargo/registry"),
        (sysroot, "/rust"),
    ] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(&crate_root)
        .arg(format!("+{TOOLCHAIN}"))
        .args(["build", "--release", "--locked", "--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&target);
    clean(&mut cargo)
        // build-std is not stable yet; the release is pinned, so it cannot change under us.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_CFG_BPF_TARGET_ARCH", "x86_64")
        // Not a flag: flags are part of the hash of every symbol, and the path differs by checkout.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the build failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(target.join(TARGET).join("release"))
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    Ok(PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"))
}

/// Removes settings of the caller's cargo and shell from the build.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let kept = matches!(text.as_ref(), "CARGO_HOME" | "CARGO_HTTP_CAINFO" | "CARGO_HTTP_PROXY");
        if !kept && (text.starts_with("CARGO") || text.starts_with("RUSTC") || text == "RUSTFLAGS") {
            command.env_remove(&name);
        }
    }
    command.env_remove("RUSTUP_TOOLCHAIN")
}

/// The standard output of a command.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_and_equal_bytes_have_none() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"axc"), Some(1));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
        assert_eq!(first_difference(b"", b"a"), Some(0));
    }
}
