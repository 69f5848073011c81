//! `cargo xtask damage`: builds the programs, then has the tests of the analysis damage as many recordings as asked
//! for (`analysis/tests/long_damage`).

use std::path::Path;

use anyhow::Context;

use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many recordings
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    recordings: u64,
    /// With optimised programs: building them takes long, and the questions far less
    #[arg(long)]
    release: bool,
    /// Other damage than the usual
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let profile: &[&str] = if arguments.release { &["--release"] } else { &[] };
    // The whole workspace, so that its crates are built with one set of features.
    shell::run(shell::cargo().args(["build", "--workspace", "--bin", "huddle"]).args(profile))?;
    let own = std::env::current_exe().context("cannot tell where cargo puts its programs")?;
    let target = own.parent().and_then(Path::parent).context("cargo puts its programs into no directory")?;
    let of_profile = target.join(if arguments.release { "release" } else { "debug" });
    let mut command = shell::cargo();
    command.env("HUDDLE_PROGRAM", of_profile.join("huddle"));
    command.args(["test", "--workspace", "--test", "long_damage"]).args(profile).arg("--");
    command.args(["--recordings", &arguments.recordings.to_string()]);
    if let Some(seed) = arguments.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    shell::run(&mut command)
}
