//! `cargo xtask experiment`: builds the runner and its guests, then executes the runner.

use std::process::Command;

use anyhow::Context;

use crate::{images, setup, shell, web_image};

/// What an experiment needs besides its runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// The microbenchmark's VMs.
    Guests,
    /// Apache on this host.
    Apache,
    /// The web experiment's VMs.
    WebImage,
}

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    eprintln!(
        "Building the runner and its guests (some minutes the first time); nothing is installed, except for \
         `web`, which says what it needs."
    );
    let need = need(args);
    match need {
        Some(Need::Apache) => setup::apache()?,
        Some(Need::WebImage) => setup::qemu().and_then(|()| setup::mmdebstrap())?,
        Some(Need::Guests) | None => {}
    }
    // The profile of all other tasks: the crate is optimised in it, and another one would need a complete
    // build.
    shell::run(shell::cargo().args(["build", "--package", "huddle-experiments", "--bins"]))?;
    match need {
        Some(Need::Guests) => images::make()?,
        Some(Need::WebImage) => web_image::make()?,
        Some(Need::Apache) | None => {}
    }
    let own = std::env::current_exe().context("cannot find cargo's target directory")?;
    shell::become_command(Command::new(own.with_file_name("huddle-experiment")).args(args))
}

/// Determined by the command line, or by a preset with VMs; nothing if only help is requested.
fn need(args: &[String]) -> Option<Need> {
    let says = |flag: &str, values: &[&str]| {
        args.windows(2).any(|two| two[0] == flag && values.contains(&two[1].as_str()))
            || args.iter().any(|arg| {
                arg.strip_prefix(flag)
                    .and_then(|rest| rest.strip_prefix('='))
                    .is_some_and(|value| values.contains(&value))
            })
    };
    if args.iter().any(|arg| ["--help", "-h"].contains(&arg.as_str())) {
        return None;
    }
    let (processes, vms) = (says("--guest", &["process"]), says("--guest", &["qemu"]));
    match args.first()?.as_str() {
        "web" if vms || (says("--preset", &["paper"]) && !processes) => Some(Need::WebImage),
        "web" => Some(Need::Apache),
        _ if vms || says("--guest", &["xen"]) || says("--preset", &["paper", "table2"]) => Some(Need::Guests),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_made_if_vms_are_requested() {
        let need = |line: &str| need(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for line in [
            "microbench --guest qemu",
            "microbench --guest=qemu",
            "microbench --guest xen",
            "microbench --preset paper",
        ] {
            assert_eq!(need(line), Some(Need::Guests), "{line}");
        }
        for line in ["microbench", "microbench --guest process --out qemu", "microbench --guest qemu --help"]
        {
            assert_eq!(need(line), None, "{line}");
        }
        for line in ["web --guest qemu", "web --preset=paper", "web --guest qemu --preset quick"] {
            assert_eq!(need(line), Some(Need::WebImage), "{line}");
        }
        for line in ["web", "web --preset mixed", "web --preset paper --guest process"] {
            assert_eq!(need(line), Some(Need::Apache), "{line}");
        }
        assert_eq!(need("web -h"), None);
    }
}
