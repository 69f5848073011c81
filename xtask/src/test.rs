//! `cargo xtask test`: all tests of the workspace, or those that boot no guest.

pub(crate) mod targets;

use targets::{Left, Target};

use crate::emulated::programs::{Architecture, Profile};
use crate::{debian_root, dist, emulated, host, images, setup, shell, web_image};

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    setup::emulators()?;
    setup::libvirt()?;
    setup::apache()?;
    let guests = setup::busybox().and_then(|()| images::make());
    let web = setup::mmdebstrap().and_then(|()| web_image::make());
    let mut made = vec![guests, web];
    // What the test of the packages installs, and where.
    made.push(setup::mmdebstrap().and_then(|()| debian_root::make()).and_then(|()| dist::for_tests()));
    made.extend(emulated::Kind::ALL.map(|kind| setup::busybox().and_then(|()| kind.make().map(drop))));
    let architectures = [Architecture::Own, Architecture::Arm64];
    made.extend(
        architectures.map(|architecture| emulated::programs::build(architecture, Profile::Dev).map(drop)),
    );
    for error in made.into_iter().filter_map(Result::err) {
        eprintln!(
            "VMs or packages cannot be made ({error:#}): the tests that need them are reported as skipped"
        );
    }
    say_missing();
    // The whole workspace, so that its crates are built with one set of features.
    shell::run(shell::cargo().args(["test", "--workspace"]).args(args))
}

/// Tests that boot no guest and do not take minutes. Installs nothing.
pub(crate) fn quick(args: &[String]) -> anyhow::Result<()> {
    say_missing();
    let mut command = shell::cargo();
    // Still the whole workspace, for the same features: otherwise switching between both would rebuild.
    command.args(["test", "--workspace", "--lib", "--bins"]);
    let mut left_out = Vec::new();
    for target in targets::find(&shell::root())? {
        let Target { package, name } = &target;
        match target.left_out() {
            None => {
                command.args(["--test", name]);
            }
            Some(Left::Boots) => left_out.push(format!("{package}: {name} boots guests")),
            Some(Left::Long) => left_out.push(format!("{package}: {name} takes long")),
        }
    }
    let result = shell::run(command.args(args));
    eprintln!("left out of the quick run, and part of `cargo xtask test`:");
    for line in left_out {
        eprintln!("  {line}");
    }
    result
}

fn say_missing() {
    for need in host::needs().iter().filter(|need| !need.is_met) {
        eprintln!(
            "{} is missing: tests that need it ({}) are reported as skipped; to run them, {}",
            need.name, need.purpose, need.remedy
        );
    }
}
