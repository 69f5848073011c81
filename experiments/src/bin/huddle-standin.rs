//! A stand-in VM: a process with mergeable memory and threads named like vCPUs. Started by
//! `huddle-experiment`.

use std::process::ExitCode;

use clap::Parser;
use huddle_guest::{ServeOptions, serve};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

/// A stand-in for a VM: a process with mergeable memory, and threads named like vCPUs that read it on commands
/// on standard input (`load`, `start`, `read`, `stop`). It ends when its input or its parent ends.
#[derive(Parser)]
struct Args {
    /// vCPUs that read
    #[arg(long, default_value_t = 1)]
    vcpus: u32,
    /// KiB of memory that no other guest holds
    #[arg(long, default_value_t = 256)]
    private_kib: usize,
    /// Seed of that memory
    #[arg(long)]
    private_seed: u64,
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
    let options = ServeOptions {
        vcpus: args.vcpus as usize,
        // The form QEMU gives a vCPU thread (`CPU 0/KVM`).
        thread_name: |vcpu| format!("CPU {vcpu}/STANDIN"),
        at_start: |_| Ok(()),
        private_bytes: args.private_kib * 1024,
        private_seed: args.private_seed,
        marks_mergeable: true,
    };
    Ok(serve(options, std::io::stdin().lock(), std::io::stdout().lock())?)
}
