//! A clean Debian with systemd, in which the test of the packages installs, runs and removes them: made once in
//! `target/guests/debian`.

use anyhow::Context;

use crate::{debian, host, images, whole};

/// Packages in addition to Debian's smallest system.
const PACKAGES: &str = "systemd,systemd-sysv";

/// Makes it if it is missing or was made from something else.
pub(crate) fn make() -> anyhow::Result<()> {
    let release = host::debian_release()
        .context("packages are tested in a Debian that is made from the packages of a Debian host, and this is not one")?;
    let recipe = format!("release {release}\npackages {PACKAGES}\n");
    whole::make(&images::images()?.join("debian"), &recipe, |directory| {
        let what = "the Debian in which packages are tested";
        debian::bootstrap(what, &release, PACKAGES, debian::As::Directory, &directory.join("root"))
    })
}
