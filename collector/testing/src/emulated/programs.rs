//! Programs of this repository as files of an emulated host.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::host::{File, target};

/// Rust's name of ARM64.
const ARM64: &str = "aarch64-unknown-linux-gnu";

/// The architecture of a host's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// That of this machine.
    Own,
    /// ARM64.
    Arm64,
}

impl Architecture {
    /// Where cargo puts a program of that name, beside one that it has built for this machine.
    pub fn program(self, name: &str, beside: &Path) -> PathBuf {
        match self {
            Self::Own => beside.with_file_name(name),
            Self::Arm64 => target(beside).join(ARM64).join("debug").join(name),
        }
    }

    /// The same of a program that is built for distribution (cargo's profile `dist`).
    pub fn distributed(self, name: &str, beside: &Path) -> PathBuf {
        match self {
            Self::Own => target(beside).join("dist").join(name),
            Self::Arm64 => target(beside).join(ARM64).join("dist").join(name),
        }
    }

    /// A program without its symbols, which would fill the host's memory.
    pub fn stripped(self, program: &Path) -> Vec<u8> {
        let strip = match self {
            Self::Own => "strip",
            Self::Arm64 => "aarch64-linux-gnu-strip",
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let status = Command::new(strip).arg("-o").args([file.path(), program]).status();
        assert!(status.expect("strip is of binutils, which gcc needs").success());
        std::fs::read(file.path()).unwrap()
    }

    /// Such programs by name, as files that the host finds.
    ///
    /// # Panics
    /// One is not built: `cargo xtask host KIND --make-only` does not, `cargo xtask test` does.
    pub fn files(self, programs: &[(&str, &'static str)], beside: &Path) -> Vec<File> {
        let file = |(name, path): &(&str, &'static str)| {
            let program = self.program(name, beside);
            assert!(program.exists(), "{} is missing; `cargo xtask test` builds it", program.display());
            File { path, mode: 0o755, content: self.stripped(&program) }
        };
        programs.iter().map(file).collect()
    }
}

/// Strips a program of this machine of its symbols.
pub fn stripped(program: &Path) -> Vec<u8> {
    Architecture::Own.stripped(program)
}
