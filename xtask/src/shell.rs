//! Running commands, which are printed first, and passing on their exit codes.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;

/// A command that ended with an error.
#[derive(Debug)]
pub(crate) struct Ended {
    command: String,
    status: ExitStatus,
    /// Its exit code; for a signal 128 plus its number, as in shells.
    pub(crate) code: u8,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}", self.command, self.status)
    }
}

impl std::error::Error for Ended {}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).unwrap_or(Path::new(".")).to_owned()
}

/// The cargo that runs this program, without what `cargo run` says of this package in the environment: build scripts
/// that ask to run again when that changes (ring's, for one) would run again, and all that stands on them be built again,
/// with each change between `cargo xtask` and `cargo`.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if is_of_package(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

fn is_of_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let text = announce(command);
    let status = command.status().with_context(|| format!("cannot run `{text}`"))?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Err(Ended { command: text, status, code: u8::try_from(code).unwrap_or(1) }.into())
}

/// Executes the command in this process, so that signals and exit code are its own.
pub(crate) fn become_command(command: &mut Command) -> anyhow::Result<()> {
    let text = announce(command);
    Err(anyhow::Error::new(command.exec()).context(format!("cannot run `{text}`")))
}

/// Whether a command exists and succeeds; its output is discarded.
pub(crate) fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn announce(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let words = std::iter::once(name).chain(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    let text = words.collect::<Vec<_>>().join(" ");
    eprintln!("$ {text}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(script: &str) -> u8 {
        let error = run(Command::new("sh").args(["-c", script])).unwrap_err();
        error.downcast_ref::<Ended>().unwrap().code
    }

    #[test]
    fn exit_codes_are_passed_on() {
        run(&mut Command::new("true")).unwrap();
        assert_eq!(code_of("exit 3"), 3);
        assert_eq!(code_of("kill -TERM $$"), 143);
    }

    #[test]
    fn cargo_is_not_told_of_this_package() {
        let removed = cargo();
        let removed: Vec<_> = removed.get_envs().filter(|(_, value)| value.is_none()).collect();
        // `cargo test` sets it.
        assert!(removed.iter().any(|(name, _)| *name == "CARGO_PKG_NAME"), "{removed:?}");
        assert!(!is_of_package("CARGO_TARGET_DIR"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nonexistent/tool")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot run `tool`"));
    }

    #[test]
    fn the_root_is_the_workspace() {
        assert!(std::fs::read_to_string(root().join("Cargo.toml")).unwrap().contains("[workspace]"));
    }
}
