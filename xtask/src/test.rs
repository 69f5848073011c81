//! `cargo xtask test`: all tests of the workspace.

use crate::{host, images, setup, shell, web_image, xen_host};

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    setup::qemu()?;
    setup::apache()?;
    let guests = setup::busybox().and_then(|()| images::make());
    let web = setup::mmdebstrap().and_then(|()| web_image::make());
    let xen = setup::busybox().and_then(|()| xen_host::make().map(drop));
    for error in [guests, web, xen].into_iter().filter_map(Result::err) {
        eprintln!("VMs cannot be made ({error:#}): the tests that boot them will say that they are skipped");
    }
    for need in host::needs().iter().filter(|need| !need.is_met) {
        eprintln!(
            "{} is missing: tests that need it ({}) will say that they are skipped; to run them, {}",
            need.name, need.purpose, need.remedy
        );
    }
    // The whole workspace, so that its crates are built with one set of features.
    shell::run(shell::cargo().args(["test", "--workspace"]).args(args))
}
