//! What the long test programs share: they have no harness, and run beside real processes.

use std::path::Path;
use std::process::Command;

use huddle_testing::ksm;
use huddle_testing::output::say;

/// Whether to run: answers `--list` with the one test there is, and prints why where root or KSM is missing.
///
/// # Panics
/// Where they are missing in CI, which must run it.
pub(crate) fn is_to_run(test: &str) -> bool {
    if std::env::args().any(|argument| argument == "--list") {
        println!("{test}: test");
        return false;
    }
    let missing = match nix::unistd::geteuid().is_root() {
        true => ksm::missing(),
        false => Some("needs root".to_owned()),
    };
    let Some(missing) = missing else { return true };
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {missing}");
    say(&format!("skipped: {missing}"));
    false
}

/// The cache level at which this host has two domains or more, so that placements differ; `None` if there is none.
/// `huddle` makes a command of the program; a file is left in `dir`.
pub(crate) fn level_of_two_domains(huddle: impl Fn() -> Command, dir: &Path) -> Option<&'static str> {
    let matrix = dir.join("matrix.csv");
    std::fs::write(&matrix, "vm,a,b\na,-,0\nb,0,-\n").unwrap();
    let has_two = |level: &&str| {
        let mut command = huddle();
        command.args(["plan", "--cache-level", level, "--format", "json", "--matrix"]).arg(&matrix);
        let output = command.stdout(std::process::Stdio::piped()).output().unwrap();
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        plan["domains"].as_array().is_some_and(|domains| domains.len() > 1)
    };
    ["3", "2", "1"].into_iter().find(has_two)
}
