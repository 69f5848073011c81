//! `cargo xtask experiment`: builds the runner and its guests, then becomes the runner.

use std::process::Command;

use anyhow::Context;

use crate::shell;

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    eprintln!(
        "Building the runner and its guests (some minutes the first time); nothing is installed but for `web`, \
         which says what it needs."
    );
    if args.first().is_some_and(|name| name == "web") {
        crate::setup::apache()?;
    }
    // The profile of all other tasks: the crate is optimised in it, and a second one would have to be
    // built from the start.
    shell::run(shell::cargo().args(["build", "--package", "huddle-experiments", "--bins"]))?;
    if needs_images(args) {
        crate::images::make()?;
    }
    let own = std::env::current_exe().context("cannot tell where cargo puts its programs")?;
    shell::become_command(Command::new(own.with_file_name("huddle-experiment")).args(args))
}

/// Whether VMs are started: said on the command line, or by a preset of which VMs are a part.
fn needs_images(args: &[String]) -> bool {
    let says = |flag: &str, values: &[&str]| {
        args.windows(2).any(|two| two[0] == flag && values.contains(&two[1].as_str()))
            || args.iter().any(|arg| {
                arg.strip_prefix(flag)
                    .and_then(|rest| rest.strip_prefix('='))
                    .is_some_and(|value| values.contains(&value))
            })
    };
    says("--guest", &["qemu"]) || says("--preset", &["paper", "table2"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_made_when_vms_are_asked_for() {
        let needs = |line: &str| needs_images(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(needs("microbench --guest qemu") && needs("microbench --guest=qemu"));
        assert!(needs("microbench --preset paper"));
        assert!(!needs("microbench") && !needs("microbench --guest process --out qemu"));
    }
}
