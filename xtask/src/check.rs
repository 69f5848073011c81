//! `cargo xtask check`: format, lints and documentation, warnings being errors.

use crate::{setup, shell};

pub(crate) fn run() -> anyhow::Result<()> {
    setup::components()?;
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(shell::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // Links in the documentation that lead nowhere are warnings of rustdoc only.
    shell::run(shell::cargo().env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]))
}
