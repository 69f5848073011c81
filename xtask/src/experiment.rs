//! `cargo xtask experiment`: builds the runner and its guests, then becomes the runner.

use std::process::Command;

use anyhow::Context;

use crate::shell;

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    eprintln!(
        "Building the runner and the stand-in VMs (some minutes the first time); nothing is installed."
    );
    // The profile of all other tasks: the crate is optimised in it, and a second one would have to be
    // built from the start.
    shell::run(shell::cargo().args(["build", "--package", "huddle-experiments", "--bins"]))?;
    let own = std::env::current_exe().context("cannot tell where cargo puts its programs")?;
    shell::become_command(Command::new(own.with_file_name("huddle-experiment")).args(args))
}
