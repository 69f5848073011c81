//! A stand-in VM: see `huddle_experiments::guest::standin`. Started by `huddle-experiment`.

use std::process::ExitCode;

use clap::Parser;
use huddle_experiments::guest::standin::{StandinConfig, serve};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

/// A process that stands for a VM: mergeable memory, and a thread named like a vCPU that reads it when
/// told on standard input (`start`, `read`, `stop`). It ends when its input or its parent ends.
#[derive(Parser)]
struct Args {
    /// KiB of data that is read at random
    #[arg(long)]
    data_kib: usize,
    /// Seed of that data; guests of one seed hold the same
    #[arg(long)]
    data_seed: u64,
    /// KiB of memory that no other guest holds
    #[arg(long, default_value_t = 256)]
    private_kib: usize,
    /// Seed of that memory
    #[arg(long)]
    private_seed: u64,
    /// Reads between two yields of the CPU
    #[arg(long, default_value_t = 100_000)]
    burst_reads: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("huddle-standin: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    // The runner blocks signals in its threads, and a child inherits that (execve(2)).
    SigSet::all().thread_unblock()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // For the whole process, heap and stacks too: none of it is to be made huge by khugepaged.
    prctl::set_thp_disable(true)?;
    let config = StandinConfig {
        data_bytes: args.data_kib * 1024,
        data_seed: args.data_seed,
        private_bytes: args.private_kib * 1024,
        private_seed: args.private_seed,
        burst_reads: args.burst_reads,
    };
    Ok(serve(config, std::io::stdin().lock(), std::io::stdout().lock())?)
}
