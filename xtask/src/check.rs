//! `cargo xtask check`: format, conventions, dependencies, lints and documentation, warnings being errors.

use crate::{conventions, pictures, rooms, setup, shell, tools};

pub(crate) fn run() -> anyhow::Result<()> {
    setup::components()?;
    tools::install()?;
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    conventions::check()?;
    pictures::check()?;
    rooms::check()?;
    tools::unused_dependencies()?;
    tools::allowed_dependencies()?;
    shell::run(shell::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // Broken links in the documentation are only warnings of rustdoc.
    shell::run(shell::cargo().env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]))
}
