//! Tasks of the repository. `cargo xtask --help` lists them.

mod ebpf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Tasks of the huddle repository", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Rebuild the BPF object with pinned tools
    Ebpf(ebpf::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Ebpf(arguments) => ebpf::run(&arguments),
    }
}
