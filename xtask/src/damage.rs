//! `cargo xtask damage`: builds the programs, then has the tests of the analysis damage as many recordings as asked
//! for (`analysis/tests/long_damage`).

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
    shell::run(shell::cargo().args(["build", "--package", "huddle", "--bin", "huddle"]))?;
    let own = std::env::current_exe().context("cannot tell where cargo puts its programs")?;
    let mut command = shell::cargo();
    command.env("HUDDLE_PROGRAM", own.with_file_name("huddle"));
    command.args(["test", "--package", "huddle-analysis", "--test", "long_damage", "--"]);
    command.args(["--recordings", &arguments.recordings.to_string()]);
    if let Some(seed) = arguments.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    shell::run(&mut command)
}
