//! Tasks of the repository: `cargo xtask --help`. Deliberately small, so that the first command of a user
//! starts at once: it only checks, reports what it does, and calls cargo.

mod archive;
mod check;
mod churn;
mod conventions;
mod counter_cost;
mod damage;
mod debian;
mod debian_root;
mod demo;
mod dist;
mod ebpf;
mod emulated;
mod experiment;
mod fleet;
mod host;
mod images;
mod kills;
mod modules;
mod pictures;
mod rebuild;
mod rooms;
mod setup;
mod shell;
mod test;
mod tools;
mod web_image;
mod whole;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the huddle repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Reports missing requirements of this machine, and installs them where possible
    Setup,
    /// Runs all tests, after listing those that are skipped on this machine
    Test {
        /// Only tests that boot no guest and do not take minutes; lists what it leaves out
        #[arg(long)]
        quick: bool,
        /// Passed on to `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds an experiment and runs it; `--help` after its name lists its options
    Experiment {
        /// Name of the experiment, and its options
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            required = true,
            value_name = "NAME [OPTIONS]"
        )]
        args: Vec<String>,
    },
    /// Writes a generated fleet, whose true overlaps are known, as its hosts would record their sketches
    Fleet(fleet::Arguments),
    /// Shows simulated VMs in the terminal; `--help` after it lists its options
    Demo {
        /// Passed on to the program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Boots a host in QEMU's emulator, with its console on this terminal: with Xen, ARM64 or KVM
    Host(emulated::Arguments),
    /// The same as `host xen`
    #[command(hide = true)]
    XenHost(emulated::Options),
    /// Kills huddle with SIGKILL at random moments and checks that nothing is left behind (as root)
    Kills(kills::Arguments),
    /// Runs a loop with trials while VMs come and go, and checks its verdicts and its memory (as root)
    Churn(churn::Arguments),
    /// Counts the instructions that huddle takes to read counters, beside perf, in an emulated ARM64 host
    CounterCost,
    /// Damages recordings, puts every question to each, and counts panics, hangs and wrong answers
    Damage(damage::Arguments),
    /// Measures rebuild times after a one-line change, compared with an earlier revision
    Rebuild(rebuild::Arguments),
    /// Checks the dependencies of each crate: none on upper layers, and no library that its room does not need
    Rooms,
    /// Checks format, conventions, dependencies, lints and documentation, with warnings as errors
    Check,
    /// Makes the pictures of the documentation from a real run on this machine (as root; needs tmux)
    Pictures(pictures::Arguments),
    /// Builds the programs for distribution, checks their size, and makes packages of them
    Dist(dist::Arguments),
    /// Rebuilds the BPF object that is in the repository, with pinned tools
    Ebpf(ebpf::Arguments),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Setup => setup::run(),
        Task::Test { quick: false, args } => test::run(&args),
        Task::Test { quick: true, args } => test::quick(&args),
        Task::Experiment { args } => experiment::run(&args),
        Task::Fleet(arguments) => fleet::run(&arguments),
        Task::Demo { args } => demo::run(&args),
        Task::Host(arguments) => emulated::run(&arguments),
        Task::XenHost(options) => emulated::run_kind(emulated::Kind::Xen, &options),
        Task::Kills(arguments) => kills::run(&arguments),
        Task::Churn(arguments) => churn::run(&arguments),
        Task::CounterCost => counter_cost::run(),
        Task::Damage(arguments) => damage::run(&arguments),
        Task::Rebuild(arguments) => rebuild::run(&arguments),
        Task::Rooms => rooms::check(),
        Task::Check => check::run(),
        Task::Pictures(arguments) => pictures::run(&arguments),
        Task::Dist(arguments) => dist::run(&arguments),
        Task::Ebpf(arguments) => ebpf::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<shell::Ended>() {
            // The command has printed its own error; its exit code is passed on.
            Some(ended) => {
                eprintln!("xtask: {ended}");
                ExitCode::from(ended.code)
            }
            None => {
                eprintln!("xtask: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
