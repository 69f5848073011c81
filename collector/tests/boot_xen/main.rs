//! Tests on a real Xen, in QEMU: `cargo xtask host xen --make-only` makes the images that they boot. If those are
//! missing each test reports that and counts as ignored, except in CI (`CI=true`), where it fails.
//!
//! One host serves all of them, one after the other; it is booted by the first.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: what fails, panics"
)]

mod domains;
mod huddle;

use std::path::Path;
use std::time::{Duration, Instant};

use huddle_testing::emulated::host::{EmulatedHost, File};
use huddle_testing::emulated::programs::stripped;
use huddle_testing::emulated::trials::{self, Shared};
use huddle_testing::xen::plain;
use libtest_mimic::Trial;

/// The program that is tested.
const HUDDLE: &str = env!("CARGO_BIN_EXE_huddle");

fn main() {
    trials::run(|host| domains::trials(host).into_iter().chain(huddle::trials(host)).collect())
}

/// A test on the host with its three domains.
pub fn trial(name: &str, host: &Shared, test: fn(&mut EmulatedHost)) -> Trial {
    trials::trial(name, host, ("xen", HUDDLE), boot, test)
}

/// The host with huddle, and three domains: `a1` and `a2` hold the same data, `b1` holds other.
fn boot(image: &Path) -> EmulatedHost {
    let begin = Instant::now();
    let huddle = stripped(Path::new(HUDDLE));
    let program = |path, content| File { path, mode: 0o755, content };
    let files = [program("usr/bin/huddle", huddle), program("usr/bin/plain", plain::compiled(image))];
    let mut dom0 = EmulatedHost::boot(image, &files);
    let up = begin.elapsed();
    for domain in ["a1 1 11 8192", "a2 1 12 8192", "b1 2 13 8192"] {
        dom0.run(&format!("guest {domain}"), Duration::from_secs(240)).success();
    }
    // A scan may have the whole CPU here.
    dom0.run("printf '[sharing]\\ncpu_share = 1.0\\n' >/tmp/all.toml", Duration::from_secs(60)).success();
    eprintln!("Xen was up after {up:.1?}, three domains after {:.1?}", begin.elapsed());
    dom0
}
