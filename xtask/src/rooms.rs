//! Allowed dependencies of each crate: the crates of the workspace below it, and libraries that its room does
//! not need. docs/architecture.md draws the same.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};

use crate::shell;

/// One crate and its allowed dependencies.
struct Room {
    package: &'static str,
    /// Crates of the workspace that it may depend on, directly or not: those below it.
    below: &'static [&'static str],
    /// Libraries that must not be among its dependencies, directly or not.
    without: &'static [&'static str],
}

const BPF: &str = "aya";
const COLUMNS: &str = "arrow-array";
const PARQUET: &str = "parquet";
const RUNTIME: &str = "tokio";
const FLAGS: &str = "clap";
const SCREEN: &str = "ratatui";
const FRAMES: &str = "polars";
/// System calls.
const CALLS: &str = "nix";

const ROOMS: [Room; 13] = [
    Room {
        package: "huddle-model",
        below: &[],
        without: &[BPF, COLUMNS, PARQUET, RUNTIME, FLAGS, SCREEN, FRAMES, CALLS],
    },
    Room {
        // Loaded into QEMU.
        package: "huddle-cache-plugin",
        below: &[],
        without: &[BPF, COLUMNS, PARQUET, RUNTIME, FLAGS, SCREEN, FRAMES],
    },
    Room {
        // Reads segments of other programs, for replay and analysis alike.
        package: "huddle-recording",
        below: &["huddle-model"],
        without: &[BPF, RUNTIME, FLAGS, SCREEN, FRAMES],
    },
    Room {
        package: "huddle-host",
        below: &["huddle-model"],
        without: &[BPF, COLUMNS, PARQUET, RUNTIME, FLAGS, SCREEN, FRAMES],
    },
    Room {
        package: "huddle-sharing",
        below: &["huddle-model", "huddle-host"],
        without: &[BPF, COLUMNS, PARQUET, RUNTIME, FLAGS, SCREEN, FRAMES],
    },
    Room {
        package: "huddle-observe",
        below: &["huddle-model", "huddle-abi", "huddle-host"],
        without: &[COLUMNS, PARQUET, RUNTIME, FLAGS, SCREEN, FRAMES],
    },
    Room {
        package: "huddle-xen",
        below: &["huddle-model", "huddle-host", "huddle-sharing"],
        without: &[BPF, COLUMNS, PARQUET, RUNTIME, FLAGS, SCREEN, FRAMES],
    },
    Room {
        package: "huddle-record",
        below: &["huddle-model", "huddle-recording", "huddle-host"],
        without: &[BPF, RUNTIME, FLAGS, SCREEN, FRAMES],
    },
    Room {
        package: "huddle-metrics",
        below: &["huddle-model", "huddle-host"],
        without: &[BPF, COLUMNS, PARQUET, FLAGS, SCREEN, FRAMES],
    },
    Room {
        package: "huddle-engine",
        below: &[
            "huddle-model",
            "huddle-abi",
            "huddle-host",
            "huddle-sharing",
            "huddle-observe",
            "huddle-xen",
        ],
        without: &[COLUMNS, PARQUET, FLAGS, SCREEN, FRAMES],
    },
    Room {
        package: "huddle-tui",
        below: &["huddle-model"],
        without: &[BPF, COLUMNS, PARQUET, RUNTIME, FLAGS, FRAMES],
    },
    Room {
        package: "huddle",
        below: &[
            "huddle-model",
            "huddle-abi",
            "huddle-host",
            "huddle-sharing",
            "huddle-observe",
            "huddle-xen",
            "huddle-recording",
            "huddle-record",
            "huddle-metrics",
            "huddle-engine",
            "huddle-tui",
        ],
        without: &[FRAMES],
    },
    Room {
        package: "huddle-analysis",
        below: &["huddle-model", "huddle-recording", "huddle-host"],
        without: &[BPF, SCREEN],
    },
];

/// Checks the dependencies of each crate, and prints their number.
///
/// # Errors
/// A crate has a dependency that its room does not need.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for room in &ROOMS {
        let names = dependencies(room.package)?;
        eprintln!("{:>19}: {} crates", room.package, names.len());
        wrong.extend(room.complaints(&names));
    }
    ensure!(wrong.is_empty(), "dependencies are in the wrong room:\n{}", wrong.join("\n"));
    Ok(())
}

impl Room {
    /// Violations by a crate's dependencies, one sentence each.
    fn complaints(&self, names: &BTreeSet<String>) -> Vec<String> {
        let package = self.package;
        let ours = |name: &&String| name.starts_with("huddle") && name.as_str() != package;
        let upwards = names.iter().filter(ours).filter(|name| !self.below.contains(&name.as_str()));
        let upwards = upwards.map(|name| format!("{package} depends on {name}, which is not below it"));
        let heavy = self.without.iter().filter(|name| names.contains(**name));
        let heavy = heavy.map(|name| {
            format!("{package} depends on {name}, which its room does not need (cargo tree -e normal -p {package} -i {name})")
        });
        upwards.chain(heavy).collect()
    }
}

/// The names of all packages that a package is built from, including itself.
fn dependencies(package: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut command = shell::cargo();
    command.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = command.args(["--package", package]).output().context("cannot run `cargo tree`")?;
    ensure!(
        output.status.success(),
        "`cargo tree` of {package}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn wrong_dependencies_are_named() {
        let room = Room { package: "huddle-host", below: &["huddle-model"], without: &["tokio"] };
        assert_eq!(room.complaints(&names(&["huddle-host", "huddle-model", "nix"])), [] as [&str; 0]);
        let complaints = room.complaints(&names(&["huddle-host", "huddle-engine", "tokio"])).join("\n");
        assert!(complaints.contains("depends on huddle-engine"), "{complaints}");
        assert!(complaints.contains("depends on tokio"), "{complaints}");
    }

    #[test]
    fn rooms_are_listed_from_the_lowest_up() {
        for (at, room) in ROOMS.iter().enumerate() {
            for below in room.below.iter().filter(|name| **name != "huddle-abi") {
                assert!(ROOMS[..at].iter().any(|other| other.package == *below), "{} {below}", room.package);
            }
        }
    }
}
