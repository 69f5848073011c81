//! `cargo xtask kills`: ends huddle by SIGKILL at random moments, and counts what was left behind.

use crate::shell;

/// How often, and where the random moments come from.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many kills
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: u64,
    /// Seed of the moments [default: another one each time]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    shell::run(shell::cargo().args([
        "build",
        "--workspace",
        "--bin",
        "huddle-experiment",
        "--bin",
        "huddle-standin",
    ]))?;
    let mut command = shell::cargo();
    command.args(["test", "--workspace", "--test", "long_kills"]);
    command.env("HUDDLE_KILLS", arguments.count.to_string());
    if let Some(seed) = arguments.seed {
        command.env("HUDDLE_KILLS_SEED", seed.to_string());
    }
    shell::run(&mut command)
}
