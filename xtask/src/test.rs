//! `cargo xtask test`: all tests of the workspace.

use crate::{host, images, setup, shell};

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    setup::qemu()?;
    if let Err(error) = setup::busybox().and_then(|()| images::make()) {
        eprintln!("VMs cannot be made ({error:#}): the test that boots them will say that it is skipped");
    }
    setup::apache()?;
    for need in host::needs().iter().filter(|need| !need.is_met) {
        eprintln!(
            "{} is missing: tests that need it ({}) will say that they are skipped; to run them, {}",
            need.name, need.purpose, need.remedy
        );
    }
    // The whole workspace, so that its crates are built with one set of features.
    shell::run(shell::cargo().args(["test", "--workspace"]).args(args))
}
