//! `cargo xtask churn`: VMs come and go beside a loop with trials, which must reach verdicts and keep its memory
//! level.

use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long, in seconds
    #[arg(long, value_name = "N", default_value_t = 600)]
    seconds: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["test", "--workspace", "--test", "long_churn"]);
    command.env("HUDDLE_CHURN_SECONDS", arguments.seconds.to_string());
    shell::run(&mut command)
}
