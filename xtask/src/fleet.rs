//! `cargo xtask fleet`: writes a generated fleet of hosts with VMs whose true overlaps are known.

use std::path::PathBuf;

use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Number of hosts
    #[arg(long, default_value_t = 10, value_name = "N")]
    hosts: u32,
    /// VMs of 4 GiB on each host
    #[arg(long, default_value_t = 50, value_name = "N")]
    vms_per_host: u32,
    /// Equal seeds give equal fleets
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u32,
    /// A new directory, which gets host=HOST/run=RUN for each host, and truth.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // cargo runs at the root of the repository.
    let out = std::path::absolute(&arguments.out)?;
    let numbers = [arguments.hosts, arguments.vms_per_host, arguments.seed].map(|number| number.to_string());
    let program = ["run", "--release", "--package", "huddle-record", "--example", "generated_fleet", "--"];
    shell::become_command(shell::cargo().args(program).arg(out).args(numbers))
}
