//! Tests on a real Xen, in QEMU: `cargo xtask xen-host --make-only` makes what they boot. Where that is
//! missing each test says so and counts as ignored, except in CI (`CI=true`), where it fails.
//!
//! One host serves all of them, one after the other; it is booted by the first.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::print_stdout)]

mod dom0;
mod domains;
mod huddle;
mod plain;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dom0::{Dom0, File};
use libtest_mimic::{Arguments, Failed, Trial};

/// The host, once it is up.
pub type Host = Arc<Mutex<Option<Dom0>>>;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let host = Host::default();
    let trials = domains::trials(&host).into_iter().chain(huddle::trials(&host)).collect();
    let ended = libtest_mimic::run(&arguments, trials);
    // Before this program ends, so that it is waited for.
    drop(host.lock().unwrap_or_else(PoisonError::into_inner).take());
    ended.exit()
}

/// A test on the host with its three domains.
pub fn trial(name: &str, host: &Host, test: fn(&mut Dom0)) -> Trial {
    let image = match dom0::image() {
        Ok(image) => image,
        Err(reason) if std::env::var("CI").is_ok_and(|value| value == "true") => {
            return Trial::test(name, move || Err(Failed::from(format!("CI must not skip this: {reason}"))));
        }
        Err(reason) => {
            eprintln!("{name}: skipped: {reason}");
            return Trial::test(name, || Ok(())).with_ignored_flag(true);
        }
    };
    let host = Arc::clone(host);
    Trial::test(name, move || {
        // A test that fails leaves a host that others can go on with.
        let mut host = host.lock().unwrap_or_else(PoisonError::into_inner);
        let run = AssertUnwindSafe(|| test(host.get_or_insert_with(|| boot(&image))));
        std::panic::catch_unwind(run).map_err(|panic| Failed::from(text_of(&*panic)))
    })
}

/// The host with huddle, and three domains: `a1` and `a2` hold the same data, `b1` holds other.
fn boot(image: &Path) -> Dom0 {
    let begin = Instant::now();
    let huddle = stripped(Path::new(env!("CARGO_BIN_EXE_huddle")));
    let program = |path, content| File { path, mode: 0o755, content };
    let files = [program("usr/bin/huddle", huddle), program("usr/bin/plain", plain::compiled(image))];
    let mut dom0 = Dom0::boot(image, &files);
    let up = begin.elapsed();
    for domain in ["a1 1 11 8192", "a2 1 12 8192", "b1 2 13 8192"] {
        dom0.run(&format!("guest {domain}"), Duration::from_secs(240)).success();
    }
    // A scan may have the whole CPU here.
    dom0.run("printf '[sharing]\\ncpu_share = 1.0\\n' >/tmp/all.toml", Duration::from_secs(60)).success();
    eprintln!("Xen was up after {up:.1?}, three domains after {:.1?}", begin.elapsed());
    dom0
}

/// A program without its symbols, which would fill dom0's memory.
fn stripped(program: &Path) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("strip").arg("-o").args([file.path(), program]).status();
    assert!(status.expect("strip is of binutils, which gcc needs").success());
    std::fs::read(file.path()).unwrap()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
