//! `cargo xtask dist`: builds the programs for distribution, and checks their size.

use anyhow::{Context, ensure};

use crate::shell;

/// A program for distribution.
struct Program {
    package: &'static str,
    name: &'static str,
    /// Its maximum size, in millions of bytes.
    limit_mb: f64,
}

const PROGRAMS: [Program; 2] = [
    Program { package: "huddle", name: "huddle", limit_mb: 15.0 },
    Program { package: "huddle-analysis", name: "huddle-analysis", limit_mb: 60.0 },
];

pub(crate) fn run() -> anyhow::Result<()> {
    // One by one: in a single build their dependencies would have the features of both.
    for Program { package, name, .. } in &PROGRAMS {
        let build = ["build", "--locked", "--profile", "dist", "--package", package, "--bin", name];
        shell::run(shell::cargo().args(build))?;
    }
    // Next to the directory of the profile of this program.
    let own = std::env::current_exe().context("cannot find cargo's target directory")?;
    let target = own.ancestors().nth(2).context("cargo's target directory has no name")?;
    let mut too_large = Vec::new();
    for Program { name, limit_mb, .. } in &PROGRAMS {
        let path = target.join("dist").join(name);
        let bytes = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        let size_mb = bytes as f64 / 1e6;
        eprintln!("{}: {size_mb:.1} MB, at most {limit_mb} MB allowed", path.display());
        if size_mb > *limit_mb {
            too_large.push(*name);
        }
    }
    ensure!(too_large.is_empty(), "larger than allowed: {}", too_large.join(", "));
    Ok(())
}
