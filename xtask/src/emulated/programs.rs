//! The programs that run in emulated hosts, built for their architecture.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::toolchain;
use crate::{setup, shell};

/// Programs of this repository that are added to a host.
pub(crate) const NAMES: [&str; 3] = ["huddle", "huddle-workload", "huddle-check"];

/// Rust's name of ARM64.
const ARM64: &str = "aarch64-unknown-linux-gnu";

/// Debian's name of ARM64.
const ARM64_DEBIAN: &str = "arm64";

/// The C compiler for ARM64, which links as well.
pub(crate) const ARM64_CC: &str = "aarch64-linux-gnu-gcc";

/// Where Debian's C library for ARM64 is (package `libc6-arm64-cross`).
pub(crate) const ARM64_LIBRARIES: &str = "/usr/aarch64-linux-gnu/lib";

/// The architecture of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// That of this machine.
    Own,
    Arm64,
}

impl Architecture {
    /// The program that removes symbols.
    pub(super) fn strip(self) -> &'static str {
        match self {
            Self::Own => "strip",
            Self::Arm64 => "aarch64-linux-gnu-strip",
        }
    }
}

/// A profile of cargo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests.
    Dev,
    /// As huddle is distributed.
    Dist,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Dist => "dist",
        }
    }

    /// The directory of what is built with it.
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Dist => "dist",
        }
    }
}

/// Builds them: with [`Profile::Dist`] the first alone. Returns their directory.
pub(crate) fn build(architecture: Architecture, profile: Profile) -> anyhow::Result<PathBuf> {
    let mut command = shell::cargo();
    command.args(["build", "--profile", profile.name()]);
    let own = std::env::current_exe().context("cannot find cargo's target directory")?;
    let target = own.ancestors().nth(2).unwrap_or(Path::new("."));
    let mut directory = target.join(profile.directory());
    match architecture {
        // With a test, which the tests need anyway: so the features of all crates are those of the tests, and nothing
        // is built twice.
        Architecture::Own => command.args(["--workspace", "--test", "boot_linux"]),
        Architecture::Arm64 => {
            setup::arm64_compiler()?;
            if let Some(rustc) = toolchain::for_target(ARM64, ARM64_DEBIAN)? {
                command.env("RUSTC", rustc);
            }
            directory = target.join(ARM64).join(profile.directory());
            command
                .args(["--target", ARM64, "--package", "huddle"])
                .args(
                    (profile == Profile::Dev)
                        .then_some(["--package", "huddle-workload"])
                        .into_iter()
                        .flatten(),
                )
                .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", ARM64_CC)
                .env("CC_aarch64_unknown_linux_gnu", ARM64_CC)
        }
    };
    let names = match profile {
        // Alone: with others it would have the features of all.
        Profile::Dist => &NAMES[..1],
        Profile::Dev => &NAMES[..],
    };
    command.args(names.iter().flat_map(|name| ["--bin", name]));
    shell::run(&mut command)?;
    Ok(directory)
}
