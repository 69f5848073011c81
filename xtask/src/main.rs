//! Tasks of the repository: `cargo xtask --help`. Light on purpose, so that the first command a user
//! types does something at once: it only checks, says what it does, and calls cargo.

mod archive;
mod check;
mod conventions;
mod damage;
mod demo;
mod dist;
mod ebpf;
mod experiment;
mod host;
mod images;
mod modules;
mod rebuild;
mod rooms;
mod setup;
mod shell;
mod test;
mod tools;
mod web_image;
mod whole;
mod xen_host;

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
    /// Reports what this machine needs and lacks, and installs what a task needs
    Setup,
    /// Runs all tests, after saying which of them are skipped on this machine
    Test {
        /// Only what boots no guest and takes no minutes; says what it leaves out
        #[arg(long)]
        quick: bool,
        /// Passed on to `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds what an experiment needs and runs it; `--help` after its name lists its options
    Experiment {
        /// Which one, and its options
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            required = true,
            value_name = "NAME [OPTIONS]"
        )]
        args: Vec<String>,
    },
    /// Shows stand-in VMs in the terminal; `--help` after it lists its options
    Demo {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Boots a host with Xen in QEMU, and three domains, with dom0's console on this terminal
    XenHost(xen_host::Arguments),
    /// Damages recordings, puts every question to each, and counts panics, hangs and wrong answers
    Damage(damage::Arguments),
    /// Times building the program again after a change of one line, beside an earlier revision
    Rebuild(rebuild::Arguments),
    /// Looks at what each crate builds on: nothing above it, and no library that its room does not need
    Rooms,
    /// Format, conventions, dependencies, lints and documentation, warnings being errors
    Check,
    /// Builds the programs as they ship, and checks that they are as small as they have to be
    Dist,
    /// Rebuilds the BPF objects that are in the repository, with pinned tools
    Ebpf(ebpf::Arguments),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Setup => setup::run(),
        Task::Test { quick: false, args } => test::run(&args),
        Task::Test { quick: true, args } => test::quick(&args),
        Task::Experiment { args } => experiment::run(&args),
        Task::Demo { args } => demo::run(&args),
        Task::XenHost(arguments) => xen_host::run(&arguments),
        Task::Damage(arguments) => damage::run(&arguments),
        Task::Rebuild(arguments) => rebuild::run(&arguments),
        Task::Rooms => rooms::check(),
        Task::Check => check::run(),
        Task::Dist => dist::run(),
        Task::Ebpf(arguments) => ebpf::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<shell::Ended>() {
            // The command has spoken for itself; its exit code is passed on.
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
