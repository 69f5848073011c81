//! `cargo xtask rebuild`: rebuild times of the program after a one-line change, compared with an earlier
//! revision, in alternation.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::shell;

/// Arguments of `cargo xtask rebuild`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The revision to compare with
    #[arg(long, value_name = "REV", default_value = "7950a8a")]
    against: String,
    /// Number of measurements of each change
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
}

/// A function that exists in every revision, to whose body a line is added.
struct Place {
    what: &'static str,
    /// Its files in different revisions.
    files: [&'static str; 2],
    signature: &'static str,
}

const PLACES: [Place; 2] = [
    Place {
        what: "sharing",
        files: ["collector/sharing/src/lib.rs", "collector/src/sharing/mod.rs"],
        signature: "pub fn frames_visible(root: &HostRoot) -> Result<(), SharingError> {",
    },
    Place {
        what: "xen",
        files: ["collector/xen/src/lib.rs", "collector/src/xen/mod.rs"],
        signature: "pub fn is_control_domain(root: &HostRoot) -> bool {",
    },
];

/// A checkout with its own target directory.
struct Tree {
    dir: PathBuf,
    target: PathBuf,
}

impl Tree {
    fn checkout(revision: &str, name: &str) -> anyhow::Result<Self> {
        let base = shell::root().join("target/rebuild");
        let (dir, target) = (base.join(name), base.join(format!("{name}-target")));
        if dir.exists() {
            let mut command = Command::new("git");
            shell::run(
                command.args(["checkout", "--quiet", "--force", "--detach", revision]).current_dir(&dir),
            )?;
        } else {
            let mut command = Command::new("git");
            command.args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(&dir).arg(revision);
            shell::run(command.current_dir(shell::root()))?;
        }
        Ok(Self { dir, target })
    }

    fn build(&self) -> anyhow::Result<Duration> {
        let mut command = shell::cargo();
        command.args(["build", "--locked", "--quiet", "--bin", "huddle"]).current_dir(&self.dir);
        command.env("CARGO_TARGET_DIR", &self.target);
        let began = Instant::now();
        let status = command.status().context("cannot run `cargo build`")?;
        ensure!(status.success(), "`cargo build` in {} failed", self.dir.display());
        Ok(began.elapsed())
    }

    /// Adds a line to the body of a function, a different one each time.
    fn change(&self, place: &Place, round: u32) -> anyhow::Result<()> {
        let file =
            place.files.iter().map(|file| self.dir.join(file)).find(|file| holds(file, place.signature));
        let file = file.with_context(|| format!("no {:?} in {}", place.signature, self.dir.display()))?;
        let text = std::fs::read_to_string(&file)?;
        Ok(std::fs::write(&file, changed(&text, place.signature, round))?)
    }
}

fn holds(file: &Path, signature: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.contains(signature))
}

/// The text with a line after the signature, replacing the one of an earlier round.
fn changed(text: &str, signature: &str, round: u32) -> String {
    const MARK: &str = "// cargo xtask rebuild";
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.ends_with(MARK)) {
        lines.push(line.to_owned());
        if line == signature {
            lines.push(format!("    std::hint::black_box({round}); {MARK}"));
        }
    }
    lines.join("\n") + "\n"
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let now = Tree::checkout("HEAD", "now")?;
    let before = Tree::checkout(&arguments.against, "before")?;
    for tree in [&now, &before] {
        eprintln!("building {} for the first time", tree.dir.display());
        tree.build()?;
    }
    eprintln!(
        "seconds to build `huddle` (dev) again after a change of one line: now, {}, ratio",
        arguments.against
    );
    for place in &PLACES {
        let mut ratios = Vec::new();
        let (mut times_now, mut times_before) = (Vec::new(), Vec::new());
        // The first round creates the incremental state of the change, and does not count.
        for round in 0..=arguments.rounds {
            let mut took = [0.0; 2];
            for (tree, took) in [&now, &before].into_iter().zip(&mut took) {
                tree.change(place, round)?;
                *took = tree.build()?.as_secs_f64();
            }
            if round > 0 {
                ratios.push(took[0] / took[1]);
                times_now.push(took[0]);
                times_before.push(took[1]);
            }
        }
        eprintln!(
            "{:>8}: {:.1} {:.1} {:.2} [{:.2} to {:.2}]",
            place.what,
            median(&mut times_now),
            median(&mut times_before),
            median(&mut ratios),
            ratios.first().copied().unwrap_or(f64::NAN),
            ratios.last().copied().unwrap_or(f64::NAN),
        );
    }
    Ok(())
}

/// The median; sorts the values.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line_and_replaces_the_previous_one() {
        let text = "fn a() {\n    b();\n}\n";
        let once = changed(text, "fn a() {", 1);
        assert_eq!(once, "fn a() {\n    std::hint::black_box(1); // cargo xtask rebuild\n    b();\n}\n");
        let twice = changed(&once, "fn a() {", 2);
        assert_eq!(twice, once.replace("(1)", "(2)"));
    }

    #[test]
    fn the_median_of_values() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    }
}
