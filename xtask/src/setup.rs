//! `cargo xtask setup`: what the tasks need, said before anything is installed.

use std::process::{Command, Stdio};

use anyhow::Context;

use crate::host;
use crate::shell;

/// Components of the toolchain that only `cargo xtask check` needs: cargo's command and the component.
const COMPONENTS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

pub(crate) fn run() -> anyhow::Result<()> {
    eprintln!("Tests and experiments need a Rust toolchain and a C compiler (`cc`), and nothing else:");
    eprintln!("the stand-in VMs of the experiments are programs of this repository.");
    anyhow::ensure!(
        works(Command::new("cc").arg("--version")),
        "`cc` is missing; on Debian: apt-get install gcc libc6-dev"
    );
    components()?;
    for need in host::needs() {
        if need.is_met {
            eprintln!("{}: here", need.name);
        } else {
            eprintln!("{}: MISSING, needed for {}; {}", need.name, need.purpose, need.remedy);
        }
    }
    Ok(())
}

/// Makes sure that format and lints can be checked.
pub(crate) fn components() -> anyhow::Result<()> {
    for (subcommand, component) in COMPONENTS {
        if works(shell::cargo().args([subcommand, "--version"])) {
            continue;
        }
        eprintln!("`cargo {subcommand}` is missing: installing the component {component} with rustup");
        shell::run(Command::new("rustup").args(["component", "add", component]))
            .with_context(|| format!("install {component} by the means your Rust came with"))?;
    }
    Ok(())
}

fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
