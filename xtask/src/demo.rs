//! `cargo xtask demo`: builds the terminal and simulated VMs, and shows them.

use std::process::Command;

use anyhow::Context;

use crate::shell;

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    eprintln!(
        "Building the terminal and the simulated VMs (some minutes the first time); nothing is installed."
    );
    shell::run(shell::cargo().args(["build", "--package", "huddle-experiments", "--bins"]))?;
    shell::run(shell::cargo().args(["build", "--package", "huddle", "--bin", "huddle"]))?;
    let own = std::env::current_exe().context("cannot find cargo's target directory")?;
    shell::become_command(Command::new(own.with_file_name("huddle-demo")).args(args))
}
