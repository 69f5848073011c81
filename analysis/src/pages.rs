use clap::CommandFactory as _;
use huddle_analysis::cli::Cli;

/// Also writes them for packages (`cargo xtask dist`).
#[test]
fn every_command_has_a_page_and_completions() {
    huddle_testing::pages::check(Cli::command);
}
