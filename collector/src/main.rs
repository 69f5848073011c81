//! `huddle`: see `huddle --help`.

mod cli;
mod doctor;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
