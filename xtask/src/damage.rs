//! `cargo xtask damage`: builds the programs as they ship, then has the tests of the analysis damage as many
//! recordings as asked for (`analysis/tests/long_damage`). Optimised, since thousands of recordings take hours else.

use anyhow::Context;

use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many recordings
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    recordings: u64,
    /// Other damage than the usual
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Package by package, as `cargo xtask dist` does: the same builds serve both.
    let dist = ["--locked", "--profile", "dist"];
    shell::run(shell::cargo().arg("build").args(dist).args(["--package", "huddle", "--bin", "huddle"]))?;
    let own = std::env::current_exe().context("cannot find cargo's target directory")?;
    let target = own.ancestors().nth(2).context("cargo's target directory has no name")?;
    let mut command = shell::cargo();
    command.env("HUDDLE_PROGRAM", target.join("dist/huddle"));
    command.arg("test").args(dist).args(["--package", "huddle-analysis", "--test", "long_damage"]);
    command.args(["--", "--recordings", &arguments.recordings.to_string()]);
    if let Some(seed) = arguments.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    shell::run(&mut command)
}
